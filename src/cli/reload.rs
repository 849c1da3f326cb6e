//! Reloads the configuration while `sekisho serve` runs.
//!
//! SIGHUP triggers a reload, and so does a change in the content of the configuration file or of `.env`. The
//! sources are those of the start, so flags and environment variables still take precedence. The new
//! configuration is checked as a whole before any of it takes effect. If it is invalid, the error is logged and
//! nothing changes. Otherwise the reloadable keys take effect, and other changed keys are logged.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

use super::error::{CliError, display_chain};
use super::signals::signal_stream;
use super::{bootstrap, systemd};
use crate::app::{App, PreparedReload};
use crate::clock::Clock;
use crate::config::{Config, ContentHash, LoadedConfig, Sources};
use crate::server::{Certificate, ServerLimits, WorkerThreads};
use crate::services::keys::SharedKeys;

/// Waits for the events that trigger a reload.
pub(super) struct ReloadTrigger {
    pub(super) sources: Sources,
    hangup: Signal,
    /// Content of the files when they were last read.
    loaded: ContentHash,
}

impl ReloadTrigger {
    /// Installs the handler of SIGHUP. A signal that arrives before [`next`](Self::next) is kept.
    pub(super) fn install(sources: Sources) -> Result<Self, CliError> {
        let hangup = signal_stream(SignalKind::hangup())?;
        Ok(Self { loaded: sources.snapshot(), sources, hangup })
    }

    /// Waits for the next event.
    async fn next(&mut self) {
        let Self { sources, hangup, loaded } = self;
        tokio::select! {
            _ = hangup.recv() => tracing::info!(trigger = "SIGHUP", "reloading configuration"),
            () = content_change(sources, *loaded) => tracing::info!(trigger = "file", "reloading configuration"),
        }
        self.loaded = snapshot(sources).await;
    }
}

/// Waits until the content of the files differs from `loaded` in two successive polls, so that a file is not
/// read while it is being written.
async fn content_change(sources: &Sources, loaded: ContentHash) {
    let mut previous = loaded;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let content = snapshot(sources).await;
        if content != loaded && content == previous {
            return;
        }
        previous = content;
    }
}

async fn snapshot(sources: &Sources) -> ContentHash {
    let sources = sources.clone();
    // Fails if the task panicked or the runtime is shutting down.
    spawn_blocking(move || sources.snapshot()).await.unwrap_or_default()
}

/// Returns the limits of the listener for forward auth requests. Only front proxies connect to it.
pub(super) fn verify_limits(limits: ServerLimits) -> ServerLimits {
    ServerLimits { connections_per_client: limits.connections, ..limits }
}

/// Reloads the configuration of a running gateway.
pub(super) struct Reloader<'a> {
    pub(super) app: &'a App,
    pub(super) threads: &'a WorkerThreads,
    /// The limits of the listener for forward auth requests.
    pub(super) limits: watch::Sender<ServerLimits>,
    pub(super) certificate: Option<Arc<Certificate>>,
    pub(super) keys: Arc<SharedKeys>,
    pub(super) clock: Arc<dyn Clock>,
    /// The configuration at startup, still in force for the keys that need a restart.
    pub(super) initial_config: &'a Config,
    /// Delay between a shutdown signal and the close of the listeners.
    pub(super) drain_delay: Duration,
    /// The health checks of the current routes.
    pub(super) health_checks: JoinHandle<()>,
    /// `None` if the configuration is never reloaded.
    pub(super) trigger: Option<ReloadTrigger>,
}

