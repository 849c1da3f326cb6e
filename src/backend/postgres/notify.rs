//! NOTIFY: replicas that follow what others end are woken, so that they need not wait for the next
//! time they would ask.
//!
//! It is a hint and nothing more. A pooler in between may drop it, a PostgreSQL-compatible database
//! may not know it, and what is sent while the listener connects anew is lost: no error of it reaches
//! a request, and who follows asks all the same.

use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::time::{Instant, timeout};

use super::pool::{Pool, SESSION_SETTINGS};
use crate::services::store::ACQUIRE_TIMEOUT;

/// Has the other replicas woken, after a commit that has ended sessions.
///
/// Not in that transaction: there NOTIFY takes a lock that all share until the commit is done, and
/// where its queue is full the commit fails.
pub(super) async fn notify_replicas(pool: &Pool, ended: bool) {
    if !ended {
        return;
    }
    let query = sqlx::query(NOTIFY);
    match timeout(NOTIFIED_WITHIN, query.execute(pool)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::debug!(%error, "the other replicas are not woken: they ask by themselves");
        }
        Err(_) => tracing::debug!("the other replicas are not woken in time: they ask by themselves"),
    }
}

/// Calls `wake` at every NOTIFY, and whenever some may have been missed; for ever.
pub(super) async fn run_listener(options: &PgConnectOptions, wake: impl Fn() + Send + Sync) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        let began = Instant::now();
        let failed = match listen(options).await {
            Ok(listener) => recv_notifications(listener, &wake).await,
            Err(error) => error,
        };
        if began.elapsed() > LONGEST_PAUSE {
            pause = SHORTEST_PAUSE;
        }
        report(&failed, pause);
        tokio::time::sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

async fn listen(options: &PgConnectOptions) -> Result<PgListener, sqlx::Error> {
    // What the listener connects anew with, and nothing else.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(|connection, _| {
            Box::pin(async { connection.execute(SESSION_SETTINGS).await.map(drop) })
        })
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    answer(listener.listen(CHANNEL)).await?;
    tracing::debug!("woken when other replicas end sessions");
    Ok(listener)
}

/// Hears until the connection is of no more use, and why.
async fn recv_notifications(mut listener: PgListener, wake: impl Fn()) -> sqlx::Error {
    wake();
    loop {
        let heard = match timeout(SILENCE, listener.try_recv()).await {
            Ok(heard) => heard,
            // Nothing to tell, or cut without a word: nobody would notice by waiting.
            Err(_) => match answer(listener.execute("SELECT 1")).await {
                Ok(_) => continue,
                Err(error) => Err(error),
            },
        };
        match heard {
            Ok(Some(_)) => wake(),
            // It has connected anew, and missed what was sent. A server that hangs up again and again
            // is not asked without a pause.
            Ok(None) => {
                wake();
                tokio::time::sleep(SHORTEST_PAUSE).await;
            }
            Err(error) => return error,
        }
    }
}

async fn answer<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(ACQUIRE_TIMEOUT, asked).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Warns once, for nothing is wrong: sessions end here a little later.
fn report(failed: &sqlx::Error, pause: Duration) {
    let error: &dyn std::error::Error = failed;
    if pause == SHORTEST_PAUSE {
        tracing::warn!(error, "not woken when other replicas end sessions: found out by asking alone");
    } else {
        tracing::debug!(error, "still not woken when other replicas end sessions");
    }
}

const CHANNEL: &str = "sekisho_session_ended";

const NOTIFY: &str = "SELECT pg_notify('sekisho_session_ended', '')";

/// How long the answer to what ended the sessions is held up for this.
const NOTIFIED_WITHIN: Duration = Duration::from_millis(100);

/// After how long without a word the connection is tried.
const SILENCE: Duration = Duration::from_secs(30);

/// How long it is waited between two listeners; it doubles from the one to the other.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
