//! The expected status of every session, counters, and findings.

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// The expected status of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionStatus {
    /// Its only client is signed in. A rejection is a false sign-out.
    Active,
    /// Its user is signing out or signing in again. It may end at any time.
    SigningOut,
    /// A thief has had a copy of its cookies since this time.
    Stolen(Instant),
    /// The theft was detected at this time.
    Detected(Instant),
    /// It has ended and was counted.
    Ended,
}

/// The counters of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sessions: u64,
    pub(crate) responses: u64,
    pub(crate) cut: u64,
    pub(crate) broken: u64,
    pub(crate) late_responses: u64,
    pub(crate) unavailable: u64,
    pub(crate) rotated: u64,
    pub(crate) replayed: u64,
    pub(crate) caught_up: u64,
    pub(crate) sign_outs: u64,
    pub(crate) password_changes: u64,
    pub(crate) browser_crashes: u64,
    pub(crate) kills: u64,
    pub(crate) store_restarts: u64,
    /// Kills of all gateways together with a restart of their machines.
    pub(crate) cold_starts: u64,
    /// Starts of gateways that cannot tell how long they were stopped.
    pub(crate) uncertain_starts: u64,
    pub(crate) gateway_clock_steps: u64,
    pub(crate) database_clock_steps: u64,
    /// Sessions that a cold start with a clock set ahead made expire.
    pub(crate) expired_by_cold_start: u64,
    pub(crate) false_sign_outs: u64,
    pub(crate) late_sign_outs: u64,
    pub(crate) thefts: u64,
    pub(crate) open_thefts: u64,
    pub(crate) missed_thefts: u64,
    pub(crate) late_acceptances: u64,
    pub(crate) other_findings: u64,
    /// Times from theft to detection.
    pub(crate) detection_times: Vec<Duration>,
    /// Times from a request to its response head, for requests that refreshed.
    pub(crate) refresh_times: Vec<Duration>,
    /// Times from a request to its response head, for requests that did not refresh.
    pub(crate) other_times: Vec<Duration>,
}

/// An unexpected event with the events before it.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) session: Option<Uuid>,
    pub(crate) what: String,
    /// False for a sign-out soon after a late response, which the rules do not exclude.
    pub(crate) is_certain: bool,
    /// Earlier events of the session and earlier faults.
    pub(crate) before: Vec<String>,
}

/// The event log of a run.
pub(crate) struct EventLog {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: HashMap<Uuid, SessionRecord>,
    counters: Counters,
    findings: Vec<Finding>,
    troubles: VecDeque<String>,
    /// The time at which no gateway ran.
    cold_start: Option<Instant>,
    /// Sum of the times in which no gateway confirmed uses, since a cold start had made durations uncertain.
    uncertain: Duration,
}

