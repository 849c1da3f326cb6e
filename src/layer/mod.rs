//! A tower [`Layer`](tower_layer::Layer) that keeps browser users signed in.
//!
//! Two `HttpOnly` cookies carry a short-lived access token and a rotating refresh token. For each request
//! the layer verifies the access token, adds the user's [`Identity`] to the request's extensions, and
//! refreshes the session when necessary: before the inner service is called, with the new cookies on the
//! same response. Scripts never see a token and need no code for expiry. The form of the tokens is up to
//! a [`TokenService`].
//!
//! # Rules for requests
//!
//! If a session cookie is present, the cookies decide and `Authorization` is ignored.
//!
//! - *Valid access token*: the request continues. The response is not changed.
//! - *Valid access token that expires soon, and a refresh token*: the session is refreshed, for at most
//!   100 ms ([`with_refresh_timeout`]). After the timeout the request continues with its access token. The
//!   same holds if the store is unavailable, unless [`OnStoreLoss::Refuse`] is set. If the session has
//!   ended, the request is rejected.
//! - *Expired, missing or unusable access token, and a refresh token*: the refresh token alone decides.
//!   After a refresh the request continues, once, with its body. If the session has ended, the request is
//!   rejected. If the store is unavailable, the response is a 503 and the cookies stay.
//! - *Access token of a session known to have ended*, *unusable access token without a refresh token*, or
//!   *duplicate session cookie*: the request is rejected.
//! - *No session cookie*: an `Authorization: Bearer` token is verified. It is never refreshed.
//! - *CORS preflight*: always anonymous, never refreshed. Handle CORS outside this layer, for example with
//!   tower-http's `cors`.
//!
//! [`OnReject`] handles rejected requests: [`ContinueAnonymous`] (the default) lets them continue without
//! an identity and responds with 503 if the session cannot be checked, [`Reject401`] responds with 401 or
//! 503, [`RedirectToSignIn`] also sends people to a sign-in page, and a closure can do anything else.
//!
//! Handlers take the user with [`CurrentUser`], or with `Option<CurrentUser>` if anonymous requests are allowed.
//! [`RequireUser`] and [`RequireRole`] guard routes, [`CurrentUser::require_role`] a handler. All of them respond with 500
//! outside of the layer, and the log names the layer that is missing.
//!
//! [`Sessions`](crate::sessions::Sessions) signs users of [`Tokens`](crate::services::token::Tokens) in and out.
//! [`SessionCookies`] sets and clears the cookies of another [`TokenService`].
//!
//! # Rules for responses
//!
//! - [`X-Session-Event`](SESSION_EVENT_HEADER) names the [`SessionEvent`](crate::session_event::SessionEvent)
//!   whenever the layer did more than accept a valid access token.
//! - New cookies are sent with any status, together with `Cache-Control: private, no-store` and
//!   `Vary: Cookie`. They are withheld from
//!   - a 304 and a response marked `public`;
//!   - a response on which the handler sets or clears a session cookie itself;
//!   - a response that took so long that the browser may already have newer cookies
//!     ([`RefreshedSession`]);
//!   - a response whose session has ended meanwhile. If the response took more than 50 ms, the layer first
//!     checks the session ([`TokenService::is_session_active`]) and withholds the cookies if there is no
//!     result within a second.
//! - Conditional headers (`If-None-Match`, `If-Modified-Since`) are removed from a `GET` whose access token
//!   has expired, because a 304 could not carry the new cookies.
//! - Cookies are cleared only on a 401, and only if the [`TokenService`] reports that the session ended
//!   long enough ago.
//!
//! # Deployment
//!
//! - Place timeouts, and everything else that may drop a response, *inside* this layer. Errors of the inner
//!   service are passed on unchanged and carry no cookies, so the inner service should be infallible, as
//!   axum's is. If new cookies are lost all the same, the next request gets them again, provided that the
//!   [`TokenService`] accepts the old refresh token for a grace period, as
//!   [`Tokens`](crate::services::token::Tokens) does.
//! - The layer does not protect against cross-site requests. Put `tower_http::csrf::CsrfLayer` outside it, and around
//!   sign-in too.
//! - Layers around one route have the same [`CookiePolicy`]. The log has an error for two with other names of cookies.
//! - Compression, caches and proxies in front must not change `Set-Cookie` and `Cache-Control`.
//! - Browsers send the refresh token with every request. Remove both cookies ([`CookiePolicy::names`]) from
//!   requests that are forwarded to other servers.
//! - Timeouts use tokio timers, so a tokio runtime with time enabled is required.
//!
//! # Examples
//!
//! Around any service, with a custom [`TokenService`]:
//!
//! ```
//! use std::convert::Infallible;
//! use std::future::{Ready, ready};
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use http::{Request, Response};
//! use sekisho::identity::{Identity, Roles};
//! use sekisho::session_event::SessionEvent;
//! use sekisho::layer::{
//!     CookiePolicy, RefreshError, RefreshRequest, RefreshedSession, SilentRefreshLayer, TokenService,
//!     Verified, VerifyError,
//! };
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! /// A service with one user and fixed tokens.
//! struct FixedTokens;
//!
//! impl TokenService for FixedTokens {
//!     type Refresh = Ready<Result<RefreshedSession, RefreshError>>;
//!
//!     fn verify(&self, access_token: &str) -> Result<Verified, VerifyError> {
//!         match access_token {
//!             "a2" => Ok(Verified { identity: ann(), refresh_due: false }),
//!             _ => Err(VerifyError::Expired),
//!         }
//!     }
//!
//!     fn refresh(&self, request: RefreshRequest) -> Self::Refresh {
//!         ready(match request.refresh_token.as_str() {
//!             "r1" => Ok(RefreshedSession {
//!                 identity: ann(),
//!                 access_token: "a2".to_owned(),
//!                 refresh_token: "r2".to_owned(),
//!                 max_age: Duration::from_secs(1_209_600),
//!                 delivery_timeout: Duration::from_secs(15),
//!                 event: SessionEvent::Rotated,
//!             }),
//!             _ => {
//!                 let event = SessionEvent::UnknownSession;
//!                 Err(RefreshError::SessionEnded { event, clear_cookies: false })
//!             }
//!         })
//!     }
//! }
//!
//! fn ann() -> Identity {
//!     // ...
//! #     Identity {
//! #         subject: 1.into(),
//! #         session: "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().expect("a UUID"),
//! #         email: "ann@example.org".into(),
//! #         roles: Roles::default(),
//! #         claims: sekisho::identity::Claims::default(),
//! #         expires_at: time::macros::datetime!(2026-01-01 00:15 UTC),
//! #     }
//! }
//!
//! async fn greet(request: Request<String>) -> Result<Response<String>, Infallible> {
//!     let name = request.extensions().get().map_or("stranger", |user: &Identity| &user.email);
//!     Ok(Response::new(format!("Hello, {name}.")))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = ServiceBuilder::new()
//!     .layer(SilentRefreshLayer::new(Arc::new(FixedTokens), CookiePolicy::default()))
//!     .service(service_fn(greet));
//!
//! // The access token has expired. The session is refreshed within the same request.
//! let cookies = "__Host-access_token=a1; __Host-refresh_token=r1";
//! let request = Request::get("/").header("cookie", cookies).body(String::new())?;
//! let response = service.clone().oneshot(request).await?;
//! assert_eq!(response.headers()["x-session-event"], "rotated");
//! assert_eq!(
//!     response.headers()["set-cookie"],
//!     "__Host-access_token=a2; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=1209600",
//! );
//! assert_eq!(response.body(), "Hello, ann@example.org.");
//!
//! // A request without a session continues as anonymous.
//! let response = service.oneshot(Request::new(String::new())).await?;
//! assert_eq!(response.headers()["x-session-event"], "missing");
//! assert_eq!(response.body(), "Hello, stranger.");
//! # Ok(())
//! # }
//! ```
//!
//! In an axum application that requires a signed-in user on some routes:
//!
//! ```
//! # use std::future::{Ready, ready};
//! use std::sync::Arc;
//!
//! use axum::{Router, body::Body, routing::get};
//! use http::{Request, StatusCode};
//! # use sekisho::identity::{Identity, Roles};
//! use sekisho::layer::{CookiePolicy, CurrentUser, Reject401, SilentRefreshLayer, TokenService};
//! # use sekisho::layer::{RefreshError, RefreshRequest, RefreshedSession, Verified, VerifyError};
//! use tower::ServiceExt;
//! # struct FixedTokens;
//! # impl TokenService for FixedTokens {
//! #     type Refresh = Ready<Result<RefreshedSession, RefreshError>>;
//! #     fn verify(&self, access_token: &str) -> Result<Verified, VerifyError> {
//! #         if access_token != "a2" {
//! #             return Err(VerifyError::Malformed);
//! #         }
//! #         let identity = Identity {
//! #             subject: 1.into(),
//! #             session: "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().expect("a UUID"),
//! #             email: "ann@example.org".into(),
//! #             roles: Roles::default(),
//! #             claims: sekisho::identity::Claims::default(),
//! #             expires_at: time::macros::datetime!(2026-01-01 00:15 UTC),
//! #         };
//! #         Ok(Verified { identity, refresh_due: false })
//! #     }
//! #     fn refresh(&self, _: RefreshRequest) -> Self::Refresh {
//! #         ready(Err(RefreshError::Unavailable))
//! #     }
//! # }
//!
//! async fn account(user: CurrentUser) -> String {
//!     user.email.to_string()
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let layer = SilentRefreshLayer::new(Arc::new(FixedTokens), CookiePolicy::insecure_for_loopback());
//! let app = Router::new()
//!     .route("/account", get(account))
//!     .layer(layer.with_on_reject(Reject401))
//!     // Added after the layer, so it needs no session.
//!     .route("/", get(|| async { "Welcome." }));
//!
//! let request = Request::get("/account").header("cookie", "access_token=a2").body(Body::empty())?;
//! let response = app.clone().oneshot(request).await?;
//! assert_eq!(response.status(), StatusCode::OK);
//!
//! let request = Request::get("/account").body(Body::empty())?;
//! let response = app.clone().oneshot(request).await?;
//! assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
//! assert_eq!(response.headers()["www-authenticate"], "Bearer");
//!
//! let response = app.oneshot(Request::get("/").body(Body::empty())?).await?;
//! assert!(!response.headers().contains_key("x-session-event"));
//! # Ok(())
//! # }
//! ```
//!
//! [`Identity`]: crate::identity::Identity
//! [`with_refresh_timeout`]: SilentRefreshLayer::with_refresh_timeout

