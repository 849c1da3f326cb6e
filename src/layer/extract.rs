use std::ops::Deref;

use axum_core::body::Body;
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Extensions, Uri};
use serde::de::DeserializeOwned;

use super::forbidden::Forbidden;
use super::reject::{Rejection, RejectionKind};
use crate::identity::{Identity, NoClaims};
use crate::problem::Problem;

/// Extractor for the signed-in user.
///
/// Rejects anonymous requests with a 401 and a problem that names the
/// [`SessionEvent`](crate::session_event::SessionEvent). Use `Option<CurrentUser>` to allow anonymous requests.
///
/// Requires [`SilentRefreshLayer`](super::SilentRefreshLayer) around the handler. Without it every request gets a 500,
/// and the log names the missing layer. See the [module docs](crate::layer) for an example.
///
/// `CurrentUser<C>` also reads the [claims](crate::identity::Claims) of the session as a `C`. Sessions without claims
/// have `null`, which an `Option` reads. If the claims are not a `C`, the request gets a 500 and the log names the type.
///
/// ```
/// use sekisho::CurrentUser;
///
/// #[derive(serde::Deserialize)]
/// struct Plan {
///     seats: u32,
/// }
///
/// async fn seats(user: CurrentUser<Option<Plan>>) -> String {
///     user.claims.map_or("no plan".to_owned(), |plan| format!("{} seats", plan.seats))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CurrentUser<C = NoClaims> {
    /// The user and session of the access token.
    pub identity: Identity,
    /// The application's own claims of the session.
    pub claims: C,
}

impl<C> CurrentUser<C> {
    /// Checks that the user has a role.
    ///
    /// ```
    /// use sekisho::CurrentUser;
    /// use sekisho::layer::Forbidden;
    ///
    /// async fn reports(user: CurrentUser) -> Result<&'static str, Forbidden> {
    ///     user.require_role("editor")?;
    ///     Ok("All reports.")
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`Forbidden`], which is a 403, if the user does not have it.
    pub fn require_role(&self, role: &str) -> Result<(), Forbidden> {
        if self.identity.roles.contains(role) { Ok(()) } else { Err(Forbidden) }
    }
}

impl<C> Deref for CurrentUser<C> {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.identity
    }
}

impl<C: DeserializeOwned> CurrentUser<C> {
    fn new(identity: &Identity, uri: &Uri) -> Result<Self, NotSignedIn> {
        let claims = identity.claims.get().map_err(|error| {
            tracing::error!(
                path = uri.path(), session = %identity.session, error = &error as &dyn std::error::Error,
                r#type = std::any::type_name::<C>(),
                "the claims of the session are not of the type that the handler reads"
            );
            NotSignedIn::Claims
        })?;
        Ok(Self { identity: identity.clone(), claims })
    }
}

impl<S: Sync, C: DeserializeOwned> FromRequestParts<S> for CurrentUser<C> {
    type Rejection = NotSignedIn;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotSignedIn> {
        Self::new(identity_of(&parts.extensions, &parts.uri)?, &parts.uri)
    }
}

/// `None` for anonymous requests. A missing layer, claims of another type, and a session that cannot be checked are
/// errors here too.
impl<S: Sync, C: DeserializeOwned> OptionalFromRequestParts<S> for CurrentUser<C> {
    type Rejection = NotSignedIn;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, NotSignedIn> {
        match identity_of(&parts.extensions, &parts.uri) {
            Ok(identity) => Self::new(identity, &parts.uri).map(Some),
            Err(NotSignedIn::Rejected(rejection)) if rejection.kind == RejectionKind::Unauthenticated => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Returns the identity that the layer has added to a request.
///
/// The layer adds either that or the rejection to every request, so that a request with neither has not passed it.
pub(super) fn identity_of<'r>(extensions: &'r Extensions, uri: &Uri) -> Result<&'r Identity, NotSignedIn> {
    if let Some(identity) = extensions.get::<Identity>() {
        return Ok(identity);
    }
    if let Some(rejection) = extensions.get::<Rejection>() {
        return Err(NotSignedIn::Rejected(*rejection));
    }
    tracing::error!(
        path = uri.path(),
        "SilentRefreshLayer is missing around this route: add it to the router after the route"
    );
    Err(NotSignedIn::MissingLayer)
}

/// Rejection of [`CurrentUser`].
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use http::{Request, StatusCode};
/// use sekisho::layer::NotSignedIn;
/// use sekisho::{CookiePolicy, CurrentUser, Sessions, Tokens};
/// use tower::ServiceExt;
///
/// async fn account(user: Result<CurrentUser, NotSignedIn>) -> Result<String, NotSignedIn> {
///     match user {
///         Ok(user) => Ok(user.email.to_string()),
///         Err(NotSignedIn::Rejected(rejection)) => Ok(format!("anonymous: {}", rejection.event)),
///         Err(other) => Err(other),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = Sessions::new(Tokens::in_memory()?, CookiePolicy::default());
/// let app = Router::new().route("/account", get(account)).layer(sessions.layer());
/// let response = app.oneshot(Request::get("/account").body(Body::empty())?).await?;
/// assert_eq!(response.status(), StatusCode::OK);
///
/// // The route was added after the layer. The log names the layer that is missing.
/// let app = Router::new().layer(sessions.layer()).route("/account", get(account));
/// let response = app.oneshot(Request::get("/account").body(Body::empty())?).await?;
/// assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotSignedIn {
    /// The claims of the session are not of the type that the handler reads: 500.
    #[error("the claims of the session are not of the type that the handler reads")]
    Claims,
    /// The route is not behind [`SilentRefreshLayer`](super::SilentRefreshLayer): 500.
    #[error("SilentRefreshLayer is missing around this route")]
    MissingLayer,
    /// The request is anonymous: 401, or 503 if the session cannot be checked.
    #[error("no signed-in user: {}", .0.event)]
    Rejected(Rejection),
}

impl NotSignedIn {
    pub(super) fn problem<B: From<String>>(&self) -> http::Response<B> {
        match self {
            Self::Claims | Self::MissingLayer => Problem::internal().into_response(),
            Self::Rejected(rejection) => rejection.problem(),
        }
    }
}

impl IntoResponse for NotSignedIn {
    fn into_response(self) -> Response<Body> {
        self.problem()
    }
}
