//! Reading the configuration again while `sekisho serve` runs.
//!
//! SIGHUP asks for it, and so does a change of what the files say: of the configuration file, wherever
//! its path leads by then, and of `.env`. It is read by the same sources as at the start, so flags and
//! environment win as they did. All of it is checked before any of it is used; what is wrong is logged as
//! it would be said at the start, and everything stays as it was. Of what is good, the keys that can
//! change do; those that can't, and differ, are named.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

use super::error::{CliError, display_chain};
use super::shutdown::signal_stream;
use super::{bootstrap, systemd};
use crate::app::{App, PreparedReload};
use crate::clock::Clock;
use crate::config::{Config, ContentHash, LoadedConfig, Sources};
use crate::server::{Certificate, ServerLimits, WorkerThreads};
use crate::services::keys::SharedKeys;

/// What the configuration is read from, and when to read it again.
pub(super) struct ReloadTrigger {
    sources: Sources,
    hangup: Signal,
    /// What the files said when they were last read.
    read: ContentHash,
}

impl ReloadTrigger {
    /// From now on. SIGHUP no longer ends the process; one that comes before anybody waits is kept.
    pub(super) fn install(sources: Sources) -> Result<Self, CliError> {
        let hangup = signal_stream(SignalKind::hangup())?;
        Ok(Self { read: sources.snapshot(), sources, hangup })
    }

    pub(super) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        let Self { sources, hangup, read } = self;
        tokio::select! {
            _ = hangup.recv() => tracing::info!("SIGHUP: the configuration is read again"),
            () = changed(sources, *read) => tracing::info!("the configuration has changed, and is read again"),
        }
        self.read = snapshot(sources).await;
    }
}

/// Waits until the files say something else, and said so a moment ago too: a file that is being written
/// isn't read half.
async fn changed(sources: &Sources, read: ContentHash) {
    let mut before = read;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let now = snapshot(sources).await;
        if now != read && now == before {
            return;
        }
        before = now;
    }
}

async fn snapshot(sources: &Sources) -> ContentHash {
    let sources = sources.clone();
    // A panic or a runtime that goes away: there is nothing to compare.
    spawn_blocking(move || sources.snapshot()).await.unwrap_or_default()
}

/// Puts a new configuration in force.
pub(super) struct Reloader<'a> {
    pub(super) app: &'a App,
    pub(super) threads: &'a WorkerThreads,
    /// What clients of the listener for other proxies may cost.
    pub(super) limits: watch::Sender<ServerLimits>,
    pub(super) certificate: Option<Arc<Certificate>>,
    pub(super) keys: Arc<SharedKeys>,
    pub(super) clock: Arc<dyn Clock>,
    /// What was in force at the start, and is for the keys that need a restart.
    pub(super) started_with: &'a Config,
    /// How long to go on after being told to stop.
    pub(super) drain_delay: Duration,
    /// What is done beside the requests for the upstreams of the routes.
    pub(super) upstreams: JoinHandle<()>,
    /// `None` if the configuration is never read again.
    pub(super) occasions: Option<ReloadTrigger>,
}

impl Reloader<'_> {
    /// Reads the configuration again whenever there is an occasion.
    pub(super) async fn run(&mut self) -> Infallible {
        self.note_success();
        loop {
            match &mut self.occasions {
                Some(occasions) => occasions.next().await,
                None => pending().await,
            }
            systemd::reloading();
            let outcome = self.reload().await;
            systemd::reloaded(&outcome);
        }
    }

    /// What `server.drain_delay` says by now.
    pub(super) fn drain_delay(&self) -> Duration {
        self.drain_delay
    }

    /// Tells what came of it.
    async fn reload(&mut self) -> String {
        match self.try_reload().await {
            Ok(()) => {
                self.note_success();
                metrics::counter!("sekisho_reloads_total", "outcome" => "done").increment(1);
                tracing::info!("the configuration is in force");
                "serving".to_owned()
            }
            Err(error) => {
                metrics::counter!("sekisho_reloads_total", "outcome" => "refused").increment(1);
                let error = display_chain(&error);
                tracing::error!(
                    error,
                    "the configuration can't be used; the one that there was stays in force"
                );
                format!("serving, but the configuration was refused: {error}")
            }
        }
    }
    async fn try_reload(&mut self) -> Result<(), CliError> {
        let Some(occasions) = &self.occasions else { return Ok(()) };
        let (sources, app) = (occasions.sources().clone(), self.app.clone());
        let prepared = spawn_blocking(move || {
            let loaded = Config::load(&sources)?;
            let change = app.prepare(&loaded.config).map_err(CliError::misconfigured)?;
            Ok::<_, CliError>((loaded, change))
        });
        let failed = |error| CliError::failed("the configuration was not read to its end", error);
        let (loaded, change) = prepared.await.map_err(failed)??;
        self.check(&loaded.config)?;
        self.renew_certificate(&loaded.config)?;
        // From here on nothing fails.
        self.apply(&loaded, change);
        Ok(())
    }

    /// What is checked at the start, against what is in force since then.
    fn check(&self, config: &Config) -> Result<(), CliError> {
        bootstrap::check_bearer_algorithm(config, &self.keys.load(), self.clock.now())?;
        let ours = &self.started_with.tokens.audience;
        match config.routes.iter().find(|route| route.spec.token_audience.as_ref() == Some(ours)) {
            None => Ok(()),
            Some(route) => Err(CliError::Misconfigured(
                format!(
                    "the route {} has bearer = {ours:?}, which is tokens.audience until the next restart",
                    route.path.as_str()
                )
                .into(),
            )),
        }
    }

    /// The files may be others now. Without a change in them this is nothing.
    fn renew_certificate(&self, config: &Config) -> Result<(), CliError> {
        let (Some(certificate), Some(tls)) = (&self.certificate, &config.server.tls) else { return Ok(()) };
        let renewed = certificate.reload_from(&tls.certificate, &tls.key);
        renewed.map(drop).map_err(|fault| tls.invalid(fault.is_key_error(), fault.to_string()).into())
    }

    fn apply(&mut self, loaded: &LoadedConfig, change: PreparedReload) {
        let LoadedConfig { config, warnings, .. } = loaded;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let kept = self.started_with.needs_restart_for(config);
        if !kept.is_empty() {
            tracing::warn!(
                keys = kept.join(", "),
                "these keys have changed and need a restart: they stay as they were"
            );
        }
        bootstrap::check_file_limit(config);
        self.app.apply(change);
        self.threads.set_limits(config.server.limits);
        self.limits.send_replace(config.server.limits);
        self.drain_delay = config.server.drain_delay;
        // Those of upstreams that are no more end with it.
        self.upstreams.abort();
        self.upstreams = tokio::spawn(self.app.routes().run_health_checks());
    }

    fn note_success(&self) {
        let now = self.clock.now() - OffsetDateTime::UNIX_EPOCH;
        metrics::gauge!("sekisho_reload_last_success_timestamp_seconds").set(now.as_seconds_f64());
    }
}

/// How often the files are looked at. What has changed is in force after two looks.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
