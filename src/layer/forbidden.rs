use axum_core::body::Body;
use axum_core::response::IntoResponse;
use http::Response;

use super::headers::make_private;
use crate::problem::Problem;

/// The user lacks a role: a 403 with a problem whose `code` is `forbidden`.
///
/// Returned by [`CurrentUser::require_role`](super::CurrentUser::require_role). Handlers may return it for reasons of
/// their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("the user lacks a role")]
pub struct Forbidden;

impl Forbidden {
    pub(super) fn problem<B: From<String>>(self) -> Response<B> {
        let mut response = Problem::forbidden().into_response();
        make_private(response.headers_mut());
        response
    }
}

impl IntoResponse for Forbidden {
    fn into_response(self) -> Response<Body> {
        self.problem()
    }
}
