use std::convert::Infallible;
use std::fmt;

use axum_core::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use http::header::HeaderValue;

use super::cookies::{CookiePolicy, IllegalToken};
use super::headers::append_cookies;
use super::token::RefreshedSession;

/// The two session cookies of a response, set or cleared, with `Cache-Control: private, no-store` and `Vary: Cookie`.
///
/// For sign-in and sign-out with a [`TokenService`](super::TokenService) of your own. With
/// [`Tokens`](crate::services::token::Tokens), [`Sessions`](crate::sessions::Sessions) does the whole work. The layer
/// leaves a response with these cookies as it is.
///
/// ```
/// use axum::response::{IntoResponse, Redirect};
/// use http::header::SET_COOKIE;
/// use sekisho::layer::{CookiePolicy, IllegalToken, RefreshedSession, SessionCookies};
///
/// /// Signs in: `session` is what the token service has issued.
/// fn signed_in(policy: &CookiePolicy, session: &RefreshedSession) -> Result<impl IntoResponse, IllegalToken> {
///     Ok((SessionCookies::set(policy, session)?, Redirect::to("/")))
/// }
///
/// /// Signs out, once the token service has ended the session.
/// fn signed_out(policy: &CookiePolicy) -> impl IntoResponse {
///     (SessionCookies::clear(policy), Redirect::to("/"))
/// }
///
/// let response = signed_out(&CookiePolicy::default()).into_response();
/// assert_eq!(response.headers().get_all(SET_COOKIE).iter().count(), 2);
/// assert_eq!(response.headers()["cache-control"], "private, no-store");
/// ```
#[derive(Clone)]
#[must_use = "the cookies are set by the response that they are part of"]
pub struct SessionCookies([HeaderValue; 2]);

impl SessionCookies {
    /// Returns the cookies that carry the tokens of `session`.
    ///
    /// # Errors
    ///
    /// Returns [`IllegalToken`] if a token contains anything but cookie octets, which [`RefreshedSession`] forbids.
    pub fn set(policy: &CookiePolicy, session: &RefreshedSession) -> Result<Self, IllegalToken> {
        policy.set(&session.access_token, &session.refresh_token, session.max_age).map(Self)
    }

    /// Returns the cookies that clear those of the browser.
    pub fn clear(policy: &CookiePolicy) -> Self {
        Self(policy.clear())
    }
}

impl IntoResponseParts for SessionCookies {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        append_cookies(response.headers_mut(), self.0);
        Ok(response)
    }
}

impl IntoResponse for SessionCookies {
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}

impl fmt::Debug for SessionCookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCookies").finish_non_exhaustive()
    }
}
