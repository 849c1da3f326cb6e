//! The connections of one worker thread: their number, their timeouts, and their shutdown.

use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::Gauge;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::admission::{ConnectionPlace, ConnectionRefused, ThreadAdmission, flush_report};
use super::connection_state::{CloseMode, ConnectionState, Phase, StateSnapshot};
use super::http_builders::HttpBuilders;
use super::limits::ServerLimits;
use crate::duration_format::format_duration;

/// Registry of the open connections of one worker thread.
pub(super) struct ConnectionRegistry {
    /// Settings for new connections.
    settings: ArcSwap<ConnectionSettings>,
    /// The limits that all worker threads share.
    pub(super) admission: ThreadAdmission,
    open: AtomicUsize,
    tracked: Mutex<TrackedConnections>,
    all_closed: Notify,
    gauge: Gauge,
}

/// Limits and HTTP builders of a connection.
pub(super) struct ConnectionSettings {
    pub(super) limits: ServerLimits,
    pub(super) builders: HttpBuilders,
}

/// Permit for one open connection, released on drop.
pub(super) struct ConnectionPermit {
    pub(super) registry: Arc<ConnectionRegistry>,
    place: ConnectionPlace,
}

struct TrackedConnections {
    connections: Vec<TrackedConnection>,
    /// Close mode that connections registered from now on get, too.
    close_mode: CloseMode,
}

/// A connection and its state at the previous check.
struct TrackedConnection {
    state: Arc<ConnectionState>,
    snapshot: StateSnapshot,
    /// Time of the last phase change that a check has seen.
    unchanged_since: Instant,
    /// Time of the last check that saw no blocked write, or a different one.
    ///
    /// A blocked HTTP/2 stream is not covered: its task has a timer of its own.
    blocked_since: Instant,
    reading: ReadPace,
    is_timeout_counted: bool,
}

/// Pace of a client that reads more slowly than the gateway writes.
///
/// Bytes count once the kernel takes them. It takes none until a good part of its buffer is free, so the rate is only
/// known over times as long as the write timeout.
struct ReadPace {
    checked_at: Instant,
    /// Time for which every check has seen a blocked write.
    blocked: Duration,
    /// Number of bytes written in that time.
    written: u64,
}

impl ReadPace {
    fn new(now: Instant) -> Self {
        Self { checked_at: now, blocked: Duration::ZERO, written: 0 }
    }

    /// Records a check, and returns `true` if the client reads too slowly.
    fn is_too_slow(
        &mut self,
        now: Instant,
        previous: StateSnapshot,
        current: StateSnapshot,
        limits: &ServerLimits,
    ) -> bool {
        let elapsed = now - std::mem::replace(&mut self.checked_at, now);
        if !previous.is_write_blocked() || !current.is_write_blocked() {
            self.blocked = Duration::ZERO;
            self.written = 0;
            return false;
        }
        self.blocked += elapsed;
        self.written += u64::from(current.written.wrapping_sub(previous.written));
        let min_rate = u64::from(limits.min_read_rate);
        let at_min_rate = self.written.saturating_mul(1_000).checked_div(min_rate);
        at_min_rate.is_some_and(|millis| self.blocked > limits.write_timeout + Duration::from_millis(millis))
    }
}

impl ConnectionRegistry {
    /// Creates the registry of a worker thread. `name` labels the thread's gauge.
    pub(super) fn new(
        name: impl Into<String>,
        limits: ServerLimits,
        admission: ThreadAdmission,
    ) -> Arc<Self> {
        let gauge = metrics::gauge!("sekisho_connections", "thread" => name.into());
        gauge.set(0.0);
        Arc::new(Self {
            settings: ArcSwap::from_pointee(ConnectionSettings::new(limits)),
            admission,
            open: AtomicUsize::new(0),
            tracked: Mutex::new(TrackedConnections {
                connections: Vec::new(),
                close_mode: CloseMode::KeepOpen,
            }),
            all_closed: Notify::new(),
            gauge,
        })
    }

    /// Enforces timeouts until the registry is dropped.
    ///
    /// One timer for all connections is cheaper than a timer for each.
    pub(super) async fn run_reaper(registry: Weak<Self>) {
        loop {
            let Some(interval) = registry.upgrade().map(|registry| registry.check_interval()) else { return };
            tokio::time::sleep(interval).await;
            let Some(registry) = registry.upgrade() else { return };
            registry.check_timeouts(Instant::now());
            registry.admission.record_gauges();
            flush_report();
        }
    }

