//! State of one connection, as its timeouts need it.
//!
//! A connection records its progress here, at the cost of a few relaxed stores per request and without a
//! timer. The reaper of the [connection registry](super::connection_registry) periodically compares the
//! state with its previous snapshot, and closes a connection that has made no progress for too long.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32};
use std::task::Waker;

use parking_lot::Mutex;

/// Progress of one connection, and the close requests made to it.
#[derive(Debug, Default)]
pub(super) struct ConnectionState {
    phase: AtomicU8,
    /// Incremented whenever a phase is entered.
    transitions: AtomicU32,
    /// Incremented when a write blocks and when it continues; odd while a write is blocked.
    write_stalls: AtomicU32,
    /// Number of bytes written, modulo 2^32.
    written: AtomicU32,
    /// Number of units of the head budget that the connection holds.
    head_units: AtomicU32,
    is_http2: AtomicBool,
    /// Number of open HTTP/2 streams.
    open_streams: AtomicU32,
    is_body_pending: AtomicBool,
    is_upgrade_requested: AtomicBool,
    is_upgrade_enabled: AtomicBool,
    /// Value of `transitions` at which an idle connection may release its buffers.
    release_at: AtomicU32,
    close_mode: AtomicU8,
    /// Not an `AtomicWaker`: waking one removes its waker, so that every wait would have to register again.
    waker: Mutex<Option<Waker>>,
}

/// Event that a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first byte of the first request.
    New,
    /// The rest of a request head.
    Head,
    /// The request body or the response.
    Request,
    /// The first byte of the next request.
    Idle,
    /// The end of the tunnel that follows an upgrade.
    Tunnel,
    /// The client's end of stream; the server has already shut down its own side.
    Closing,
}

/// Requested end of a connection. Each mode includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CloseMode {
    /// Keep the connection open.
    KeepOpen,
    /// Announce with the next response (HTTP/2: with a GOAWAY) that no further requests are accepted.
    Drain,
    /// Close once there is no request, not even part of one.
    CloseWhenIdle,
    /// Close now, even during a request.
    Abort,
    /// Close now and discard bytes that were sent but not yet delivered.
    Reset,
}

/// Values that the reaper compares between two checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StateSnapshot {
    pub(super) phase: Phase,
    pub(super) transitions: u32,
    pub(super) write_stalls: u32,
    pub(super) written: u32,
}

impl StateSnapshot {
    /// Returns `true` if a write was blocked on the client.
    pub(super) fn is_write_blocked(&self) -> bool {
        self.write_stalls % 2 == 1
    }
}

impl ConnectionState {
    /// Records that bytes were read.
    pub(super) fn bytes_received(&self) {
        let is_between_requests = matches!(self.stored_phase(), Phase::New | Phase::Idle);
        if is_between_requests && !self.is_http2() {
            self.enter(Phase::Head);
        }
    }

    pub(super) fn head_units(&self) -> u32 {
        self.head_units.load(Relaxed)
    }

    pub(super) fn set_head_units(&self, units: u32) {
        self.head_units.store(units, Relaxed);
    }

