//! Log, metrics and traces.

mod access_log;
mod collector;
mod log_writer;
mod metrics;
mod rejections;
mod secrets;
mod traces;

use serde_json::Value;

use crate::support::db;
use crate::support::process::{PASSWORD, ServerProcess, TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;

const TARO: &str = "taro@example.jp";

/// Creates a deployment with one user and JSON logs.
async fn new_deployment() -> TestDeployment {
    let mut deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    deployment.set("log.format", "json");
    deployment.run_with(&["user", "create", "--email", TARO, "--password-stdin"], PASSWORD).await.done();
    deployment
}

/// Returns the access log entries so far.
fn completed_requests(server: &ServerProcess) -> Vec<Value> {
    let lines = server.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    lines.into_iter().filter(|line| line["message"] == "request completed").collect()
}

/// Waits for the access log entry of this request.
async fn line_of(server: &ServerProcess, id: &str) -> Value {
    until("the access log entry", async || {
        completed_requests(server).into_iter().find(|line| line["request_id"] == id)
    })
    .await
}

async fn metrics_of(server: &ServerProcess) -> String {
    String::from_utf8(SocketBrowser::default().get(server.admin, "/metrics").await.body).unwrap()
}
