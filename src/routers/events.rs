//! `GET /auth/events`: an event stream that tells pages of the end of their session. `/auth/session-events.js` reads it.
//!
//! The stream never refreshes the session, and does not count as a use of it. A request whose access token has
//! expired is accepted if its refresh token is good: browsers reconnect by themselves, without a script that could
//! refresh the session first, and do not try again after a 401.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use http::header::{CACHE_CONTROL, VARY};
use http::{HeaderName, HeaderValue, Method};
use parking_lot::Mutex;
use tokio::sync::Notify;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AuthState;
use super::files::route_file;
use crate::http_headers::PRIVATE_NO_STORE;
use crate::identity::{Identity, SessionId};
use crate::layer::{CurrentUser, Decision, Rejection, decide};
use crate::long_lived_streams::{LongLivedStreams, StreamEnd, StreamKind};
use crate::schemas::problem::ReadErrorResponses;
use crate::services::revocations::Revocations;
use crate::services::token::Tokens;
use crate::session_event::SessionEvent;

/// State of the route.
#[derive(Clone)]
pub struct EventsState {
    revocations: Arc<Revocations>,
    streams: LongLivedStreams,
    open: OpenStreams,
}

impl EventsState {
    /// Creates the state of a route without open streams.
    #[must_use]
    pub fn new(tokens: &Tokens, streams: LongLivedStreams) -> Self {
        Self { revocations: Arc::clone(tokens.revocations()), streams, open: OpenStreams::default() }
    }
}

/// Creates the route, to be wrapped in [`identify`].
#[must_use]
pub fn router() -> OpenApiRouter<EventsState> {
    OpenApiRouter::default().routes(routes!(events))
}

/// Creates the route of the script module that reads the events for all tabs of a browser.
pub fn script() -> Router {
    let script = include_str!("../../web/session-events.js");
    route_file(Router::new(), "/session-events.js", "session-events.js", script)
}

/// Adds the [`Identity`] to a request without refreshing its session, as middleware.
pub async fn identify(State(state): State<AuthState>, mut request: Request, next: Next) -> Response {
    let tokens = state.auth.tokens();
    let identified = match decide(tokens, state.sessions.cookies(), &request) {
        Decision::Accept(identity) | Decision::Refresh { current: Some(identity), .. } => Ok(identity),
        Decision::Refresh { refresh, current: None } => {
            tokens.identify_without_refresh(&refresh).await.map_err(Rejection::from)
        }
        Decision::Reject(rejection) => Err(rejection),
    };
    match identified {
        Ok(identity) => {
            request.extensions_mut().insert::<Identity>(identity);
            next.run(request).await
        }
        Err(rejection) => rejection.problem(),
    }
}

/// Wait for the end of the session.
///
/// Sends `event: ended` with the data `{"event":"logged_out"}` within a second of the end of the session, at any
/// replica; `event` names the reason. Then the stream ends. It also ends, without an event, when the gateway shuts
/// down or can't follow the ends of sessions, and when the session has four newer streams: reconnect then.
///
/// Does not refresh the session, and does not postpone its idle expiry.
#[utoipa::path(
    get, path = "/events", tag = "auth", security(("session" = []), ("bearer" = [])),
    responses(
        (status = 200, description = "The event stream.", body = String, content_type = "text/event-stream"),
        ReadErrorResponses,
    ),
)]
async fn events(
    CurrentUser { identity, .. }: CurrentUser,
    State(state): State<EventsState>,
    method: Method,
) -> Response {
    if state.revocations.is_stale() {
        return Rejection::unavailable().problem();
    }
    if method == Method::HEAD {
        return respond(stream::empty());
    }
    let mut end = state.watch(identity.session);
    let abort_handle = end.abort_handle();
    let retry = Event::default().retry(retry_delay());
    let last = async move { end.recv().await.and_then(StreamClose::into_event) };
    let events = stream::iter([retry]).chain(stream::once(last).filter_map(std::future::ready));
    let mut response = respond(events);
    response.extensions_mut().insert(abort_handle);
    response
}

