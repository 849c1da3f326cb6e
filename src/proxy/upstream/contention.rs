//! The shares of clients in the contended half of an upstream's places, and its queue.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::client_share::ClientCounts;

/// A place of a request that waits for its response. It must be [released](super::concurrency::ConcurrencyLimit::release).
///
#[derive(Debug)]
pub(super) enum Place {
    /// In the other half, with the client that holds it.
    Contended(Option<Arc<ClientCounts>>),
    /// In the open half.
    Open,
}

/// The number of contended places of each client, and the requests that wait for a place.
///
/// Requests without a client, as in another server than the gateway's, are not limited by shares.
#[derive(Default)]
pub(super) struct Contention {
    /// By the address of the client's counts, which its places keep alive.
    held: HashMap<usize, usize>,
    queue: VecDeque<Waiter>,
    next_id: u64,
}

struct Waiter {
    id: u64,
    client: Option<Arc<ClientCounts>>,
    place: oneshot::Sender<Place>,
}

impl Contention {
    /// Returns `true` if the client may have one of `free` places.
    pub(super) fn may_hold_another(&self, client: Option<&Arc<ClientCounts>>, free: usize) -> bool {
        is_within_share(self.held(client), free)
    }

    /// Counts a place of the client.
    pub(super) fn add(&mut self, client: Option<&Arc<ClientCounts>>) {
        if let Some(client) = client {
            *self.held.entry(key(client)).or_default() += 1;
        }
    }

    /// Stops counting a place of the client.
    pub(super) fn remove(&mut self, client: Option<&Arc<ClientCounts>>) {
        let Some(key) = client.map(key) else { return };
        match self.held.get_mut(&key) {
            Some(held) if *held > 1 => *held -= 1,
            _ => _ = self.held.remove(&key),
        }
    }

    /// Returns `true` if the client may have another place of the queue.
    pub(super) fn has_queue_place(&self, client: Option<&Arc<ClientCounts>>, max_queued: usize) -> bool {
        let free = max_queued.saturating_sub(self.queue.len());
        let Some(client) = client else { return free > 0 };
        let queued = self.queue.iter().filter(|waiter| waiter.is_of(client)).count();
        is_within_share(queued, free)
    }

    /// Adds a request to the queue. Returns its id, and the receiver of its place.
    pub(super) fn enqueue(&mut self, client: Option<Arc<ClientCounts>>) -> (u64, oneshot::Receiver<Place>) {
        let (place, receiver) = oneshot::channel();
        let id = self.next_id;
        self.next_id += 1;
        self.queue.push_back(Waiter { id, client, place });
        (id, receiver)
    }

    /// Removes a request from the queue; returns `false` if it is no longer there.
    pub(super) fn dequeue(&mut self, id: u64) -> bool {
        let position = self.queue.iter().position(|waiter| waiter.id == id);
        position.is_some_and(|index| self.queue.remove(index).is_some())
    }

    /// Returns the index of the next request in the queue that may have a place, in the open half or one of `free` ones:
    /// the first of the client that holds the fewest.
    pub(super) fn next_in_queue(&self, has_open: bool, free: usize) -> Option<usize> {
        let held = |waiter: &Waiter| self.held(waiter.client.as_ref());
        let may_proceed = |waiter: &Waiter| has_open || is_within_share(held(waiter), free);
        let candidates = self.queue.iter().enumerate().filter(|(_, waiter)| may_proceed(waiter));
        candidates.min_by_key(|(_, waiter)| held(waiter)).map(|(index, _)| index)
    }

    pub(super) fn queued_client(&self, index: usize) -> Option<Arc<ClientCounts>> {
        self.queue.get(index)?.client.clone()
    }

    /// Removes a request from the queue and sends it a place. Returns the place if the request has ended.
    pub(super) fn grant(&mut self, index: usize, place: Place) -> Result<(), Place> {
        match self.queue.remove(index) {
            Some(waiter) => waiter.place.send(place),
            None => Err(place),
        }
    }

    /// Returns the number of places of the client.
    fn held(&self, client: Option<&Arc<ClientCounts>>) -> usize {
        client.and_then(|client| self.held.get(&key(client))).copied().unwrap_or(0)
    }
}

impl Waiter {
    fn is_of(&self, client: &Arc<ClientCounts>) -> bool {
        self.client.as_ref().is_some_and(|own| Arc::ptr_eq(own, client))
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
