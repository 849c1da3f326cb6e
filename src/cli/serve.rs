//! `sekisho serve`: runs the gateway until a shutdown signal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::bootstrap::{self, block_on};
use super::error::CliError;
use super::listeners::{Listeners, PublicListener};
use super::reload::{ReloadTrigger, Reloader, verify_limits};
use super::shutdown::{ShutdownSignal, serve_until_shutdown};
use super::systemd;
use super::unix_listener::SocketFile;
use crate::app::{
    App, AppDependencies, DemoCredentials, RunningApp, StartError, check_keys, check_replica,
    start_session_time,
};
use crate::backend::db::Stores;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Origin, Otlp, PublicListenAddr, Sources};
use crate::server::{Certificate, WorkerThreads};
use crate::services::auth::Registration;
use crate::services::keys::SharedKeys;
use crate::telemetry::{self, ExporterHandle, LogGuard, SpanSender, Telemetry};

/// Arguments of `sekisho serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Listen on this address instead of server.listen
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<PublicListenAddr>,
}

impl ServeArgs {
    /// Adds the flags to `sources`, where they take precedence.
    pub fn add_to(&self, sources: &mut Sources) {
        let listen = self.listen.as_ref().map(|listen| ("server.listen".to_owned(), listen.to_string()));
        sources.flags.extend(listen);
    }
}

/// Serves until a shutdown signal.
pub(super) fn run(args: &ServeArgs, file: Option<PathBuf>) -> Result<(), CliError> {
    let mut sources = Sources::from_env(file)?;
    args.add_to(&mut sources);
    block_on(async {
        // Before the first load, so that no later change is missed.
        let trigger = ReloadTrigger::install(sources)?;
        let loaded = Config::load(&trigger.sources)?;
        bootstrap::check(&loaded.config)?;
        let log = LogGuard::to_stderr(loaded.config.log.format);
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let stores = bootstrap::stores(&loaded.config).await?;
        warn_about_incomplete_setup(&loaded.config, &stores).await?;
        serve(&loaded.config, Some(trigger), stores, &log, None, |_| Ok(())).await
    })
}

/// Logs the settings that a new installation usually lacks.
async fn warn_about_incomplete_setup(config: &Config, stores: &Stores) -> Result<(), CliError> {
    if config.routes.is_empty() && config.verify.is_none() {
        tracing::info!("no [[routes]] configured, only built-in paths are served");
    }
    let has_users = stores.users.has_users().await;
    let has_users = has_users.map_err(|error| CliError::failed("cannot read the users", error))?;
    if !has_users && config.login.registration == Registration::Closed {
        tracing::warn!(
            command = "sekisho user create --email ADDRESS",
            "no users yet, and registration is closed"
        );
    }
    Ok(())
}

/// Serves until a shutdown signal. Calls `ready` with the public origin once the listeners are bound.
///
/// Without a `trigger` the configuration is never reloaded.
pub(super) async fn serve(
    config: &Config,
    trigger: Option<ReloadTrigger>,
    stores: Stores,
    log: &LogGuard,
    sample: Option<DemoCredentials>,
    ready: impl FnOnce(&str) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let resources = ServerResources::open(config, stores).await?;
    // Before anything announces that the gateway serves, because a shutdown signal can follow at once.
    let shutdown = ShutdownSignal::listen()?;
    let listeners = Listeners::bind(config).await?;
    let origin = public_origin(config, &listeners.public)?;
    let server = RunningServer::start(config, &resources, &origin, log, sample).await?;
    bootstrap::check_file_limit(config);
    let threads = start_worker_threads(config, &server.running.app)?;
    listeners.log_addresses(&origin)?;
    ready(origin.as_str())?;
    let Listeners { public, admin, verify } = listeners;
    let app = &server.running.app;
    let socket_file = serve_public(&threads, public, config, resources.certificate.clone(), app)?;
    systemd::notify_ready();
    let mut reloader = Reloader {
        app,
        threads: &threads,
        limits: watch::Sender::new(verify_limits(config.server.limits)),
        certificate: resources.certificate.clone(),
        keys: Arc::clone(&resources.keys),
        clock: Arc::clone(&resources.clock),
        initial_config: config,
        drain_delay: config.server.drain_delay,
        health_checks: tokio::spawn(app.routes().run_health_checks()),
        trigger,
    };
    let result = tokio::select! {
        () = serve_until_shutdown(&shutdown, &threads, admin, verify, app, &mut reloader) => Ok(()),
        () = shutdown.received(2) => Err(CliError::Refused(
            "second shutdown signal: requests in flight were aborted".to_owned(),
        )),
    };
    drop(socket_file);
    resources.time_sync.abort();
    let stop = server.stop(threads);
    match &result {
        Ok(()) => stop.await,
        Err(_) => _ = tokio::time::timeout(FORCED_STOP_TIMEOUT, stop).await,
    }
    tracing::info!("stopped");
    result
}

/// The resources that an application is built from, opened and checked.
struct ServerResources {
    stores: Stores,
    keys: Arc<SharedKeys>,
    clock: Arc<dyn Clock>,
    time_sync: JoinHandle<()>,
    certificate: Option<Arc<Certificate>>,
    metrics: Option<PrometheusHandle>,
}

