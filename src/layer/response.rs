//! Changes that the layer makes to the inner service's response.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use tokio::time::Instant;

use super::cookies::CookiePolicy;
use super::headers::{append_cookies, insert_event, is_public, make_private};
use super::reject::Rejection;
use super::token::{RefreshedSession, SessionActiveFuture, TokenService};
use crate::http_headers::SESSION_EVENT_HEADER;
use crate::identity::SessionId;
use crate::session_event::SessionEvent;

/// Time after a refresh during which the session is assumed to be active.
///
/// A sign-out that overlaps with so quick a response could have arrived after it just as well.
const ACTIVE_ASSUMED: Duration = Duration::from_millis(50);

/// A change to be made to the response.
pub(super) enum ResponseAction<T> {
    /// Report the event.
    Report(SessionEvent),
    /// Report the event and set the new cookies.
    SetCookies(NewCookies<T>),
    /// Report the event of a request that continued as anonymous, and clear the cookies if the rejection
    /// allows it.
    Anonymous { rejection: Rejection, policy: Arc<CookiePolicy> },
}

/// Cookies of a refreshed session, and the conditions for setting them.
pub(super) struct NewCookies<T> {
    event: SessionEvent,
    /// `None` if the session has ended or may have ended.
    values: Option<[HeaderValue; 2]>,
    policy: Arc<CookiePolicy>,
    tokens: Arc<T>,
    session: SessionId,
    refreshed_at: Instant,
    delivery_timeout: Duration,
}

impl<T: TokenService> NewCookies<T> {
    /// Returns `true` if the cookies may be set: for a limited time, and while the session has not ended.
    ///
    /// Later they would replace newer ones, or undo a sign-out.
    fn is_deliverable(&self) -> bool {
        let in_time = self.refreshed_at.elapsed() <= self.delivery_timeout;
        in_time && self.tokens.session_end(self.session).is_none()
    }

    fn apply<B>(mut self, response: &mut Response<B>) {
        let values = self.values.take().filter(|_| self.is_deliverable());
        let not_modified = response.status() == StatusCode::NOT_MODIFIED;
        let headers = response.headers_mut();
        if report_unless_set(headers, &self.policy, self.event) {
            make_private(headers);
            return;
        }
        if let Some(values) = values.filter(|_| !not_modified && !is_public(headers)) {
            append_cookies(headers, values);
        }
    }
}

impl<T: TokenService> ResponseAction<T> {
    pub(super) fn set_cookies(
        refreshed: &RefreshedSession,
        policy: Arc<CookiePolicy>,
        tokens: Arc<T>,
    ) -> Self {
        match policy.set(&refreshed.access_token, &refreshed.refresh_token, refreshed.max_age) {
            Ok(values) => Self::SetCookies(NewCookies {
                event: refreshed.event,
                values: Some(values),
                policy,
                tokens,
                session: refreshed.identity.session,
                refreshed_at: Instant::now(),
                delivery_timeout: refreshed.delivery_timeout,
            }),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "invalid token for a cookie");
                Self::Report(refreshed.event)
            }
        }
    }

    /// Returns the check to be made before the response is sent, if there is one.
    ///
    /// After [`ACTIVE_ASSUMED`] another replica may have terminated the session without this one having
    /// learned of it.
    pub(super) fn session_check(&self) -> Option<SessionActiveFuture> {
        match self {
            Self::SetCookies(cookies)
                if cookies.refreshed_at.elapsed() > ACTIVE_ASSUMED && cookies.is_deliverable() =>
            {
                Some(cookies.tokens.is_session_active(cookies.session))
            }
            _ => None,
        }
    }

    /// Drops the new cookies.
    pub(super) fn withhold_cookies(&mut self) {
        if let Self::SetCookies(cookies) = self {
            cookies.values = None;
        }
    }

    pub(super) fn apply<B>(self, response: &mut Response<B>) {
        match self {
            Self::Report(event) => insert_event(response.headers_mut(), event),
            Self::SetCookies(cookies) => cookies.apply(response),
            Self::Anonymous { rejection, policy } => {
                report_unless_set(response.headers_mut(), &policy, rejection.event);
                clear_cookies(response, &rejection, &policy);
            }
        }
    }
}

/// Reports the event, unless the handler has set or cleared a session cookie and reported another. Returns `true` if it
/// has set or cleared one.
///
/// After a sign-in, a sign-out or a change of the password, the handler's cookies and event take precedence.
fn report_unless_set(headers: &mut HeaderMap, policy: &CookiePolicy, event: SessionEvent) -> bool {
    let is_set = policy.sets_session_cookie(headers);
    if !is_set || !headers.contains_key(SESSION_EVENT_HEADER) {
        insert_event(headers, event);
    }
    is_set
}

/// Clears the cookies if the rejection allows it and the response is a 401.
pub(super) fn clear_cookies<B>(response: &mut Response<B>, rejection: &Rejection, policy: &CookiePolicy) {
    let is_unauthorized = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    if rejection.clear_cookies && is_unauthorized && !policy.sets_session_cookie(headers) {
        append_cookies(headers, policy.clear());
    }
}