struct SessionRecord {
    status: SessionStatus,
    /// The time at which the last accepted request was sent.
    accepted_at: Instant,
    /// Time until which a late request may still be in flight at a gateway.
    uncertain_until: Option<Instant>,
    history: VecDeque<String>,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), state: Mutex::default() }
    }

    /// Updates the counters.
    pub(crate) fn count(&self, count: impl FnOnce(&mut Counters)) {
        count(&mut self.lock().counters);
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lock().counters.clone()
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.lock().findings.clone()
    }

    /// Returns the status of every session.
    pub(crate) fn sessions(&self) -> HashMap<Uuid, SessionStatus> {
        self.lock().sessions.iter().map(|(id, known)| (*id, known.status)).collect()
    }

    pub(crate) fn status(&self, session: Uuid) -> Option<SessionStatus> {
        self.lock().sessions.get(&session).map(|known| known.status)
    }

    /// Records a sign-in.
    pub(crate) fn record_sign_in(&self, session: Uuid, client: &str, sent: Instant) {
        let line = self.line(format_args!("{client} signed in"));
        let mut state = self.lock();
        state.counters.sessions += 1;
        let record = SessionRecord {
            status: SessionStatus::Active,
            accepted_at: sent,
            uncertain_until: None,
            history: VecDeque::from([line]),
        };
        state.sessions.insert(session, record);
    }

    /// Records that a request of the session was accepted.
    pub(crate) fn record_acceptance(&self, session: Uuid, sent: Instant) {
        if let Some(known) = self.lock().sessions.get_mut(&session) {
            known.accepted_at = known.accepted_at.max(sent);
        }
    }

    /// Records that no gateway runs.
    pub(crate) fn record_cold_start(&self) {
        let mut state = self.lock();
        state.cold_start = Some(Instant::now());
        state.counters.cold_starts += 1;
    }

    /// Records that the gateways run again, and will confirm no use for `uncertain`.
    pub(crate) fn record_end_of_cold_start(&self, uncertain: Duration) {
        let mut state = self.lock();
        let down = state.cold_start.map(|since| since.elapsed()).unwrap_or_default();
        state.uncertain += down + uncertain;
    }

    /// Returns the sum of the times in which no use was confirmed.
    pub(crate) fn uncertain(&self) -> Duration {
        self.lock().uncertain
    }

    /// Returns `true` if no request of the session was accepted since a cold start. Its expiry may be due to a clock
    /// that was set ahead while no gateway ran.
    pub(crate) fn may_have_expired(&self, session: Uuid) -> bool {
        let state = self.lock();
        state.sessions.get(&session).is_some_and(|known| Some(known.accepted_at) < state.cold_start)
    }

    /// Sets the status of an active session. Returns `false` if it is not active.
    pub(crate) fn set_status(&self, session: Uuid, status: SessionStatus) -> bool {
        let mut state = self.lock();
        let Some(known) = state.sessions.get_mut(&session) else { return false };
        let is_active = known.status == SessionStatus::Active;
        if is_active {
            known.status = status;
        }
        is_active
    }

    /// Records an event of a session.
    pub(crate) fn note(&self, session: Uuid, what: impl Display) {
        let line = self.line(what);
        if let Some(known) = self.lock().sessions.get_mut(&session) {
            push(&mut known.history, line, 60);
        }
    }

    /// Records a fault.
    pub(crate) fn note_fault(&self, what: impl Display) {
        let line = self.line(what);
        push(&mut self.lock().troubles, line, 12);
    }

    /// Returns the last faults.
    pub(crate) fn last_faults(&self) -> Vec<String> {
        self.lock().troubles.iter().cloned().collect()
    }

    /// Records that a request of the session took longer than the rules allow for.
    pub(crate) fn record_late_request(&self, session: Uuid) {
        if let Some(known) = self.lock().sessions.get_mut(&session) {
            known.uncertain_until = Some(Instant::now() + MAX_REQUEST_TIME);
        }
    }

    /// Records that a request of the session was rejected with this event.
    pub(crate) fn record_rejection(&self, session: Uuid, client: &str, event: &str) {
        let now = Instant::now();
        let may_have_expired = is_expiry(event) && self.may_have_expired(session);
        let mut state = self.lock();
        let Some(known) = state.sessions.get_mut(&session) else { return };
        match known.status {
            SessionStatus::SigningOut | SessionStatus::Detected(_) | SessionStatus::Ended => {}
            SessionStatus::Stolen(since) if event == "reuse_detected" => {
                known.status = SessionStatus::Detected(now);
                state.counters.detection_times.push(now - since);
            }
            SessionStatus::Active | SessionStatus::Stolen(_) if may_have_expired => {
                known.status = SessionStatus::Ended;
                state.counters.expired_by_cold_start += 1;
            }
            SessionStatus::Active if known.uncertain_until.is_some_and(|until| now < until) => {
                known.status = SessionStatus::Ended;
                state.counters.late_sign_outs += 1;
                drop(state);
                self.find(
                    Some(session),
                    false,
                    format_args!("{client} received {event} soon after a late response"),
                );
            }
            SessionStatus::Active | SessionStatus::Stolen(_) => {
                known.status = SessionStatus::Ended;
                state.counters.false_sign_outs += 1;
                drop(state);
                self.find(
                    Some(session),
                    true,
                    format_args!("{client} received {event} while its session is active"),
                );
            }
        }
    }

    /// Records a theft that was not detected in time.
    pub(crate) fn record_missed_theft(&self, session: Uuid, kind: impl Display) {
        let mut state = self.lock();
        state.counters.missed_thefts += 1;
        if let Some(known) = state.sessions.get_mut(&session) {
            known.status = SessionStatus::Ended;
        }
        drop(state);
        self.find(Some(session), true, format_args!("the theft ({kind}) was not detected"));
    }

    /// Records that a gateway accepted a session that was terminated more than a second before.
    pub(crate) fn record_late_acceptance(&self, session: Uuid, replica: usize) {
        self.count(|counters| counters.late_acceptances += 1);
        self.find(
            Some(session),
            true,
            format_args!("gateway {replica} accepted the session more than a second after its termination"),
        );
    }

    /// Records any other unexpected event.
    pub(crate) fn record_error(&self, session: Option<Uuid>, what: impl Display) {
        self.count(|counters| counters.other_findings += 1);
        self.find(session, true, what);
    }

    fn find(&self, session: Option<Uuid>, is_certain: bool, what: impl Display) {
        let what = self.line(what);
        let mut state = self.lock();
        let known = session.and_then(|session| state.sessions.get(&session));
        let history = known.map(|known| known.history.clone()).unwrap_or_default();
        let mut before: Vec<_> = history.into_iter().chain(state.troubles.iter().cloned()).collect();
        // Each line starts with the time in a fixed width.
        before.sort();
        state.findings.push(Finding { session, what, is_certain, before });
    }

    fn line(&self, what: impl Display) -> String {
        format!("{:9.3} s  {what}", self.began.elapsed().as_secs_f64())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns `true` if this event or state of a session is an expiry.
pub(crate) fn is_expiry(event: &str) -> bool {
    matches!(event, "idle_expired" | "absolute_expired")
}

fn push(lines: &mut VecDeque<String>, line: String, most: usize) {
    lines.push_back(line);
    if lines.len() > most {
        lines.pop_front();
    }
}

/// Longest time for which a gateway processes a request: twice the timeouts for a connection and a response.
const MAX_REQUEST_TIME: Duration = Duration::from_secs(15);