mod bearer;
mod cookies;
mod decision;
mod extract;
mod forbidden;
mod future;
mod guards;
mod headers;
#[expect(clippy::module_inception, reason = "named for its role, as its siblings are")]
mod layer;
mod policies;
mod redirect;
mod reject;
mod response;
mod service;
mod session_cookies;
mod settings;
mod token;

#[cfg(feature = "server")]
pub(crate) use self::bearer::from_headers as bearer_token;
pub use self::cookies::{
    CookiePolicy, CookiePolicyError, CookieValue, DuplicateCookie, IllegalToken, RequestCookies, SameSite,
};
#[cfg(feature = "server")]
pub(crate) use self::decision::{Decision, decide};
pub use self::extract::{CurrentUser, NotSignedIn};
pub use self::forbidden::Forbidden;
pub use self::future::ResponseFuture;
pub use self::guards::{Guarded, RequireRole, RequireUser};
pub use self::layer::SilentRefreshLayer;
pub use self::redirect::{InvalidSignInPath, RedirectToSignIn};
pub use self::reject::{ContinueAnonymous, OnReject, Reject401, RejectedRequest, Rejection, RejectionKind};
pub use self::service::SilentRefresh;
pub use self::session_cookies::SessionCookies;
pub use self::settings::OnStoreLoss;
pub use self::token::{
    RefreshError, RefreshRequest, RefreshedSession, SessionActiveFuture, TokenService, Verified, VerifyError,
};
pub use crate::http_headers::SESSION_EVENT_HEADER;
