//! `sekisho serve`: the gateway, from its start to its graceful end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::future::OptionFuture;
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::error::CliError;
use super::start::{self, block_on};
use crate::app::{App, Parts, Sample};
use crate::backend::config::{Config, KeySource, Listen, Registration, Sources};
use crate::backend::db::Stores;
use crate::backend::key_files;
use crate::clock::{Clock, SystemClock};
use crate::server::{self, Certificate, ServerLimits, ServingThreads, raise_file_limit};
use crate::services::keys::SharedKeys;
use crate::services::purge::{Keep, Purge};
use crate::services::store::StoreError;
use crate::telemetry::{self, Log, Telemetry};

/// Arguments of `sekisho serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Listen on this address instead of server.listen
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<Listen>,
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
    let mut sources = Sources::of_process(file)?;
    args.add_to(&mut sources);
    let loaded = Config::load(&sources)?;
    let log = start::log(&loaded.config);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    block_on(async {
        let stores = start::stores(&loaded.config).await?;
        say_what_is_missing(&loaded.config, &stores).await?;
        serve(&loaded.config, stores, &log, None, |_| Ok(())).await
    })
}

/// What somebody who starts for the first time would wonder about next.
async fn say_what_is_missing(config: &Config, stores: &Stores) -> Result<(), CliError> {
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

/// Serves these stores. `ready` is told the public address once both listeners are bound.
pub(super) async fn serve(
    config: &Config,
    stores: Stores,
    log: &Log,
    sample: Option<Sample>,
    ready: impl FnOnce(&str) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let certificate = start::certificate(config, Arc::clone(&clock))?;
    // Before anything is counted: what is counted earlier counts for nobody.
    let metrics = telemetry::metrics::install();
    let stores = stores.measured();
    agree(config, &stores).await?;
    check_clock(config, &stores, &*clock).await?;
    let keys = Arc::new(SharedKeys::new(start::keys(config, stores.is_embedded(), clock.now())?));
    // Before anyone can learn that it serves: from then on it may be told to stop.
    let stop = told_to_stop()?;
    let public = bind("server.listen", &config.server.listen, config.server.reuse_port).await?;
    let admin = bind("admin.listen", &config.admin.listen, config.server.reuse_port).await?;
    let verify = bind_verify(config).await?;
    let origin = config.server.public_origin_at(local(&public)?);
    let (spans, exporting) = start::spans(config)?.unzip();
    let access = config.log.access.then(|| log.access());
    let app = App::build(Parts {
        config,
        public_origin: origin.clone(),
        stores: stores.clone(),
        keys: Arc::clone(&keys),
        clock: Arc::clone(&clock),
        metrics: metrics.clone(),
        telemetry: Telemetry { access, spans, lost_lines: Some(log.lost()) },
        sample,
    })
    .map_err(CliError::misconfigured)?;
    app.tokens
        .load_ends()
        .await
        .map_err(|error| CliError::failed("can't ask the database which sessions have ended", error))?;
    let mut watchers = watch_over(config, &stores, &keys, &clock);
    watchers.extend(metrics.map(|metrics| tokio::spawn(telemetry::metrics::upkeep(metrics))));
    watchers.push(tokio::spawn(purge(config, &stores, &clock).run()));
    watchers.push(tokio::spawn(app.tokens.clone().follow_ends()));
    watchers.push(tokio::spawn(app.routes.watch()));
    let (woken, tokens) = (stores.clone(), app.tokens.clone());
    watchers.push(tokio::spawn(async move { woken.wake_ups(move || tokens.wake()).await }));
    watchers.extend(certificate.clone().map(|certificate| tokio::spawn(certificate.watch())));
    check_file_limit(config);
    let threads = serving_threads(config)?;
    tracing::info!(public = %local(&public)?, admin = %local(&admin)?, origin = origin.as_str(), "serving");
    ready(origin.as_str())?;
    serve_public(&threads, public, certificate, &app)?;
    serve_until(stop, &threads, admin, verify, &app).await;
    for watcher in watchers {
        watcher.abort();
    }
    if let Err(error) = app.tokens.write_notes().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the last settlements were not written");
    }
    if let Some(exporting) = exporting {
        exporting.stop().await;
    }
    stores.close().await;
    // Not before: connections to the database may have been opened by a request, on its thread.
    threads.join().await;
    tracing::info!("stopped");
    Ok(())
}

/// The threads for requests. Everything else goes on where it is, beside them.
fn serving_threads(config: &Config) -> Result<ServingThreads, CliError> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let count = config.server.threads.unwrap_or_else(cores);
    let threads = ServingThreads::start(count, start::limits(&config.server.limits));
    threads.map_err(|error| CliError::failed("can't start the serving threads", error))
}

/// Every connection needs a descriptor, and what is forwarded another one.
fn check_file_limit(config: &Config) {
    let needed = 2 * u64::from(config.server.limits.max_connections) + OTHER_FILES;
    if let Some(limit) = raise_file_limit().filter(|limit| *limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "this process may open too few files for server.max_connections: raise its limit (LimitNOFILE, ulimit -n)"
        );
    }
}

