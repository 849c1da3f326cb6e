//! A cache of access tokens that this thread has verified.
//!
//! A browser sends the same access token with every request until it expires. Checking the signature
//! and parsing the claims are most of the cost of a verification. The cached result still depends on
//! the time, the keys and the session, so these are checked on every request: the first two here, the
//! session by [`Tokens`](crate::services::token::Tokens).

use std::cell::RefCell;
use std::time::Duration;

use super::{CacheId, TokenCache};
use crate::clock::micros;
use crate::identity::Identity;
use crate::models::session::TokenId;
use crate::services::jwt::AccessToken;
use crate::services::keys::KeyRing;
use crate::services::rotation::confirmation_age;

/// The verified tokens of one [`Tokens`](crate::services::token::Tokens), separate on each thread.
#[derive(Debug)]
pub(in crate::services) struct VerifiedTokenCache(CacheId);

/// A verified token, with its thresholds precomputed in [`micros`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::services) struct CachedToken {
    pub(in crate::services) identity: Identity,
    pub(in crate::services) id: TokenId,
    pub(in crate::services) generation: u32,
    refresh_at: i64,
    confirms_after: i64,
}

impl CachedToken {
    /// Creates an entry for a verified token. Its refresh is due a tenth of its lifetime before it
    /// expires.
    pub(in crate::services) fn new(token: AccessToken, grace: Duration) -> Self {
        let expires_at = token.identity.expires_at;
        Self {
            refresh_at: micros(expires_at - (expires_at - token.issued_at) / 10),
            confirms_after: micros(token.reference().older_than_from(confirmation_age(grace))),
            identity: token.identity,
            id: token.id,
            generation: token.generation,
        }
    }

    /// Returns `true` if the token should be refreshed.
    pub(in crate::services) fn is_due(&self, now: i64) -> bool {
        now >= self.refresh_at
    }

    /// Returns `true` if a use at `now` is a [confirmed use](crate::services::rotation#confirmed-use).
    pub(in crate::services) fn confirms_generation(&self, now: i64) -> bool {
        now > self.confirms_after
    }
}

struct CacheEntry {
    text: Box<str>,
    token: CachedToken,
}

impl VerifiedTokenCache {
    pub(in crate::services) fn new() -> Self {
        Self(CacheId::new())
    }

    /// Returns the token of this text if it was verified with these keys and has not expired.
    pub(in crate::services) fn find(&self, text: &str, keys: &KeyRing, now: i64) -> Option<CachedToken> {
        TABLE.with_borrow(|table| {
            let hash = table.hash_random(signature_end(text)?);
            let entry = table.find(self.0, hash, keys, now)?;
            constant_time_eq(&entry.text, text).then(|| entry.token.clone())
        })
    }

    /// Inserts a token that was verified with these keys.
    pub(in crate::services) fn insert(&self, text: &str, keys: &KeyRing, now: i64, token: &CachedToken) {
        let Some(end) = signature_end(text) else { return };
        TABLE.with_borrow_mut(|table| {
            let hash = table.hash_random(end);
            let entry = CacheEntry { text: text.into(), token: token.clone() };
            let lifetime = (now, micros(token.identity.expires_at));
            table.insert(self.0, hash, keys, lifetime, entry);
        });
    }
}

/// The last 16 bytes of the signature. They are as random as a hash, and secret to all but the token's
/// holder.
fn signature_end(text: &str) -> Option<u128> {
    text.as_bytes().last_chunk().copied().map(u128::from_le_bytes)
}

/// Compares two texts in a time that depends on their length only.
fn constant_time_eq(a: &str, b: &str) -> bool {
    let difference = a.bytes().zip(b.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b));
    a.len() == b.len() && std::hint::black_box(difference) == 0
}

thread_local! {
    static TABLE: RefCell<TokenCache<CacheEntry>> = RefCell::new(TokenCache::new(CAPACITY));
}

/// Number of entries per thread. An entry takes less than a kilobyte.
const CAPACITY: usize = 8_192;

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;
    use time::macros::datetime;

    use super::*;
    use crate::models::session::Session;
    use crate::services::keys::Algorithm;
    use crate::services::token_issuer::identity;

    const LIFETIME: Duration = Duration::from_secs(900);
    const GRACE: Duration = Duration::from_secs(60);
    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
    const TEXT: &str = "header.payload.a signature of forty-three characters";

    fn cached() -> CachedToken {
        let identity = identity(&Session::example(NOW), NOW + LIFETIME);
        let id = TokenId(uuid::Uuid::from_u128(2));
        CachedToken::new(AccessToken { identity, id, generation: 1, issued_at: NOW }, GRACE)
    }

    fn key_ring() -> KeyRing {
        KeyRing::generate(Algorithm::Hs256, NOW).expect("random bytes")
    }

    #[test]
    fn inserted_token_is_found_until_it_expires() {
        let cache = VerifiedTokenCache::new();
        let keys = key_ring();
        let find = |at| cache.find(TEXT, &keys, micros(at));
        assert_eq!(find(NOW), None);
        cache.insert(TEXT, &keys, micros(NOW), &cached());
        assert_eq!(find(NOW), Some(cached()));
        assert!(find(NOW + LIFETIME - Duration::from_secs(1)).is_some());
        assert!(find(NOW + LIFETIME).is_none());
        assert!(find(NOW - Duration::from_secs(1)).is_none(), "the clock was set back");
    }

    #[test]
    fn thresholds_are_computed_from_lifetime_and_grace() {
        let token = cached();
        let microsecond = Duration::from_micros(1);
        let due = NOW + LIFETIME - LIFETIME / 10;
        assert!(token.is_due(micros(due)) && !token.is_due(micros(due - microsecond)));
        // The time of issue is rounded down to whole seconds.
        let confirmed = NOW + confirmation_age(GRACE) + Duration::from_secs(1);
        assert!(token.confirms_generation(micros(confirmed + microsecond)));
        assert!(!token.confirms_generation(micros(confirmed)));
    }

    #[test]
    fn other_texts_keys_and_caches_are_not_found() {
        let cache = VerifiedTokenCache::new();
        let keys = key_ring();
        cache.insert(TEXT, &keys, micros(NOW), &cached());
        for other in ["Header.payload.a signature of forty-three characters", &TEXT[1..], "short", ""] {
            assert!(cache.find(other, &keys, micros(NOW)).is_none(), "{other}");
        }
        assert!(cache.find(TEXT, &key_ring(), micros(NOW)).is_none());
        assert!(VerifiedTokenCache::new().find(TEXT, &keys, micros(NOW)).is_none());
    }

    #[test]
    fn threads_do_not_share_entries() {
        let cache = VerifiedTokenCache::new();
        let keys = key_ring();
        cache.insert(TEXT, &keys, micros(NOW), &cached());
        let on_another_thread = std::thread::scope(|scope| {
            scope.spawn(|| cache.find(TEXT, &keys, micros(NOW))).join().expect("the thread ends")
        });
        assert!(on_another_thread.is_none());
    }
}
