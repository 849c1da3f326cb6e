//! `sekisho serve`: the gateway, from its start to its graceful end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::bootstrap::{self, block_on};
use super::error::CliError;
use super::listeners::{Listeners, local_addr};
use super::reload::{ReloadTrigger, Reloader};
use super::shutdown::{AuxiliaryListeners, ShutdownSignal, serve_until_shutdown};
use super::systemd;
use crate::app::{App, AppDependencies, DemoCredentials};
use crate::backend::db::Stores;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, KeySource, ListenAddr, Origin, Sources};
use crate::key_store;
use crate::server::{Certificate, ServerLimits, WorkerThreads};
use crate::services::auth::Registration;
use crate::services::keys::SharedKeys;
use crate::services::purge::{Purge, RetentionPolicy};
use crate::services::store::StoreError;
use crate::telemetry::{self, ExporterHandle, LogGuard, Telemetry};

/// Arguments of `sekisho serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Listen on this address instead of server.listen
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<ListenAddr>,
}

impl ServeArgs {
    /// Adds what the flags say, as the layer that wins.
    pub fn add_to(&self, sources: &mut Sources) {
        let listen = self.listen.as_ref().map(|listen| ("server.listen".to_owned(), listen.to_string()));
        sources.flags.extend(listen);
    }
}

/// Serves until the process is told to stop.
pub(super) fn run(args: &ServeArgs, file: Option<PathBuf>) -> Result<(), CliError> {
    let mut sources = Sources::from_env(file)?;
    args.add_to(&mut sources);
    block_on(async {
        // Before it is read: what changes from here on is noticed.
        let occasions = ReloadTrigger::install(sources)?;
        let loaded = Config::load(occasions.sources())?;
        let log = bootstrap::log(&loaded.config);
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let stores = bootstrap::stores(&loaded.config).await?;
        warn_about_incomplete_setup(&loaded.config, &stores).await?;
        serve(&loaded.config, Some(occasions), stores, &log, None, |_| Ok(())).await
    })
}

/// What somebody who starts for the first time would wonder about next.
async fn warn_about_incomplete_setup(config: &Config, stores: &Stores) -> Result<(), CliError> {
    if config.routes.is_empty() && config.verify.is_none() {
        tracing::info!("there are no [[routes]], so only the gateway's own paths answer");
    }
    let users = stores.users.has_users().await;
    let users = users.map_err(|error| CliError::failed("can't ask the database", error))?;
    if !users && config.login.registration == Registration::Closed {
        tracing::warn!("nobody can sign in yet: make a user with `sekisho user create --email ADDRESS`");
    }
    Ok(())
}

/// Serves these stores. `ready` is told the public address once the listeners are bound; `occasions` say
/// when to read the configuration again.
pub(super) async fn serve(
    config: &Config,
    occasions: Option<ReloadTrigger>,
    stores: Stores,
    log: &LogGuard,
    sample: Option<DemoCredentials>,
    ready: impl FnOnce(&str) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let ground = ServerResources::of(config, stores).await?;
    // Before anyone can learn that it serves: from then on it may be told to stop.
    let told = ShutdownSignal::listen()?;
    let listeners = Listeners::bind(config).await?;
    let origin = config.server.public_origin_at(local_addr(&listeners.public)?);
    let program = RunningServer::build(config, &ground, &origin, log, sample).await?;
    bootstrap::check_file_limit(config);
    let limits = config.server.limits;
    let threads = serving_threads(config, limits)?;
    listeners.log_addresses(&origin)?;
    ready(origin.as_str())?;
    let Listeners { public, admin, verify } = listeners;
    serve_public(&threads, public, ground.certificate.clone(), &program.app)?;
    systemd::notify_ready();
    let (limits, limited) = watch::channel(limits);
    let mut reloader = Reloader {
        app: &program.app,
        threads: &threads,
        limits,
        certificate: ground.certificate.clone(),
        keys: Arc::clone(&ground.keys),
        clock: Arc::clone(&ground.clock),
        started_with: config,
        drain_delay: config.server.drain_delay,
        upstreams: tokio::spawn(program.app.routes().run_health_checks()),
        occasions,
    };
    let beside = AuxiliaryListeners { admin, verify, limits: limited };
    let stopped = tokio::select! {
        () = serve_until_shutdown(&told, &threads, beside, &program.app, &mut reloader) => Ok(()),
        () = told.received(2) => Err(CliError::Refused(
            "told to stop a second time: what was under way was cut".to_owned(),
        )),
    };
    let end = program.end(&ground.stores, threads);
    match &stopped {
        Ok(()) => end.await,
        Err(_) => _ = tokio::time::timeout(AT_ONCE, end).await,
    }
    tracing::info!("stopped");
    stopped
}

