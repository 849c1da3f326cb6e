//! `/.well-known/jwks.json`: the public keys, for upstreams that verify tokens (RFC 7517).

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::header::CACHE_CONTROL;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::services::token::Tokens;

/// Creates the route.
#[must_use]
pub fn router() -> OpenApiRouter<Tokens> {
    OpenApiRouter::default().routes(routes!(jwks))
}

/// Get the public signing keys. Symmetric keys (HS256) are not included.
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "keys",
    responses((status = 200, description = "A JSON Web Key Set.", body = serde_json::Value)),
)]
async fn jwks(State(tokens): State<Tokens>) -> impl IntoResponse {
    // Shorter than tokens.key_activation, so that verifiers have a new key before it is used.
    ([(CACHE_CONTROL, "public, max-age=60")], Json(tokens.keys().load().jwks()))
}
