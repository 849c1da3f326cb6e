//! Browsers, replicas, the store and a thief, event by event, on a clock of its own.
//!
//! Each request goes the way the product has it: the layer looks at the access token, a renewal
//! boards a flight, its leader tries the conditional update, then reads the row and decides;
//! followers are judged with their own tokens. [`actions`] are what the script says; then [`layer`] and
//! [`renewal`], what may lie behind them ([`sessions`], with how they end), and the [`answers`].

mod actions;
mod answers;
mod layer;
mod renewal;
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

use super::coverage::{CoverageCounters, Seen};
use super::script::{Action, Mutation, Purpose, Request, Script, Settings};
use super::store::{Row, Store, USERS, at};
use super::thief::Thief;

pub(super) use self::trace::{SessionResponse, TraceEvent, TraceRecord};

/// How long a flight's result is shared.
const REMEMBERED: i64 = 5_000;
/// How long a request with a valid token waits for its renewal.
const PATIENCE: i64 = 100;
/// How often a lost race is looked at again.
const ATTEMPTS: u32 = 4;
/// How long an end takes to the last replica at most, and how old the news may be before the feed is
/// lost.
const FEED: i64 = 1_000;
/// How often the store is asked what has ended.
const POLL: i64 = 400;
/// How long a settlement may wait to be written.
const SETTLING: i64 = 1_000;
/// How long a browser keeps cookies from its disk.
pub(super) const DISK: i64 = 30_000;

/// An access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) id: u128,
    /// In whole seconds, as a JWT has them.
    pub(super) issued: i64,
    expires: i64,
}

impl Access {
    pub(super) fn reference(self) -> AccessTokenRef {
        AccessTokenRef { id: TokenId(Uuid::from_u128(self.id)), issued_at: at(self.issued * 1_000) }
    }
}

/// Both cookies: of one session and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cookies {
    pub(super) session: usize,
    pub(super) generation: u32,
    pub(super) access: Access,
}

/// Who holds cookies: a browser, or the thief.
#[derive(Clone, Debug, Default)]
struct CookieHolder {
    jar: Option<Cookies>,
    disk: Option<Cookies>,
    to_disk: bool,
    crash_after: Option<i64>,
    /// When what is in the jar was minted.
    minted: i64,
    /// Counts its crashes.
    life: u32,
}

/// A request under way.
#[derive(Clone, Debug)]
struct InFlightRequest {
    who: usize,
    life: u32,
    purpose: Purpose,
    plan: Request,
    thief: Option<Thief>,
    sent: i64,
    cookies: Option<Cookies>,
    /// Its access token is still good.
    held: bool,
    attempts: u32,
    /// The life of the replica that it reached.
    boot: u32,
    /// It went on, or was refused.
    done: bool,
    reply: Reply,
    minted: i64,
    told: Option<SessionResponse>,
    /// The user's password when it was checked.
    password: u32,
}

/// What an answer does to the jar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Nothing,
    Set(Cookies),
    Clear,
}

#[derive(Clone, Debug)]
enum Resolved {
    /// Its row, and how it goes on.
    Live(Rc<Session>, SessionEvent),
    Over(SessionEvent),
}

/// A renewal, on behalf of all that ask for the same.
#[derive(Debug)]
struct Flight {
    leader: usize,
    cookies: Cookies,
    passengers: Vec<usize>,
    /// The replica's clock when the leader began.
    began: OffsetDateTime,
    attempts: u32,
    /// The life of its replica.
    boot: u32,
    /// Found by those who come later.
    listed: bool,
    landed: Option<(i64, Resolved)>,
}

#[derive(Debug, Default)]
struct Replica {
    clock: i64,
    /// Counts its crashes.
    life: u32,
    /// Numbers into [`World::flights`].
    flights: Vec<usize>,
    /// Sessions whose end it has heard of, and why they ended.
    ended: BTreeMap<usize, SessionEvent>,
    notes: Vec<(usize, u32, TokenId)>,
    /// Since when something waits to be written.
    writing: Option<i64>,
}

/// Ordered only so that the queue can hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Act(usize),
    Send(usize),
    Arrive(usize),
    Patience(usize),
    Rotate(usize),
    Read(usize),
    CatchUp(usize),
    EndByReuse(usize),
    Handle(usize),
    Leave(usize),
    Deliver(usize),
    Settle(usize, u32),
    Poll(usize),
    Disk(usize, u32),
    Crash(usize, u32),
}