/// What the program stands on, checked.
struct ServerResources {
    stores: Stores,
    keys: Arc<SharedKeys>,
    clock: Arc<dyn Clock>,
    certificate: Option<Arc<Certificate>>,
    metrics: Option<PrometheusHandle>,
}

impl ServerResources {
    async fn of(config: &Config, stores: Stores) -> Result<Self, CliError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let certificate = bootstrap::certificate(config, Arc::clone(&clock))?;
        // Before anything is counted: what is counted earlier counts for nobody.
        let metrics = telemetry::metrics::install();
        let stores = stores.measured();
        check_cluster_settings(config, &stores).await?;
        check_clock(config, &stores, &*clock).await?;
        let keys = bootstrap::keys(config, stores.is_embedded(), clock.now())?;
        Ok(Self { stores, keys: Arc::new(SharedKeys::new(keys)), clock, certificate, metrics })
    }
}

/// The program, and what goes on beside its requests.
struct RunningServer {
    app: App,
    beside: Vec<JoinHandle<()>>,
    exporting: Option<ExporterHandle>,
}

impl RunningServer {
    async fn build(
        config: &Config,
        ground: &ServerResources,
        origin: &Origin,
        log: &LogGuard,
        sample: Option<DemoCredentials>,
    ) -> Result<Self, CliError> {
        let (spans, exporting) = bootstrap::spans(config)?.unzip();
        let parts = AppDependencies {
            config,
            public_origin: origin.clone(),
            stores: ground.stores.clone(),
            keys: Arc::clone(&ground.keys),
            clock: Arc::clone(&ground.clock),
            metrics: ground.metrics.clone(),
            telemetry: Telemetry { access: Some(log.access()), spans, lost_lines: Some(log.lost()) },
            sample,
        };
        let app = App::build(parts).map_err(CliError::misconfigured)?;
        let loaded = app.tokens.revocations().load().await;
        loaded
            .map_err(|error| CliError::failed("can't ask the database which sessions have ended", error))?;
        let beside = spawn_background_tasks(config, ground, &app);
        Ok(Self { app, beside, exporting })
    }

    async fn end(self, stores: &Stores, threads: WorkerThreads) {
        for task in self.beside {
            task.abort();
        }
        if let Err(error) = self.app.tokens.flush_deferred().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the last settlements were not written");
        }
        if let Some(exporting) = self.exporting {
            exporting.stop().await;
        }
        stores.clone().close().await;
        // Not before: connections to the database may have been opened by a request, on its thread.
        threads.join().await;
    }
}

/// The threads for requests. Everything else goes on where it is, beside them.
fn serving_threads(config: &Config, limits: ServerLimits) -> Result<WorkerThreads, CliError> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = WorkerThreads::start(config.server.threads.unwrap_or_else(cores), limits);
    threads.map_err(|error| CliError::failed("can't start the serving threads", error))
}

/// The public listener, on the serving threads.
fn serve_public(
    threads: &WorkerThreads,
    public: TcpListener,
    certificate: Option<Arc<Certificate>>,
    app: &App,
) -> Result<(), CliError> {
    let service = app.public.clone();
    let serving =
        public.into_std().and_then(|public| threads.serve(public, certificate, move || service.for_thread()));
    serving.map_err(|error| CliError::failed("can't share server.listen among the serving threads", error))
}

