//! The tasks that keep the sessions of a process correct.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::purge::Purge;
use super::revocations::Revocations;
use super::store::WakeFn;
use super::token_issuer::TokenIssuer;

/// Spawns the purge, the poller and the listener of ended sessions, and a log line while session time is uncertain.
pub(super) fn spawn<F>(
    tasks: &mut JoinSet<()>,
    revocations: &Arc<Revocations>,
    issuer: &Arc<TokenIssuer>,
    purge: Purge,
    listen: impl FnOnce(WakeFn) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let woken = Arc::clone(revocations);
    tasks.spawn(warn_while_uncertain(Arc::clone(issuer)));
    tasks.spawn(purge.run());
    tasks.spawn(Arc::clone(revocations).run_poller());
    tasks.spawn(listen(Box::new(move || woken.poll_now())));
}

/// Logs a line a minute while session time is uncertain.
async fn warn_while_uncertain(issuer: Arc<TokenIssuer>) {
    loop {
        let interval = if issuer.is_confirmation_uncertain(issuer.clock.now_micros()) {
            tracing::warn!("session time is uncertain: sessions are replayed instead of rotated");
            UNCERTAIN_LOG_INTERVAL
        } else {
            TIME_CHECK_INTERVAL
        };
        tokio::time::sleep(interval).await;
    }
}

/// Time between two checks of session time.
const TIME_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two log lines while session time is uncertain.
const UNCERTAIN_LOG_INTERVAL: Duration = Duration::from_secs(60);
