//! The pages for people, below `server.auth_prefix`.
//!
//! | path | file |
//! |---|---|
//! | `/auth/sign-in`, `/auth/continue` | `sign_in.rs` |
//! | `/auth/sign-out` | `sign_out.rs` |
//! | `/auth/account` and below, `/.well-known/change-password` | `account.rs` |
//! | `/auth/assets/{name}` | the stylesheet and the scripts |
//! | `/`, `/demo/movies` and below, `/assets/{name}`, only in the demo | `demo.rs` |
//!
//! They are no part of the OpenAPI description, which is for programs. Forms need no script: each responds with a
//! redirect (303), or with the page again and what was wrong.

mod account;
mod demo;
mod origin;
mod problem;
mod sign_in;
mod sign_out;
mod state;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::HeaderMap;
use tower_cookies::CookieManagerLayer;

pub use self::demo::{Demo, files as demo_files, router as demo};
pub use self::origin::BrowserOrigin;
pub use self::state::PagesState;
use super::ApiError;
use super::auth::{MAX_BODY_BYTES, vary_by_cookie};
use crate::pages::Pages;

/// Creates the routes that look at no session, or read the cookies themselves.
pub fn public(state: PagesState) -> Router {
    let prefix = state.auth_prefix.clone();
    let routes = Router::new()
        .route("/sign-in", post(sign_in::submit))
        .route("/sign-out", post(sign_out::submit))
        .route(&format!("/{}/{{name}}", Pages::ASSETS), get(asset));
    let router = Router::new()
        .nest(&prefix, routes)
        .route(CHANGE_PASSWORD_PATH, get(account::change_password_redirect));
    with_cookies(router.with_state(state))
}

/// Creates the routes to be wrapped in the session layer, which must let requests without a session continue.
pub fn with_session(state: PagesState) -> Router {
    let prefix = state.auth_prefix.clone();
    let routes = Router::new()
        .route("/sign-in", get(sign_in::page))
        .route("/continue", get(sign_in::go_on))
        .route("/sign-out", get(sign_out::page))
        .route("/account", get(account::page))
        .route("/account/password", post(account::set_password))
        .route("/account/devices/sign-out", post(account::sign_out_device))
        .route("/account/devices/sign-out-others", post(account::sign_out_others));
    with_cookies(Router::new().nest(&prefix, routes).with_state(state))
}

fn with_cookies(router: Router) -> Router {
    router
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CookieManagerLayer::new())
        .layer(vary_by_cookie())
}

async fn asset(State(state): State<PagesState>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    match state.pages.load().asset(&name) {
        Some(asset) => asset.respond::<Body>(&headers),
        None => ApiError::NotFound("There is nothing at this address.").into_response(),
    }
}

/// Path by which password managers find the page (W3C "A Well-Known URL for Changing Passwords").
pub const CHANGE_PASSWORD_PATH: &str = "/.well-known/change-password";
