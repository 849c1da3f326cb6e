//! What the lab knows of every session, and what it has counted.

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// What must be true of a session, as far as the lab can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its one browser is signed in: whoever says otherwise signs it out falsely.
    Live,
    /// Its user asked to sign out, or to sign in anew: it may end at any moment.
    Leaving,
    /// A thief has had a copy of its cookies since then.
    Stolen(Instant),
    /// The thief was caught at that moment.
    Caught(Instant),
    /// It has ended, and that was counted.
    Over,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sessions: u64,
    pub(crate) answers: u64,
    pub(crate) cut: u64,
    pub(crate) broken: u64,
    pub(crate) late: u64,
    pub(crate) unavailable: u64,
    pub(crate) rotated: u64,
    pub(crate) replayed: u64,
    pub(crate) caught_up: u64,
    pub(crate) sign_outs: u64,
    pub(crate) password_changes: u64,
    pub(crate) browser_crashes: u64,
    pub(crate) kills: u64,
    pub(crate) store_restarts: u64,
    pub(crate) false_sign_outs: u64,
    pub(crate) strained_sign_outs: u64,
    pub(crate) thefts: u64,
    pub(crate) open_thefts: u64,
    pub(crate) missed: u64,
    pub(crate) accepted_after: u64,
    pub(crate) other_findings: u64,
    /// From each theft to the moment it was caught.
    pub(crate) catches: Vec<Duration>,
    /// From sending to the answer's head, of requests that renewed.
    pub(crate) renewing: Vec<Duration>,
    /// The same, of those that only checked.
    pub(crate) checking: Vec<Duration>,
}

/// Something that must not happen, with what led to it.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) session: Option<Uuid>,
    pub(crate) what: String,
    /// Whether it is certain: a sign-out soon after an answer that was too late is not.
    pub(crate) certain: bool,
    /// What was seen of the session before, and of the machines.
    pub(crate) before: Vec<String>,
}

/// Everything that is known, shared by all actors.
pub(crate) struct Ledger {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: HashMap<Uuid, Known>,
    tally: Tally,
    findings: Vec<Finding>,
    troubles: VecDeque<String>,
}

struct Known {
    standing: Standing,
    /// Until then a request that took too long may still be under way in some replica.
    strained_until: Option<Instant>,
    history: VecDeque<String>,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), state: Mutex::default() }
    }

    /// Counts.
    pub(crate) fn count(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.lock().tally);
    }

    pub(crate) fn tally(&self) -> Tally {
        self.lock().tally.clone()
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.lock().findings.clone()
    }

    /// Every session, and how it stands.
    pub(crate) fn sessions(&self) -> HashMap<Uuid, Standing> {
        self.lock().sessions.iter().map(|(id, known)| (*id, known.standing)).collect()
    }

    pub(crate) fn standing(&self, session: Uuid) -> Option<Standing> {
        self.lock().sessions.get(&session).map(|known| known.standing)
    }

    /// A browser was signed in.
    pub(crate) fn signed_in(&self, session: Uuid, who: &str) {
        let line = self.line(format_args!("{who} signed in"));
        let mut state = self.lock();
        state.tally.sessions += 1;
        let history = VecDeque::from([line]);
        state.sessions.insert(session, Known { standing: Standing::Live, strained_until: None, history });
    }

    /// From now on the session stands so; `false` if it was not alive.
    pub(crate) fn becomes(&self, session: Uuid, standing: Standing) -> bool {
        let mut state = self.lock();
        let Some(known) = state.sessions.get_mut(&session) else { return false };
        let live = known.standing == Standing::Live;
        if live {
            known.standing = standing;
        }
        live
    }

    /// Writes down what was seen of a session.
    pub(crate) fn note(&self, session: Uuid, what: impl Display) {
        let line = self.line(what);
        if let Some(known) = self.lock().sessions.get_mut(&session) {
            push(&mut known.history, line, 60);
        }
    }

    /// Writes down what happened to a machine.
    pub(crate) fn trouble(&self, what: impl Display) {
        let line = self.line(what);
        push(&mut self.lock().troubles, line, 12);
    }

    /// A request of this session took longer than the rules allow for, or nobody knows how long.
    pub(crate) fn late(&self, session: Uuid) {
        if let Some(known) = self.lock().sessions.get_mut(&session) {
            known.strained_until = Some(Instant::now() + STRAINED);
        }
    }

    /// Somebody was told that the session is over, by this event.
    pub(crate) fn refused(&self, session: Uuid, who: &str, event: &str) {
        let now = Instant::now();
        let mut state = self.lock();
        let Some(known) = state.sessions.get_mut(&session) else { return };
        match known.standing {
            Standing::Leaving | Standing::Caught(_) | Standing::Over => {}
            Standing::Stolen(since) if event == "reuse_detected" => {
                known.standing = Standing::Caught(now);
                state.tally.catches.push(now - since);
            }
            Standing::Live if known.strained_until.is_some_and(|until| now < until) => {
                known.standing = Standing::Over;
                state.tally.strained_sign_outs += 1;
                drop(state);
                self.find(
                    Some(session),
                    false,
                    format_args!("{who} was told {event}, soon after an answer that was too late"),
                );
            }
            Standing::Live | Standing::Stolen(_) => {
                known.standing = Standing::Over;
                state.tally.false_sign_outs += 1;
                drop(state);
                self.find(
                    Some(session),
                    true,
                    format_args!("{who} was told {event} while its session lives"),
                );
            }
        }
    }

    /// The thief had its time, and was not caught.
    pub(crate) fn missed(&self, session: Uuid, style: impl Display) {
        let mut state = self.lock();
        state.tally.missed += 1;
        if let Some(known) = state.sessions.get_mut(&session) {
            known.standing = Standing::Over;
        }
        drop(state);
        self.find(Some(session), true, format_args!("a thief ({style}) was not caught"));
    }

    /// A copy of the cookies was good although the session had ended more than a second before.
    pub(crate) fn accepted_after(&self, session: Uuid, replica: usize) {
        self.count(|tally| tally.accepted_after += 1);
        self.find(
            Some(session),
            true,
            format_args!("gateway {replica} accepted it more than a second after its end"),
        );
    }

    /// Anything else that must not happen.
    pub(crate) fn wrong(&self, session: Option<Uuid>, what: impl Display) {
        self.count(|tally| tally.other_findings += 1);
        self.find(session, true, what);
    }

    fn find(&self, session: Option<Uuid>, certain: bool, what: impl Display) {
        let what = self.line(what);
        let mut state = self.lock();
        let known = session.and_then(|session| state.sessions.get(&session));
        let history = known.map(|known| known.history.clone()).unwrap_or_default();
        let mut before: Vec<_> = history.into_iter().chain(state.troubles.iter().cloned()).collect();
        // All begin with the time, in a field of fixed width.
        before.sort();
        state.findings.push(Finding { session, what, certain, before });
    }

    fn line(&self, what: impl Display) -> String {
        format!("{:9.3} s  {what}", self.began.elapsed().as_secs_f64())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push(lines: &mut VecDeque<String>, line: String, most: usize) {
    lines.push_back(line);
    if lines.len() > most {
        lines.pop_front();
    }
}

/// How long a gateway may go on with a request at most: twice waiting for a connection and an answer.
const STRAINED: Duration = Duration::from_secs(15);
