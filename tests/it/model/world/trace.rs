//! The trace of a run, for replaying it.

use sekisho::models::session::Session;
use sekisho::session_event::SessionEvent;

use super::{Cookies, Purpose, World};

/// An event with its replica and time.
#[derive(Clone, Debug)]
pub(in super::super) struct TraceRecord {
    /// The true time.
    pub(in super::super) at: i64,
    pub(in super::super) replica: usize,
    /// The replica's clock.
    pub(in super::super) clock: i64,
    /// The time before which it is uncertain.
    pub(in super::super) set_at: Option<i64>,
    pub(in super::super) what: TraceEvent,
}

#[derive(Clone, Debug)]
pub(in super::super) enum TraceEvent {
    /// The response to a request with these cookies, and the row at that time. `is_explicit` is true for
    /// `POST /auth/refresh`.
    Responded {
        cookies: Cookies,
        is_explicit: bool,
        response: SessionResponse,
        fresh: Option<Cookies>,
        row: Box<Session>,
    },
    /// `fresh` is `None` if the sign-in was refused.
    SignedIn {
        user: usize,
        password: u32,
        replaces: Option<usize>,
        fresh: Option<Cookies>,
    },
    SignedOut {
        session: usize,
    },
    SignedOutEverywhere {
        user: usize,
    },
    PasswordChanged {
        session: usize,
        old: u32,
        done: bool,
    },
    /// Deferred writes were flushed.
    DeferredFlushed,
    /// The replica polled the revocation list.
    Polled,
    ExpiredEnded,
    ReplicaCrashed,
    StoreCrashed {
        lost: i64,
    },
}

/// The outcome of the layer for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum SessionResponse {
    /// Accepted with its access token.
    Passed,
    Renewed(SessionEvent),
    Refused(SessionEvent),
    /// Neither accepted nor rejected: 503.
    Unavailable,
}

impl World<'_> {
    pub(super) fn record_event(&mut self, replica: usize, what: TraceEvent) {
        let clock = self.now + self.replicas[replica].clock;
        if let Some(trace) = &mut self.trace {
            let set_at = self.replicas[replica].set_at;
            trace.push(TraceRecord { at: self.now, replica, clock, set_at, what });
        }
    }

    /// Records the response to a request. The first one applies.
    pub(super) fn record_response(
        &mut self,
        request: usize,
        response: SessionResponse,
        fresh: Option<Cookies>,
    ) {
        let first = self.requests[request].response.replace(response).is_none();
        if let (true, true, Some(cookies)) = (first, self.trace.is_some(), self.requests[request].cookies) {
            let row = Box::new(self.store.rows[cookies.session].session.clone());
            let is_explicit = self.requests[request].purpose == Purpose::Refresh;
            let what = TraceEvent::Responded { cookies, is_explicit, response, fresh, row };
            self.record_event(self.replica(request), what);
        }
    }
}
