//! Demo page and its files, embedded from `web/`.

use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::files::route_file;
use super::security_headers;

/// Credentials of the demo's user.
#[derive(Clone, Debug, Serialize)]
pub struct DemoCredentials {
    /// Email address.
    pub email: String,
    /// Password, if the demo page shows it.
    pub password: Option<String>,
}

/// Creates the routes of the demo page, and `/demo/sample.json` if there are demo credentials.
pub fn router(sample: Option<DemoCredentials>) -> Router {
    let files = FILES
        .into_iter()
        .fold(Router::new(), |router, (path, name, content)| route_file(router, path, name, content));
    let pages = security_headers::for_pages(files);
    let Some(sample) = sample else {
        return pages;
    };
    let data = Router::new().route("/demo/sample.json", get(async move || Json(sample)));
    pages.merge(security_headers::for_api(data))
}

macro_rules! file {
    ($path:literal, $name:literal) => {
        ($path, $name, include_str!(concat!("../../web/", $name)).as_bytes())
    };
}

const FILES: [(&str, &str, &[u8]); 8] = [
    file!("/", "index.html"),
    file!("/favicon.svg", "favicon.svg"),
    file!("/assets/style.css", "style.css"),
    file!("/assets/app.js", "app.js"),
    file!("/assets/movies.js", "movies.js"),
    file!("/assets/token-timer.js", "token-timer.js"),
    file!("/assets/requests.js", "requests.js"),
    file!("/assets/request-log.js", "request-log.js"),
];
