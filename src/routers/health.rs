//! `/healthz`, `/readyz` and `/metrics`, for the admin listener alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::services::store::SessionStore;
use crate::services::token::Tokens;

/// How long the store may take to answer `/readyz`.
const READY_WITHIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Health {
    store: Arc<dyn SessionStore>,
    tokens: Tokens,
    metrics: MetricsRenderer,
    stopping: ShutdownFlag,
}

/// Whether the process is about to stop. A clone tells the same.
#[derive(Clone, Debug, Default)]
pub struct ShutdownFlag(Arc<AtomicBool>);

impl ShutdownFlag {
    /// From now on it is.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Gives what `/metrics` shows.
pub type MetricsRenderer = Arc<dyn Fn() -> String + Send + Sync>;

/// The routes of the admin listener.
pub fn router(
    store: Arc<dyn SessionStore>,
    tokens: Tokens,
    metrics: MetricsRenderer,
    stopping: ShutdownFlag,
) -> Router {
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(Health { store, tokens, metrics, stopping })
}

/// Ready means that sessions can be renewed, that it is known which have ended, and that this will go on.
async fn ready(State(health): State<Health>) -> Response {
    if health.stopping.has_begun() {
        return (StatusCode::SERVICE_UNAVAILABLE, "about to stop\n").into_response();
    }
    if health.tokens.revocations_stale() {
        let text = "for more than a second it has not been known which sessions have ended\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    match tokio::time::timeout(READY_WITHIN, health.store.database_time()).await {
        Ok(Ok(_)) => "ready\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response(),
    }
}

async fn metrics_text(State(health): State<Health>) -> Response {
    let lost = if health.tokens.revocations_stale() { 1.0 } else { 0.0 };
    metrics::gauge!("sekisho_revocations_stale").set(lost);
    metrics::counter!("sekisho_deferred_writes_dropped_total").absolute(health.tokens.dropped_writes());
    let text = (health.metrics)();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
