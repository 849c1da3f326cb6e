//! What a connection is doing, as far as its timeouts need to know.
//!
//! The connection notes its steps here, which costs a few plain stores per request and no timer. Once
//! in a while the [keeper](super::keeper) compares what it finds with what it found before: a connection
//! that hasn't moved for too long is told to close.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

/// The notes of one connection.
#[derive(Debug, Default)]
pub(super) struct ConnectionState {
    phase: AtomicU8,
    /// Changes with every step.
    steps: AtomicU32,
    /// Odd while a write waits for the client; changes with each stall.
    stalls: AtomicU32,
    /// Whether requests come side by side, as in HTTP/2.
    multiplexed: AtomicBool,
    /// How many of those are open.
    open: AtomicU32,
    /// Whether somebody may still read a request's body.
    has_body: AtomicBool,
    /// Whether a request asks for another protocol, and whether it may.
    upgrading: AtomicBool,
    upgradeable: AtomicBool,
    /// At which step it is that long idle.
    rests_at: AtomicU32,
    order: AtomicU8,
    /// Not an `AtomicWaker`: waking takes that one's waker out, so that each wait would have to put it in.
    waker: Mutex<Option<Waker>>,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request's first byte, for the first time.
    New,
    /// The rest of a request's head.
    Head,
    /// A request's body, or its answer.
    Request,
    /// The next request's first byte.
    Idle,
    /// Whatever passes after an upgrade, for as long as it does.
    Tunnel,
    /// The client's last word, after ours.
    Closing,
}

/// What a connection is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CloseMode {
    /// What it does.
    Open,
    /// Say with the next answer that it is the last.
    Draining,
    /// That, and close once there is no request, nor the beginning of one.
    CloseWhenIdle,
    /// Close, whatever is under way.
    Abort,
    /// That, and let nothing arrive any more that is on its way.
    Reset,
}

/// What the keeper sees when it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StateSnapshot {
    pub(super) phase: Phase,
    pub(super) steps: u32,
    pub(super) stalls: u32,
}

impl StateSnapshot {
    /// Whether a write waits for the client.
    pub(super) fn is_write_waiting(&self) -> bool {
        self.stalls % 2 == 1
    }
}

impl ConnectionState {
    /// Bytes have come in.
    pub(super) fn received(&self) {
        let between_requests = matches!(self.stored_phase(), Phase::New | Phase::Idle);
        if between_requests && !self.is_multiplexed() {
            self.enter(Phase::Head);
        }
    }

    /// From now on requests come side by side.
    pub(super) fn set_http2(&self) {
        self.multiplexed.store(true, Relaxed);
        self.enter(Phase::Idle);
    }

    pub(super) fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Relaxed)
    }

    /// A request's head is there.
    pub(super) fn request_started(&self) {
        if self.is_multiplexed() {
            self.open.fetch_add(1, Relaxed);
        }
        self.enter(Phase::Request);
    }

    /// The last byte of its answer is handed over, or it was given up.
    pub(super) fn request_finished(&self) {
        if self.is_multiplexed() {
            self.open.fetch_sub(1, Relaxed);
        }
        self.enter(Phase::Idle);
    }

    /// A request's body is there to be read, or not any longer.
    pub(super) fn has_body(&self, has: bool) {
        self.has_body.store(has, Relaxed);
    }

    pub(super) fn has_a_body(&self) -> bool {
        self.has_body.load(Relaxed)
    }

    /// The request asks for another protocol.
    pub(super) fn asks_for_upgrade(&self) {
        self.upgrading.store(true, Relaxed);
    }

    pub(super) fn is_asked_for_upgrade(&self) -> bool {
        self.upgrading.load(Relaxed)
    }

    /// From now on the connection is one that can be upgraded.
    pub(super) fn becomes_upgradeable(&self) {
        self.upgradeable.store(true, Relaxed);
    }

    pub(super) fn is_upgradeable(&self) -> bool {
        self.upgradeable.load(Relaxed)
    }

    /// Lets a connection rest that has been idle since this step.
    pub(super) fn release_buffers_if_idle(&self, since: u32) {
        if self.rests_at.swap(since, Relaxed) != since {
            self.wake();
        }
    }

    /// Lets one rest that is idle right now, for whoever looks next.
    pub(super) fn may_rest_now(&self) {
        self.rests_at.store(self.steps.load(Relaxed), Relaxed);
    }

    /// Whether it still is, and nothing is left to be read or written.
    pub(super) fn should_release_buffers(&self) -> bool {
        self.rests_at.load(Relaxed) == self.steps.load(Relaxed)
            && self.stored_phase() == Phase::Idle
            && !self.is_write_waiting()
            && !self.has_a_body()
    }

    /// The connection is no longer for requests.
    pub(super) fn upgrades(&self) {
        self.enter(Phase::Tunnel);
    }

    /// Our last word is said.
    pub(super) fn closes(&self) {
        if self.stored_phase() != Phase::Closing {
            self.enter(Phase::Closing);
        }
    }

    /// A write has to wait, or not any longer.
    pub(super) fn waits_to_write(&self, waits: bool) {
        let stalls = self.stalls.load(Relaxed);
        if (stalls % 2 == 1) != waits {
            self.stalls.store(stalls.wrapping_add(1), Relaxed);
        }
    }

    /// Whether a write waits for the client.
    pub(super) fn is_write_waiting(&self) -> bool {
        self.stalls.load(Relaxed) % 2 == 1
    }

    pub(super) fn phase(&self) -> Phase {
        match self.stored_phase() {
            Phase::Closing => Phase::Closing,
            _ if self.is_multiplexed() && self.open.load(Relaxed) == 0 => Phase::Idle,
            _ if self.is_multiplexed() => Phase::Request,
            phase => phase,
        }
    }

    pub(super) fn look(&self) -> StateSnapshot {
        StateSnapshot {
            phase: self.phase(),
            steps: self.steps.load(Relaxed),
            stalls: self.stalls.load(Relaxed),
        }
    }

    /// Tells the connection what to do, unless it was told more already.
    pub(super) fn request_close(&self, order: CloseMode) {
        self.order.fetch_max(order as u8, Relaxed);
        self.wake();
    }

    pub(super) fn close_requested(&self, order: CloseMode) -> bool {
        self.order.load(Relaxed) >= order as u8
    }

    /// Whom to wake with an order, from now on: whoever waits for the socket.
    pub(super) fn register_waker(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    fn stored_phase(&self) -> Phase {
        let all = [Phase::New, Phase::Head, Phase::Request, Phase::Idle, Phase::Tunnel, Phase::Closing];
        all[usize::from(self.phase.load(Relaxed)) % all.len()]
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
        self.step();
    }

    /// Two steps at a time may count as one: that there was one is enough.
    fn step(&self) {
        self.steps.store(self.steps.load(Relaxed).wrapping_add(1), Relaxed);
    }
}
