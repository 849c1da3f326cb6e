//! Start and stop of an [`App`]: checks against the database, background tasks, and the writes on shutdown.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::JoinSet;

use super::{App, AppDependencies, AppError};
use crate::backend::db::Stores;
use crate::clock::Clock;
use crate::config::{Config, KeySource};
use crate::duration_format::{format_duration, format_signed};
use crate::key_store;
use crate::server::Certificate;
use crate::services::key_registry::{self, KeyRegistryError};
use crate::services::keys::{KeyRing, SharedKeys};
use crate::services::purge::{Purge, RetentionPolicy};
use crate::services::readiness::Problem;
use crate::services::session_time::{SessionTime, TimeStores};
use crate::services::store::StoreError;
use crate::telemetry;

/// Error of [`check_replica`] and [`RunningApp::start`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is invalid.
    #[error(transparent)]
    App(#[from] AppError),
    /// A setting differs from that of the other replicas.
    #[error("{key} is {value:?}, but the database was set up with {expected:?}: set {key} to that")]
    ClusterSetting {
        /// The configuration key.
        key: &'static str,
        /// The configured value.
        value: String,
        /// The value in the database.
        expected: String,
    },
    /// A signing key differs from that of the other replicas.
    #[error(transparent)]
    Key(KeyRegistryError),
    /// The database failed.
    #[error("cannot read {what} from the database")]
    Store {
        /// The data to be read.
        what: &'static str,
        /// The cause.
        source: StoreError,
    },
}

/// Checks that this process may serve beside the other replicas of the same database.
///
/// # Errors
///
/// Returns [`StartError::ClusterSetting`] if `tokens.issuer` or `tokens.audience` differ.
pub async fn check_replica(config: &Config, stores: &Stores) -> Result<(), StartError> {
    check_setting(stores, "tokens.issuer", &config.tokens.issuer).await?;
    check_setting(stores, "tokens.audience", &config.tokens.audience).await
}

/// Starts session time in this process.
///
/// # Errors
///
/// Returns [`StartError::Store`] if the database fails.
pub async fn start_session_time(config: &Config, stores: &Stores) -> Result<SessionTime, StartError> {
    let settings = Arc::clone(&stores.settings);
    let sessions = Arc::clone(&stores.sessions);
    let started = SessionTime::start(&TimeStores { settings, sessions }, config.session.grace).await;
    started.map_err(|source| StartError::Store { what: "the session time", source })
}

/// Checks that this process has the keys of the other replicas, and records the new ones.
///
/// # Errors
///
/// Returns [`StartError::Key`] if a key differs from the one that the database knows under its number.
pub async fn check_keys(stores: &Stores, ring: &KeyRing) -> Result<(), StartError> {
    key_registry::register(&*stores.settings, ring).await.map_err(|error| match error {
        KeyRegistryError::Store(source) => StartError::Store { what: "the fingerprints of the keys", source },
        error => StartError::Key(error),
    })
}

async fn check_setting(stores: &Stores, key: &'static str, value: &str) -> Result<(), StartError> {
    let expected = stores.settings.get_or_insert_setting(key, value).await;
    let expected = expected.map_err(|source| StartError::Store { what: "the settings", source })?;
    if expected == value {
        return Ok(());
    }
    Err(StartError::ClusterSetting { key, value: value.to_owned(), expected })
}

/// An [`App`] and its background tasks, which are aborted on drop.
pub struct RunningApp {
    /// The application.
    pub app: App,
    stores: Stores,
    tasks: JoinSet<()>,
}

impl RunningApp {
    /// Builds the application, loads the revocation list and starts the background tasks.
    ///
    /// # Errors
    ///
    /// Returns [`StartError::App`] for an invalid setting and [`StartError::Store`] if the database fails.
    pub async fn start(
        dependencies: AppDependencies<'_>,
        certificate: Option<Arc<Certificate>>,
    ) -> Result<Self, StartError> {
        let config = dependencies.config;
        let stores = dependencies.stores.clone();
        let keys = Arc::clone(&dependencies.keys);
        let clock = Arc::clone(&dependencies.clock);
        let metrics = dependencies.metrics.clone();
        let app = App::build(dependencies)?;
        let loaded = app.tokens.revocations().load().await;
        loaded.map_err(|source| StartError::Store { what: "the revocation list", source })?;
        let mut running = Self { app, stores, tasks: JoinSet::new() };
        running.spawn_session_tasks(config, &clock);
        running.tasks.spawn(monitor_database_file(running.stores.clone()));
        running.tasks.spawn(monitor_writes(running.stores.clone()));
        running.tasks.spawn(monitor_keys(running.stores.clone(), Arc::clone(&keys)));
        spawn_reload_tasks(&mut running.tasks, config, keys, certificate, metrics);
        Ok(running)
    }

