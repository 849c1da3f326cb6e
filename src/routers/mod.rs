//! Built-in HTTP routes.
//!
//! | path | module |
//! |---|---|
//! | `/auth/login`, `/auth/logout`, `/auth/logout-all`, `/auth/refresh`, `/auth/register`, `/auth/password`, `/auth/session`, `/auth/sessions`, `/auth/sessions/{id}` | [`auth`] |
//! | `/auth/events`, `/auth/session-events.js` | [`events`] |
//! | `/token` | [`token`] |
//! | `/.well-known/jwks.json` | [`jwks`] |
//! | `/movies`, `/movies/{id}` | [`movies`] |
//! | `/docs`, `/docs/{file}`, `/openapi.json` | [`docs`] |
//! | `/auth/sign-in`, `/auth/continue`, `/auth/sign-out`, `/auth/account` and below, `/auth/assets/{file}`, `/.well-known/change-password` | [`pages`] |
//! | `/`, `/demo/movies` and below, `/assets/{file}` | [`pages`], only in the demo |
//! | `/auth/verify` and below | [`forward_auth`], on its own listener |
//! | `/healthz`, `/readyz`, `/metrics` | [`health`], on the admin listener |
//!
//! Errors are [`ApiError`]s, except those of `/token`, which are OAuth's.

pub mod auth;
mod body_timeout;
mod content_type;
pub mod docs;
mod error;
pub mod events;
mod extract;
mod files;
mod form;
pub mod forward_auth;
pub mod health;
pub mod jwks;
pub mod movies;
pub mod pages;
pub mod security_headers;
pub mod token;

use std::sync::Arc;

pub use self::error::{ApiError, with_fallbacks};
pub use self::extract::{JsonBody, QueryParams};
use crate::clock::Clock;
use crate::services::auth::Auth;
use crate::sessions::Sessions;

/// State of the routes of `/auth` and `/token`.
#[derive(Clone)]
pub struct AuthState {
    /// Authentication service.
    pub auth: Auth,
    /// The tokens of `auth` and the cookie policy of the session layer.
    pub sessions: Sessions,
    /// Clock.
    pub clock: Arc<dyn Clock>,
}
