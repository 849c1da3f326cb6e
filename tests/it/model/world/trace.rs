//! What happened in a run, in its order, for those who do the same elsewhere.

use sekisho::models::session::Session;
use sekisho::session_event::SessionEvent;

use super::{Cookies, World};

/// What happened, where and when.
#[derive(Clone, Debug)]
pub(in super::super) struct TraceRecord {
    /// The true time.
    pub(in super::super) at: i64,
    pub(in super::super) replica: usize,
    /// What the replica's clock shows.
    pub(in super::super) clock: i64,
    pub(in super::super) what: TraceEvent,
}

#[derive(Clone, Debug)]
pub(in super::super) enum TraceEvent {
    /// A request with these cookies was told this, and the row was like that then.
    Asked {
        cookies: Cookies,
        told: SessionResponse,
        fresh: Option<Cookies>,
        row: Box<Session>,
    },
    /// `fresh` is absent if it was refused.
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
    /// Which tokens are in lasting use.
    NotesWritten,
    /// What other replicas have ended is known.
    Polled,
    ExpiredEnded,
    ReplicaCrashed,
    StoreCrashed {
        lost: i64,
    },
}

/// What a request learns of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum SessionResponse {
    /// Its access token is good.
    Passed,
    Renewed(SessionEvent),
    Refused(SessionEvent),
    /// Nobody can tell.
    Unavailable,
}

impl World<'_> {
    pub(super) fn write_down(&mut self, replica: usize, what: TraceEvent) {
        let clock = self.now + self.replicas[replica].clock;
        if let Some(trace) = &mut self.trace {
            trace.push(TraceRecord { at: self.now, replica, clock, what });
        }
    }

    /// The first word counts.
    pub(super) fn tell(&mut self, ask: usize, told: SessionResponse, fresh: Option<Cookies>) {
        let first = self.asking[ask].told.replace(told).is_none();
        if let (true, true, Some(cookies)) = (first, self.trace.is_some(), self.asking[ask].cookies) {
            let row = Box::new(self.store.rows[cookies.session].session.clone());
            self.write_down(self.replica(ask), TraceEvent::Asked { cookies, told, fresh, row });
        }
    }
}
