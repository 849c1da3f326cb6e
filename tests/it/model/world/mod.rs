//! The simulation: browsers, replicas, the store and a thief, as events on a simulated clock.
//!
//! Requests are processed as the gateway does: the layer checks the access token, a refresh joins a single
//! flight, its leader tries the conditional update, then reads the row and decides, and followers are
//! decided by their own tokens.
//!
//! - [`actions`]: the script's actions
//! - [`clocks`]: session time of the replicas, and wall clocks that step
//! - [`layer`] and [`refresh`]: access tokens and refreshes
//! - [`sessions`]: sign-ins, password changes and terminations
//! - [`responses`]: delivery of responses

mod actions;
mod clocks;
mod layer;
mod refresh;
mod responses;
mod sessions;
mod trace;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use sekisho::client_info::ClientInfo;
use sekisho::models::session::{AccessTokenRef, EndReason, Session, TokenId};
use sekisho::session_event::SessionEvent;
use time::OffsetDateTime;
use uuid::Uuid;

use super::coverage::{CoverageCounters, CoverageEvent};
use super::script::{Action, Mutation, Purpose, Request, Script, Settings};
use super::store::{Row, Store, USERS, at};
use super::thief::Thief;

use self::clocks::Clocks;
pub(super) use self::trace::{SessionResponse, TraceEvent, TraceRecord};

/// Time for which the result of a flight is shared.
const RESULT_TTL: i64 = 5_000;
/// Time for which a request with a valid token waits for its refresh.
const REFRESH_TIMEOUT: i64 = 100;
/// Maximum number of attempts after lost races.
const MAX_ATTEMPTS: u32 = 4;
/// Maximum time until every replica knows of a termination, and age at which a revocation list is stale.
const MAX_REVOCATION_DELAY: i64 = 1_000;
/// Interval of the revocation poller.
const POLL_INTERVAL: i64 = 400;
/// Maximum delay of deferred writes.
const MAX_FLUSH_DELAY: i64 = 1_000;
/// Maximum delay until cookies are written to disk.
pub(super) const MAX_DISK_DELAY: i64 = 30_000;

/// An access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) id: u128,
    /// In whole seconds, as in a JWT.
    pub(super) issued: i64,
    expires: i64,
}

impl Access {
    pub(super) fn reference(self) -> AccessTokenRef {
        AccessTokenRef { id: TokenId(Uuid::from_u128(self.id)), issued_at: at(self.issued * 1_000) }
    }
}

/// Both session cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cookies {
    pub(super) session: usize,
    pub(super) generation: u32,
    pub(super) access: Access,
}

/// A holder of cookies: a browser or the thief.
#[derive(Clone, Debug, Default)]
struct CookieHolder {
    jar: Option<Cookies>,
    disk: Option<Cookies>,
    is_disk_write_scheduled: bool,
    crash_after: Option<i64>,
    /// Time at which the cookies in the jar were issued.
    minted: i64,
    /// Number of its crashes.
    life: u32,
}

/// A request in flight.
#[derive(Clone, Debug)]
struct InFlightRequest {
    holder: usize,
    life: u32,
    purpose: Purpose,
    plan: Request,
    thief: Option<Thief>,
    sent: i64,
    cookies: Option<Cookies>,
    /// True if its access token is valid.
    has_valid_token: bool,
    attempts: u32,
    /// Number of crashes of the replica when the request arrived.
    replica_life: u32,
    /// True if it was accepted or rejected.
    done: bool,
    cookie_change: CookieChange,
    minted: i64,
    response: Option<SessionResponse>,
    /// The password of the user when it was checked.
    password: u32,
}

/// Effect of a response on the cookie jar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CookieChange {
    Nothing,
    Set(Cookies),
    Clear,
}

#[derive(Clone, Debug)]
enum Resolved {
    /// The row and the event of the response.
    Live(Rc<Session>, SessionEvent),
    Over(SessionEvent),
}

/// A refresh shared by concurrent requests with the same token.
#[derive(Debug)]
struct Flight {
    leader: usize,
    cookies: Cookies,
    followers: Vec<usize>,
    /// The replica's clock when the leader started.
    began: OffsetDateTime,
    attempts: u32,
    /// Number of crashes of its replica when it started.
    replica_life: u32,
    /// True if later requests can join it.
    is_joinable: bool,
    completed: Option<(i64, Resolved)>,
}

#[derive(Debug, Default)]
struct Replica {
    /// Offset of its session time from the true time.
    clock: i64,
    /// The session time before which durations are uncertain.
    set_at: Option<i64>,
    /// Number of its crashes.
    life: u32,
    /// Indices into [`World::flights`].
    flights: Vec<usize>,
    /// Its revocation list.
    ended: BTreeMap<usize, SessionEvent>,
    deferred: Vec<(usize, u32, TokenId)>,
    /// Sessions with unwritten replays, and the replica's clock at the last of each.
    replayed: BTreeMap<usize, OffsetDateTime>,
    /// Time since which deferred writes are pending.
    flush_pending_since: Option<i64>,
}

/// An event of the simulation. The order is only needed by the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Act(usize),
    Send(usize),
    Arrive(usize),
    RefreshTimeout(usize),
    Rotate(usize),
    Read(usize),
    CatchUp(usize),
    EndByReuse(usize),
    Handle(usize),
    Respond(usize),
    Deliver(usize),
    FlushDeferred(usize, u32),
    Poll(usize),
    StartAll,
    Disk(usize, u32),
    Crash(usize, u32),
}

