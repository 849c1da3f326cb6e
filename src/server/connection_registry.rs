//! The connections of a thread: how many there are, and that none of them stays for ever.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::Gauge;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::HttpBuilders;
use super::connection_state::{CloseMode, ConnectionState, Phase, StateSnapshot};
use super::limits::ServerLimits;

/// The connections of one thread.
pub(super) struct ConnectionRegistry {
    /// On which new ones are taken.
    terms: ArcSwap<ConnectionSettings>,
    /// How many threads share what there may be.
    threads: usize,
    open: AtomicUsize,
    /// Those of all threads.
    everywhere: Arc<AtomicUsize>,
    in_flight: AtomicUsize,
    register: Mutex<RegistryInner>,
    none_left: Notify,
    gauge: Gauge,
}

/// What a connection may cost, and how it is spoken to.
pub(super) struct ConnectionSettings {
    pub(super) limits: ServerLimits,
    pub(super) protocols: HttpBuilders,
}

/// A connection's place among those that there may be. It is free again when this is dropped.
pub(super) struct ConnectionPermit(Arc<ConnectionRegistry>);

/// All that are kept, and what a new one is told.
struct RegistryInner {
    kept: Vec<TrackedConnection>,
    order: CloseMode,
}

/// A connection, and what it did when it was last looked at.
struct TrackedConnection {
    activity: Arc<ConnectionState>,
    seen: StateSnapshot,
    /// Since when it is in that phase without a step.
    still_since: Instant,
    /// Since when a write has waited for its client. What else a stream of HTTP/2 may wait for, it times itself.
    stalled_since: Instant,
    is_counted: bool,
}

impl ConnectionRegistry {
    /// Those of a thread of this name, one of `threads`, which count the connections of all of them in
    /// `everywhere`.
    pub(super) fn new(
        thread: impl Into<String>,
        limits: ServerLimits,
        threads: usize,
        everywhere: Arc<AtomicUsize>,
    ) -> Arc<Self> {
        let connections = Arc::new(Self {
            terms: ArcSwap::from_pointee(ConnectionSettings::new(limits, threads)),
            threads,
            open: AtomicUsize::new(0),
            everywhere,
            in_flight: AtomicUsize::new(0),
            register: Mutex::new(RegistryInner { kept: Vec::new(), order: CloseMode::Open }),
            none_left: Notify::new(),
            gauge: metrics::gauge!("sekisho_connections", "thread" => thread.into()),
        });
        connections.gauge.set(0.0);
        connections
    }

    /// Looks at them once in a while, until they are gone. A timer for all costs less than one for
    /// each.
    pub(super) async fn run_reaper(connections: Weak<Self>) {
        loop {
            let Some(period) = connections.upgrade().map(|connections| connections.period()) else { return };
            tokio::time::sleep(period).await;
            let Some(connections) = connections.upgrade() else { return };
            connections.check_timeouts(Instant::now());
        }
    }

    /// What a new connection may cost.
    pub(super) fn terms(&self) -> Arc<ConnectionSettings> {
        self.terms.load_full()
    }

    /// How long a client may take nothing of an answer, by now.
    pub(super) fn write_timeout(&self) -> Duration {
        self.terms.load().limits.write_timeout
    }

    pub(super) fn set_limits(&self, limits: ServerLimits) {
        self.terms.store(Arc::new(ConnectionSettings::new(limits, self.threads)));
    }

