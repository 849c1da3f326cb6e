//! Access tokens that were found good on this thread a moment ago.
//!
//! A browser sends the same token with every request for as long as it lives; checking its signature
//! and reading its claims each time would be most of what our check costs. Each thread remembers some
//! by itself. What can change is asked every time: the time, the keys, and, by
//! [`Tokens`](super::token::Tokens), whether the session has ended.

use std::cell::RefCell;
use std::time::Duration;

use super::jwt::AccessToken;
use super::keys::KeyRing;
use super::token_cache::{CacheId, TokenCache};
use crate::clock::micros;
use crate::identity::Identity;
use crate::models::session::TokenId;

/// What one [`Tokens`](super::token::Tokens) remembers, on each thread by itself.
#[derive(Debug)]
pub(super) struct VerifiedTokenCache(CacheId);

/// A token that is good, and from when on something is to be done about it: worked out once, in
/// [`micros`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CachedToken {
    pub(super) identity: Identity,
    pub(super) id: TokenId,
    pub(super) generation: u32,
    due_at: i64,
    lasting_after: i64,
}

impl CachedToken {
    /// A token that was found good. Renewal starts a tenth of the lifetime before expiry; in use longer
    /// than `grace` after its issue, it is in lasting use.
    pub(super) fn new(token: AccessToken, grace: Duration) -> Self {
        let expires_at = token.identity.expires_at;
        Self {
            due_at: micros(expires_at - (expires_at - token.issued_at) / 10),
            lasting_after: micros(token.reference().older_than_from(grace)),
            identity: token.identity,
            id: token.id,
            generation: token.generation,
        }
    }

    /// Whether it is so near its expiry that it should be renewed.
    pub(super) fn is_due(&self, now: i64) -> bool {
        now >= self.due_at
    }

    /// Whether one that is in use now is in lasting use, which settles its generation.
    pub(super) fn is_lasting(&self, now: i64) -> bool {
        now > self.lasting_after
    }
}

/// What is remembered of a token.
struct CacheEntry {
    text: Box<str>,
    good: CachedToken,
}

impl VerifiedTokenCache {
    pub(super) fn new() -> Self {
        Self(CacheId::new())
    }

    /// The token of this text, if it was found good here with these keys, and its time has not run out.
    pub(super) fn find(&self, text: &str, keys: &KeyRing, now: i64) -> Option<CachedToken> {
        TABLE.with_borrow(|table| {
            let fingerprint = table.fingerprint_of_random(signature_end(text)?);
            let known = table.find(self.0, fingerprint, keys, now)?;
            constant_time_eq(&known.text, text).then(|| known.good.clone())
        })
    }

    /// Remembers a token that has just been found good with these keys.
    pub(super) fn remember(&self, text: &str, keys: &KeyRing, now: i64, good: &CachedToken) {
        let Some(end) = signature_end(text) else { return };
        TABLE.with_borrow_mut(|table| {
            let fingerprint = table.fingerprint_of_random(end);
            let verified = CacheEntry { text: text.into(), good: good.clone() };
            let lives = (now, micros(good.identity.expires_at));
            table.insert(self.0, fingerprint, keys, lives, verified);
        });
    }
}

/// Nobody finds a token's place who doesn't know that already.
fn signature_end(text: &str) -> Option<u128> {
    text.as_bytes().last_chunk().copied().map(u128::from_le_bytes)
}

/// Takes as long wherever two texts of one length differ.
fn constant_time_eq(one: &str, other: &str) -> bool {
    let differ = one.bytes().zip(other.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differ) == 0
}

thread_local! {
    static TABLE: RefCell<TokenCache<CacheEntry>> = RefCell::new(TokenCache::new(SLOTS));
}

/// How many a thread remembers at most; each takes less than a kilobyte.
const SLOTS: usize = 8_192;

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::identity::Roles;
    use crate::models::session::SessionId;
    use crate::services::keys::Algorithm;

    const LIFETIME: Duration = Duration::from_secs(900);
    const GRACE: Duration = Duration::from_secs(60);
    const TEXT: &str = "header.payload.a signature of forty-three characters";

    fn good(now: OffsetDateTime) -> CachedToken {
        let identity = Identity {
            subject: "67e55044".into(),
            session: SessionId(uuid::Uuid::from_u128(1)),
            email: "ann@example.org".into(),
            roles: Roles::default(),
            expires_at: now + LIFETIME,
        };
        let id = TokenId(uuid::Uuid::from_u128(2));
        CachedToken::new(AccessToken { identity, id, generation: 1, issued_at: now }, GRACE)
    }

    fn ring() -> KeyRing {
        KeyRing::generate(Algorithm::Hs256, ManualClock::default().now()).expect("random bytes")
    }

    #[test]
    fn what_was_remembered_is_found_until_it_expires() {
        let (verified, ring, now) = (VerifiedTokenCache::new(), ring(), ManualClock::default().now());
        let find = |at| verified.find(TEXT, &ring, micros(at));
        assert_eq!(find(now), None);
        verified.remember(TEXT, &ring, micros(now), &good(now));
        assert_eq!(find(now), Some(good(now)));
        assert!(find(now + LIFETIME - Duration::from_secs(1)).is_some());
        assert!(find(now + LIFETIME).is_none());
        assert!(find(now - Duration::from_secs(1)).is_none(), "the clock was set back");
    }

    #[test]
    fn what_is_to_be_done_about_it_is_known_beforehand() {
        let now = ManualClock::default().now();
        let (good, a_moment) = (good(now), Duration::from_micros(1));
        let due = now + LIFETIME - LIFETIME / 10;
        assert!(good.is_due(micros(due)) && !good.is_due(micros(due - a_moment)));
        // Issued in the course of a second.
        let lasting = now + GRACE + Duration::from_secs(1);
        assert!(good.is_lasting(micros(lasting + a_moment)) && !good.is_lasting(micros(lasting)));
    }

    #[test]
    fn other_texts_keys_and_owners_are_unknown() {
        let (verified, ring, start) = (VerifiedTokenCache::new(), ring(), ManualClock::default().now());
        let now = micros(start);
        verified.remember(TEXT, &ring, now, &good(start));
        for other in ["Header.payload.a signature of forty-three characters", &TEXT[1..], "short", ""] {
            assert!(verified.find(other, &ring, now).is_none(), "{other}");
        }
        assert!(verified.find(TEXT, &self::ring(), now).is_none());
        assert!(VerifiedTokenCache::new().find(TEXT, &ring, now).is_none());
    }

    #[test]
    fn each_thread_remembers_by_itself() {
        let (verified, ring, start) = (VerifiedTokenCache::new(), ring(), ManualClock::default().now());
        let now = micros(start);
        verified.remember(TEXT, &ring, now, &good(start));
        let elsewhere = std::thread::scope(|scope| {
            scope.spawn(|| verified.find(TEXT, &ring, now)).join().expect("the thread ends")
        });
        assert!(elsewhere.is_none());
    }
}
