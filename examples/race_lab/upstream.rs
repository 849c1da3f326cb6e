//! What stands behind the gateways: pages that are quick, slow to begin, or slow to end.

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

/// Serves until the program ends, and returns where.
pub(crate) async fn start() -> Result<SocketAddr, LabError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(LabError::io("listen"))?;
    let address = listener.local_addr().map_err(LabError::io("listen"))?;
    let app = Router::new()
        .route("/app/page", get(async || "a page\n"))
        .route("/app/slow", get(slow))
        .route("/app/stream", get(async || Body::from_stream(pieces())));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

/// Begins after so many milliseconds as the query says.
async fn slow(RawQuery(wait): RawQuery) -> &'static str {
    let wait = wait.and_then(|wait| wait.parse().ok()).unwrap_or_default();
    sleep(Duration::from_millis(wait)).await;
    "a page at last\n"
}

fn pieces() -> impl futures_util::Stream<Item = Result<Bytes, std::convert::Infallible>> {
    stream::unfold(0, |sent| async move {
        if sent == PIECES {
            return None;
        }
        sleep(Duration::from_millis(40)).await;
        Some((Ok(Bytes::from_static(&[b'.'; 4_096])), sent + 1))
    })
}

const PIECES: u32 = 5;
