//! Access tokens that were found good on this thread a moment ago.
//!
//! A browser sends the same token with every request for as long as it lives; checking its signature
//! and reading its claims each time would be most of what our check costs. Each thread remembers some
//! by itself, so that nothing is shared between cores. What can change is asked every time: the time,
//! the keys, and, by [`Tokens`](super::token::Tokens), whether the session has ended.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use time::OffsetDateTime;

use super::jwt::AccessToken;
use super::keys::KeyRing;

/// What one [`Tokens`](super::token::Tokens) remembers, on each thread by itself.
#[derive(Debug)]
pub(super) struct VerifiedTokens {
    /// Which tokens of the thread's are its own: settings differ.
    owner: u64,
}

/// A token that was found good.
struct Remembered {
    owner: u64,
    ring: u64,
    checked_at: OffsetDateTime,
    fingerprint: u64,
    text: Box<str>,
    token: AccessToken,
}

/// A thread's tokens. One that would lie where another does takes its place, so it never grows.
struct Table {
    hasher: RandomState,
    slots: Vec<Option<Box<Remembered>>>,
}

impl VerifiedTokens {
    pub(super) fn new() -> Self {
        static OWNERS: AtomicU64 = AtomicU64::new(0);
        Self { owner: OWNERS.fetch_add(1, Ordering::Relaxed) }
    }

    /// The token of this text, if it was found good here with these keys, and its time has not run
    /// out. That it was checked before `now` matters: clocks are set back, and then it may not have
    /// been issued yet.
    pub(super) fn find(&self, text: &str, keys: &KeyRing, now: OffsetDateTime) -> Option<AccessToken> {
        TABLE.with_borrow(|table| {
            let fingerprint = table.fingerprint(text)?;
            let known = table.slots.get(slot(fingerprint))?.as_ref()?;
            let same = known.fingerprint == fingerprint
                && (known.owner, known.ring) == (self.owner, keys.id())
                && same_text(&known.text, text);
            let in_time = known.checked_at <= now && now < known.token.identity.expires_at;
            (same && in_time).then(|| known.token.clone())
        })
    }

    /// Remembers a token that has just been found good with these keys.
    pub(super) fn remember(&self, text: &str, keys: &KeyRing, now: OffsetDateTime, token: &AccessToken) {
        TABLE.with_borrow_mut(|table| {
            let Some(fingerprint) = table.fingerprint(text) else { return };
            table.slots.resize_with(SLOTS, || None);
            table.slots[slot(fingerprint)] = Some(Box::new(Remembered {
                owner: self.owner,
                ring: keys.id(),
                checked_at: now,
                fingerprint,
                text: text.into(),
                token: token.clone(),
            }));
        });
    }
}

impl Table {
    fn new() -> Self {
        Self { hasher: RandomState::new(), slots: Vec::new() }
    }

    /// Of the signature's end: nobody finds a token's place who doesn't know that already.
    fn fingerprint(&self, text: &str) -> Option<u64> {
        let end = text.len().checked_sub(SIGNATURE_END)?;
        Some(self.hasher.hash_one(&text.as_bytes()[end..]))
    }
}

fn slot(fingerprint: u64) -> usize {
    (fingerprint % SLOTS as u64) as usize
}

/// Takes as long wherever two texts of one length differ.
fn same_text(one: &str, other: &str) -> bool {
    let differ = one.bytes().zip(other.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differ) == 0
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::new(Table::new());
}

/// How many a thread remembers at most; each takes less than a kilobyte.
const SLOTS: usize = 8_192;

/// Characters: 144 bits or more of the shortest signature.
const SIGNATURE_END: usize = 24;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::identity::{Identity, Roles};
    use crate::models::session::{SessionId, TokenId};
    use crate::services::keys::Algorithm;

    const LIFETIME: Duration = Duration::from_secs(900);
    const TEXT: &str = "header.payload.a signature of forty-three characters";

    fn token(now: OffsetDateTime) -> AccessToken {
        let identity = Identity {
            subject: "67e55044".into(),
            session: SessionId(uuid::Uuid::from_u128(1)),
            email: "ann@example.org".into(),
            roles: Roles::default(),
            expires_at: now + LIFETIME,
        };
        AccessToken { identity, id: TokenId(uuid::Uuid::from_u128(2)), generation: 1, issued_at: now }
    }

    fn ring() -> KeyRing {
        KeyRing::generate(Algorithm::Hs256, ManualClock::default().now()).expect("random bytes")
    }

    #[test]
    fn what_was_remembered_is_found_until_it_expires() {
        let (verified, ring, now) = (VerifiedTokens::new(), ring(), ManualClock::default().now());
        assert!(verified.find(TEXT, &ring, now).is_none());
        verified.remember(TEXT, &ring, now, &token(now));
        assert_eq!(verified.find(TEXT, &ring, now), Some(token(now)));
        let last = now + LIFETIME - Duration::from_secs(1);
        assert!(verified.find(TEXT, &ring, last).is_some());
        assert!(verified.find(TEXT, &ring, now + LIFETIME).is_none());
        assert!(verified.find(TEXT, &ring, now - Duration::from_secs(1)).is_none(), "the clock was set back");
    }

    #[test]
    fn other_texts_keys_and_owners_are_unknown() {
        let (verified, ring, now) = (VerifiedTokens::new(), ring(), ManualClock::default().now());
        verified.remember(TEXT, &ring, now, &token(now));
        for other in ["Header.payload.a signature of forty-three characters", &TEXT[1..], "short", ""] {
            assert!(verified.find(other, &ring, now).is_none(), "{other}");
        }
        assert!(verified.find(TEXT, &self::ring(), now).is_none());
        assert!(VerifiedTokens::new().find(TEXT, &ring, now).is_none());
    }

    #[test]
    fn each_thread_remembers_by_itself() {
        let (verified, ring, now) = (VerifiedTokens::new(), ring(), ManualClock::default().now());
        verified.remember(TEXT, &ring, now, &token(now));
        let elsewhere = std::thread::scope(|scope| {
            scope.spawn(|| verified.find(TEXT, &ring, now)).join().expect("the thread ends")
        });
        assert!(elsewhere.is_none());
    }
}