/// The public listener, on the serving threads.
fn serve_public(
    threads: &ServingThreads,
    public: TcpListener,
    certificate: Option<Arc<Certificate>>,
    app: &App,
) -> Result<(), CliError> {
    let service = app.public.clone();
    let serving =
        public.into_std().and_then(|public| threads.serve(public, certificate, move || service.for_thread()));
    serving.map_err(|error| CliError::failed("can't share server.listen among the serving threads", error))
}

/// Until `signalled` is ready, and all that was under way has ended.
async fn serve_until(
    signalled: impl Future<Output = ()>,
    threads: &ServingThreads,
    admin: TcpListener,
    verify: Option<(TcpListener, ServerLimits)>,
    app: &App,
) {
    let (tell, told) = watch::channel(());
    let stopped = || {
        let mut told = told.clone();
        // An error means that the sender is gone, which is how it tells.
        async move { _ = told.changed().await }
    };
    let admin = server::serve(admin, app.admin.clone(), ServerLimits::default(), stopped());
    let verify = verify.zip(app.verify.clone());
    let verify =
        verify.map(|((listener, limits), router)| server::serve(listener, router, limits, stopped()));
    let public = async {
        signalled.await;
        tracing::info!("stopping: no new connections, and those that are there may finish");
        drop(tell);
        app.streams.close_all();
        threads.drain().await;
    };
    tokio::join!(admin, OptionFuture::from(verify), public);
}

/// Listens for signals from now on, not only once this is waited for.
fn told_to_stop() -> Result<impl Future<Output = ()>, CliError> {
    let failed = |error| CliError::failed("can't listen for signals", error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// What goes on beside the requests.
fn watch_over(
    config: &Config,
    stores: &Stores,
    keys: &Arc<SharedKeys>,
    clock: &Arc<dyn Clock>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let mut watchers = Vec::new();
    if let KeySource::Dir(dir) = &config.tokens.keys {
        let watch = key_files::watch(dir.clone(), config.tokens.key_activation, Arc::clone(keys));
        watchers.push(tokio::spawn(watch));
    }
    let (stores, clock, allowed) = (stores.clone(), Arc::clone(clock), config.session.grace / 4);
    watchers.push(tokio::spawn(async move {
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
    }));
    watchers
}

fn purge(config: &Config, stores: &Stores, clock: &Arc<dyn Clock>) -> Purge {
    let session = &config.session;
    let keep = Keep { ended: session.keep_ended, audit: config.audit.keep, grace: session.grace };
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
    let theirs = stores.sessions.store_time().await?;
    let ours = before + (clock.now() - before) / 2;
    Ok(ours - theirs)
}

/// Every replica must issue the same tokens for the same audience.
async fn agree(config: &Config, stores: &Stores) -> Result<(), CliError> {
    let settings = [("tokens.issuer", &config.tokens.issuer), ("tokens.audience", &config.tokens.audience)];
    for (name, ours) in settings {
        let settled = stores.settings.settle_setting(name, ours).await;
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

/// The listener of other proxies, if there is to be one, and what those may cost.
async fn bind_verify(config: &Config) -> Result<Option<(TcpListener, ServerLimits)>, CliError> {
    let Some(verify) = &config.verify else { return Ok(None) };
    let listener = bind("verify.listen", &verify.listen, config.server.reuse_port).await?;
    tracing::info!(verify = %local(&listener)?, "listening for other proxies");
    Ok(Some((listener, start::limits(&config.server.limits))))
}

async fn bind(key: &str, listen: &Listen, reuse_port: bool) -> Result<TcpListener, CliError> {
    let failed = |error: io::Error| {
        if error.kind() == io::ErrorKind::AddrInUse {
            return CliError::Refused(format!(
                "{key} = {listen} is in use: stop the program that has it, or choose another port"
            ));
        }
        CliError::failed(format!("can't listen on {key} = {listen}"), error)
    };
    let mut addresses: Vec<_> = lookup_host((listen.host(), listen.port())).await.map_err(failed)?.collect();
    // A name such as localhost has two; what knows only one knows IPv4.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match bind_to(address, reuse_port) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn bind_to(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the last connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn local(listener: &TcpListener) -> Result<SocketAddr, CliError> {
    listener.local_addr().map_err(|error| CliError::failed("can't tell the listener's address", error))
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho serve                           with ./sekisho.toml if it is there, else the defaults
  sekisho serve --config /etc/sekisho/sekisho.toml
  sekisho serve --listen 127.0.0.1:9000
  RUST_LOG=sekisho=debug sekisho serve    more of what happens

It makes the database's tables, and with SQLite the database and the signing keys too. Logs go to
standard error. SIGTERM or Ctrl-C stop it gently: what is under way has server.drain (30 seconds) to end.";

const BACKLOG: u32 = 1024;

/// What the process has open besides connections: the database, logs, key files.
const OTHER_FILES: u64 = 100;
