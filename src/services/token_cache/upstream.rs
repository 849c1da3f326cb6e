//! A cache of tokens that this thread has issued for upstreams.
//!
//! While a browser sends one access token, its requests go to an upstream with one token of the
//! upstream's audience. The cache saves a signature per request. An entry is found only with the same
//! audience and identity.

use std::cell::RefCell;

use bytes::Bytes;
use time::OffsetDateTime;

use super::{CacheId, TokenCache};
use crate::clock::micros;
use crate::identity::Identity;
use crate::services::keys::KeyRing;

/// The upstream tokens of one [`Tokens`](crate::services::token::Tokens), separate on each thread.
#[derive(Debug)]
pub(in crate::services) struct UpstreamTokenCache(CacheId);

struct CacheEntry {
    audience: Box<str>,
    /// Includes the expiry of the access token, so another access token has another entry.
    identity: Identity,
    bearer: Bytes,
}

impl UpstreamTokenCache {
    pub(in crate::services) fn new() -> Self {
        Self(CacheId::new())
    }

    /// Returns the value issued for this identity and audience with these keys, until the access token
    /// expires.
    pub(in crate::services) fn find(
        &self,
        identity: &Identity,
        audience: &str,
        keys: &KeyRing,
        now: OffsetDateTime,
    ) -> Option<Bytes> {
        TABLE.with_borrow(|table| {
            let hash = table.hash((identity.session.0, audience));
            let entry = table.find(self.0, hash, keys, micros(now))?;
            let is_same = *entry.audience == *audience && entry.identity == *identity;
            is_same.then(|| entry.bearer.clone())
        })
    }

    /// Inserts a value that was issued with these keys.
    pub(in crate::services) fn insert(
        &self,
        identity: &Identity,
        audience: &str,
        keys: &KeyRing,
        now: OffsetDateTime,
        bearer: &Bytes,
    ) {
        TABLE.with_borrow_mut(|table| {
            let hash = table.hash((identity.session.0, audience));
            let entry =
                CacheEntry { audience: audience.into(), identity: identity.clone(), bearer: bearer.clone() };
            let lifetime = (micros(now), micros(identity.expires_at));
            table.insert(self.0, hash, keys, lifetime, entry);
        });
    }
}

thread_local! {
    static TABLE: RefCell<TokenCache<CacheEntry>> = RefCell::new(TokenCache::new(CAPACITY));
}

/// Number of entries per thread. An entry takes about a kilobyte.
const CAPACITY: usize = 4_096;

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

    fn key_ring() -> KeyRing {
        KeyRing::generate(Algorithm::Es256, ManualClock::default().now()).expect("random bytes")
    }

    #[test]
    fn inserted_token_is_found_until_the_access_token_expires() {
        let cache = UpstreamTokenCache::new();
        let keys = key_ring();
        let now = ManualClock::default().now();
        let token = Bytes::from_static(b"Bearer t");
        assert_eq!(cache.find(&ann(now), "films", &keys, now), None);
        cache.insert(&ann(now), "films", &keys, now, &token);
        assert_eq!(cache.find(&ann(now), "films", &keys, now), Some(token));
        assert!(cache.find(&ann(now), "films", &keys, now + 14 * MINUTE).is_some());
        assert!(cache.find(&ann(now), "films", &keys, now + 15 * MINUTE).is_none());
        assert!(cache.find(&ann(now), "films", &keys, now - MINUTE).is_none(), "the clock was set back");
    }

    #[test]
    fn other_identities_audiences_and_keys_are_not_found() {
        let cache = UpstreamTokenCache::new();
        let keys = key_ring();
        let now = ManualClock::default().now();
        let token = Bytes::from_static(b"Bearer t");
        cache.insert(&ann(now), "films", &keys, now, &token);
        for other in [
            Identity { subject: "ben".into(), ..ann(now) },
            Identity { email: "ann@example.com".into(), ..ann(now) },
            Identity { roles: Roles::new(["admin"]).expect("a role"), ..ann(now) },
            Identity { session: SessionId(uuid::Uuid::from_u128(2)), ..ann(now) },
            ann(now + MINUTE),
        ] {
            assert_eq!(cache.find(&other, "films", &keys, now), None, "{other:?}");
        }
        assert_eq!(cache.find(&ann(now), "books", &keys, now), None);
        assert_eq!(cache.find(&ann(now), "films", &key_ring(), now), None);
        assert_eq!(UpstreamTokenCache::new().find(&ann(now), "films", &keys, now), None);
    }

    #[test]
    fn threads_do_not_share_entries() {
        let cache = UpstreamTokenCache::new();
        let keys = key_ring();
        let now = ManualClock::default().now();
        cache.insert(&ann(now), "films", &keys, now, &Bytes::from_static(b"Bearer t"));
        let on_another_thread = std::thread::scope(|scope| {
            scope.spawn(|| cache.find(&ann(now), "films", &keys, now)).join().expect("the thread ends")
        });
        assert_eq!(on_another_thread, None);
    }
}
