//! Tokens for upstreams that were minted on this thread a moment ago.
//!
//! A browser asks many times with one access token, and each time the upstream is to get a token of its
//! own in the user's name. One signature does for all: each thread remembers what it has minted, with
//! everything that went into it, so that nothing is shared between cores.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use time::OffsetDateTime;

use super::keys::KeyRing;
use crate::identity::Identity;

/// What one [`Tokens`](super::token::Tokens) remembers, on each thread by itself.
#[derive(Debug)]
pub(super) struct MintedTokens {
    /// Which tokens of the thread's are its own: settings differ.
    owner: u64,
}

/// A token that was minted, and what for.
struct Remembered {
    owner: u64,
    ring: u64,
    audience: Box<str>,
    /// All of it, with the expiry of the access token: another access token gets another one.
    identity: Identity,
    minted_at: OffsetDateTime,
    bearer: Bytes,
}

impl MintedTokens {
    pub(super) fn new() -> Self {
        static OWNERS: AtomicU64 = AtomicU64::new(0);
        Self { owner: OWNERS.fetch_add(1, Ordering::Relaxed) }
    }

    /// What was minted here for this user and audience with these keys, as long as the access token
    /// lives.
    pub(super) fn find(
        &self,
        identity: &Identity,
        audience: &str,
        keys: &KeyRing,
        now: OffsetDateTime,
    ) -> Option<Bytes> {
        TABLE.with_borrow(|table| {
            let known = table.slots.get(table.slot(identity, audience))?.as_ref()?;
            let same = (known.owner, known.ring) == (self.owner, keys.id())
                && *known.audience == *audience
                && known.identity == *identity;
            // A clock may be set back, and then it was minted in the future.
            let in_time = known.minted_at <= now && now < known.identity.expires_at;
            (same && in_time).then(|| known.bearer.clone())
        })
    }

    /// Remembers what has just been minted with these keys.
    pub(super) fn remember(
        &self,
        identity: &Identity,
        audience: &str,
        keys: &KeyRing,
        now: OffsetDateTime,
        bearer: &Bytes,
    ) {
        TABLE.with_borrow_mut(|table| {
            table.slots.resize_with(SLOTS, || None);
            let slot = table.slot(identity, audience);
            table.slots[slot] = Some(Box::new(Remembered {
                owner: self.owner,
                ring: keys.id(),
                audience: audience.into(),
                identity: identity.clone(),
                minted_at: now,
                bearer: bearer.clone(),
            }));
        });
    }
}

/// A thread's tokens. One that would lie where another does takes its place, so it never grows.
struct Table {
    hasher: RandomState,
    slots: Vec<Option<Box<Remembered>>>,
}

impl Table {
    fn slot(&self, identity: &Identity, audience: &str) -> usize {
        (self.hasher.hash_one((identity.session.0, audience)) % SLOTS as u64) as usize
    }
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::new(Table { hasher: RandomState::new(), slots: Vec::new() });
}

/// How many a thread remembers at most; each takes about a kilobyte.
const SLOTS: usize = 4_096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::identity::Roles;
    use crate::models::session::SessionId;
    use crate::services::keys::Algorithm;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ann(now: OffsetDateTime) -> Identity {
        Identity {
            subject: "67e55044".into(),
            session: SessionId(uuid::Uuid::from_u128(1)),
            email: "ann@example.org".into(),
            roles: Roles::default(),
            expires_at: now + 15 * MINUTE,
        }
    }

    fn ring() -> KeyRing {
        KeyRing::generate(Algorithm::Es256, ManualClock::default().now()).expect("random bytes")
    }

    #[test]
    fn what_was_minted_is_found_while_the_access_token_lives() {
        let (minted, ring, now) = (MintedTokens::new(), ring(), ManualClock::default().now());
        let token = Bytes::from_static(b"Bearer t");
        assert_eq!(minted.find(&ann(now), "films", &ring, now), None);
        minted.remember(&ann(now), "films", &ring, now, &token);
        assert_eq!(minted.find(&ann(now), "films", &ring, now), Some(token));
        assert!(minted.find(&ann(now), "films", &ring, now + 14 * MINUTE).is_some());
        assert!(minted.find(&ann(now), "films", &ring, now + 15 * MINUTE).is_none());
        assert!(minted.find(&ann(now), "films", &ring, now - MINUTE).is_none(), "the clock was set back");
    }

    #[test]
    fn whatever_went_into_it_must_be_the_same() {
        let (minted, ring, now) = (MintedTokens::new(), ring(), ManualClock::default().now());
        let token = Bytes::from_static(b"Bearer t");
        minted.remember(&ann(now), "films", &ring, now, &token);
        for other in [
            Identity { subject: "ben".into(), ..ann(now) },
            Identity { email: "ann@example.com".into(), ..ann(now) },
            Identity { roles: Roles::new(["admin"]).expect("a role"), ..ann(now) },
            Identity { session: SessionId(uuid::Uuid::from_u128(2)), ..ann(now) },
            ann(now + MINUTE),
        ] {
            assert_eq!(minted.find(&other, "films", &ring, now), None, "{other:?}");
        }
        assert_eq!(minted.find(&ann(now), "books", &ring, now), None);
        assert_eq!(minted.find(&ann(now), "films", &self::ring(), now), None);
        assert_eq!(MintedTokens::new().find(&ann(now), "films", &ring, now), None);
    }

    #[test]
    fn each_thread_remembers_by_itself() {
        let (minted, ring, now) = (MintedTokens::new(), ring(), ManualClock::default().now());
        minted.remember(&ann(now), "films", &ring, now, &Bytes::from_static(b"Bearer t"));
        let elsewhere = std::thread::scope(|scope| {
            scope.spawn(|| minted.find(&ann(now), "films", &ring, now)).join().expect("the thread ends")
        });
        assert_eq!(elsewhere, None);
    }
}