/// Result of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Number of events.
    pub(super) steps: u64,
    /// The first violation of an invariant.
    pub(super) violation: Option<String>,
    /// Time from the theft to the detection of reuse.
    pub(super) detected_after: Option<i64>,
    /// True if a session was stolen.
    pub(super) stolen: bool,
    pub(super) coverage: CoverageCounters,
}

/// The state of a simulation.
pub(super) struct World<'a> {
    script: &'a Script,
    settings: &'a Settings,
    now: i64,
    queue: BinaryHeap<Reverse<(i64, u64, Event)>>,
    queued: u64,
    store: Store,
    /// Start and end of its last outage.
    down: (i64, i64),
    clocks: Clocks,
    replicas: Vec<Replica>,
    /// The browsers, then the thief.
    holders: Vec<CookieHolder>,
    requests: Vec<InFlightRequest>,
    flights: Vec<Flight>,
    tokens: u128,
    theft: Option<(usize, i64)>,
    outcome: Outcome,
    trace: Option<Vec<TraceRecord>>,
}

impl<'a> World<'a> {
    /// Runs a script until its end or the first violation.
    pub(super) fn run(script: &'a Script) -> Outcome {
        Self::play(script, false).outcome
    }

    /// Runs a script and returns the trace and the final store as well.
    pub(super) fn trace(script: &'a Script) -> (Outcome, Vec<TraceRecord>, Store) {
        let world = Self::play(script, true);
        (world.outcome, world.trace.unwrap_or_default(), world.store)
    }

    fn play(script: &'a Script, traced: bool) -> Self {
        let mut world = Self::new(script, traced);
        world.schedule_action(0);
        while let Some(Reverse((time, _, event))) = world.queue.pop() {
            world.now = time;
            world.outcome.steps += 1;
            world.handle_event(event);
            if world.outcome.violation.is_some() {
                break;
            }
        }
        world.check_audit();
        world
    }

    fn new(script: &'a Script, traced: bool) -> Self {
        let settings = &script.settings;
        let clocks = settings.clocks.iter();
        let mut world = Self {
            script,
            settings,
            now: 0,
            queue: BinaryHeap::new(),
            queued: 0,
            store: Store::with_mutation(settings.mutation),
            down: (0, 0),
            clocks: Clocks::default(),
            replicas: clocks.map(|&clock| Replica { clock, ..Replica::default() }).collect(),
            holders: vec![CookieHolder::default(); script.browsers + 1],
            requests: Vec::new(),
            flights: Vec::new(),
            tokens: 0,
            theft: None,
            outcome: Outcome::default(),
            trace: traced.then(Vec::new),
        };
        let clocks = &settings.clocks;
        let apart = clocks.iter().max().unwrap_or(&0) - clocks.iter().min().unwrap_or(&0);
        if apart * 5 > settings.grace {
            world.record(CoverageEvent::ClocksSkewed);
        }
        world
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Act(action) => self.run_action(action),
            Event::Send(request) => self.send(request),
            Event::Arrive(request) => self.arrive(request),
            Event::RefreshTimeout(request) => self.time_out_refresh(request),
            Event::Rotate(flight) => self.rotate(flight),
            Event::Read(flight) => self.read(flight),
            Event::CatchUp(flight) => self.catch_up(flight),
            Event::EndByReuse(flight) => self.end_by_reuse(flight),
            Event::Handle(request) => self.handle(request),
            Event::Respond(request) => self.respond(request),
            Event::Deliver(request) => self.deliver(request),
            Event::FlushDeferred(replica, life) => self.flush_deferred(replica, life),
            Event::Poll(replica) => self.poll(replica),
            Event::StartAll => self.start_all(),
            Event::Disk(holder, life) => self.write_disk(holder, life),
            Event::Crash(holder, life) => self.crash(holder, life),
        }
    }

    fn after(&mut self, delay: i64, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse((self.now + delay, self.queued, event)));
    }

    fn record(&mut self, seen: CoverageEvent) {
        self.outcome.coverage.record(seen);
    }

    fn violate(&mut self, what: impl FnOnce() -> String) {
        if self.outcome.violation.is_none() {
            self.outcome.violation = Some(format!("{} ms: {}", self.now, what()));
        }
    }

    /// Checks that every termination has one reason, in the audit log and in its row.
    fn check_audit(&mut self) {
        if let Some(wrong) = self.store.audit_error() {
            self.violate(|| wrong);
        }
    }
}

impl Settings {
    pub(super) fn grace(&self) -> Duration {
        duration(self.grace)
    }

    /// Returns the maximum age of cookies in a response.
    fn fresh_for(&self) -> i64 {
        self.grace / 6
    }

    /// Returns `true` for a valid token whose use would soon be confirmed. [`Thief::Brief`] avoids these.
    fn would_confirm(&self, cookies: Cookies, now: i64) -> bool {
        let age = now - cookies.access.issued * 1_000;
        let good = now < cookies.access.expires * 1_000 + self.leeway + self.grace / 4;
        good && age > self.grace
    }
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn ms(ms: i64) -> time::Duration {
    time::Duration::milliseconds(ms)
}