    /// Returns the settings for a new connection.
    pub(super) fn settings(&self) -> Arc<ConnectionSettings> {
        self.settings.load_full()
    }

    /// Returns the current timeout for a blocked response write.
    pub(super) fn write_timeout(&self) -> Duration {
        self.settings.load().limits.write_timeout
    }

    pub(super) fn set_limits(&self, limits: ServerLimits) {
        self.settings.store(Arc::new(ConnectionSettings::new(limits)));
        self.admission.set_limits(&limits);
    }

    /// Returns the number of open connections.
    pub(super) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Acquires a permit for a new connection from `peer`; `None` is that of a Unix socket.
    pub(super) fn try_acquire(
        self: &Arc<Self>,
        peer: Option<IpAddr>,
    ) -> Result<ConnectionPermit, ConnectionRefused> {
        let place = self.admission.try_begin_connection(peer)?;
        self.open.fetch_add(1, Relaxed);
        self.gauge.increment(1.0);
        Ok(ConnectionPermit { registry: Arc::clone(self), place })
    }

    /// Starts enforcing the timeouts of a connection.
    pub(super) fn track(&self, state: &Arc<ConnectionState>) {
        let now = Instant::now();
        let mut tracked = self.tracked.lock();
        if tracked.close_mode > CloseMode::KeepOpen {
            state.request_close(tracked.close_mode);
        }
        tracked.connections.push(TrackedConnection {
            snapshot: state.snapshot(),
            state: Arc::clone(state),
            unchanged_since: now,
            blocked_since: now,
            reading: ReadPace::new(now),
            is_timeout_counted: false,
        });
    }

    /// Closes all connections gracefully, within [`ServerLimits::drain`].
    ///
    /// Idle connections stay open for a moment, because the next request may already be on its way and
    /// would be lost. Most clients send one within that time and learn from its response that it is the last.
    pub(super) async fn drain(&self) {
        let drain_timeout = self.settings.load().limits.drain;
        let deadline = Instant::now() + drain_timeout;
        self.request_close(CloseMode::Drain);
        if timeout(CLOSE_GRACE.min(drain_timeout / 2), self.closed()).await.is_ok() {
            return;
        }
        self.request_close(CloseMode::CloseWhenIdle);
        if timeout_at(deadline, self.closed()).await.is_err() {
            tracing::warn!(
                timeout = format_duration(drain_timeout),
                open = self.open(),
                "drain timed out with requests in flight"
            );
        }
    }

    /// Completes when no connection is open.
    async fn closed(&self) {
        loop {
            let all_closed = self.all_closed.notified();
            if self.open() == 0 {
                return;
            }
            all_closed.await;
        }
    }

    fn request_close(&self, mode: CloseMode) {
        let mut tracked = self.tracked.lock();
        tracked.close_mode = mode;
        for connection in &tracked.connections {
            connection.state.request_close(mode);
        }
    }

    fn check_timeouts(&self, now: Instant) {
        let limits = self.settings.load().limits;
        self.tracked.lock().connections.retain_mut(|connection| {
            // The connection holds the other references.
            let is_open = Arc::strong_count(&connection.state) > 1;
            if is_open {
                connection.check(now, &limits);
            }
            is_open
        });
    }

    fn check_interval(&self) -> Duration {
        let ServerLimits { header_timeout, keep_alive, write_timeout, .. } = self.settings.load().limits;
        let shortest = header_timeout.min(keep_alive).min(write_timeout);
        (shortest / 4).clamp(MIN_CHECK_INTERVAL, MAX_CHECK_INTERVAL)
    }
}

impl ConnectionPermit {
    /// Counts the connection for `client`, which a trusted proxy has named.
    pub(super) fn set_client(&mut self, client: IpAddr) -> Result<(), ConnectionRefused> {
        self.registry.admission.set_client(&mut self.place, client)
    }
}

impl ConnectionSettings {
    fn new(limits: ServerLimits) -> Self {
        Self { builders: HttpBuilders::new(&limits), limits }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.registry.admission.end_connection(&self.place);
        self.registry.gauge.decrement(1.0);
        if self.registry.open.fetch_sub(1, Relaxed) == 1 {
            self.registry.all_closed.notify_waiters();
        }
    }
}