    /// How many there are.
    pub(super) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// A place for another one, unless there are as many as there may be.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<ConnectionPermit> {
        if self.everywhere.fetch_add(1, Relaxed) >= self.terms.load().limits.connections {
            self.everywhere.fetch_sub(1, Relaxed);
            return None;
        }
        self.open.fetch_add(1, Relaxed);
        self.gauge.increment(1.0);
        Some(ConnectionPermit(Arc::clone(self)))
    }

    /// Keeps the connection with these notes from now on.
    pub(super) fn track(&self, activity: &Arc<ConnectionState>) {
        let now = Instant::now();
        let mut register = self.register();
        if register.order > CloseMode::Open {
            activity.request_close(register.order);
        }
        register.kept.push(TrackedConnection {
            seen: activity.look(),
            activity: Arc::clone(activity),
            still_since: now,
            stalled_since: now,
            is_counted: false,
        });
    }

    /// Counts a request that waits for its answer, unless there are `most` already.
    pub(super) fn begin_request(&self, most: usize) -> bool {
        if self.in_flight.fetch_add(1, Relaxed) < most {
            return true;
        }
        self.end_request();
        false
    }

    /// Its answer has begun, or nobody waits for it any longer.
    pub(super) fn end_request(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Lets what is under way end, for as long as it may take.
    ///
    /// A connection without a request isn't closed at once: its client may be sending one right now, and
    /// would find it cut. Most ask again within a moment, and are told then that this was the last.
    pub(super) async fn drain(&self) {
        let after = self.terms.load().limits.drain;
        let deadline = Instant::now() + after;
        self.broadcast(CloseMode::Draining);
        if timeout(LAST_MOMENT.min(after / 2), self.all_closed()).await.is_ok() {
            return;
        }
        self.broadcast(CloseMode::CloseWhenIdle);
        if timeout_at(deadline, self.all_closed()).await.is_err() {
            tracing::warn!(
                ?after,
                open = self.open(),
                "requests were still under way when the server stopped"
            );
        }
    }

    async fn all_closed(&self) {
        loop {
            let told = self.none_left.notified();
            if self.open() == 0 {
                return;
            }
            told.await;
        }
    }

    fn broadcast(&self, order: CloseMode) {
        let mut register = self.register();
        register.order = order;
        for kept in &register.kept {
            kept.activity.request_close(order);
        }
    }

    fn check_timeouts(&self, now: Instant) {
        let limits = self.terms.load().limits;
        self.register().kept.retain_mut(|kept| {
            // Nobody else has it: the connection is gone.
            let is_there = Arc::strong_count(&kept.activity) > 1;
            if is_there {
                kept.check(now, &limits);
            }
            is_there
        });
    }

    fn period(&self) -> Duration {
        let ServerLimits { header_timeout, keep_alive, write_timeout, .. } = self.terms.load().limits;
        (header_timeout.min(keep_alive).min(write_timeout) / 4).clamp(SHORTEST_PERIOD, LONGEST_PERIOD)
    }

    fn register(&self) -> MutexGuard<'_, RegistryInner> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionSettings {
    /// For one of `threads`.
    fn new(limits: ServerLimits, threads: usize) -> Self {
        let limits = ServerLimits { in_flight: limits.in_flight.div_ceil(threads), ..limits };
        Self { protocols: HttpBuilders::new(&limits), limits }
    }
}

impl ConnectionPermit {
    /// The connections among which it is.
    pub(super) fn connections(&self) -> &Arc<ConnectionRegistry> {
        &self.0
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.everywhere.fetch_sub(1, Relaxed);
        self.0.gauge.decrement(1.0);
        if self.0.open.fetch_sub(1, Relaxed) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}

impl TrackedConnection {
    fn check(&mut self, now: Instant, limits: &ServerLimits) {
        let look = self.activity.look();
        let stood_still = (look.phase, look.steps) == (self.seen.phase, self.seen.steps);
        let same_write_waits = look.is_write_waiting() && look.stalls == self.seen.stalls;
        if !stood_still {
            self.still_since = now;
        }
        if !same_write_waits {
            self.stalled_since = now;
        }
        self.seen = look;
        let still = now - self.still_since;
        if now - self.stalled_since >= limits.write_timeout {
            self.abort("reader");
        } else if look.phase == Phase::Idle && still >= limits.keep_alive {
            self.end_idle(still - limits.keep_alive);
        } else if matches!(look.phase, Phase::New | Phase::Head) && still >= limits.header_timeout {
            self.abort("head");
        } else if look.phase == Phase::Closing && still >= LAST_MOMENT {
            self.activity.request_close(CloseMode::Abort);
        } else if look.phase == Phase::Idle && still >= RESTS_AFTER && !self.activity.is_multiplexed() {
            self.activity.release_buffers_if_idle(look.steps);
        }
    }

    fn abort(&mut self, waiting_for: &'static str) {
        self.activity.request_close(CloseMode::Abort);
        if !self.is_counted {
            self.is_counted = true;
            metrics::counter!("sekisho_connections_timed_out_total", "waiting_for" => waiting_for)
                .increment(1);
        }
    }

    /// HTTP/2 can say so first, for a client that is about to ask.
    fn end_idle(&self, overdue: Duration) {
        let may_still_ask = self.activity.is_multiplexed() && overdue < LAST_MOMENT;
        self.activity.request_close(if may_still_ask {
            CloseMode::Draining
        } else {
            CloseMode::CloseWhenIdle
        });
    }
}

/// How long a connection without a request stays open once the server stops, and how long a client may
/// go on sending after our last word.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Most clients that ask for more do so within a moment.
const RESTS_AFTER: Duration = Duration::from_secs(1);

/// Timeouts are kept to about this.
const LONGEST_PERIOD: Duration = Duration::from_secs(1);
const SHORTEST_PERIOD: Duration = Duration::from_millis(10);
