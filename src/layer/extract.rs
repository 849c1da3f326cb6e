use std::convert::Infallible;
use std::ops::Deref;

use axum_core::body::Body;
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::request::Parts;

use super::reject::Rejection;
use crate::identity::Identity;
use crate::session_event::SessionEvent;

/// Extractor for the signed-in user.
///
/// Rejects anonymous requests with a 401 and a problem that names the [`SessionEvent`]. Use
/// `Option<CurrentUser>` to allow anonymous requests.
///
/// Requires [`SilentRefreshLayer`](super::SilentRefreshLayer) around the handler. Without it all requests
/// are anonymous. See the [module docs](crate::layer) for an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentUser(pub Identity);

impl Deref for CurrentUser {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0
    }
}

impl<S: Sync> FromRequestParts<S> for CurrentUser {
    type Rejection = NotSignedIn;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotSignedIn> {
        let extensions = &parts.extensions;
        extensions.get::<Identity>().cloned().map(Self).ok_or_else(|| {
            let rejection = extensions.get::<Rejection>().copied();
            NotSignedIn(rejection.unwrap_or(Rejection::new(SessionEvent::Missing)))
        })
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for CurrentUser {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Identity>().cloned().map(Self))
    }
}

/// Rejection of [`CurrentUser`] for anonymous requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no signed-in user: {}", .0.event)]
pub struct NotSignedIn(
    /// The reason.
    pub Rejection,
);

impl IntoResponse for NotSignedIn {
    fn into_response(self) -> Response<Body> {
        self.0.problem()
    }
}