impl TrackedConnection {
    fn check(&mut self, now: Instant, limits: &ServerLimits) {
        let snapshot = self.state.snapshot();
        let phase = snapshot.phase;
        if phase != self.snapshot.phase || snapshot.transitions != self.snapshot.transitions {
            self.unchanged_since = now;
        }
        if !snapshot.is_write_blocked() || snapshot.write_stalls != self.snapshot.write_stalls {
            self.blocked_since = now;
        }
        let is_reader_slow = self.reading.is_too_slow(now, self.snapshot, snapshot, limits);
        self.snapshot = snapshot;
        let unchanged = now - self.unchanged_since;
        if is_reader_slow || now - self.blocked_since >= limits.write_timeout {
            self.abort("reader");
        } else if phase == Phase::Idle && unchanged >= limits.keep_alive {
            self.close_idle(unchanged - limits.keep_alive);
        } else if matches!(phase, Phase::New | Phase::Head) && unchanged >= limits.header_timeout {
            self.abort("head");
        } else if phase == Phase::Closing && unchanged >= CLOSE_GRACE {
            self.state.request_close(CloseMode::Abort);
        } else if phase == Phase::Idle && unchanged >= BUFFER_RELEASE_DELAY && !self.state.is_http2() {
            self.state.release_buffers_if_idle(snapshot.transitions);
        }
    }

    fn abort(&mut self, waiting_for: &'static str) {
        self.state.request_close(CloseMode::Abort);
        if !self.is_timeout_counted {
            self.is_timeout_counted = true;
            metrics::counter!("sekisho_connections_timed_out_total", "waiting_for" => waiting_for)
                .increment(1);
        }
    }

    /// Closes an idle connection. HTTP/2 clients first get a GOAWAY, in case a request is on its way.
    fn close_idle(&self, overdue: Duration) {
        if self.state.is_http2() && overdue < CLOSE_GRACE {
            self.state.request_close(CloseMode::Drain);
        } else {
            self.state.request_close(CloseMode::CloseWhenIdle);
        }
    }
}

/// Time for which idle connections stay open at shutdown, and for which a client may send after the
/// server has shut down its side.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Idle time after which an HTTP/1.1 connection releases its buffers. Most follow-up requests come sooner.
const BUFFER_RELEASE_DELAY: Duration = Duration::from_secs(1);

/// Timeouts are accurate to about this interval.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(1);
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(write_stalls: u32, written: u32) -> StateSnapshot {
        StateSnapshot { phase: Phase::Request, transitions: 0, write_stalls, written }
    }

    fn limits(min_read_rate: u32) -> ServerLimits {
        ServerLimits { write_timeout: Duration::from_secs(10), min_read_rate, ..ServerLimits::default() }
    }

    /// Returns the seconds after which a client that reads `rate` bytes a second is too slow, up to 100.
    fn seconds_until_too_slow(rate: u32, min_rate: u32) -> Option<u32> {
        let start = Instant::now();
        let mut pace = ReadPace::new(start);
        (1..=100).find(|&second| {
            // Each write continues and blocks again. The counter wraps.
            let at = |second: u32| snapshot(2 * second + 1, (rate * second).wrapping_sub(1_000));
            let now = start + Duration::from_secs(second.into());
            pace.is_too_slow(now, at(second - 1), at(second), &limits(min_rate))
        })
    }

    /// A5: a client that read a few bytes a second was never too slow.
    #[test]
    fn trickling_reader_is_too_slow() {
        assert_eq!(seconds_until_too_slow(0, 240), Some(11));
        assert_eq!(seconds_until_too_slow(24, 240), Some(12));
        assert_eq!(seconds_until_too_slow(240, 240), None);
        assert_eq!(seconds_until_too_slow(1_000_000, 240), None);
        assert_eq!(seconds_until_too_slow(0, 0), None);
    }

    #[test]
    fn reader_that_catches_up_starts_anew() {
        let start = Instant::now();
        let mut pace = ReadPace::new(start);
        let seconds = |second| start + Duration::from_secs(second);
        assert!(!pace.is_too_slow(seconds(9), snapshot(1, 0), snapshot(1, 0), &limits(240)));
        assert!(!pace.is_too_slow(seconds(10), snapshot(1, 0), snapshot(2, 10), &limits(240)));
        assert!(!pace.is_too_slow(seconds(11), snapshot(2, 10), snapshot(3, 10), &limits(240)));
        assert!(!pace.is_too_slow(seconds(20), snapshot(3, 10), snapshot(3, 10), &limits(240)));
        assert!(pace.is_too_slow(seconds(22), snapshot(3, 10), snapshot(3, 10), &limits(240)));
    }
}
