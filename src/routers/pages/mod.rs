//! The pages for people, below `server.auth_prefix`.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::HeaderMap;

use super::ApiError;
use crate::pages::{Pages, SharedPages};

/// Creates the routes.
pub fn router(pages: SharedPages) -> Router {
    Router::new().route(&format!("/{}/{{name}}", Pages::ASSETS), get(asset)).with_state(pages)
}

async fn asset(State(pages): State<SharedPages>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    match pages.load().asset(&name) {
        Some(asset) => asset.respond::<Body>(&headers),
        None => ApiError::NotFound("There is nothing at this address.").into_response(),
    }
}