/// What goes on beside the requests, whatever the routes are.
fn spawn_background_tasks(config: &Config, ground: &ServerResources, app: &App) -> Vec<JoinHandle<()>> {
    let ServerResources { stores, keys, clock, certificate, metrics } = ground;
    let mut watchers = vec![
        tokio::spawn(monitor_clock_skew(stores.clone(), Arc::clone(clock), config.session.grace / 4)),
        tokio::spawn(purge(config, stores, clock).run()),
        tokio::spawn(app.tokens.revocations().clone().run_poller()),
    ];
    let (woken, tokens) = (stores.clone(), app.tokens.clone());
    watchers.push(tokio::spawn(async move {
        woken.listen_for_revocations(move || tokens.revocations().poll_now()).await
    }));
    if let KeySource::Dir(dir) = &config.tokens.keys {
        let watch = key_store::watch_dir(dir.clone(), config.tokens.key_activation, Arc::clone(keys));
        watchers.push(tokio::spawn(watch));
    }
    watchers.extend(certificate.clone().map(|certificate| tokio::spawn(certificate.watch())));
    watchers.extend(metrics.clone().map(|metrics| tokio::spawn(telemetry::metrics::upkeep(metrics))));
    watchers.extend(systemd::watchdog().map(tokio::spawn));
    watchers
}

async fn monitor_clock_skew(stores: Stores, clock: Arc<dyn Clock>, allowed: Duration) {
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        match clock_offset(&stores, &*clock).await {
            Ok(offset) => {
                metrics::gauge!("sekisho_clock_offset_seconds").set(offset.as_seconds_f64());
                if offset.unsigned_abs() > allowed {
                    tracing::error!(%offset, ?allowed, "this machine's clock and the database's are too far apart");
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the clocks were not compared");
            }
        }
    }
}

fn purge(config: &Config, stores: &Stores, clock: &Arc<dyn Clock>) -> Purge {
    let session = &config.session;
    let keep = RetentionPolicy { ended: session.keep_ended, audit: config.audit.keep, grace: session.grace };
    Purge::new(Arc::clone(&stores.sessions), Arc::clone(clock), keep)
}

/// Clocks that are further apart than a quarter of the grace could take an honest browser for a
/// thief.
async fn check_clock(config: &Config, stores: &Stores, clock: &dyn Clock) -> Result<(), CliError> {
    let offset = clock_offset(stores, clock)
        .await
        .map_err(|error| CliError::failed("can't ask the database for its time", error))?;
    let allowed = config.session.grace / 4;
    if offset.unsigned_abs() <= allowed {
        return Ok(());
    }
    Err(CliError::Refused(format!(
        "this machine's clock and the database's are {offset} apart, more than a quarter of session.grace: set the \
         clocks, as with NTP"
    )))
}

async fn clock_offset(stores: &Stores, clock: &dyn Clock) -> Result<time::Duration, StoreError> {
    let before = clock.now();
    let theirs = stores.sessions.database_time().await?;
    let ours = before + (clock.now() - before) / 2;
    Ok(ours - theirs)
}

/// Every replica must issue the same tokens for the same audience.
async fn check_cluster_settings(config: &Config, stores: &Stores) -> Result<(), CliError> {
    let settings = [("tokens.issuer", &config.tokens.issuer), ("tokens.audience", &config.tokens.audience)];
    for (name, ours) in settings {
        let settled = stores.settings.get_or_insert_setting(name, ours).await;
        let settled = settled.map_err(|error| CliError::failed("can't ask the database", error))?;
        if settled != *ours {
            return Err(CliError::Misconfigured(
                format!(
                    "{name} is {ours:?}, but the database was set up with {settled:?}: set {name} to that"
                )
                .into(),
            ));
        }
    }
    Ok(())
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho serve                           with ./sekisho.toml if it is there, else the defaults
  sekisho serve --config /etc/sekisho/sekisho.toml
  sekisho serve --listen 127.0.0.1:9000
  RUST_LOG=sekisho=debug sekisho serve    more of what happens

It makes the database's tables, and with SQLite the database and the signing keys too. Logs go to
standard error. SIGTERM or Ctrl-C stop it gently: what is under way has server.drain (30 seconds) to end; a
second one stops it at once. SIGHUP, or a change of the file, has the configuration read again.";

/// How long the end may take when nobody wants to wait for it.
const AT_ONCE: Duration = Duration::from_secs(1);
