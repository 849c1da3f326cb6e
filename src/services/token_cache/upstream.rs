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

    use time::macros::datetime;

    use super::*;
    use crate::identity::Roles;
    use crate::models::session::{Session, SessionId};
    use crate::services::keys::Algorithm;
    use crate::services::token_issuer::identity;

    const MINUTE: Duration = Duration::from_secs(60);
    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
    const TOKEN: Bytes = Bytes::from_static(b"Bearer t");

    fn taro() -> Identity {
        identity(&Session::example(NOW), NOW + 15 * MINUTE)
    }

    fn key_ring() -> KeyRing {
        KeyRing::generate(Algorithm::Es256, NOW).expect("random bytes")
    }

    #[test]
    fn inserted_token_is_found_until_the_access_token_expires() {
        let cache = UpstreamTokenCache::new();
        let keys = key_ring();
        assert_eq!(cache.find(&taro(), "films", &keys, NOW), None);
        cache.insert(&taro(), "films", &keys, NOW, &TOKEN);
        assert_eq!(cache.find(&taro(), "films", &keys, NOW), Some(TOKEN));
        assert!(cache.find(&taro(), "films", &keys, NOW + 14 * MINUTE).is_some());
        assert!(cache.find(&taro(), "films", &keys, NOW + 15 * MINUTE).is_none());
        assert!(cache.find(&taro(), "films", &keys, NOW - MINUTE).is_none(), "the clock was set back");
    }

    #[test]
    fn other_identities_audiences_and_keys_are_not_found() {
        let cache = UpstreamTokenCache::new();
        let keys = key_ring();
        cache.insert(&taro(), "films", &keys, NOW, &TOKEN);
        for other in [
            Identity { subject: 2.into(), ..taro() },
            Identity { email: "taro@example.com".into(), ..taro() },
            Identity { roles: Roles::new(["admin"]).expect("a role"), ..taro() },
            Identity { session: SessionId(uuid::Uuid::from_u128(2)), ..taro() },
            Identity { expires_at: NOW + 16 * MINUTE, ..taro() },
        ] {
            assert_eq!(cache.find(&other, "films", &keys, NOW), None, "{other:?}");
        }
        assert_eq!(cache.find(&taro(), "books", &keys, NOW), None);
        assert_eq!(cache.find(&taro(), "films", &key_ring(), NOW), None);
        assert_eq!(UpstreamTokenCache::new().find(&taro(), "films", &keys, NOW), None);
    }

    #[test]
    fn threads_do_not_share_entries() {
        let cache = UpstreamTokenCache::new();
        let keys = key_ring();
        cache.insert(&taro(), "films", &keys, NOW, &TOKEN);
        let on_another_thread = std::thread::scope(|scope| {
            scope.spawn(|| cache.find(&taro(), "films", &keys, NOW)).join().expect("the thread ends")
        });
        assert_eq!(on_another_thread, None);
    }
}
