//! `/metrics` and the Grafana dashboard.

use std::collections::BTreeSet;
use std::path::Path;

use axum::body::Body;
use http::Request;
use sekisho::telemetry::metrics::METRICS;
use serde_json::Value;

use super::{TARO, metrics_of, new_deployment};
use crate::support::process::{ServerProcess, until};
use crate::support::socket_browser::SocketBrowser;
use crate::support::upstream::Upstream;

/// Starts a server and sends requests of several kinds.
async fn served() -> (crate::support::process::TestDeployment, Upstream, ServerProcess) {
    let upstream = Upstream::start().await;
    let deployment = new_deployment().await;
    deployment.forward_to(upstream.url());
    let server = deployment.serve().await;
    let mut browser = SocketBrowser::signed_in(server.public, TARO).await;
    for _ in 0..3 {
        assert_eq!(browser.status(server.public, "/films").await, 200);
    }
    assert_eq!(SocketBrowser::default().status(server.public, "/films").await, 401);
    let made_up = Request::builder().method("BREW").uri("/..").body(Body::empty()).unwrap();
    assert_eq!(SocketBrowser::default().send(server.public, made_up).await.unwrap().status, 400);
    (deployment, upstream, server)
}

#[tokio::test]
async fn requests_refreshes_passwords_and_store_calls_are_counted() {
    let (_site, _upstream, server) = served().await;
    let text = until("all counts", async || {
        Some(metrics_of(&server).await).filter(|text| text.contains("sekisho_requests_in_flight 0"))
    })
    .await;
    for line in [
        r#"sekisho_requests_total{route="/",status="200",event=""} 3"#,
        r#"sekisho_requests_total{route="/",status="401",event="missing"} 1"#,
        r#"sekisho_requests_total{route="builtin:auth",status="200",event=""} 1"#,
        r#"sekisho_requests_total{route="none",status="400",event=""} 1"#,
        r#"sekisho_session_events_total{event="missing"} 1"#,
        r#"sekisho_request_duration_seconds_bucket{route="/",le="+Inf"} 4"#,
        r#"sekisho_request_duration_seconds_count{route="builtin:auth"} 1"#,
        r#"sekisho_store_duration_seconds_bucket{operation="insert_session",outcome="ok",le="+Inf"} 1"#,
        "sekisho_password_jobs_queued 0",
        "sekisho_password_jobs_running 0",
        "sekisho_password_jobs_refused_total 0",
        "sekisho_log_lines_lost_total 0",
        "# TYPE sekisho_request_duration_seconds histogram",
        "# HELP sekisho_requests_total Completed requests, by route, status and session event",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("BREW") && !text.contains("films"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn dashboard_queries_existing_metrics() {
    let dashboard: Value =
        serde_json::from_str(include_str!("../../../deploy/grafana/sekisho.json")).unwrap();
    let queries = dashboard_queries(&dashboard);
    assert!(queries.len() >= 15, "{}", queries.len());
    let shown: BTreeSet<String> = queries.iter().flat_map(|text| names_in(text)).collect();
    let declared: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    let unknown: Vec<_> = shown.iter().filter(|name| !declared.contains(*name)).collect();
    assert!(unknown.is_empty(), "the dashboard queries unknown metrics: {unknown:?}");
    let hidden: Vec<_> = declared.difference(&shown).collect();
    assert!(hidden.is_empty(), "missing in the dashboard: {hidden:?}");
}

/// Every exported metric is declared and described.
#[tokio::test]
async fn every_metric_is_declared() {
    let (_site, _upstream, server) = served().await;
    let text = metrics_of(&server).await;
    let declared: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let names: Vec<_> = types.filter(|name| name.starts_with("sekisho_")).collect();
    assert!(names.len() >= 8, "{text}");
    for name in names {
        assert!(declared.contains(name), "{name}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
    server.stop().await;
}

/// Also covers metrics that no test triggers.
#[test]
fn every_metric_name_in_the_source_is_declared() {
    let declared: BTreeSet<_> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.extend(made_in(&std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(found.len() >= 10, "no metrics found in src/");
    let undeclared: Vec<_> = found.difference(&declared).collect();
    assert!(undeclared.is_empty(), "{undeclared:?}");
}

/// Returns the metric names in calls of the metrics macros.
fn made_in(source: &str) -> Vec<String> {
    let calls =
        ["counter!(", "gauge!(", "histogram!("].into_iter().flat_map(|call| source.split(call).skip(1));
    let quoted = calls.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
    quoted.map(str::to_owned).collect()
}

/// Returns every query of the dashboard.
fn dashboard_queries(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, value)| match value {
                Value::String(text) if name == "expr" => vec![text.as_str()],
                other => dashboard_queries(other),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(dashboard_queries).collect(),
        _ => Vec::new(),
    }
}

/// Returns the metric names in a query, without histogram suffixes.
fn names_in(query: &str) -> impl Iterator<Item = String> {
    let words = query.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.filter(|word| word.starts_with("sekisho_")).map(|word| {
        let part = ["_bucket", "_count", "_sum"].iter().find_map(|part| word.strip_suffix(part));
        part.unwrap_or(word).to_owned()
    })
}
