//! Per-thread caches of verified access tokens ([`verified`]) and of tokens issued for upstreams
//! ([`upstream`]). Nothing is shared between cores.

pub(super) mod upstream;
pub(super) mod verified;

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use super::keys::KeyRing;

/// Identifies one cache among those that share a thread's table. Two [`Tokens`](super::token::Tokens)
/// of one process may have different settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CacheId(u64);

impl CacheId {
    pub(super) fn new() -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Self(NEXT_ID.fetch_add(1, Ordering::Relaxed))
    }
}

/// A thread's table of fixed size. A new entry evicts the one in its slot.
pub(super) struct TokenCache<T> {
    hasher: RandomState,
    seeds: [u64; 2],
    slots: Vec<Option<Box<Entry<T>>>>,
    capacity: usize,
}

struct Entry<T> {
    cache: CacheId,
    key_ring: u64,
    hash: u64,
    created_at: i64,
    expires_at: i64,
    value: T,
}

impl<T> TokenCache<T> {
    /// Creates a table of `capacity` slots, which are allocated at the first insertion.
    pub(super) fn new(capacity: usize) -> Self {
        let hasher = RandomState::new();
        let seeds = [hasher.hash_one(0), hasher.hash_one(1)];
        Self { hasher, seeds, slots: Vec::new(), capacity }
    }

    /// Hashes a key. The hash is seeded per thread, so that clients cannot choose collisions.
    pub(super) fn hash(&self, key: impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Hashes a key that is random itself, at the cost of one multiplication.
    pub(super) fn hash_random(&self, key: u128) -> u64 {
        let low = u128::from(key as u64 ^ self.seeds[0]);
        let high = u128::from((key >> 64) as u64 ^ self.seeds[1]);
        let product = low * high;
        product as u64 ^ (product >> 64) as u64
    }

    /// Returns an unexpired entry of these keys with this hash. The caller must compare the key.
    ///
    /// `now` is in [`micros`](crate::clock::micros). After the clock was set back, entries created in
    /// what is now the future are not returned.
    pub(super) fn find(&self, cache: CacheId, hash: u64, keys: &KeyRing, now: i64) -> Option<&T> {
        let entry = self.slots.get(self.slot(hash))?.as_ref()?;
        let is_same = (entry.cache, entry.key_ring, entry.hash) == (cache, keys.id(), hash);
        let is_current = entry.created_at <= now && now < entry.expires_at;
        (is_same && is_current).then_some(&entry.value)
    }

    /// Inserts an entry that was created with these keys. Both times are in
    /// [`micros`](crate::clock::micros).
    pub(super) fn insert(
        &mut self,
        cache: CacheId,
        hash: u64,
        keys: &KeyRing,
        (created_at, expires_at): (i64, i64),
        value: T,
    ) {
        self.slots.resize_with(self.capacity, || None);
        let slot = self.slot(hash);
        let key_ring = keys.id();
        self.slots[slot] = Some(Box::new(Entry { cache, key_ring, hash, created_at, expires_at, value }));
    }

    fn slot(&self, hash: u64) -> usize {
        (hash % self.capacity as u64) as usize
    }
}
