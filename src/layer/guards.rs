use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::extract::identity_of;
use super::forbidden::Forbidden;
use crate::identity::{InvalidRole, Roles};

/// Layer that lets only signed-in users pass.
///
/// Other requests get the 401 (or 503) of [`Rejection::problem`](super::Rejection::problem). Use it with axum's
/// `route_layer`, inside [`SilentRefreshLayer`](super::SilentRefreshLayer). Without that layer the response is a 500,
/// and the log names the missing layer.
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use http::{Request, StatusCode};
/// use sekisho::layer::RequireUser;
/// use sekisho::{CookiePolicy, Sessions, Tokens};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = Sessions::new(Tokens::in_memory()?, CookiePolicy::default());
/// let app = Router::new()
///     .route("/account", get(|| async { "for users" }))
///     .route_layer(RequireUser)
///     .route("/", get(|| async { "for everyone" }))
///     .layer(sessions.layer());
///
/// let response = app.clone().oneshot(Request::get("/account").body(Body::empty())?).await?;
/// assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
/// let response = app.oneshot(Request::get("/").body(Body::empty())?).await?;
/// assert_eq!(response.status(), StatusCode::OK);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequireUser;

/// Layer that lets only users with certain roles pass.
///
/// Requests without a user get the response of [`RequireUser`], and users without the roles that of [`Forbidden`].
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use http::{Request, StatusCode};
/// use sekisho::identity::{InvalidRole, Roles};
/// use sekisho::layer::{RequireRole, SessionCookies};
/// use sekisho::{CookiePolicy, SessionRequest, Sessions, Tokens};
/// use tower::ServiceExt;
///
/// fn admin_routes() -> Result<Router, InvalidRole> {
///     let admins = RequireRole::any(["admin", "owner"])?;
///     Ok(Router::new().route("/reports", get(|| async { "All reports." })).route_layer(admins))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = Sessions::new(Tokens::in_memory()?, CookiePolicy::default());
/// let app = admin_routes()?.layer(sessions.layer());
///
/// let ann = 42;
/// for (role, status) in [("owner", StatusCode::OK), ("reader", StatusCode::FORBIDDEN)] {
///     let ann = SessionRequest { roles: Roles::new([role])?, ..SessionRequest::new(ann, "ann@example.org") };
///     let access_token = sessions.tokens().sign_in(ann).await?.tokens.access_token;
///     let request = Request::get("/reports").header("cookie", format!("__Host-access_token={access_token}"));
///     let response = app.clone().oneshot(request.body(Body::empty())?).await?;
///     assert_eq!(response.status(), status);
/// }
///
/// let error = RequireRole::any(["admin,owner"]).expect_err("two roles in one name");
/// assert!(error.to_string().contains("admin,owner"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequireRole(Requirement);

impl RequireRole {
    /// Requires one of these roles.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidRole`] if a name could not be that of a role, or if there is none.
    pub fn any<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Result<Self, InvalidRole> {
        required_roles(names).map(Requirement::AnyRole).map(Self)
    }

    /// Requires all of these roles.
    ///
    /// # Errors
    ///
    /// As [`any`](Self::any).
    pub fn all<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Result<Self, InvalidRole> {
        required_roles(names).map(Requirement::AllRoles).map(Self)
    }
}

fn required_roles<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Result<Roles, InvalidRole> {
    let roles = Roles::new(names)?;
    if roles.is_empty() { Err(InvalidRole::Empty) } else { Ok(roles) }
}

/// The condition of a guard.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    User,
    AnyRole(Roles),
    AllRoles(Roles),
}

impl Requirement {
    /// Returns the response to a request that does not meet the condition.
    fn refuse<B, RB: From<String>>(&self, request: &Request<B>) -> Option<Response<RB>> {
        let user = match identity_of(request.extensions(), request.uri()) {
            Ok(user) => user,
            Err(not_signed_in) => return Some(not_signed_in.problem()),
        };
        let is_met = match self {
            Self::User => true,
            Self::AnyRole(roles) => roles.iter().any(|role| user.roles.contains(role)),
            Self::AllRoles(roles) => roles.iter().all(|role| user.roles.contains(role)),
        };
        (!is_met).then(|| Forbidden.problem())
    }
}

impl<S> Layer<S> for RequireUser {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, requirement: Requirement::User }
    }
}

impl<S> Layer<S> for RequireRole {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, requirement: self.0.clone() }
    }
}

/// Service behind [`RequireUser`] or [`RequireRole`].
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    requirement: Requirement,
}

impl<S, B, RB> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: From<String>,
{
    type Response = Response<RB>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<RB>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.requirement.refuse(&request) {
            Some(response) => Either::Right(ready(Ok(response))),
            None => Either::Left(self.inner.call(request)),
        }
    }
}
