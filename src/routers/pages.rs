//! The demo page and the files it is made of, all from `web/`.

use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::assets::Asset;
use super::security_headers;

/// The sample sign-in that the demo page offers. Everybody can read it.
#[derive(Clone, Debug, Serialize)]
pub struct DemoCredentials {
    /// The address.
    pub email: String,
    /// The password.
    pub password: String,
}

/// The page at `/`, its files, and `/demo/sample.json` if there is a sample sign-in.
pub fn router(sample: Option<DemoCredentials>) -> Router {
    let files = FILES
        .into_iter()
        .fold(Router::new(), |router, (path, name, content)| Asset::new(name, content).route(router, path));
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
    file!("/assets/films.js", "films.js"),
    file!("/assets/pass.js", "pass.js"),
    file!("/assets/requests.js", "requests.js"),
    file!("/assets/watch.js", "watch.js"),
];
