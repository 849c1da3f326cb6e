//! Graceful shutdown of `sekisho serve`:
//!
//! 1. `/readyz` fails, and for `server.drain_delay` requests are still served, so that load balancers can
//!    remove this process.
//! 2. The public listener and the one for forward auth requests close, after accepting the connections in their
//!    backlogs. Idle connections and WebSockets are closed, and requests in flight
//!    have `server.drain` to complete.
//! 3. The admin listener closes, so that probes get responses until then.
//!
//! A second signal skips the graceful shutdown.

use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::net::TcpListener;
use tokio::signal::unix::SignalKind;
use tokio::sync::{oneshot, watch};

use super::error::CliError;
use super::reload::Reloader;
use super::signals::signal_stream;
use super::systemd;
use crate::app::App;
use crate::duration_format::format_duration;
use crate::server::{self, ServerLimits, WorkerThreads};

/// Counts SIGTERM and SIGINT (Ctrl-C).
pub(super) struct ShutdownSignal(watch::Receiver<u32>);

impl ShutdownSignal {
    /// Installs the signal handlers. Signals count from here on, even before anything awaits them.
    pub(super) fn listen() -> Result<Self, CliError> {
        let mut interrupt = signal_stream(SignalKind::interrupt())?;
        let mut terminate = signal_stream(SignalKind::terminate())?;
        let (sender, count) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(count))
    }

    /// Waits until `times` signals have been received.
    pub(super) async fn received(&self, times: u32) {
        let mut count = self.0.clone();
        // An error means that the runtime is shutting down.
        let _ = count.wait_for(|count| *count >= times).await;
    }
}

/// Serves until a shutdown signal, then shuts down gracefully. The worker threads serve the public listener.
pub(super) async fn serve_until_shutdown(
    shutdown: &ShutdownSignal,
    threads: &WorkerThreads,
    admin: TcpListener,
    verify: Option<TcpListener>,
    app: &App,
    reloader: &mut Reloader<'_>,
) {
    let (close_admin, admin_closed) = oneshot::channel::<()>();
    let (close_verify, verify_closed) = oneshot::channel::<()>();
    // Dropping a sender closes its listener.
    let limits = ServerLimits { drain: ADMIN_DRAIN, ..ServerLimits::default() };
    let admin = server::serve(admin, app.admin.clone(), limits, async { _ = admin_closed.await });
    let verify = verify.zip(app.forward_auth.clone()).map(|(listener, service)| {
        server::serve_with_limits(listener, service, reloader.limits.subscribe(), async {
            _ = verify_closed.await
        })
    });
    let public = async {
        tokio::select! {
            () = shutdown.received(1) => {}
            never = reloader.run() => match never {},
        }
        let delay = reloader.drain_delay;
        app.begin_shutdown();
        systemd::stopping();
        tracing::info!(delay = format_duration(delay), "shutting down");
        tokio::time::sleep(delay).await;
        drop(close_verify);
        app.streams.close_all();
        threads.drain().await;
    };
    let client_listeners = async {
        tokio::join!(OptionFuture::from(verify), public);
        drop(close_admin);
    };
    tokio::join!(admin, client_listeners);
}

/// Drain timeout of the admin listener, short so that a probe with an open connection does not delay the exit.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);
