//! What a thread remembers by itself, so that nothing is shared between cores: tokens that it has found
//! good ([`verified`](super::verified)), and tokens that it has minted ([`minted`](super::minted)).

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use super::keys::KeyRing;

/// One [`Tokens`](super::token::Tokens), whose entries in a thread's tables are its own: settings differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CacheId(u64);

impl CacheId {
    pub(super) fn new() -> Self {
        static OWNERS: AtomicU64 = AtomicU64::new(0);
        Self(OWNERS.fetch_add(1, Ordering::Relaxed))
    }
}

/// A thread's entries. One that would lie where another does takes its place, so it never grows beyond
/// its slots.
pub(super) struct TokenCache<T> {
    hasher: RandomState,
    seeds: [u64; 2],
    slots: Vec<Option<Box<Entry<T>>>>,
    most: usize,
}

struct Entry<T> {
    owner: CacheId,
    ring: u64,
    fingerprint: u64,
    made_at: i64,
    expires_at: i64,
    what: T,
}

impl<T> TokenCache<T> {
    /// With as many slots. They take no room before something is remembered.
    pub(super) fn new(most: usize) -> Self {
        let hasher = RandomState::new();
        let seeds = [hasher.hash_one(0), hasher.hash_one(1)];
        Self { hasher, seeds, slots: Vec::new(), most }
    }

    /// By what an entry is found; who doesn't know the key can't tell where it lies.
    pub(super) fn fingerprint(&self, key: impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The same for a key that is random itself, at the price of a multiplication.
    pub(super) fn fingerprint_of_random(&self, key: u128) -> u64 {
        let halves = [key as u64, (key >> 64) as u64];
        let [one, other] = [0, 1].map(|half| u128::from(halves[half] ^ self.seeds[half]));
        let product = one * other;
        product as u64 ^ (product >> 64) as u64
    }

    /// What may be the entry of this key: the caller compares the rest. It was made with these keys, and
    /// its time has not run out; times are in [`micros`](crate::clock::micros). That it was made before
    /// `now` matters: clocks are set back, and then it would be of the future.
    pub(super) fn find(&self, owner: CacheId, fingerprint: u64, keys: &KeyRing, now: i64) -> Option<&T> {
        let entry = self.slots.get(self.slot(fingerprint))?.as_ref()?;
        let same = (entry.owner, entry.ring, entry.fingerprint) == (owner, keys.id(), fingerprint);
        let in_time = entry.made_at <= now && now < entry.expires_at;
        (same && in_time).then_some(&entry.what)
    }

    /// Remembers what has just been made with these keys, until it expires.
    pub(super) fn insert(
        &mut self,
        owner: CacheId,
        fingerprint: u64,
        keys: &KeyRing,
        (made_at, expires_at): (i64, i64),
        what: T,
    ) {
        self.slots.resize_with(self.most, || None);
        let slot = self.slot(fingerprint);
        let ring = keys.id();
        self.slots[slot] = Some(Box::new(Entry { owner, ring, fingerprint, made_at, expires_at, what }));
    }

    fn slot(&self, fingerprint: u64) -> usize {
        (fingerprint % self.most as u64) as usize
    }
}
