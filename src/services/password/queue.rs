//! The order in which password jobs get a thread.
//!
//! Each caller has a share of the queue. The job of the caller with the lowest recent use is next:
//!
//! | lane | callers |
//! |---|---|
//! | first | operators, signed-in users, and clients that present tokens of a session, unless their use is high |
//! | second | all others, by address |
//!
//! A full queue gives the place of its last job to a better one. A flood from many addresses therefore delays
//! the flood, not a client that has not been seen before.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use metrics::{Gauge, gauge};
use parking_lot::{Condvar, Mutex};

use crate::client_info::client_network;
use crate::identity::SessionId;
use crate::request_context::RequestContext;

/// A job, which returns the function that passes its result on.
pub(super) type Job = Box<dyn FnOnce() -> Respond + Send>;

pub(super) type Respond = Box<dyn FnOnce() + Send>;

/// The party on whose behalf a password is hashed or verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// The client at an address. Addresses of IPv6 count by their /64 network.
    Address(IpAddr),
    /// An operator, or a program without requests.
    Operator,
    /// A client with tokens of a session, which may have ended.
    Session(SessionId),
}

impl Caller {
    /// Returns the caller of the request in whose context the current task runs.
    #[must_use]
    pub fn current() -> Self {
        let caller = RequestContext::with_current(|context| match (context.user(), context.client()) {
            (Some((_, session)), _) => Self::Session(session),
            (None, Some(address)) => Self::Address(client_network(address)),
            (None, None) => Self::Operator,
        });
        caller.unwrap_or(Self::Operator)
    }

    /// Returns the maximum number of jobs at a time in a queue of this capacity.
    fn max_jobs(self, capacity: usize) -> usize {
        match self {
            // Many people can share an address.
            Self::Address(_) => capacity.div_ceil(2),
            Self::Operator => capacity,
            Self::Session(_) => 2,
        }
    }
}

/// A bounded queue of jobs for the threads of a pool.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Maximum number of jobs that run or wait.
    capacity: usize,
    queued: Gauge,
    running: Gauge,
}

#[derive(Default)]
struct Inner {
    waiting: BTreeMap<Rank, WaitingJob>,
    running: usize,
    /// Number of jobs that run or wait, by caller.
    jobs: HashMap<Caller, usize>,
    recent_use: HashMap<Caller, RecentUse>,
    next_number: u64,
    is_closed: bool,
}

/// Position in the queue; the lowest is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_second_lane: bool,
    recent_use: u32,
    number: u64,
}

struct WaitingJob {
    caller: Caller,
    job: Job,
    is_displaced: Arc<AtomicBool>,
}

/// Use of a caller, halved each minute.
struct RecentUse {
    amount: u32,
    updated: Instant,
}

/// A job in the queue. Dropping the ticket removes the job, unless it has started.
pub(super) struct Ticket {
    queue: Arc<Queue>,
    rank: Rank,
    is_displaced: Arc<AtomicBool>,
}

impl Ticket {
    /// Returns `true` if the job lost its place to a better one.
    pub(super) fn is_displaced(&self) -> bool {
        self.is_displaced.load(Relaxed)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = self.queue.inner.lock();
        if let Some(removed) = inner.waiting.remove(&self.rank) {
            inner.end_job(removed.caller);
            self.queue.report(&inner);
        }
    }
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            changed: Condvar::new(),
            capacity,
            queued: gauge!("sekisho_password_jobs_queued"),
            running: gauge!("sekisho_password_jobs_running"),
        })
    }

    /// Adds a job. Returns `None` if the caller has too many, or the queue is full of better ones.
    pub(super) fn push(self: &Arc<Self>, caller: Caller, job: Job) -> Option<Ticket> {
        let mut inner = self.inner.lock();
        let rank = inner.next_rank(caller);
        // Also for a job without a place: otherwise a flood that is refused ranks like a client that is new.
        inner.add_use(caller, 1);
        if inner.jobs.get(&caller).is_some_and(|&jobs| jobs >= caller.max_jobs(self.capacity)) {
            return None;
        }
        if inner.running + inner.waiting.len() >= self.capacity {
            inner.displace(&rank)?;
        }
        let is_displaced = Arc::<AtomicBool>::default();
        inner.waiting.insert(rank, WaitingJob { caller, job, is_displaced: Arc::clone(&is_displaced) });
        *inner.jobs.entry(caller).or_default() += 1;
        self.report(&inner);
        self.changed.notify_one();
        Some(Ticket { queue: Arc::clone(self), rank, is_displaced })
    }

    /// Waits for the next job. Returns `None` once the queue is closed.
    pub(super) fn pop(&self) -> Option<(Caller, Job)> {
        let mut inner = self.inner.lock();
        loop {
            if inner.is_closed {
                return None;
            }
            if let Some((_, WaitingJob { caller, job, .. })) = inner.waiting.pop_first() {
                inner.running += 1;
                self.report(&inner);
                return Some((caller, job));
            }
            self.changed.wait(&mut inner);
        }
    }

    /// Records that a job has run.
    pub(super) fn finish(&self, caller: Caller) {
        let mut inner = self.inner.lock();
        inner.running -= 1;
        inner.end_job(caller);
        self.report(&inner);
    }

    /// Records a wrong password.
    pub(super) fn record_failure(&self, caller: Caller) {
        self.inner.lock().add_use(caller, FAILURE_COST);
    }

    /// Drops all waiting jobs and ends the threads.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.is_closed = true;
        inner.waiting.clear();
        self.changed.notify_all();
    }

    /// Returns the number of jobs that can be added.
    pub(super) fn free(&self) -> usize {
        let inner = self.inner.lock();
        self.capacity.saturating_sub(inner.running + inner.waiting.len())
    }

    fn report(&self, inner: &Inner) {
        self.queued.set(to_f64(inner.waiting.len()));
        self.running.set(to_f64(inner.running));
    }
}