impl ServerResources {
    async fn open(config: &Config, stores: Stores) -> Result<Self, CliError> {
        let certificate = bootstrap::certificate(config, Arc::new(SystemClock))?;
        // Before any metric is recorded: earlier ones are lost.
        let metrics = telemetry::metrics::install();
        let stores = stores.measured();
        check_replica(config, &stores).await?;
        let session_time = start_session_time(config, &stores).await?;
        let clock = session_time.clock();
        let time_sync = tokio::spawn(session_time.run(Arc::clone(&stores.settings)));
        let keys = bootstrap::keys(config, &stores, clock.now()).await?;
        check_keys(&stores, &keys).await?;
        for warning in bootstrap::key_warnings(config)? {
            tracing::warn!("{warning}");
        }
        let keys = Arc::new(SharedKeys::new(keys));
        Ok(Self { stores, keys, clock, time_sync, certificate, metrics })
    }
}

/// The application with the tasks of this process.
struct RunningServer {
    running: RunningApp,
    watchdog: Option<JoinHandle<()>>,
    exporter: Option<ExporterHandle>,
}

impl RunningServer {
    async fn start(
        config: &Config,
        resources: &ServerResources,
        origin: &Origin,
        log: &LogGuard,
        sample: Option<DemoCredentials>,
    ) -> Result<Self, CliError> {
        let start = |otlp: &Otlp| SpanSender::start(otlp.endpoint.as_str(), otlp.sample);
        let export = config.otlp.as_ref().map(start).transpose().map_err(CliError::misconfigured)?;
        let (spans, exporter) = export.unzip();
        let dependencies = AppDependencies {
            config,
            public_origin: origin.clone(),
            stores: resources.stores.clone(),
            keys: Arc::clone(&resources.keys),
            clock: Arc::clone(&resources.clock),
            refresh_timeout: None,
            metrics: resources.metrics.clone(),
            telemetry: Telemetry { access: Some(log.access()), spans, lost_lines: Some(log.lost()) },
            sample,
        };
        let running = RunningApp::start(dependencies, resources.certificate.clone()).await?;
        Ok(Self { running, watchdog: systemd::watchdog().map(tokio::spawn), exporter })
    }

    async fn stop(mut self, threads: WorkerThreads) {
        if let Some(watchdog) = self.watchdog {
            watchdog.abort();
        }
        self.running.stop().await;
        if let Some(exporter) = self.exporter {
            exporter.stop().await;
        }
        self.running.close().await;
        // Last, because a database connection may belong to the runtime of a worker thread.
        threads.join().await;
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::App(_) | StartError::ClusterSetting { .. } | StartError::Key(_) => {
                Self::misconfigured(error)
            }
            StartError::Store { what, source } => {
                Self::failed(format!("cannot read {what} from the database"), source)
            }
        }
    }
}

/// Starts the threads that serve the public listener: `server.threads`, or one for each core.
fn start_worker_threads(config: &Config, app: &App) -> Result<WorkerThreads, CliError> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = WorkerThreads::start(config.server.threads.unwrap_or_else(cores), config.server.limits);
    let threads = threads.map_err(|error| CliError::failed("cannot start the worker threads", error))?;
    threads.set_exempt_peers(config.server.trusted_proxies.clone());
    if let Some(free) = threads.free_places() {
        app.shares.set_free_places(free);
    }
    Ok(threads)
}

fn public_origin(config: &Config, listener: &PublicListener) -> Result<Origin, CliError> {
    let origin = config.server.public_origin_at(listener.port());
    origin.ok_or_else(|| CliError::Refused("server.public_origin is required".to_owned()))
}

/// Serves clients. Returns the file of a Unix socket, to be removed at the end.
fn serve_public(
    threads: &WorkerThreads,
    listener: PublicListener,
    config: &Config,
    certificate: Option<Arc<Certificate>>,
    app: &App,
) -> Result<Option<SocketFile>, CliError> {
    let unusable = |error| CliError::failed("cannot use server.listen", error);
    let (listener, socket_file) = listener.into_parts().map_err(unusable)?;
    let listener = listener.with_proxy_protocol(config.server.proxy_protocol).with_rejections();
    let service = app.public.clone();
    threads
        .serve(listener, certificate, move || service.for_thread())
        .map_err(|error| CliError::failed("cannot serve server.listen on the worker threads", error))?;
    Ok(socket_file)
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho serve                           with ./sekisho.toml if it exists, else the defaults
  sekisho serve --config /etc/sekisho/sekisho.toml
  sekisho serve --listen 127.0.0.1:9000
  RUST_LOG=sekisho=debug sekisho serve    with debug logging

Creates missing tables on startup; with SQLite also the database file and the signing keys. Logs to \
standard error. SIGTERM or Ctrl-C starts a graceful shutdown: requests in flight have server.drain (30 \
seconds) to complete; a second signal aborts them. SIGHUP, or a change of the configuration file, reloads it.";

/// Timeout for stopping after a second shutdown signal.
const FORCED_STOP_TIMEOUT: Duration = Duration::from_secs(1);
