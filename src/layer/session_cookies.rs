use std::convert::Infallible;
use std::fmt;

use axum_core::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use http::header::HeaderValue;

use super::cookies::{CookiePolicy, IllegalToken};
use super::headers::{remove_event, replace_cookies};
use super::token::RefreshedSession;
use crate::session_event::SessionEvent;

/// The two session cookies of a response, set or cleared, with `Cache-Control: private, no-store` and `Vary: Cookie`.
///
/// For sign-in and sign-out with a [`TokenService`](super::TokenService) of your own. With
/// [`Tokens`](crate::services::token::Tokens), [`Sessions`](crate::sessions::Sessions) does the whole work. The layer
/// leaves a response with these cookies as it is.
///
/// A response either sets or clears the cookies: each part replaces the cookies of those before it, and a cookie that
/// is set removes an `X-Session-Event: logged_out`.
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
pub struct SessionCookies {
    values: [HeaderValue; 2],
    /// True if the values clear the cookies.
    clears: bool,
}

impl SessionCookies {
    /// Returns the cookies that carry the tokens of `session`.
    ///
    /// # Errors
    ///
    /// Returns [`IllegalToken`] if a token contains anything but cookie octets, which [`RefreshedSession`] forbids.
    pub fn set(policy: &CookiePolicy, session: &RefreshedSession) -> Result<Self, IllegalToken> {
        let values = policy.set(&session.access_token, &session.refresh_token, session.max_age)?;
        Ok(Self { values, clears: false })
    }

    /// Returns the cookies that clear those of the browser.
    pub fn clear(policy: &CookiePolicy) -> Self {
        Self { values: policy.clear(), clears: true }
    }
}

impl IntoResponseParts for SessionCookies {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        let headers = response.headers_mut();
        if !self.clears {
            // Of a sign-out in the same response, which the sign-in follows.
            remove_event(headers, SessionEvent::LoggedOut);
        }
        replace_cookies(headers, self.values);
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
