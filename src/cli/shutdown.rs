//! The end of `sekisho serve`, in steps, so that nobody's request is cut:
//!
//! 1. `/readyz` says that it is about to come. For `server.drain_delay` all else goes on, so that who
//!    hands out requests can look elsewhere.
//! 2. The public listener and that of other proxies close. What waits in their queues is still accepted,
//!    clients with a connection are told to close it, WebSockets are closed, and what is under way ends, for
//!    no longer than `server.drain`.
//! 3. The operators' listener closes, so that probes were told the truth until here.
//!
//! Whoever asks a second time does not want to wait for any of that.

use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::error::CliError;
use super::reload::Reloader;
use super::systemd;
use crate::app::App;
use crate::server::{self, ServerLimits, WorkerThreads};

/// How often it was asked to stop: by SIGTERM, or SIGINT, which is Ctrl-C.
pub(super) struct ShutdownSignal(watch::Receiver<u32>);

impl ShutdownSignal {
    /// Listens from now on, not only once this is waited for.
    pub(super) fn listen() -> Result<Self, CliError> {
        let interrupt = signal_stream(SignalKind::interrupt())?;
        let terminate = signal_stream(SignalKind::terminate())?;
        let (count, counted) = watch::channel(0);
        tokio::spawn(async move {
            let (mut interrupt, mut terminate) = (interrupt, terminate);
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(counted))
    }

    /// Waits until it was asked so many times.
    pub(super) async fn received(&self, times: u32) {
        let mut counted = self.0.clone();
        // An error means that nobody counts any longer: the runtime is going away.
        let _ = counted.wait_for(|count| *count >= times).await;
    }
}

/// What is served beside the public listener, which the threads have already.
pub(super) struct AuxiliaryListeners {
    pub(super) admin: TcpListener,
    pub(super) verify: Option<TcpListener>,
    /// What those who ask on `verify` may cost.
    pub(super) limits: watch::Receiver<ServerLimits>,
}

/// Serves until it is asked to stop, then ends in steps.
pub(super) async fn serve_until_shutdown(
    told: &ShutdownSignal,
    threads: &WorkerThreads,
    beside: AuxiliaryListeners,
    app: &App,
    reloader: &mut Reloader<'_>,
) {
    let (close_admin, admin_closed) = oneshot::channel::<()>();
    let (close_verify, verify_closed) = oneshot::channel::<()>();
    // Dropping the sender is how they are told.
    let limits = ServerLimits { drain: ADMIN_DRAIN, ..ServerLimits::default() };
    let admin = server::serve(beside.admin, app.admin.clone(), limits, async { _ = admin_closed.await });
    let verify = beside.verify.zip(app.forward_auth.clone()).map(|(listener, service)| {
        server::serve_with_limits(listener, service, beside.limits, async { _ = verify_closed.await })
    });
    let public = async {
        tokio::select! {
            () = told.received(1) => {}
            never = reloader.run() => match never {},
        }
        let delay = reloader.drain_delay();
        app.begin_shutdown();
        systemd::stopping();
        tracing::info!(
            ?delay,
            "stopping: no new connections after the delay, and those that are there may finish"
        );
        tokio::time::sleep(delay).await;
        drop(close_verify);
        app.streams.close_all();
        threads.drain().await;
    };
    let work = async {
        tokio::join!(OptionFuture::from(verify), public);
        drop(close_admin);
    };
    tokio::join!(admin, work);
}

/// A signal that no longer ends the process, from now on.
pub(super) fn signal_stream(kind: SignalKind) -> Result<Signal, CliError> {
    signal(kind).map_err(|error| CliError::failed("can't listen for signals", error))
}

/// A probe that keeps its connection must not hold up the end.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);
