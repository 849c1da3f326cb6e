//! Tokens over a store that outlives the process: the start of session time, checks against the store, and the tasks
//! that run beside.
//!
//! ```
//! use std::sync::Arc;
//!
//! use sekisho::clock::Clock;
//! use sekisho::services::jwt::AccessTokens;
//! use sekisho::services::keys::{Algorithm, KeyRing, SharedKeys};
//! use sekisho::services::open::OpenedStore;
//! use sekisho::services::purge::RetentionPolicy;
//! use sekisho::services::store::PersistentStore;
//! use sekisho::services::token::{SessionRequest, SessionSettings, Tokens};
//!
//! # async fn doc(store: Arc<dyn PersistentStore>, keys: KeyRing) -> Result<(), Box<dyn std::error::Error>> {
//! let settings = SessionSettings::default();
//! let retention = RetentionPolicy::new(settings.grace);
//! let opened = OpenedStore::open(store.clone(), settings.grace).await?;
//! let keys = Arc::new(SharedKeys::new(keys));
//! let tokens = Tokens::new(store, keys, AccessTokens::default(), settings, opened.clock());
//! let tasks = opened.run(&tokens, retention).await?;
//!
//! let ann = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse()?;
//! let issued = tokens.sign_in(SessionRequest::new(ann, "ann@example.org")).await?;
//! # drop(issued);
//! // Before the program exits:
//! tasks.stop(&tokens).await?;
//! # Ok(()) }
//! # let runtime = tokio::runtime::Runtime::new().expect("a runtime");
//! # let store = Arc::new(sekisho::MemoryStore::default());
//! # let keys = KeyRing::generate(Algorithm::Hs256, sekisho::clock::SystemClock.now()).expect("random bytes");
//! # runtime.block_on(doc(store, keys)).expect("the example to succeed");
//! ```

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::key_registry::{self, KeyRegistryError};
use super::purge::{Purge, RetentionPolicy};
use super::session_time::{SessionTime, TimeStores};
use super::store::{PersistentStore, SettingStore, StoreError, WakeFn};
use super::token::Tokens;
use super::token_issuer::TokenIssuer;
use crate::clock::Clock;

/// A store with the session time of this process.
pub struct OpenedStore {
    store: Arc<dyn PersistentStore>,
    clock: Arc<dyn Clock>,
    /// `None` with a clock of the caller's.
    time: Option<SessionTime>,
}

/// The tasks of tokens over a store. They end when this is dropped.
#[derive(Debug)]
#[must_use = "the tasks end when it is dropped"]
pub struct TokenTasks(JoinSet<()>);

/// Error of [`OpenedStore`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenTokensError {
    /// A setting differs from that of the processes that share the store.
    #[error(
        "{setting} is {value:?}, but the store was set up with {expected:?}: set it to that, or delete the setting \
         {name} of the store, which ends all sessions"
    )]
    Setting {
        /// The setting: `issuer` or `audience`.
        setting: &'static str,
        /// Its name in the store.
        name: &'static str,
        /// The value of this process.
        value: String,
        /// The value in the store.
        expected: String,
    },
    /// A key differs from that of the processes that share the store.
    #[error(
        "key {0} differs from the one that the store knows under this number: use the former key, or give the new one \
         another number; if the former is lost, call key_registry::forget, which ends its sessions"
    )]
    Key(u8),
    /// The store failed.
    #[error("cannot read {what} from the store: have its migrations been applied?")]
    Store {
        /// The data to be read.
        what: &'static str,
        /// The cause.
        source: StoreError,
    },
}

impl OpenTokensError {
    fn store(what: &'static str) -> impl FnOnce(StoreError) -> Self {
        move |source| Self::Store { what, source }
    }
}

impl OpenedStore {
    /// Starts [session time](super::session_time) in this process. `grace` is
    /// [that of the sessions](super::token::SessionSettings::grace). This takes up to 2.5 seconds if other processes
    /// may run.
    ///
    /// # Errors
    ///
    /// [`OpenTokensError::Store`] if the store fails.
    pub async fn open(store: Arc<dyn PersistentStore>, grace: Duration) -> Result<Self, OpenTokensError> {
        let stores = TimeStores { settings: store.clone(), sessions: store.clone() };
        let time = SessionTime::start(&stores, grace).await;
        let time = time.map_err(OpenTokensError::store("the session time"))?;
        Ok(Self { store, clock: time.clock(), time: Some(time) })
    }

