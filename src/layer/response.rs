//! What the layer leaves on a response.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, SET_COOKIE, VARY};
use http::{Response, StatusCode};
use tokio::time::Instant;

use super::cookies::CookiePolicy;
use super::reject::Rejection;
use super::token::{RefreshedSession, SessionActiveFuture, TokenService};
use crate::http_headers::{PRIVATE_NO_STORE, SESSION_EVENT_HEADER, list_contains};
use crate::identity::SessionId;
use crate::session_event::SessionEvent;

/// How long after a renewal nobody doubts that the session lives. A sign-out that overlaps with an
/// answer as quick as that could have been overtaken by it on the way just as well.
const TRUSTED: Duration = Duration::from_millis(50);

/// What is still to be done to the inner service's response.
pub(super) enum ResponseAction {
    /// Name the event.
    Note(SessionEvent),
    /// Name the event and hand out fresh cookies.
    HandOut {
        event: SessionEvent,
        fresh: Option<[HeaderValue; 2]>,
        while_good: CookieValidity,
        cookies: Arc<CookiePolicy>,
    },
    /// It went on as anonymous: name the event, and clear the cookies if it says so.
    Forget { rejection: Rejection, cookies: Arc<CookiePolicy> },
}

/// How long fresh cookies may be handed out: for a while, and as long as the session has not ended.
/// Later they would replace newer ones, or undo a sign-out.
pub(super) struct CookieValidity {
    minted: Instant,
    fresh_for: Duration,
    session: Box<dyn SessionCheck>,
}

impl CookieValidity {
    fn holds(&self) -> bool {
        self.minted.elapsed() <= self.fresh_for && !self.session.ended()
    }
}

/// The session whose cookies they are.
trait SessionCheck: Send + Sync {
    fn ended(&self) -> bool;
    fn still_lives(&self) -> SessionActiveFuture;
}

struct BoundSession<T> {
    tokens: Arc<T>,
    session: SessionId,
}

impl<T: TokenService> SessionCheck for BoundSession<T> {
    fn ended(&self) -> bool {
        self.tokens.session_end(self.session).is_some()
    }

    fn still_lives(&self) -> SessionActiveFuture {
        self.tokens.is_session_active(self.session)
    }
}

impl ResponseAction {
    pub(super) fn set_cookies<T: TokenService>(
        renewal: &RefreshedSession,
        cookies: Arc<CookiePolicy>,
        tokens: Arc<T>,
    ) -> Self {
        match cookies.set(&renewal.access_token, &renewal.refresh_token, renewal.max_age) {
            Ok(fresh) => {
                let session = Box::new(BoundSession { tokens, session: renewal.identity.session });
                let (minted, fresh_for) = (Instant::now(), renewal.fresh_for);
                let while_good = CookieValidity { minted, fresh_for, session };
                Self::HandOut { event: renewal.event, fresh: Some(fresh), while_good, cookies }
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the fresh tokens fit no cookie");
                Self::Note(renewal.event)
            }
        }
    }

    /// What must be asked before the response may go: whether the session still lives, if it has been
    /// so long that it may have been ended at another replica, of which this one hasn't heard.
    pub(super) fn session_check(&self) -> Option<SessionActiveFuture> {
        match self {
            Self::HandOut { while_good, .. }
                if while_good.minted.elapsed() > TRUSTED && while_good.holds() =>
            {
                Some(while_good.session.still_lives())
            }
            _ => None,
        }
    }

    /// Hands out nothing.
    pub(super) fn withhold_cookies(&mut self) {
        if let Self::HandOut { fresh, .. } = self {
            *fresh = None;
        }
    }

    pub(super) fn apply<B>(self, response: &mut Response<B>) {
        match self {
            Self::Note(event) => insert_event_header(response.headers_mut(), event),
            Self::HandOut { event, fresh, while_good, cookies } => {
                let fresh = fresh.filter(|_| while_good.holds());
                hand_out(response, event, fresh, &cookies);
            }
            Self::Forget { rejection, cookies } => {
                insert_event_header(response.headers_mut(), rejection.event);
                clear_cookies(response, &rejection, &cookies);
            }
        }
    }
}

fn hand_out<B>(
    response: &mut Response<B>,
    event: SessionEvent,
    fresh: Option<[HeaderValue; 2]>,
    cookies: &CookiePolicy,
) {
    let not_modified = response.status() == StatusCode::NOT_MODIFIED;
    let headers = response.headers_mut();
    if cookies.sets_session_cookie(headers) {
        // A sign-out or a change of password: the handler knows better, about the event as well.
        headers.entry(SESSION_EVENT_HEADER).or_insert(HeaderValue::from_static(event.as_str()));
        make_private(headers);
        return;
    }
    insert_event_header(headers, event);
    if let Some(fresh) = fresh.filter(|_| !not_modified && !is_public(headers)) {
        append_cookies(headers, fresh);
    }
}

/// Clears the cookies where `rejection` allows it and the answer is the 401 that goes with it.
pub(super) fn clear_cookies<B>(response: &mut Response<B>, rejection: &Rejection, cookies: &CookiePolicy) {
    let told = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    if rejection.clear_cookies && told && !cookies.sets_session_cookie(headers) {
        append_cookies(headers, cookies.clear());
    }
}

fn append_cookies(headers: &mut HeaderMap, cookies: [HeaderValue; 2]) {
    for cookie in cookies {
        headers.append(SET_COOKIE, cookie);
    }
    make_private(headers);
}

/// Keeps the response out of every shared cache.
pub(super) fn make_private(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, PRIVATE_NO_STORE);
    // Caches that know these let them override Cache-Control (RFC 9213 section 2.2; nginx).
    let overriding = |name: &&HeaderName| {
        let name = name.as_str();
        name.ends_with("cdn-cache-control") || matches!(name, "surrogate-control" | "x-accel-expires")
    };
    let overriding: Vec<_> = headers.keys().filter(overriding).cloned().collect();
    for name in overriding {
        headers.remove(name);
    }
    if !list_contains(headers, &VARY, "cookie") && !list_contains(headers, &VARY, "*") {
        headers.append(VARY, HeaderValue::from_static("Cookie"));
    }
}

fn is_public(headers: &HeaderMap) -> bool {
    list_contains(headers, &CACHE_CONTROL, "public")
}

fn insert_event_header(headers: &mut HeaderMap, event: SessionEvent) {
    headers.insert(SESSION_EVENT_HEADER, HeaderValue::from_static(event.as_str()));
}