impl Inner {
    fn next_rank(&mut self, caller: Caller) -> Rank {
        let recent_use = self.recent_use.get(&caller).map_or(0, |used| used.amount_at(Instant::now()));
        let is_known = !matches!(caller, Caller::Address(_));
        self.next_number += 1;
        Rank {
            is_second_lane: !is_known || recent_use >= FIRST_LANE_USE,
            recent_use: if caller == Caller::Operator { 0 } else { recent_use },
            number: self.next_number,
        }
    }

    /// Removes the last job if `rank` comes before it.
    fn displace(&mut self, rank: &Rank) -> Option<()> {
        let last = self.waiting.last_entry().filter(|last| rank < last.key())?;
        let WaitingJob { caller, is_displaced, job } = last.remove();
        is_displaced.store(true, Relaxed);
        self.end_job(caller);
        // Wakes the caller of the job.
        drop(job);
        Some(())
    }

    fn end_job(&mut self, caller: Caller) {
        if let Some(jobs) = self.jobs.get_mut(&caller) {
            *jobs -= 1;
            if *jobs == 0 {
                self.jobs.remove(&caller);
            }
        }
    }

    fn add_use(&mut self, caller: Caller, cost: u32) {
        if caller == Caller::Operator {
            return;
        }
        let now = Instant::now();
        if self.recent_use.len() >= MAX_CALLERS && !self.recent_use.contains_key(&caller) {
            self.forget(now);
        }
        let used = self.recent_use.entry(caller).or_insert(RecentUse { amount: 0, updated: now });
        used.halve(now);
        used.amount = used.amount.saturating_add(cost);
    }

    /// Makes room in the table: drops callers of the past, and if there are few, those with the lowest use.
    fn forget(&mut self, now: Instant) {
        let mut amounts: Vec<_> = self.recent_use.values().map(|used| used.amount_at(now)).collect();
        amounts.sort_unstable();
        let median = amounts[amounts.len() / 2];
        self.recent_use.retain(|_, used| used.amount_at(now) > median);
    }
}

impl RecentUse {
    fn amount_at(&self, now: Instant) -> u32 {
        self.amount.checked_shr(self.halvings(now)).unwrap_or(0)
    }

    /// Halves the amount for each minute that has passed. Part of a minute is kept for the next time.
    fn halve(&mut self, now: Instant) {
        let halvings = self.halvings(now);
        self.amount = self.amount_at(now);
        self.updated += HALF_LIFE.saturating_mul(halvings);
    }

    fn halvings(&self, now: Instant) -> u32 {
        let halvings = now.saturating_duration_since(self.updated).as_secs() / HALF_LIFE.as_secs();
        u32::try_from(halvings).unwrap_or(u32::MAX)
    }
}

fn to_f64(number: usize) -> f64 {
    u32::try_from(number).unwrap_or(u32::MAX).into()
}