/// How a run came out.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// How many events there were.
    pub(super) steps: u64,
    /// The first invariant broken.
    pub(super) broken: Option<String>,
    /// How long after the theft the session ended as reuse.
    pub(super) caught: Option<i64>,
    /// Whether there was a session to steal.
    pub(super) stolen: bool,
    pub(super) tally: CoverageCounters,
}

/// See the [module](self).
pub(super) struct World<'a> {
    script: &'a Script,
    settings: &'a Settings,
    now: i64,
    queue: BinaryHeap<Reverse<(i64, u64, Event)>>,
    queued: u64,
    store: Store,
    /// From when until when it answers nobody.
    down: (i64, i64),
    replicas: Vec<Replica>,
    /// The browsers, and the thief last.
    holders: Vec<CookieHolder>,
    asking: Vec<InFlightRequest>,
    flights: Vec<Flight>,
    tokens: u128,
    theft: Option<(usize, i64)>,
    outcome: Outcome,
    trace: Option<Vec<TraceRecord>>,
}

impl<'a> World<'a> {
    /// Runs a script to its end, or to the first invariant that breaks.
    pub(super) fn run(script: &'a Script) -> Outcome {
        Self::play(script, false).outcome
    }

    /// Runs a script, and tells what happened in which order, and how the rows were in the end.
    pub(super) fn trace(script: &'a Script) -> (Outcome, Vec<TraceRecord>, Store) {
        let world = Self::play(script, true);
        (world.outcome, world.trace.unwrap_or_default(), world.store)
    }

    fn play(script: &'a Script, traced: bool) -> Self {
        let mut world = Self::new(script, traced);
        world.act_next(0);
        while let Some(Reverse((time, _, event))) = world.queue.pop() {
            world.now = time;
            world.outcome.steps += 1;
            world.happen(event);
            if world.outcome.broken.is_some() {
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
            store: Store::with(settings.defect),
            down: (0, 0),
            replicas: clocks.map(|&clock| Replica { clock, ..Replica::default() }).collect(),
            holders: vec![CookieHolder::default(); script.browsers + 1],
            asking: Vec::new(),
            flights: Vec::new(),
            tokens: 0,
            theft: None,
            outcome: Outcome::default(),
            trace: traced.then(Vec::new),
        };
        let clocks = &settings.clocks;
        let apart = clocks.iter().max().unwrap_or(&0) - clocks.iter().min().unwrap_or(&0);
        if apart * 5 > settings.grace {
            world.see(Seen::ClocksApart);
        }
        world
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Act(action) => self.act(action),
            Event::Send(ask) => self.send(ask),
            Event::Arrive(ask) => self.arrive(ask),
            Event::Patience(ask) => self.lose_patience(ask),
            Event::Rotate(flight) => self.rotate(flight),
            Event::Read(flight) => self.read(flight),
            Event::CatchUp(flight) => self.catch_up(flight),
            Event::EndByReuse(flight) => self.end_by_reuse(flight),
            Event::Handle(ask) => self.handle(ask),
            Event::Leave(ask) => self.leave(ask),
            Event::Deliver(ask) => self.deliver(ask),
            Event::Settle(replica, life) => self.settle(replica, life),
            Event::Poll(replica) => self.poll(replica),
            Event::Disk(holder, life) => self.write_disk(holder, life),
            Event::Crash(holder, life) => self.crash(holder, life),
        }
    }

    fn after(&mut self, delay: i64, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse((self.now + delay, self.queued, event)));
    }

    fn see(&mut self, seen: Seen) {
        self.outcome.tally.see(seen);
    }

    fn break_with(&mut self, what: impl FnOnce() -> String) {
        if self.outcome.broken.is_none() {
            self.outcome.broken = Some(format!("{} ms: {}", self.now, what()));
        }
    }

    /// Every end has exactly one reason, in the audit and in its row.
    fn check_audit(&mut self) {
        if let Some(wrong) = self.store.audit_is_wrong() {
            self.break_with(|| wrong);
        }
    }
}

impl Settings {
    pub(super) fn grace(&self) -> Duration {
        duration(self.grace)
    }

    /// How long after they were made cookies may leave.
    fn fresh_for(&self) -> i64 {
        self.grace / 6
    }

    /// A token that is good, and would soon settle its generation: the brief thief lets it be.
    fn lasting(&self, cookies: Cookies, now: i64) -> bool {
        let age = now - cookies.access.issued * 1_000;
        let good = now < cookies.access.expires * 1_000 + self.leeway + self.grace / 4;
        good && age > self.grace / 2
    }
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn ms(ms: i64) -> time::Duration {
    time::Duration::milliseconds(ms)
}