fn respond(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = events.map(Ok::<_, Infallible>);
    let headers = [
        (CACHE_CONTROL, PRIVATE_NO_STORE),
        (VARY, HeaderValue::from_static("Cookie")),
        // nginx would wait for more data.
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE_INTERVAL))).into_response()
}

/// Returns the time after which a browser reconnects. It differs, so that a thousand browsers do not reconnect at
/// once after a restart.
fn retry_delay() -> Duration {
    Duration::from_millis(fastrand::u64(MIN_RETRY_DELAY_MS..=MAX_RETRY_DELAY_MS))
}

impl EventsState {
    /// Waits for the end of a stream of this session, which is counted from now on.
    fn watch(&self, session: SessionId) -> StreamEnd<StreamClose> {
        let stream = self.open.add(session);
        let ended = self.streams.session_ended(Some(session));
        let streams = self.streams.clone();
        let revocations = Arc::clone(&self.revocations);
        let end = async move {
            tokio::select! {
                event = ended => StreamClose::for_event(event),
                () = streams.shutdown() => StreamClose::Unavailable,
                () = revocations.wait_until_stale() => StreamClose::Unavailable,
                () = stream.displaced.notified() => StreamClose::Displaced,
            }
        };
        StreamEnd::new(StreamKind::SessionEvents, Some(end))
    }
}

/// Reason for the end of a stream.
enum StreamClose {
    /// The session has four newer streams.
    Displaced,
    /// The session has ended.
    Ended(SessionEvent),
    /// The end of the session would not be noticed.
    Unavailable,
}

impl StreamClose {
    fn for_event(event: SessionEvent) -> Self {
        match event {
            // The session may exist in another database.
            SessionEvent::StoreUnavailable | SessionEvent::UnknownSession => Self::Unavailable,
            event => {
                StreamKind::SessionEvents.record_close(event);
                Self::Ended(event)
            }
        }
    }

    /// Returns the last event of the stream.
    fn into_event(self) -> Option<Event> {
        match self {
            // Otherwise five pages would displace each other all the time.
            Self::Displaced => Some(Event::default().retry(DISPLACED_RETRY_DELAY)),
            Self::Ended(event) => {
                Some(Event::default().event("ended").data(format!(r#"{{"event":"{event}"}}"#)))
            }
            Self::Unavailable => None,
        }
    }
}

/// The open streams of each session, oldest first.
#[derive(Clone, Default)]
struct OpenStreams(Arc<Mutex<HashMap<SessionId, VecDeque<Arc<Notify>>>>>);

/// A stream in [`OpenStreams`], until it is dropped.
struct OpenStream {
    streams: OpenStreams,
    session: SessionId,
    displaced: Arc<Notify>,
}

impl OpenStreams {
    /// Adds a stream, and displaces the oldest one of the session if there are too many.
    fn add(&self, session: SessionId) -> OpenStream {
        let displaced = Arc::new(Notify::new());
        let mut sessions = self.0.lock();
        let streams = sessions.entry(session).or_default();
        streams.push_back(Arc::clone(&displaced));
        if streams.len() > MAX_STREAMS_PER_SESSION
            && let Some(oldest) = streams.pop_front()
        {
            oldest.notify_one();
        }
        OpenStream { streams: self.clone(), session, displaced }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut sessions = self.streams.0.lock();
        let Some(streams) = sessions.get_mut(&self.session) else { return };
        streams.retain(|stream| !Arc::ptr_eq(stream, &self.displaced));
        if streams.is_empty() {
            sessions.remove(&self.session);
        }
    }
}

/// Maximum number of open streams of a session in this process.
const MAX_STREAMS_PER_SESSION: usize = 4;

/// Time between two comments. Proxies and mobile networks drop connections that are idle for longer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Limits of the time after which a browser reconnects, in milliseconds.
const MIN_RETRY_DELAY_MS: u64 = 1_000;
const MAX_RETRY_DELAY_MS: u64 = 4_000;

/// Time after which a displaced stream reconnects.
const DISPLACED_RETRY_DELAY: Duration = Duration::from_secs(300);

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
