//! The shares of clients in the contended half of an upstream's places, and its queue.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::client_share::ClientCounts;

/// A place of a request that waits for its response. It must be [released](super::concurrency::ConcurrencyLimit::release).
#[derive(Debug)]
pub(super) enum Place {
    /// In the other half, with the client that holds it.
    Contended(Option<Arc<ClientCounts>>),
    /// In the open half.
    Open,
}

/// The contended places and the queued requests of each client, and the queue.
///
/// Requests without a client, as in another server than the gateway's, are not limited by shares.
#[derive(Default)]
pub(super) struct Contention {
    /// By the address of the client's counts, which its places and its queued requests keep alive.
    loads: HashMap<usize, Load>,
    queue: VecDeque<Waiter>,
    next_id: u64,
}

/// The places and queued requests of a client at an upstream.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    /// Number of contended places.
    held: usize,
    /// Number of queued requests.
    queued: usize,
}

struct Waiter {
    id: u64,
    client: Option<Arc<ClientCounts>>,
    place: oneshot::Sender<Place>,
}

/// Result of a request for a place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueuePlace {
    /// A place is free.
    Free,
    /// A request of another client has lost its place.
    Displaced,
    /// The queue is full for the client.
    Full,
}

impl Contention {
    /// Returns `true` if the client may have one of `free` places.
    pub(super) fn may_hold_another(&self, client: Option<&Arc<ClientCounts>>, free: usize) -> bool {
        is_within_share(self.load(client).held, free)
    }

    /// Counts a place of the client.
    pub(super) fn add(&mut self, client: Option<&Arc<ClientCounts>>) {
        self.change(client, |load| load.held += 1);
    }

    /// Stops counting a place of the client.
    pub(super) fn remove(&mut self, client: Option<&Arc<ClientCounts>>) {
        self.change(client, |load| load.held -= 1);
    }

    /// Looks for a place in a queue of `max_queued`. If it is full, the client with the most places and queued requests
    /// loses its last one to a client with fewer.
    pub(super) fn find_queue_place(
        &mut self,
        client: Option<&Arc<ClientCounts>>,
        max_queued: usize,
    ) -> QueuePlace {
        let free = max_queued.saturating_sub(self.queue.len());
        if is_within_share(self.load(client).queued, free) {
            QueuePlace::Free
        } else if free == 0 && client.is_some() && self.displace(self.load(client)) {
            QueuePlace::Displaced
        } else {
            QueuePlace::Full
        }
    }

    /// Removes the last queued request of the client with the most, if it still has more than one of `load` then.
    fn displace(&mut self, load: Load) -> bool {
        let queued = self.loads.values().filter(|load| load.queued > 0);
        let Some(most) = queued.map(Load::total).max().filter(|most| *most > load.total() + 1) else {
            return false;
        };
        let has_most = |waiter: &Waiter| self.load(waiter.client.as_ref()).total() == most;
        let last = self.queue.iter().rposition(has_most);
        last.is_some_and(|index| self.take(index).is_some())
    }

    /// Adds a request to the queue. Returns its id, and the receiver of its place.
    pub(super) fn enqueue(&mut self, client: Option<Arc<ClientCounts>>) -> (u64, oneshot::Receiver<Place>) {
        let (place, receiver) = oneshot::channel();
        let id = self.next_id;
        self.next_id += 1;
        self.change(client.as_ref(), |load| load.queued += 1);
        self.queue.push_back(Waiter { id, client, place });
        (id, receiver)
    }

    /// Removes a request from the queue; returns `false` if it is no longer there.
    pub(super) fn dequeue(&mut self, id: u64) -> bool {
        let position = self.queue.iter().position(|waiter| waiter.id == id);
        position.is_some_and(|index| self.take(index).is_some())
    }

    /// Returns the index of the next request in the queue that may have a place, in the open half or one of `free` ones:
    /// the first of the client that holds the fewest.
    pub(super) fn next_in_queue(&self, has_open: bool, free: usize) -> Option<usize> {
        let held = |waiter: &Waiter| self.load(waiter.client.as_ref()).held;
        let may_proceed = |waiter: &Waiter| has_open || is_within_share(held(waiter), free);
        let candidates = self.queue.iter().enumerate().filter(|(_, waiter)| may_proceed(waiter));
        candidates.min_by_key(|(_, waiter)| held(waiter)).map(|(index, _)| index)
    }

    pub(super) fn queued_client(&self, index: usize) -> Option<Arc<ClientCounts>> {
        self.queue.get(index)?.client.clone()
    }

    /// Removes a request from the queue and sends it a place. Returns the place if the request has ended.
    pub(super) fn grant(&mut self, index: usize, place: Place) -> Result<(), Place> {
        match self.take(index) {
            Some(waiter) => waiter.place.send(place),
            None => Err(place),
        }
    }

    fn take(&mut self, index: usize) -> Option<Waiter> {
        let waiter = self.queue.remove(index)?;
        self.change(waiter.client.as_ref(), |load| load.queued -= 1);
        Some(waiter)
    }

    fn load(&self, client: Option<&Arc<ClientCounts>>) -> Load {
        client.and_then(|client| self.loads.get(&key(client))).copied().unwrap_or_default()
    }

    fn change(&mut self, client: Option<&Arc<ClientCounts>>, change: impl FnOnce(&mut Load)) {
        let Some(key) = client.map(key) else { return };
        let load = self.loads.entry(key).or_default();
        change(load);
        if *load == Load::default() {
            self.loads.remove(&key);
        }
    }
}

impl Load {
    fn total(&self) -> usize {
        self.held + self.queued
    }
}

/// Returns `true` if a client with `held` places may have one of `free` ones: it holds at most as many as are free, or
/// a few.
fn is_within_share(held: usize, free: usize) -> bool {
    free > 0 && held < free.max(MIN_SHARE)
}

fn key(client: &Arc<ClientCounts>) -> usize {
    Arc::as_ptr(client) as usize
}

/// Number of places that a client may hold while any is free, so that a single client can use an upstream with a low
/// limit.
const MIN_SHARE: usize = 4;