    /// Spawns the tasks that keep sessions correct: clock monitor, purge, revocation poller and listener.
    fn spawn_session_tasks(&mut self, config: &Config, clock: &Arc<dyn Clock>) {
        let stores = self.stores.clone();
        let session = &config.session;
        let retention =
            RetentionPolicy { ended: session.keep_ended, audit: config.audit.keep, grace: session.grace };
        self.tasks.spawn(monitor_clock_skew(stores.clone(), Arc::clone(clock), max_clock_offset(config)));
        let purge = Purge::new(Arc::clone(&stores.sessions), Arc::clone(clock), retention);
        let listen = |wake| async move { stores.listen_for_revocations(wake).await };
        self.app.tokens.spawn_session_tasks(&mut self.tasks, purge, listen);
    }

    /// Stops the background tasks and writes the deferred writes. The stores stay open.
    pub async fn stop(&mut self) {
        self.tasks.abort_all();
        if let Err(error) = self.app.tokens.flush_deferred().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "deferred writes dropped at shutdown");
        }
    }

    /// Closes the stores.
    pub async fn close(self) {
        self.stores.close().await;
    }
}

/// Spawns the tasks that reload key files and the certificate, and that maintain the metrics.
fn spawn_reload_tasks(
    tasks: &mut JoinSet<()>,
    config: &Config,
    keys: Arc<SharedKeys>,
    certificate: Option<Arc<Certificate>>,
    metrics: Option<PrometheusHandle>,
) {
    if let KeySource::Dir(dir) = &config.tokens.keys {
        tasks.spawn(key_store::watch_dir(dir.clone(), config.tokens.key_activation, keys));
    }
    if let Some(certificate) = certificate {
        tasks.spawn(certificate.watch());
    }
    if let Some(metrics) = metrics {
        tasks.spawn(telemetry::metrics::upkeep(metrics));
    }
}

/// Reports the loss of the database file. The check is a single system call.
async fn monitor_database_file(stores: Stores) {
    loop {
        match stores.check_identity() {
            Ok(()) => stores.readiness().resolve(Problem::DatabaseReplaced),
            Err(error) => stores.readiness().report(Problem::DatabaseReplaced, &error),
        }
        tokio::time::sleep(FILE_CHECK_INTERVAL).await;
    }
}

/// After a failed write, writes by itself until that succeeds.
///
/// A replica that is not ready receives no requests, so none of theirs would show that writes succeed again.
async fn monitor_writes(stores: Stores) {
    loop {
        stores.readiness().reported(Problem::WritesFail).await;
        if let Err(error) = stores.check_write().await {
            tracing::debug!("write check failed");
            stores.readiness().report(Problem::WritesFail, &error);
            tokio::time::sleep(WRITE_CHECK_INTERVAL).await;
            continue;
        }
        // Short: a lock on one row fails the writes of one session, for which the replica stays ready.
        stores.readiness().resolve(Problem::WritesFail);
        tokio::time::sleep(WRITE_CHECK_INTERVAL / 10).await;
    }
}

/// Compares the keys with those of the other replicas, and records new ones.
async fn monitor_keys(stores: Stores, keys: Arc<SharedKeys>) {
    let mut recorded = Arc::clone(&keys.load());
    loop {
        tokio::time::sleep(KEY_CHECK_INTERVAL).await;
        let ring = Arc::clone(&keys.load());
        // Keys are recorded once: `sekisho key retire` deletes the fingerprint of tokens.secret.
        let result = if Arc::ptr_eq(&ring, &recorded) {
            key_registry::check(&*stores.settings, &ring).await
        } else {
            key_registry::register(&*stores.settings, &ring).await
        };
        match result {
            Ok(()) => {
                recorded = ring;
                stores.readiness().resolve(Problem::KeyMismatch);
            }
            Err(KeyRegistryError::Store(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "cannot compare the keys");
            }
            Err(error) => stores.readiness().report(Problem::KeyMismatch, &error),
        }
    }
}

async fn monitor_clock_skew(stores: Stores, clock: Arc<dyn Clock>, max_offset: Duration) {
    loop {
        tokio::time::sleep(CLOCK_CHECK_INTERVAL).await;
        match clock_offset(&stores, &*clock).await {
            Ok(offset) => {
                metrics::gauge!("sekisho_clock_offset_seconds").set(offset.as_seconds_f64());
                if offset.unsigned_abs() > max_offset {
                    let offset = format_signed(offset);
                    let max_offset = format_duration(max_offset);
                    tracing::warn!(offset, max_offset, "clock of this machine differs from the database's");
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "clock comparison failed");
            }
        }
    }
}

/// Returns the time by which this machine's clock is ahead of the database's.
async fn clock_offset(stores: &Stores, clock: &dyn Clock) -> Result<time::Duration, StoreError> {
    let before = clock.wall();
    let database_time = stores.sessions.database_time().await?;
    let midpoint = before + (clock.wall() - before) / 2;
    Ok(midpoint - database_time)
}

/// A quarter of the grace period. With a larger offset, audit entries of commands and tokens for upstreams have
/// misleading times. Sessions do not depend on it.
fn max_clock_offset(config: &Config) -> Duration {
    config.session.grace / 4
}

/// Time between two checks of the database file.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between a failed attempt to write and the next one.
const WRITE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two comparisons of the keys with the database.
const KEY_CHECK_INTERVAL: Duration = Duration::from_secs(5);

const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(60);
