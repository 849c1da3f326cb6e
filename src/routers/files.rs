//! Routes to static files.

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::HeaderMap;

use crate::pages::Asset;

/// Serves a file with this name and content at `path`.
pub(super) fn route_file(router: Router, path: &str, name: &str, content: impl Into<Bytes>) -> Router {
    let file = Asset::new(name, content);
    router.route(path, get(async move |headers: HeaderMap| file.respond::<Body>(&headers)))
}
