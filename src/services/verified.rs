//! Access tokens that were found good on this thread a moment ago.
//!
//! A browser sends the same token with every request for as long as it lives; checking its signature
//! and reading its claims each time would be most of what our check costs. Each thread remembers some
//! by itself. What can change is asked every time: the time, the keys, and, by
//! [`Tokens`](super::token::Tokens), whether the session has ended.

use std::cell::RefCell;

use time::OffsetDateTime;

use super::jwt::AccessToken;
use super::keys::KeyRing;
use super::remembered::{Owner, Table};

/// What one [`Tokens`](super::token::Tokens) remembers, on each thread by itself.
#[derive(Debug)]
pub(super) struct VerifiedTokens(Owner);

/// A token that was found good.
struct Verified {
    text: Box<str>,
    token: AccessToken,
}

impl VerifiedTokens {
    pub(super) fn new() -> Self {
        Self(Owner::new())
    }

    /// The token of this text, if it was found good here with these keys, and its time has not run out.
    pub(super) fn find(&self, text: &str, keys: &KeyRing, now: OffsetDateTime) -> Option<AccessToken> {
        TABLE.with_borrow(|table| {
            let fingerprint = table.fingerprint(signature_end(text)?);
            let known = table.find(self.0, fingerprint, keys, now)?;
            same_text(&known.text, text).then(|| known.token.clone())
        })
    }

    /// Remembers a token that has just been found good with these keys.
    pub(super) fn remember(&self, text: &str, keys: &KeyRing, now: OffsetDateTime, token: &AccessToken) {
        let Some(end) = signature_end(text) else { return };
        TABLE.with_borrow_mut(|table| {
            let fingerprint = table.fingerprint(end);
            let verified = Verified { text: text.into(), token: token.clone() };
            table.remember(self.0, fingerprint, keys, (now, token.identity.expires_at), verified);
        });
    }
}

/// Nobody finds a token's place who doesn't know that already.
fn signature_end(text: &str) -> Option<&[u8]> {
    Some(&text.as_bytes()[text.len().checked_sub(SIGNATURE_END)?..])
}

/// Takes as long wherever two texts of one length differ.
fn same_text(one: &str, other: &str) -> bool {
    let differ = one.bytes().zip(other.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differ) == 0
}

thread_local! {
    static TABLE: RefCell<Table<Verified>> = RefCell::new(Table::new(SLOTS));
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
