//! LISTEN and NOTIFY: wakes the revocation pollers of other replicas before their next interval.
//!
//! Notifications are best effort. A connection pooler may drop them, a PostgreSQL-compatible database may
//! lack them, and those sent while the listener reconnects are lost. Errors never reach a request, and the
//! pollers keep polling.

use std::convert::Infallible;
use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::time::{Instant, timeout};

use super::address::Address;
use super::pool::{Pool, with_timeout};
use super::server_changes::ServerChanges;
use crate::services::store::ACQUIRE_TIMEOUT;

/// Notifies the other replicas after a commit, if it has terminated sessions.
///
/// NOTIFY runs outside that transaction. Within it, NOTIFY holds a global lock until the commit, and the
/// commit fails if the notification queue is full.
pub(super) async fn notify_replicas(pool: &Pool, channel: &str, has_terminated: bool) {
    if !has_terminated {
        return;
    }
    let query = sqlx::query(NOTIFY).bind(channel);
    match timeout(NOTIFY_TIMEOUT, query.execute(pool)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            let error = pool.address().describe(&error);
            tracing::debug!(error, "revocation notification failed");
        }
        Err(_) => tracing::debug!("revocation notification timed out"),
    }
}

/// Calls `wake` on every notification of `channel`, and whenever notifications may have been missed. Never returns.
///
/// Connects anew after one of `changes`: a former primary sends no notifications.
pub(super) async fn run_listener(
    address: &Address,
    channel: &str,
    changes: &ServerChanges,
    wake: impl Fn() + Send + Sync,
) {
    let mut pause = MIN_PAUSE;
    loop {
        let started = Instant::now();
        let count = changes.count();
        let failed = tokio::select! {
            Err(error) = listen(address, channel, &wake) => Some(error),
            () = changes.more_than(count) => None,
        };
        if failed.is_none() || started.elapsed() > MAX_PAUSE {
            pause = MIN_PAUSE;
        }
        if let Some(error) = failed {
            address.renew_after(&error).await;
            log_failure(&address.describe(&error), pause);
        }
        // A server that changes all the time must not be connected to all the time.
        tokio::time::sleep(MIN_PAUSE).await;
        let _ = timeout(pause - MIN_PAUSE, changes.more_than(count)).await;
        pause = MAX_PAUSE.min(pause * 2);
    }
}

/// Calls `wake` on every notification until the connection fails.
async fn listen(address: &Address, channel: &str, wake: impl Fn()) -> Result<Infallible, sqlx::Error> {
    let mut listener = connect(address, channel).await?;
    wake();
    loop {
        let Ok(received) = timeout(KEEPALIVE_INTERVAL, listener.try_recv()).await else {
            // An idle connection looks the same as one that was cut silently, so it is probed.
            with_timeout(ACQUIRE_TIMEOUT, listener.execute("SELECT 1")).await?;
            continue;
        };
        let notification = received?;
        wake();
        if notification.is_none() {
            // The listener has reconnected and may have missed notifications. The pause bounds the rate
            // of reconnects if the server keeps closing the connection.
            tokio::time::sleep(MIN_PAUSE).await;
        }
    }
}

async fn connect(address: &Address, channel: &str) -> Result<PgListener, sqlx::Error> {
    // A pool of one connection, with which the listener reconnects.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(address.options());
    let mut listener = PgListener::connect_with(&pool).await?;
    with_timeout(ACQUIRE_TIMEOUT, listener.listen(channel)).await?;
    tracing::debug!("listening for revocation notifications");
    Ok(listener)
}

/// Logs the first failure of a series as a warning and the others at debug level. Polling still finds
/// revocations, only later.
fn log_failure(error: &str, pause: Duration) {
    if pause == MIN_PAUSE {
        tracing::warn!(error, "revocation listener failed, polling only");
    } else {
        tracing::debug!(error, "revocation listener still failing");
    }
}

const NOTIFY: &str = "SELECT pg_notify($1, '')";

/// Timeout of NOTIFY. It delays the response to the request that has terminated sessions.
const NOTIFY_TIMEOUT: Duration = Duration::from_millis(100);

/// Time without notifications after which the connection is probed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Bounds of the pause before a reconnect. It doubles with each failure.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
