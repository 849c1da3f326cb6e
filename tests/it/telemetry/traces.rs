//! W3C Trace Context, and spans for a collector.

use axum::body::Body;
use http::{Request, Response};

use super::collector::{Collector, attribute, hexadecimal};
use super::{TARO, line_of, metrics_of, new_deployment};
use crate::support::gateway::{TestGatewayBuilder, get, route};
use crate::support::process::until;
use crate::support::socket_browser::SocketBrowser;
use crate::support::upstream::Upstream;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

#[tokio::test]
async fn upstream_receives_traceparent_with_the_gateway_as_parent() {
    let mut upstream = Upstream::start().await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "auth = \"none\"")).start().await;
    let client_traceparent = format!("00-{TRACE}-{PARENT}-01");
    let request = get("/")
        .header("traceparent", &client_traceparent)
        .header("tracestate", "a=1,b=2")
        .header("tracestate", "c=3");
    gateway.ask(request).await;
    let seen = upstream.seen().await;
    let [traceparent] = seen.all("traceparent")[..] else { panic!("{:?}", seen.headers) };
    assert!(
        traceparent.starts_with(&format!("00-{TRACE}-"))
            && traceparent.ends_with("-01")
            && traceparent != client_traceparent,
        "{traceparent}"
    );
    assert_eq!(seen.all("tracestate"), ["a=1,b=2", "c=3"]);

    for request in [
        get("/"),
        get("/").header("traceparent", "00-none"),
        get("/").header("traceparent", &client_traceparent).header("traceparent", &client_traceparent),
    ] {
        gateway.ask(request.header("tracestate", "a=1")).await;
        let seen = upstream.seen().await;
        let [traceparent] = seen.all("traceparent")[..] else { panic!("{:?}", seen.headers) };
        let id = seen.all("x-request-id")[0].replace('-', "");
        assert!(
            traceparent.starts_with(&format!("00-{id}-")) && traceparent.ends_with("-00"),
            "{traceparent}"
        );
        assert!(seen.all("tracestate").is_empty());
    }
}

#[tokio::test]
async fn collector_receives_request_spans() {
    let mut upstream =
        Upstream::responding_with(|_| Response::builder().status(503).body(Body::empty()).unwrap()).await;
    let mut collector = Collector::start().await;
    let mut deployment = new_deployment().await;
    deployment.forward_to(upstream.url());
    deployment.set("otlp.endpoint", &collector.url);
    deployment.set("otlp.sample", "1");
    let server = deployment.serve().await;
    let mut browser = SocketBrowser::signed_in(server.public, TARO).await;
    assert_eq!(collector.span().await.name, "POST builtin:auth");

    let request = Request::get("/films?of=1954").header("traceparent", format!("00-{TRACE}-{PARENT}-00"));
    let response = browser.send(server.public, request.body(Body::empty()).unwrap()).await.unwrap();
    let traceparent = upstream.seen().await.all("traceparent")[0].to_owned();
    let span = collector.span().await;
    assert_eq!((span.name.as_str(), span.kind), ("GET /", 2), "server span");
    assert_eq!(
        (hexadecimal(&span.trace_id), hexadecimal(&span.parent_span_id)),
        (TRACE.into(), PARENT.into())
    );
    assert_eq!(
        traceparent,
        format!("00-{TRACE}-{}-01", hexadecimal(&span.span_id)),
        "traceparent of the upstream request"
    );
    let at = |name: &str| attribute(&span, name).unwrap_or_default();
    assert_eq!(
        (at("http.request.method"), at("http.route"), at("url.path")),
        ("GET".into(), "/".into(), "/films".into())
    );
    assert_eq!((at("http.response.status_code"), at("client.address")), ("503".into(), "127.0.0.1".into()));
    assert_eq!(at("server.address"), "127.0.0.1");
    assert_eq!(at("sekisho.upstream"), upstream.address().to_string());
    assert_eq!(span.status.as_ref().map(|status| status.code), Some(2), "error status");
    assert!(span.start_time_unix_nano < span.end_time_unix_nano);
    let line = line_of(&server, response.header("x-request-id").unwrap()).await;
    assert_eq!(line["trace_id"], TRACE);
    server.stop().await;
}

#[tokio::test]
async fn queued_spans_are_flushed_on_shutdown() {
    let mut collector = Collector::start().await;
    let mut deployment = new_deployment().await;
    deployment.set("otlp.endpoint", &collector.url);
    deployment.set("otlp.sample", "1");
    let server = deployment.serve().await;
    for _ in 0..50 {
        SocketBrowser::default().get(server.public, "/auth/session").await;
    }
    server.stop().await;
    assert_eq!(collector.all().len(), 50);

    deployment.set("otlp.endpoint", "http://127.0.0.1:1");
    let server = deployment.serve().await;
    for _ in 0..5 {
        assert_eq!(SocketBrowser::default().status(server.public, "/auth/session").await, 401);
    }
    let lost = async || metrics_of(&server).await.contains("sekisho_spans_lost_total 5").then_some(());
    until("lost spans to be counted", lost).await;
    server.stop().await;
}

#[tokio::test]
async fn client_cannot_force_sampling() {
    let mut collector = Collector::start().await;
    let mut deployment = new_deployment().await;
    deployment.set("otlp.endpoint", &collector.url);
    deployment.set("otlp.sample", "0");
    let server = deployment.serve().await;
    for _ in 0..20 {
        let request = Request::get("/auth/session").header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
        SocketBrowser::default().send(server.public, request.body(Body::empty()).unwrap()).await.unwrap();
    }
    server.stop().await;
    assert!(collector.all().is_empty());
}
