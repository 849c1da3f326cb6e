//! `/.well-known/jwks.json`: the public keys, for upstreams that check tokens (RFC 7517).

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::header::CACHE_CONTROL;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::services::token::Tokens;

/// The route, and its description.
#[must_use]
pub fn router() -> OpenApiRouter<Tokens> {
    OpenApiRouter::default().routes(routes!(jwks))
}

/// The public keys. Shared keys (HS256) never appear.
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "keys",
    responses((status = 200, description = "A JSON Web Key Set.", body = serde_json::Value)),
)]
async fn jwks(State(tokens): State<Tokens>) -> impl IntoResponse {
    // Shorter than tokens.key_activation, so that a new key is known before it signs.
    ([(CACHE_CONTROL, "public, max-age=60")], Json(tokens.keys().load().jwks()))
}
