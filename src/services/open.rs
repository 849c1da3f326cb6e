//! Tokens over a store that outlives the process: session time, and checks against the other processes.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::build_error::OpenTokensError;
use super::key_registry::{self, KeyRegistryError};
use super::purge::{Purge, RetentionPolicy};
use super::session_time::{SessionTime, TimeStores};
use super::store::{PersistentStore, SettingStore};
use super::token::Tokens;
use crate::clock::Clock;

/// A store with the session time of this process.
pub(super) struct OpenedStore {
    store: Arc<dyn PersistentStore>,
    clock: Arc<dyn Clock>,
    /// `None` with a clock of the caller's.
    time: Option<SessionTime>,
}

impl OpenedStore {
    /// Starts [session time](super::session_time) in this process, unless there is a `clock`.
    pub(super) async fn open(
        store: Arc<dyn PersistentStore>,
        clock: Option<Arc<dyn Clock>>,
        grace: Duration,
    ) -> Result<Self, OpenTokensError> {
        if let Some(clock) = clock {
            return Ok(Self { store, clock, time: None });
        }
        let stores = TimeStores { settings: store.clone(), sessions: store.clone() };
        let time = SessionTime::start(&stores, grace).await;
        let time = time.map_err(OpenTokensError::store("the session time"))?;
        Ok(Self { store, clock: time.clock(), time: Some(time) })
    }

    /// Returns the clock of the sessions.
    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Checks that issuer, audience and keys of `tokens` are those of the other processes, reads the sessions that
    /// ended, and starts the tasks.
    pub(super) async fn start(
        self,
        tokens: &Tokens,
        retention: RetentionPolicy,
    ) -> Result<(), OpenTokensError> {
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
        tokens.spawn_session_tasks(&mut tasks, purge, |wake| async move { store.listen(wake).await });
        tokens.own_tasks(tasks);
        Ok(())
    }
}

async fn check_settings(settings: &dyn SettingStore, tokens: &Tokens) -> Result<(), OpenTokensError> {
    let access = tokens.access_settings();
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

#[cfg(test)]
mod tests;
