//! The upstream: fast pages, pages that start late, and pages that end late.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::RawQuery;
use axum::routing::get;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::error::LabError;

/// Starts the upstream and returns its address.
pub(crate) async fn start() -> Result<SocketAddr, LabError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(LabError::io("listen"))?;
    let address = listener.local_addr().map_err(LabError::io("listen"))?;
    let app = Router::new()
        .route("/app/page", get(async || "a page\n"))
        .route("/app/slow", get(slow))
        .route("/app/stream", get(async || Body::from_stream(chunks())));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

/// Responds after the number of milliseconds in the query.
async fn slow(RawQuery(wait): RawQuery) -> &'static str {
    let wait = wait.and_then(|wait| wait.parse().ok()).unwrap_or_default();
    sleep(Duration::from_millis(wait)).await;
    "a slow page\n"
}

fn chunks() -> impl futures_util::Stream<Item = Result<Bytes, std::convert::Infallible>> {
    stream::unfold(0, |sent| async move {
        if sent == CHUNKS {
            return None;
        }
        sleep(Duration::from_millis(40)).await;
        Some((Ok(Bytes::from_static(&[b'.'; 4_096])), sent + 1))
    })
}

const CHUNKS: u32 = 5;
