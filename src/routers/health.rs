//! `/healthz`, `/readyz` and `/metrics`, for the admin listener alone.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::services::store::SessionStore;

/// How long the store may take to answer `/readyz`.
const READY_WITHIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Health {
    store: Arc<dyn SessionStore>,
    metrics: Option<PrometheusHandle>,
}

/// The routes of the admin listener. Without `metrics`, `/metrics` is empty.
pub fn router(store: Arc<dyn SessionStore>, metrics: Option<PrometheusHandle>) -> Router {
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(Health { store, metrics })
}

/// Ready means that sessions can be renewed.
async fn ready(State(health): State<Health>) -> Response {
    match tokio::time::timeout(READY_WITHIN, health.store.store_time()).await {
        Ok(Ok(_)) => "ready\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response(),
    }
}

async fn metrics_text(State(health): State<Health>) -> Response {
    let text = health.metrics.map(|metrics| metrics.render()).unwrap_or_default();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
