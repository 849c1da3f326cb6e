//! The part of one request in the numbers of its client.
//!
//! The limits, and the table of clients, are those of the server's `ClientShares`. The part itself belongs to the
//! [`RequestContext`](crate::request_context::RequestContext), so that everything that runs for a request can find it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64};

/// Numbers of a client's requests.
///
/// One counter, so that a request costs few atomic operations: 21 bits each for the open requests, those in flight
/// and those in flight in the reserve.
#[derive(Default)]
pub struct ClientCounts(AtomicU64);

/// A copy of the numbers in [`ClientCounts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLoad {
    /// Number of requests whose response has not ended, including tunnels.
    pub open: usize,
    /// Number of requests that wait for the gateway or an upstream.
    pub in_flight: usize,
    /// Number of requests that do so in the reserve.
    pub in_reserve: usize,
}

/// One request in the [`ClientCounts`] of its client, until it is dropped.
pub struct ClientShare {
    counts: Arc<ClientCounts>,
    state: AtomicU8,
}

impl ClientCounts {
    /// Returns the current numbers.
    #[must_use]
    pub fn load(&self) -> ClientLoad {
        ClientLoad::unpack(self.0.load(Relaxed))
    }

    fn add(&self, amount: u64) -> u64 {
        self.0.fetch_add(amount, Relaxed)
    }

    fn subtract(&self, amount: u64) {
        self.0.fetch_sub(amount, Relaxed);
    }
}

impl ClientLoad {
    fn unpack(packed: u64) -> Self {
        let field = |one: u64| usize::try_from((packed / one) & FIELD_MASK).unwrap_or(usize::MAX);
        Self { open: field(OPEN), in_flight: field(IN_FLIGHT), in_reserve: field(IN_RESERVE) }
    }
}

impl ClientShare {
    /// Counts a request as open and in flight if `check` accepts the numbers without it.
    ///
    /// # Errors
    ///
    /// The error of `check`.
    pub fn try_begin<E>(
        counts: Arc<ClientCounts>,
        is_in_reserve: bool,
        check: impl FnOnce(ClientLoad) -> Result<(), E>,
    ) -> Result<Self, E> {
        let state = if is_in_reserve { HELD_IN_RESERVE } else { HELD };
        let amount = OPEN + amount_in_flight(state);
        // Counted first: otherwise two threads could both take the last place.
        match check(ClientLoad::unpack(counts.add(amount))) {
            Ok(()) => Ok(Self { counts, state: AtomicU8::new(state) }),
            Err(error) => {
                counts.subtract(amount);
                Err(error)
            }
        }
    }

    /// Returns the numbers of the client.
    #[must_use]
    pub fn counts(&self) -> Arc<ClientCounts> {
        Arc::clone(&self.counts)
    }

    /// Returns `true` if the client has no other request in flight.
    #[must_use]
    pub fn is_only_one_in_flight(&self) -> bool {
        let load = self.counts.load();
        load.in_flight + load.in_reserve <= 1
    }

    /// Stops counting the request as in flight while it waits for its client.
    pub fn suspend(&self) {
        let state = self.state.load(Relaxed);
        if amount_in_flight(state) > 0 && self.replace(state, SUSPENDED) {
            self.counts.subtract(amount_in_flight(state));
        }
    }

    /// Counts the request as in flight again. The caller checks the limits.
    pub fn resume(&self) {
        if self.replace(SUSPENDED, HELD) {
            self.counts.add(IN_FLIGHT);
        }
    }

    /// Stops counting the request as in flight, because its response has begun.
    pub fn end_in_flight(&self) {
        self.end_state(RESPONDED);
    }

    /// Stops counting the request.
    pub fn end(&self) {
        if self.end_state(ENDED) != ENDED {
            self.counts.subtract(OPEN);
        }
    }

    fn replace(&self, current: u8, new: u8) -> bool {
        self.state.compare_exchange(current, new, Relaxed, Relaxed).is_ok()
    }

    /// Enters a final state and returns the previous one.
    fn end_state(&self, state: u8) -> u8 {
        let previous = self.state.fetch_max(state, Relaxed);
        let in_flight = amount_in_flight(previous);
        if in_flight > 0 {
            self.counts.subtract(in_flight);
        }
        previous
    }
}

impl Drop for ClientShare {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for ClientCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}

impl fmt::Debug for ClientShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientShare").field("counts", &self.counts).finish_non_exhaustive()
    }
}

fn amount_in_flight(state: u8) -> u64 {
    match state {
        HELD => IN_FLIGHT,
        HELD_IN_RESERVE => IN_RESERVE,
        _ => 0,
    }
}

const OPEN: u64 = 1;
const IN_FLIGHT: u64 = 1 << 21;
const IN_RESERVE: u64 = 1 << 42;
/// The largest number in a field, more than twice the highest limit.
const FIELD_MASK: u64 = (1 << 21) - 1;

// In the order in which a request can enter them.
const HELD: u8 = 0;
const HELD_IN_RESERVE: u8 = 1;
const SUSPENDED: u8 = 2;
const RESPONDED: u8 = 3;
const ENDED: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(counts: &Arc<ClientCounts>, is_in_reserve: bool) -> ClientShare {
        ClientShare::try_begin(Arc::clone(counts), is_in_reserve, |_| Ok::<_, ()>(())).expect("no limit")
    }

    fn load(counts: &ClientCounts) -> (usize, usize, usize) {
        let ClientLoad { open, in_flight, in_reserve } = counts.load();
        (open, in_flight, in_reserve)
    }

    #[test]
    fn request_is_counted_while_it_is_open_and_in_flight() {
        let counts = Arc::new(ClientCounts::default());
        let share = begin(&counts, false);
        let reserved = begin(&counts, true);
        assert_eq!(load(&counts), (2, 1, 1));
        assert!(!share.is_only_one_in_flight());
        share.suspend();
        share.suspend();
        assert_eq!(load(&counts), (2, 0, 1));
        assert!(reserved.is_only_one_in_flight());
        share.resume();
        share.resume();
        assert_eq!(load(&counts), (2, 1, 1));
        share.end_in_flight();
        share.resume();
        share.suspend();
        assert_eq!(load(&counts), (2, 0, 1));
        drop(share);
        assert_eq!(load(&counts), (1, 0, 1));
        // A request in the reserve resumes outside of it.
        reserved.suspend();
        reserved.resume();
        assert_eq!(load(&counts), (1, 1, 0));
        reserved.end();
        assert_eq!(load(&counts), (0, 0, 0));
        drop(reserved);
        assert_eq!(load(&counts), (0, 0, 0));
    }

    #[test]
    fn refused_request_is_not_counted() {
        let counts = Arc::new(ClientCounts::default());
        let _share = begin(&counts, false);
        let refused = ClientShare::try_begin(Arc::clone(&counts), true, Err);
        assert_eq!(refused.err(), Some(ClientLoad { open: 1, in_flight: 1, in_reserve: 0 }));
        assert_eq!(load(&counts), (1, 1, 0));
    }
}