/// Use from which a session has no precedence. A wrong password costs [`FAILURE_COST`], a job 1.
const FIRST_LANE_USE: u32 = 20;
const FAILURE_COST: u32 = 3;
const HALF_LIFE: Duration = Duration::from_secs(60);
/// Maximum number of callers whose use is remembered, about 1 MiB.
const MAX_CALLERS: usize = 16_384;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use uuid::Uuid;

    use super::*;

    fn address(last: u8) -> Caller {
        Caller::Address(IpAddr::from([192, 0, 2, last]))
    }

    fn session(number: u128) -> Caller {
        Caller::Session(SessionId(Uuid::from_u128(number)))
    }

    fn job() -> Job {
        Box::new(|| Box::new(|| ()))
    }

    fn order(queue: &Queue) -> Vec<Caller> {
        let waiting = queue.inner.lock().waiting.len();
        (0..waiting).filter_map(|_| queue.pop()).map(|(caller, _)| caller).collect()
    }

    /// A7: a few requests a second kept the queue full, first come, first served.
    #[test]
    fn new_address_comes_before_a_flood() {
        let queue = Queue::new(64);
        let mut tickets = Vec::new();
        for last in 0..64 {
            queue.record_failure(address(last));
            tickets.push(queue.push(address(last), job()).expect("a place"));
        }
        assert!(queue.push(address(0), job()).is_none(), "the queue is full");
        let newcomer = queue.push(address(200), job()).expect("the place of another");
        assert_eq!(tickets.iter().filter(|ticket| ticket.is_displaced()).count(), 1);
        assert!(!newcomer.is_displaced());
        assert_eq!(order(&queue)[0], address(200));
    }

    /// A7: refused jobs of a flood from many addresses did not count as use, so that it ranked like a newcomer.
    #[test]
    fn new_address_comes_before_refused_ones() {
        let queue = Queue::new(64);
        let flood = || -> Vec<_> { (0..128).filter_map(|last| queue.push(address(last), job())).collect() };
        let first = flood();
        assert_eq!(order(&queue).len(), first.len());
        (0..64).for_each(|last| queue.finish(address(last)));
        let tickets = flood();
        let newcomer = queue.push(address(200), job()).expect("the place of another");
        assert!(tickets.iter().any(Ticket::is_displaced) && !newcomer.is_displaced());
        assert_eq!(order(&queue)[0], address(200));
    }

    /// A7: an address has a share of the queue.
    #[test]
    fn jobs_of_a_caller_are_limited() {
        for (caller, expected) in [(address(1), 4), (session(1), 2), (Caller::Operator, 8)] {
            let queue = Queue::new(8);
            let tickets: Vec<_> = (0..8).filter_map(|_| queue.push(caller, job())).collect();
            assert_eq!(tickets.len(), expected, "{caller:?}");
            drop(tickets);
            assert_eq!(queue.free(), 8);
            assert!(queue.inner.lock().jobs.is_empty());
        }
    }

    /// A7: clients with a session are served beside a flood, unless they are the flood.
    #[test]
    fn sessions_come_before_addresses_until_they_fail() {
        let queue = Queue::new(8);
        let _first = queue.push(address(1), job());
        let _second = queue.push(session(1), job());
        assert_eq!(order(&queue), [session(1), address(1)]);
        for _ in 0..10 {
            queue.record_failure(session(1));
        }
        let _first = queue.push(session(1), job());
        let _second = queue.push(address(2), job());
        assert_eq!(order(&queue), [address(2), session(1)]);
    }

    #[test]
    fn recent_use_halves_each_minute() {
        let now = Instant::now();
        let mut used = RecentUse { amount: 100, updated: now };
        for (seconds, expected) in [(0, 100), (59, 100), (60, 50), (120, 25), (60 * 40, 0)] {
            assert_eq!(used.amount_at(now + Duration::from_secs(seconds)), expected, "{seconds}");
        }
        // Also if it is updated more often.
        for seconds in [40, 80, 120] {
            used.halve(now + Duration::from_secs(seconds));
        }
        assert_eq!(used.amount, 25);
    }

    #[test]
    fn table_of_callers_is_bounded() {
        let queue = Queue::new(1);
        for number in 0..40_000 {
            queue.record_failure(session(number));
        }
        assert!(queue.inner.lock().recent_use.len() <= MAX_CALLERS);
    }

    #[test]
    fn closed_queue_drops_its_jobs() {
        let queue = Queue::new(1);
        let (sender, receiver) = mpsc::channel::<()>();
        let _ticket = queue.push(Caller::Operator, Box::new(move || Box::new(move || drop(sender))));
        queue.close();
        assert!(queue.pop().is_none());
        assert!(receiver.recv().is_err());
    }
}
