//! The tower [`Layer`](tower_layer::Layer) that keeps a browser's session going.
//!
//! Two `HttpOnly` cookies carry a short-lived access token and a rotating refresh token. Around an
//! application, the layer checks the access token, puts the [`Identity`] into the request's
//! extensions, and renews the session when it is time: before the request goes on, with the fresh
//! cookies on the same response. Page scripts never see a token and never handle expiry. What the
//! tokens are is up to a [`TokenService`].
//!
//! # Rules
//!
//! Where one of the two cookies is present, they decide and `Authorization` is not looked at.
//!
//! - *The access token is valid*: the request goes on, at the price of checking it. Nothing is
//!   added to the response.
//! - *It is valid but near its expiry, with a refresh token beside it*: a renewal is tried, for at
//!   most 100 ms ([`with_refresh_timeout`]). Too slow, or the store is down: the request goes on as it is
//!   (in the second case unless [`OnStoreLoss::Refuse`] was asked for). The session has ended: it is
//!   rejected.
//! - *It is expired, absent or unusable, with a refresh token beside it*: the refresh token decides
//!   alone. Renewed: the request goes on, once, body and all. Over: it is rejected. The store is
//!   down: 503, cookies untouched.
//! - *It says that its session was ended*, or it is of no use and *no refresh token* came, or *one of
//!   the two came twice*: it is rejected.
//! - *Without cookies* an `Authorization: Bearer` token is checked, and never renewed.
//! - *A CORS preflight* is anonymous by nature and never renews anything. Where other origins may
//!   call, answer it outside of this layer (tower-http's `cors`).
//!
//! What becomes of a rejected request is for [`OnReject`] to say: it goes on as anonymous
//! ([`ContinueAnonymous`], the default, with a 503 where nobody can tell), is answered with 401
//! ([`Reject401`]), or whatever a closure makes of it. In handlers, [`CurrentUser`] asks for an
//! identity and `Option<CurrentUser>` looks for one.
//!
//! On the response:
//!
//! - Whenever the layer did more than let a valid token through, [`X-Session-Event`](SESSION_EVENT_HEADER)
//!   says what, in one word of [`SessionEvent`](crate::session_event::SessionEvent).
//! - Fresh cookies come with `Cache-Control: private, no-store` and `Vary: Cookie`, whatever the
//!   status. They stay away from a 304, from what is marked `public`, and from a response on which
//!   the handler set or cleared these cookies itself; from one that took too long, since by then the
//!   browser may have others in use; and from one whose session has ended meanwhile. An answer that
//!   took more than 50 ms waits to be told that it has not ([`TokenService::is_session_active`]), for at most
//!   a second; untold, it goes without. Once the access token has really expired, a
//!   `GET` goes on without `If-None-Match` and `If-Modified-Since`, so that there is an answer to carry them.
//! - Cookies are cleared only on a 401, and only when the [`TokenService`] says that the session
//!   ended long enough ago.
//!
//! # Deployment
//!
//! - Keep timeouts and anything else that may drop a response *inside* this layer. An inner error
//!   is passed on as it is and carries no cookies, so the inner service should be infallible, as
//!   axum's is. Cookies lost all the same are handed out again by the next request, if the
//!   [`TokenService`] forgives that (ours does).
//! - It is no defence against cross-site requests: put one outside of it (tower-http's `csrf`).
//! - Compression, caches and proxies in front must leave `Set-Cookie` and `Cache-Control` alone.
//! - The refresh token is sent with every request. Strip both cookies ([`CookiePolicy::names`])
//!   from what is handed to other servers.
//! - An early renewal sets a timer, and so does an answer that took a while: the layer wants a tokio
//!   runtime with time enabled.
//!
//! # Example
//!
//! Around any service, with a [`TokenService`] of your own:
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
//!     CookiePolicy, RefreshError, RefreshRequest, Renewal, SilentRefreshLayer, TokenService, Verified,
//!     VerifyError,
//! };
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! /// Knows one user, and every token by heart.
//! struct ByHeart;
//!
//! impl TokenService for ByHeart {
//!     type Refresh = Ready<Result<Renewal, RefreshError>>;
//!
//!     fn verify(&self, access_token: &str) -> Result<Verified, VerifyError> {
//!         match access_token {
//!             "a2" => Ok(Verified { identity: ann(), renew: false }),
//!             _ => Err(VerifyError::Expired),
//!         }
//!     }
//!
//!     fn refresh(&self, request: RefreshRequest) -> Self::Refresh {
//!         ready(match request.refresh_token.as_str() {
//!             "r1" => Ok(Renewal {
//!                 identity: ann(),
//!                 access_token: "a2".to_owned(),
//!                 refresh_token: "r2".to_owned(),
//!                 max_age: Duration::from_secs(1_209_600),
//!                 fresh_for: Duration::from_secs(15),
//!                 event: SessionEvent::Rotated,
//!             }),
//!             _ => Err(RefreshError::Over { event: SessionEvent::UnknownSession, clear: false }),
//!         })
//!     }
//! }
//!
//! fn ann() -> Identity {
//!     // ...
//! #     Identity {
//! #         subject: "1".into(),
//! #         session: "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().expect("a UUID"),
//! #         email: "ann@example.org".into(),
//! #         roles: Roles::default(),
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
//!     .layer(SilentRefreshLayer::new(Arc::new(ByHeart), CookiePolicy::default()))
//!     .service(service_fn(greet));
//!
//! // The access token has expired; the session goes on within the same request.
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
//! // Without a session it goes on as anonymous.
//! let response = service.oneshot(Request::new(String::new())).await?;
//! assert_eq!(response.headers()["x-session-event"], "missing");
//! assert_eq!(response.body(), "Hello, stranger.");
//! # Ok(())
//! # }
//! ```
//!
//! In an axum application, for signed-in users alone on some routes:
//!
//! ```
//! # use std::future::{Ready, ready};
//! use std::sync::Arc;
//!
//! use axum::{Router, body::Body, routing::get};
//! use http::{Request, StatusCode};
//! # use sekisho::identity::{Identity, Roles};
//! use sekisho::layer::{CookiePolicy, CurrentUser, Reject401, SilentRefreshLayer, TokenService};
//! # use sekisho::layer::{RefreshError, RefreshRequest, Renewal, Verified, VerifyError};
//! use tower::ServiceExt;
//! # struct ByHeart;
//! # impl TokenService for ByHeart {
//! #     type Refresh = Ready<Result<Renewal, RefreshError>>;
//! #     fn verify(&self, access_token: &str) -> Result<Verified, VerifyError> {
//! #         if access_token != "a2" {
//! #             return Err(VerifyError::Malformed);
//! #         }
//! #         let identity = Identity {
//! #             subject: "1".into(),
//! #             session: "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().expect("a UUID"),
//! #             email: "ann@example.org".into(),
//! #             roles: Roles::default(),
//! #             expires_at: time::macros::datetime!(2026-01-01 00:15 UTC),
//! #         };
//! #         Ok(Verified { identity, renew: false })
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
//! let layer = SilentRefreshLayer::new(Arc::new(ByHeart), CookiePolicy::insecure_for_loopback());
//! let app = Router::new()
//!     .route("/account", get(account))
//!     .layer(layer.with_on_reject(Reject401))
//!     // Outside the layer: it looks at no session.
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
//! [`with_refresh_timeout`]: SilentRefreshLayer::with_patience

mod bearer;
mod cookies;
mod decision;
mod extract;
mod future;
mod headers;
#[expect(clippy::module_inception, reason = "named for its role, as its siblings are")]
mod layer;
mod reject;
mod response;
mod service;
mod settings;
mod token;

pub use self::cookies::{
    CookiePolicy, CookiePolicyError, CookieValue, DuplicateCookie, IllegalToken, SameSite, SessionCookies,
};
pub use self::extract::{CurrentUser, NotSignedIn};
pub use self::future::ResponseFuture;
pub use self::layer::SilentRefreshLayer;
pub use self::reject::{ContinueAnonymous, OnReject, Reject401, Rejection, RejectionKind};
pub use self::service::SilentRefresh;
pub use self::settings::OnStoreLoss;
pub use self::token::{
    RefreshError, RefreshRequest, RefreshedSession, SessionActiveFuture, TokenService, Verified, VerifyError,
};
pub use crate::http_headers::SESSION_EVENT_HEADER;

#[cfg(test)]
mod tests;
