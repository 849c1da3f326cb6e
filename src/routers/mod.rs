//! The program's own answers over HTTP.
//!
//! | path | module |
//! |---|---|
//! | `/auth/login`, `/auth/logout`, `/auth/logout-all`, `/auth/refresh`, `/auth/register`, `/auth/password`, `/auth/session`, `/auth/sessions`, `/auth/sessions/{id}` | [`auth`] |
//! | `/token` | [`token`] |
//! | `/.well-known/jwks.json` | [`jwks`] |
//! | `/movies`, `/movies/{id}` | [`movies`] |
//! | `/docs`, `/docs/{file}`, `/openapi.json` | [`docs`] |
//! | `/`, `/assets/{file}`, `/favicon.svg`, `/demo/sample.json` | [`pages`], in the demo |
//! | `/auth/verify` and all below it | [`verify`], on the listener of other proxies |
//! | `/healthz`, `/readyz`, `/metrics` | [`health`], on the admin listener |
//!
//! Every error is an [`ApiError`], the only place that turns one into an answer, but for `/token`,
//! whose errors are OAuth's.

mod assets;
pub mod auth;
pub mod docs;
mod error;
mod extract;
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
use crate::layer::CookiePolicy;
use crate::services::auth::Auth;

/// What the routes of `/auth` and `/token` work with.
#[derive(Clone)]
pub struct AuthState {
    /// Signs users in and out.
    pub auth: Auth,
    /// The cookies, the same as the session layer's.
    pub cookies: Arc<CookiePolicy>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}
