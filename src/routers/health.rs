//! `/healthz`, `/readyz` and `/metrics`, only on the admin listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::services::readiness::Readiness;
use crate::services::store::SessionStore;
use crate::services::token::Tokens;

/// Timeout for the store in `/readyz`.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Health {
    store: Arc<dyn SessionStore>,
    readiness: Readiness,
    tokens: Tokens,
    metrics: MetricsRenderer,
    shutdown: ShutdownFlag,
}

/// Flag that is set when the process starts to shut down. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ShutdownFlag(Arc<AtomicBool>);

impl ShutdownFlag {
    /// Sets the flag.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Renders the metrics in the Prometheus text format.
pub type MetricsRenderer = Arc<dyn Fn() -> String + Send + Sync>;

/// Creates the routes of the admin listener.
pub fn router(
    store: Arc<dyn SessionStore>,
    readiness: Readiness,
    tokens: Tokens,
    metrics: MetricsRenderer,
    shutdown: ShutdownFlag,
) -> Router {
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(Health { store, readiness, tokens, metrics, shutdown })
}

/// Ready means that sessions can be refreshed, the revocation list is current, no [`Problem`] is reported, and
/// no shutdown has started. While session time is uncertain a replica is ready, and the text names it.
///
/// [`Problem`]: crate::services::readiness::Problem
async fn ready(State(health): State<Health>) -> Response {
    if health.shutdown.is_set() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response();
    }
    if let Some(problem) = health.readiness.problem() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response();
    }
    if health.tokens.revocations().is_stale() {
        return (StatusCode::SERVICE_UNAVAILABLE, "revocation list is stale\n").into_response();
    }
    match tokio::time::timeout(STORE_TIMEOUT, health.store.database_time()).await {
        Ok(Ok(_)) if health.tokens.is_time_uncertain() => {
            "ready, session time is uncertain\n".into_response()
        }
        Ok(Ok(_)) => "ready\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "database unavailable\n").into_response(),
    }
}

async fn metrics_text(State(health): State<Health>) -> Response {
    let stale = if health.tokens.revocations().is_stale() { 1.0 } else { 0.0 };
    metrics::gauge!("sekisho_revocations_stale").set(stale);
    metrics::counter!("sekisho_deferred_writes_dropped_total").absolute(health.tokens.dropped_writes());
    let text = (health.metrics)();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