    /// Uses another clock, for tests: see [`ManualClock`](crate::clock::ManualClock).
    #[must_use]
    pub fn with_clock(store: Arc<dyn PersistentStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, time: None }
    }

    /// Returns the clock of the sessions.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Checks that issuer, audience and keys of `tokens` are those of the other processes, reads the sessions that
    /// ended, and spawns the tasks: session time, the poller and the listener of ended sessions, and the purge.
    ///
    /// `tokens` must be of this store and its [`clock`](Self::clock). Call it on the runtime that opened the store.
    ///
    /// # Errors
    ///
    /// [`OpenTokensError`], which names what differs.
    pub async fn run(
        self,
        tokens: &Tokens,
        retention: RetentionPolicy,
    ) -> Result<TokenTasks, OpenTokensError> {
        let Self { store, clock, time } = self;
        check_settings(&*store, tokens).await?;
        check_keys(&*store, tokens).await?;
        let loaded = tokens.revocations().load().await;
        loaded.map_err(OpenTokensError::store("the sessions that ended"))?;
        let mut tasks = JoinSet::new();
        if let Some(time) = time {
            tasks.spawn(time.run(store.clone()));
        }
        let purge = Purge::new(store.clone(), clock, retention);
        spawn_session_tasks(&mut tasks, tokens, purge, |wake| async move { store.listen(wake).await });
        Ok(TokenTasks(tasks))
    }
}

impl std::fmt::Debug for OpenedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedStore").field("time", &self.time).finish_non_exhaustive()
    }
}

impl TokenTasks {
    /// Ends the tasks and writes the deferred writes to the store, which stays open.
    ///
    /// # Errors
    ///
    /// If the store fails: then the deferred writes are lost.
    pub async fn stop(mut self, tokens: &Tokens) -> Result<(), StoreError> {
        self.0.shutdown().await;
        tokens.flush_deferred().await
    }
}

/// Spawns the tasks that keep the sessions of `tokens` correct: the purge, the poller and the listener of ended
/// sessions, and a log line while session time is uncertain.
///
/// None holds `tokens`, so that they can own the tasks.
pub(crate) fn spawn_session_tasks<F>(
    tasks: &mut JoinSet<()>,
    tokens: &Tokens,
    purge: Purge,
    listen: impl FnOnce(WakeFn) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let revocations = tokens.revocations();
    let woken = Arc::clone(revocations);
    tasks.spawn(warn_while_uncertain(Arc::clone(&tokens.inner.issuer)));
    tasks.spawn(purge.run());
    tasks.spawn(Arc::clone(revocations).run_poller());
    tasks.spawn(listen(Box::new(move || woken.poll_now())));
}

/// Logs a line a minute while session time is uncertain.
async fn warn_while_uncertain(issuer: Arc<TokenIssuer>) {
    loop {
        let interval = if issuer.is_confirmation_uncertain(issuer.clock.now_micros()) {
            tracing::warn!("session time is uncertain: sessions are replayed instead of rotated");
            UNCERTAIN_LOG_INTERVAL
        } else {
            TIME_CHECK_INTERVAL
        };
        tokio::time::sleep(interval).await;
    }
}

async fn check_settings(settings: &dyn SettingStore, tokens: &Tokens) -> Result<(), OpenTokensError> {
    let access = tokens.inner.issuer.access.settings();
    let pinned =
        [("issuer", "tokens.issuer", &access.issuer), ("audience", "tokens.audience", &access.audience)];
    for (setting, name, value) in pinned {
        let expected = settings.get_or_insert_setting(name, value).await;
        let expected = expected.map_err(OpenTokensError::store("the settings"))?;
        if expected != *value {
            return Err(OpenTokensError::Setting { setting, name, value: value.clone(), expected });
        }
    }
    Ok(())
}

async fn check_keys(settings: &dyn SettingStore, tokens: &Tokens) -> Result<(), OpenTokensError> {
    let ring = Arc::clone(&tokens.keys().load());
    key_registry::register(settings, &ring).await.map_err(|error| match error {
        KeyRegistryError::Mismatch(number) => OpenTokensError::Key(number),
        KeyRegistryError::Store(source) => {
            OpenTokensError::Store { what: "the fingerprints of the keys", source }
        }
    })
}

/// Time between two checks of session time.
const TIME_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two log lines while session time is uncertain.
const UNCERTAIN_LOG_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
