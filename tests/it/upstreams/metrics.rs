//! Metrics of upstreams.

use axum_core::body::Body;

use super::{problem, refusing_url, send};
use crate::support::db::sqlite_location;
use crate::support::process::{TestDeployment, until};
use crate::support::proxy_server::{code, exchange};

#[tokio::test]
async fn failures_and_health_are_exported() {
    let (deployment, upstream) =
        (TestDeployment::new(sqlite_location().await.unwrap()).await, refusing_url());
    deployment.forward_to_without_auth(&upstream);
    let server = deployment.serve().await;
    for _ in 0..5 {
        let response = send(server.public, "GET", Body::empty()).await;
        assert_eq!(code(response).await, problem(502, "upstream_unreachable"));
    }
    let metrics = || exchange(server.admin, "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let labels = format!("{{route=\"/\",upstream=\"{upstream}\"}}");
    for line in [
        format!("sekisho_upstream_connect_failures_total{labels} 5"),
        format!("sekisho_upstream_ejections_total{labels} 1"),
        format!("sekisho_upstream_healthy{labels} 0"),
        format!("sekisho_upstream_in_flight{labels} 0"),
    ] {
        until(&line, async || metrics().await.contains(&line).then_some(())).await;
    }
    server.stop().await;
}