    /// Switches to HTTP/2, where requests are concurrent streams.
    pub(super) fn set_http2(&self) {
        self.is_http2.store(true, Relaxed);
        self.enter(Phase::Idle);
    }

    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Relaxed)
    }

    /// Records that a request head was read.
    pub(super) fn request_started(&self) {
        if self.is_http2() {
            self.open_streams.fetch_add(1, Relaxed);
        }
        self.enter(Phase::Request);
    }

    /// Records that the response body was handed to hyper completely, or dropped.
    pub(super) fn request_finished(&self) {
        if self.is_http2() {
            self.open_streams.fetch_sub(1, Relaxed);
        }
        self.enter(Phase::Idle);
    }

    /// Records that a request body may still be read by the service.
    pub(super) fn set_body_pending(&self, is_pending: bool) {
        self.is_body_pending.store(is_pending, Relaxed);
    }

    pub(super) fn is_body_pending(&self) -> bool {
        self.is_body_pending.load(Relaxed)
    }

    /// Records that a request asks for a protocol upgrade.
    pub(super) fn request_upgrade(&self) {
        self.is_upgrade_requested.store(true, Relaxed);
    }

    pub(super) fn is_upgrade_requested(&self) -> bool {
        self.is_upgrade_requested.load(Relaxed)
    }

    /// Records that hyper's connection was switched to the variant that supports upgrades.
    pub(super) fn enable_upgrade(&self) {
        self.is_upgrade_enabled.store(true, Relaxed);
    }

    pub(super) fn is_upgrade_enabled(&self) -> bool {
        self.is_upgrade_enabled.load(Relaxed)
    }

    /// Requests the release of the buffers if the connection is still idle since `transition`.
    pub(super) fn release_buffers_if_idle(&self, transition: u32) {
        if self.release_at.swap(transition, Relaxed) != transition {
            self.wake();
        }
    }

    /// Requests the release of the buffers of a connection that is idle now, without waking its task.
    pub(super) fn release_buffers(&self) {
        self.release_at.store(self.transitions.load(Relaxed), Relaxed);
    }

    /// Returns `true` if the release was requested and nothing is left to read or write.
    pub(super) fn should_release_buffers(&self) -> bool {
        self.release_at.load(Relaxed) == self.transitions.load(Relaxed)
            && self.stored_phase() == Phase::Idle
            && !self.is_write_blocked()
            && !self.is_body_pending()
    }

    /// Records that the server's side was shut down.
    pub(super) fn shutdown_started(&self) {
        if self.stored_phase() != Phase::Closing {
            self.enter(Phase::Closing);
        }
    }

    /// Records that bytes were written.
    pub(super) fn bytes_written(&self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.written.store(self.written.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Records whether a write is blocked on the client.
    pub(super) fn set_write_blocked(&self, is_blocked: bool) {
        if self.is_write_blocked() != is_blocked {
            increment(&self.write_stalls);
        }
    }

    pub(super) fn is_write_blocked(&self) -> bool {
        self.write_stalls.load(Relaxed) % 2 == 1
    }

    pub(super) fn phase(&self) -> Phase {
        match self.stored_phase() {
            Phase::Closing => Phase::Closing,
            _ if self.is_http2() && self.open_streams.load(Relaxed) == 0 => Phase::Idle,
            _ if self.is_http2() => Phase::Request,
            phase => phase,
        }
    }

    pub(super) fn snapshot(&self) -> StateSnapshot {
        StateSnapshot {
            phase: self.phase(),
            transitions: self.transitions.load(Relaxed),
            write_stalls: self.write_stalls.load(Relaxed),
            written: self.written.load(Relaxed),
        }
    }

    /// Requests the end of the connection, unless a stronger mode was requested before.
    pub(super) fn request_close(&self, mode: CloseMode) {
        self.close_mode.fetch_max(mode as u8, Relaxed);
        self.wake();
    }

    /// Returns `true` if `mode` or a stronger one was requested.
    pub(super) fn is_close_requested(&self, mode: CloseMode) -> bool {
        self.close_mode.load(Relaxed) >= mode as u8
    }

    /// Registers the task that waits for the socket, to be woken by close requests.
    pub(super) fn register_waker(&self, waker: &Waker) {
        *self.waker.lock() = Some(waker.clone());
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }

    fn stored_phase(&self) -> Phase {
        let phases = [Phase::New, Phase::Head, Phase::Request, Phase::Idle, Phase::Tunnel, Phase::Closing];
        phases[usize::from(self.phase.load(Relaxed)) % phases.len()]
    }

    /// Records that the connection waits for another event.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
        increment(&self.transitions);
    }
}

/// Increments a counter without a read-modify-write instruction.
///
/// Concurrent increments may count as one, which is enough to detect that the value has changed.
fn increment(counter: &AtomicU32) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}
