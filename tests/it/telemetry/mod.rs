//! What the program tells of itself: its log, its metrics and its traces.

mod access_log;
mod collector;
mod metrics;
mod secrets;
mod sinks;
mod traces;

use serde_json::Value;

use crate::support::db;
use crate::support::process::{PASSWORD, Server, Site, until};
use crate::support::wire_browser::Browser;

const TARO: &str = "taro@example.jp";

/// A site with a user, which logs in JSON.
async fn site() -> Site {
    let mut site = Site::new(db::sqlite_place().await.unwrap()).await;
    site.set("log.format", "json");
    site.run_with(&["user", "create", "--email", TARO, "--password-stdin"], PASSWORD).await.done();
    site
}

/// The lines of all requests so far.
fn completed_requests(server: &Server) -> Vec<Value> {
    let lines = server.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    lines.into_iter().filter(|line| line["message"] == "request completed").collect()
}

/// The line of the request that was given this id.
async fn line_of(server: &Server, id: &str) -> Value {
    until("the line of a request", async || {
        completed_requests(server).into_iter().find(|line| line["request_id"] == id)
    })
    .await
}

async fn metrics_of(server: &Server) -> String {
    String::from_utf8(Browser::default().get(server.admin, "/metrics").await.body).unwrap()
}
