//! Tokens for upstreams that were minted on this thread a moment ago.
//!
//! A browser asks many times with one access token, and each time the upstream is to get a token of its
//! own in the user's name. One signature does for all: each thread remembers what it has minted, with
//! everything that went into it.

use std::cell::RefCell;

use bytes::Bytes;
use time::OffsetDateTime;

use super::keys::KeyRing;
use super::token_cache::{CacheId, TokenCache};
use crate::clock::micros;
use crate::identity::Identity;

/// What one [`Tokens`](super::token::Tokens) remembers, on each thread by itself.
#[derive(Debug)]
pub(super) struct UpstreamTokenCache(CacheId);

/// A token that was minted, and what for.
struct CacheEntry {
    audience: Box<str>,
    /// All of it, with the expiry of the access token: another access token gets another one.
    identity: Identity,
    bearer: Bytes,
}

impl UpstreamTokenCache {
    pub(super) fn new() -> Self {
        Self(CacheId::new())
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
            let fingerprint = table.fingerprint((identity.session.0, audience));
            let known = table.find(self.0, fingerprint, keys, micros(now))?;
            let same = *known.audience == *audience && known.identity == *identity;
            same.then(|| known.bearer.clone())
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
            let fingerprint = table.fingerprint((identity.session.0, audience));
            let minted =
                CacheEntry { audience: audience.into(), identity: identity.clone(), bearer: bearer.clone() };
            let lives = (micros(now), micros(identity.expires_at));
            table.insert(self.0, fingerprint, keys, lives, minted);
        });
    }
}

thread_local! {
    static TABLE: RefCell<TokenCache<CacheEntry>> = RefCell::new(TokenCache::new(SLOTS));
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
        let (minted, ring, now) = (UpstreamTokenCache::new(), ring(), ManualClock::default().now());
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
        let (minted, ring, now) = (UpstreamTokenCache::new(), ring(), ManualClock::default().now());
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
        assert_eq!(UpstreamTokenCache::new().find(&ann(now), "films", &ring, now), None);
    }

    #[test]
    fn each_thread_remembers_by_itself() {
        let (minted, ring, now) = (UpstreamTokenCache::new(), ring(), ManualClock::default().now());
        minted.remember(&ann(now), "films", &ring, now, &Bytes::from_static(b"Bearer t"));
        let elsewhere = std::thread::scope(|scope| {
            scope.spawn(|| minted.find(&ann(now), "films", &ring, now)).join().expect("the thread ends")
        });
        assert_eq!(elsewhere, None);
    }
}
