//! Secrets in log lines, spans and metrics, at every level.

use axum::body::Body;
use http::{Request, Response};

use super::collector::Collector;
use super::{TARO, metrics_of, new_deployment};
use crate::support::process::{PASSWORD, until};
use crate::support::socket_browser::SocketBrowser;
use crate::support::upstream::Upstream;

#[tokio::test]
async fn secrets_are_never_logged() {
    let upstream = Upstream::responding_with(|_| {
        let response = Response::builder().header("set-cookie", "theirs=canary-set-cookie; Path=/");
        response.header("x-theirs", "canary-header").body(Body::from("canary-answer")).unwrap()
    })
    .await;
    let mut collector = Collector::start().await;
    let mut deployment = new_deployment().await;
    deployment.forward_to(upstream.url());
    deployment.set("otlp.endpoint", &collector.url);
    deployment.set("otlp.sample", "1");
    deployment.set_env("RUST_LOG", "trace");
    let server = deployment.serve().await;

    let mut browser = SocketBrowser::signed_in(server.public, TARO).await;
    let mut secrets: Vec<String> = browser.cookies.values().cloned().collect();
    assert_eq!(secrets.len(), 2);
    // Payload and signature of the JWT count separately; its header is public.
    let parts =
        secrets.iter().flat_map(|token| token.split('.').skip(1)).map(str::to_owned).collect::<Vec<_>>();
    secrets.extend(parts);
    secrets.extend([PASSWORD, "canary-"].map(str::to_owned));
    for path in ["/films", "/auth/session", "/auth/sessions", "/a/../b"] {
        let request = Request::post(format!("{path}?access_token=canary-query"))
            .header("authorization", "Bearer canary-bearer")
            .header("proxy-authorization", "Basic canary-basic")
            .header("x-request-id", "canary-id")
            .header("baggage", "user=canary-baggage")
            .header("tracestate", "canary-tracestate=1");
        browser.send(server.public, request.body(Body::from("canary-body")).unwrap()).await.unwrap();
    }
    SocketBrowser::default().sign_in(server.public, TARO, "canary-password").await;
    let spans = until("the spans", async || Some(collector.all()).filter(|spans| !spans.is_empty())).await;
    let metrics = metrics_of(&server).await;
    server.terminate();
    until("the last line", async || server.log().contains("\"message\":\"stopped\"").then_some(())).await;

    let output = format!("{}{metrics}{spans:?}{:?}", server.log(), collector.all());
    for expected in [
        "\"level\":\"TRACE\"",
        "\"level\":\"DEBUG\"",
        "request completed",
        "sekisho_requests_total",
        "http.route",
    ] {
        assert!(output.contains(expected), "missing in the output: {expected}");
    }
    for secret in secrets {
        let line = output.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{secret}");
    }
}