impl Reloader<'_> {
    /// Reloads on every event of the trigger.
    pub(super) async fn run(&mut self) -> Infallible {
        self.record_success();
        loop {
            match &mut self.trigger {
                Some(trigger) => trigger.next().await,
                None => pending().await,
            }
            systemd::reloading();
            let outcome = self.reload().await;
            systemd::reloaded(&outcome);
        }
    }

    /// Reloads, logs the outcome and returns it as a status for the service manager.
    async fn reload(&mut self) -> String {
        match self.try_reload().await {
            Ok(()) => {
                self.record_success();
                metrics::counter!("sekisho_reloads_total", "outcome" => "done").increment(1);
                tracing::info!("configuration reloaded");
                "serving".to_owned()
            }
            Err(error) => {
                metrics::counter!("sekisho_reloads_total", "outcome" => "refused").increment(1);
                let error = display_chain(&error);
                tracing::error!(error, "configuration reload failed");
                format!("serving, but the configuration was refused: {error}")
            }
        }
    }

    async fn try_reload(&mut self) -> Result<(), CliError> {
        let Some(trigger) = &self.trigger else { return Ok(()) };
        let sources = trigger.sources.clone();
        let app = self.app.clone();
        let prepared = spawn_blocking(move || {
            let loaded = Config::load(&sources)?;
            CliError::check_none(bootstrap::route_errors(&loaded.config).collect())?;
            let prepared = app.prepare(&loaded.config).map_err(CliError::misconfigured)?;
            Ok::<_, CliError>((loaded, prepared))
        });
        let failed = |error| CliError::failed("cannot load the configuration", error);
        let (loaded, prepared) = prepared.await.map_err(failed)??;
        self.check(&loaded.config)?;
        self.reload_certificate(&loaded.config)?;
        // Nothing below can fail.
        self.apply(&loaded, prepared);
        Ok(())
    }

    /// Checks the routes against the keys and the audience in force.
    fn check(&self, config: &Config) -> Result<(), CliError> {
        bootstrap::check_bearer_algorithm(config, &self.keys.load(), self.clock.now())?;
        self.check_builtin_paths(config)?;
        let audience = &self.initial_config.tokens.audience;
        match config.routes.iter().find(|route| route.spec.token_audience.as_ref() == Some(audience)) {
            None => Ok(()),
            Some(route) => Err(CliError::misconfigured(format!(
                "the route {} has bearer = {audience:?}, which is tokens.audience until the next restart",
                route.path.as_str()
            ))),
        }
    }

    /// Checks the routes against the built-in paths in force, which change only with a restart.
    fn check_builtin_paths(&self, config: &Config) -> Result<(), CliError> {
        let builtin_paths = self.initial_config.server.builtin_paths();
        let hidden = config.routes.iter().filter_map(|route| {
            let builtin = builtin_paths.iter().find(|builtin| builtin.matches(route.path.as_str()))?;
            Some(format!("routes.path = \"{}\" {}: the built-in {builtin} hides it", route.path, route.place))
        });
        let hidden: Vec<String> = hidden.collect();
        if hidden.is_empty() {
            return Ok(());
        }
        Err(CliError::misconfigured(format!(
            "{}: the built-in paths change only with a restart",
            hidden.join("; ")
        )))
    }

    /// Reloads the certificate from the configured files.
    fn reload_certificate(&self, config: &Config) -> Result<(), CliError> {
        let (Some(certificate), Some(tls)) = (&self.certificate, &config.server.tls) else { return Ok(()) };
        let reloaded = certificate.reload_from(&tls.certificate, &tls.key);
        reloaded.map(drop).map_err(|error| tls.invalid(error.is_key_error(), display_chain(&error)).into())
    }

    fn apply(&mut self, loaded: &LoadedConfig, prepared: PreparedReload) {
        let LoadedConfig { config, warnings, .. } = loaded;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let unchanged = self.initial_config.needs_restart_for(config);
        if !unchanged.is_empty() {
            tracing::warn!(keys = unchanged.join(", "), "changed keys need a restart");
        }
        bootstrap::check_file_limit(config);
        self.app.apply(prepared);
        self.threads.set_limits(config.server.limits);
        self.app.shares.set_limits(&config.server.limits);
        self.threads.set_exempt_peers(config.server.trusted_proxies.clone());
        self.limits.send_replace(verify_limits(config.server.limits));
        self.drain_delay = config.server.drain_delay;
        // Ends the health checks of removed upstreams.
        self.health_checks.abort();
        self.health_checks = tokio::spawn(self.app.routes().run_health_checks());
    }

    fn record_success(&self) {
        let now = self.clock.wall() - OffsetDateTime::UNIX_EPOCH;
        metrics::gauge!("sekisho_reload_last_success_timestamp_seconds").set(now.as_seconds_f64());
    }
}

/// Interval between two polls of the files. A change takes effect after two polls.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
