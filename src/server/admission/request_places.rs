//! The places of requests: those in flight, the reserve, and the open ones.

use std::sync::Arc;

use super::places::Places;
use crate::server::limits::ServerLimits;

/// The places of the requests of all threads.
pub(super) struct RequestPlaces {
    /// Requests in flight, without the reserve.
    in_flight: Places,
    reserve: Places,
    open: Places,
}

/// The limit that counts a request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Held {
    /// Limit on all requests, without the reserve.
    Place,
    /// The reserve, because the other places were taken.
    Reserve,
}

/// The free places of a server, on which [`ClientShares`](super::ClientShares) depend.
#[derive(Clone)]
pub struct FreePlaces(Arc<RequestPlaces>);

impl RequestPlaces {
    pub(super) fn new(threads: usize, limits: &ServerLimits) -> Arc<Self> {
        Arc::new(Self {
            in_flight: Places::new(limits.in_flight - limits.reserve(), threads),
            reserve: Places::new(limits.reserve(), threads),
            open: Places::new(limits.max_open(), threads),
        })
    }

    /// Replaces the limits. What is held beyond a lower limit is not taken away.
    pub(super) fn set_limits(&self, limits: &ServerLimits) {
        self.in_flight.set_limit(limits.in_flight - limits.reserve());
        self.reserve.set_limit(limits.reserve());
        self.open.set_limit(limits.max_open());
    }

    pub(super) fn free(self: &Arc<Self>) -> FreePlaces {
        FreePlaces(Arc::clone(self))
    }

    /// Counts a request that waits for its response; returns `None` at the limit.
    pub(super) fn try_begin(&self, thread: usize) -> Option<Held> {
        if self.in_flight.try_take(thread) {
            return Some(Held::Place);
        }
        self.reserve.try_take(thread).then_some(Held::Reserve)
    }

    /// Counts a request again whose body has arrived, if half of the places are free.
    ///
    /// The other half is for requests that begin: the bodies of many requests may arrive at the same time.
    pub(super) fn try_resume(&self, thread: usize) -> bool {
        let half = self.in_flight.limit().div_ceil(2);
        self.in_flight.has_free(half) && self.in_flight.try_take(thread)
    }

    /// Ends the count of a request whose response has started, which waits for its client, or which was dropped.
    pub(super) fn end(&self, held: Held, thread: usize) {
        match held {
            Held::Place => self.in_flight.give_back(thread),
            Held::Reserve => self.reserve.give_back(thread),
        }
    }

    /// Counts a request until its response has ended; returns `false` at the limit.
    pub(super) fn try_open(&self, thread: usize) -> bool {
        self.open.try_take(thread)
    }

    pub(super) fn close(&self, thread: usize) {
        self.open.give_back(thread);
    }

    /// Sets the gauges of the places that are held.
    pub(super) fn record_gauges(&self) {
        for (limit, places) in
            [("in_flight", &self.in_flight), ("reserve", &self.reserve), ("open", &self.open)]
        {
            places.record_gauge(limit);
        }
    }
}

impl FreePlaces {
    /// Returns the number of places for requests in flight, without the reserve.
    pub(super) fn in_flight_limit(&self) -> usize {
        self.0.in_flight.limit()
    }

    /// Returns `true` if at least `count` requests could begin, without the reserve.
    pub(super) fn has_in_flight(&self, count: usize) -> bool {
        self.0.in_flight.has_free(count)
    }

    /// Returns `true` if at least `count` requests could begin in the reserve.
    pub(super) fn has_reserve(&self, count: usize) -> bool {
        self.0.reserve.has_free(count)
    }

    /// Returns `true` if at least `count` requests could be opened.
    pub(super) fn has_open(&self, count: usize) -> bool {
        self.0.open.has_free(count)
    }
}

impl std::fmt::Debug for FreePlaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FreePlaces").field("in_flight", &self.0.in_flight.free()).finish_non_exhaustive()
    }
}
