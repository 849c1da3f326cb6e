//! Refresh tokens: computed, never stored.
//!
//! | bytes | |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | key number |
//! | 16 | session id |
//! | 4 | generation, big endian |
//! | 32 | HMAC-SHA-256 over all before it |
//!
//! As 72 characters of base64url. A copy of the database holds nothing that can be presented, and the
//! token of a generation is the same however often it is computed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use uuid::Uuid;

use super::keys::{KeyRing, SigningKey};
use crate::models::session::SessionId;

/// How long a refresh token is, in characters.
pub const LENGTH: usize = 72;

const VERSION: u8 = 1;
const SIGNED: usize = 22;
const BYTES: usize = SIGNED + 32;

/// What a refresh token says, once its signature has been found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    /// The session.
    pub session: SessionId,
    /// The generation, from 1.
    pub generation: u32,
    /// The key that signed it.
    pub key_number: u8,
}

/// Why a text is no refresh token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshTokenError {
    /// Not one of ours, or changed.
    #[error("not a refresh token of this service")]
    Malformed,
    /// It may be one of ours, but its key isn't known here.
    #[error("the refresh token's key {0} is not known")]
    UnknownKey(u8),
}

/// The refresh token of this generation of a session.
#[must_use]
pub fn mint(key: &SigningKey, session: SessionId, generation: u32) -> String {
    let mut token = [0; BYTES];
    token[0] = VERSION;
    token[1] = key.number();
    token[2..18].copy_from_slice(session.0.as_bytes());
    token[18..SIGNED].copy_from_slice(&generation.to_be_bytes());
    let mac = hmac::sign(key.refresh(), &token[..SIGNED]);
    token[SIGNED..].copy_from_slice(mac.as_ref());
    URL_SAFE_NO_PAD.encode(token)
}

/// Reads a refresh token, without any I/O.
///
/// # Errors
///
/// [`RefreshTokenError`] says whether its form or its key is at fault. The MAC is compared in constant
/// time.
pub fn parse(keys: &KeyRing, text: &str) -> Result<RefreshToken, RefreshTokenError> {
    let mut token = [0; BYTES];
    if text.len() != LENGTH || URL_SAFE_NO_PAD.decode_slice(text, &mut token) != Ok(BYTES) {
        return Err(RefreshTokenError::Malformed);
    }
    let [version, number, ..] = token;
    if version != VERSION || number == 0 {
        return Err(RefreshTokenError::Malformed);
    }
    let key = keys.by_number(number).ok_or(RefreshTokenError::UnknownKey(number))?;
    let (signed, mac) = token.split_at(SIGNED);
    hmac::verify(key.refresh(), signed, mac).map_err(|_| RefreshTokenError::Malformed)?;
    read(signed).ok_or(RefreshTokenError::Malformed)
}

fn read(signed: &[u8]) -> Option<RefreshToken> {
    let session = SessionId(Uuid::from_slice(signed.get(2..18)?).ok()?);
    let generation = u32::from_be_bytes(signed.get(18..SIGNED)?.try_into().ok()?);
    (generation > 0).then_some(RefreshToken { session, generation, key_number: signed[1] })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::services::keys::{Algorithm, KeyMaterial};
    use crate::test_seed::proptest_config;

    const SESSION: SessionId = SessionId(Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));

    fn key(number: u8) -> SigningKey {
        let material = KeyMaterial::generate(number, Algorithm::Hs256, datetime!(2026-01-01 00:00 UTC));
        SigningKey::new(&material.expect("a key")).expect("a good key")
    }

    fn ring() -> KeyRing {
        KeyRing::new(vec![key(1), key(7)], Duration::ZERO).expect("a ring")
    }

    #[test]
    fn what_was_minted_is_read_back() {
        let ring = ring();
        for number in [1, 7] {
            let key = ring.by_number(number).expect("the key");
            let text = mint(key, SESSION, 42);
            assert_eq!(text.len(), LENGTH);
            assert_eq!(text, mint(key, SESSION, 42), "computed, so always the same");
            let expected = RefreshToken { session: SESSION, generation: 42, key_number: number };
            assert_eq!(parse(&ring, &text), Ok(expected));
        }
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let ring = ring();
        let text = mint(ring.by_number(7).expect("the key"), SESSION, 0x0102_0304);
        let bytes = URL_SAFE_NO_PAD.decode(text).expect("base64url");
        assert_eq!(bytes.len(), 54);
        assert_eq!(bytes[..2], [1, 7]);
        assert_eq!(bytes[2..18], *SESSION.0.as_bytes());
        assert_eq!(bytes[18..22], [1, 2, 3, 4]);
    }

    #[test]
    fn t_1_no_bit_can_be_changed() {
        let ring = ring();
        let token = URL_SAFE_NO_PAD.decode(mint(ring.signing(datetime!(2027-01-01 00:00 UTC)), SESSION, 9));
        let token = token.expect("base64url");
        for bit in 0..token.len() * 8 {
            let mut changed = token.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&ring, &URL_SAFE_NO_PAD.encode(changed)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_key_that_is_gone_is_named() {
        let token = mint(&key(3), SESSION, 1);
        assert_eq!(parse(&ring(), &token), Err(RefreshTokenError::UnknownKey(3)));
    }

    #[test]
    fn another_key_of_the_same_number_signs_nothing_here() {
        assert_eq!(parse(&ring(), &mint(&key(7), SESSION, 1)), Err(RefreshTokenError::Malformed));
    }

    #[test]
    fn generation_zero_does_not_exist() {
        let ring = ring();
        let token = mint(ring.by_number(1).expect("the key"), SESSION, 0);
        assert_eq!(parse(&ring, &token), Err(RefreshTokenError::Malformed));
    }

    #[test]
    fn t_19_one_text_a_token() {
        let ring = ring();
        let token = mint(ring.by_number(1).expect("the key"), SESSION, 1);
        for other in [
            format!("{token}="),
            format!(" {token}"),
            format!("{token}A"),
            token[..71].to_owned(),
            token.replace(['-', '_'], "+"),
            String::new(),
        ] {
            assert!(other == token || parse(&ring, &other).is_err(), "{other}");
        }
    }

    #[test]
    fn t_15_no_two_sessions_share_a_token() {
        let key = key(1);
        let tokens: HashSet<_> = (0..100_000)
            .map(|n| mint(&key, SessionId(Uuid::from_u128(n / 10)), (n % 10) as u32 + 1))
            .collect();
        assert_eq!(tokens.len(), 100_000);
    }

    proptest! {
        #![proptest_config(proptest_config())]

        #[test]
        fn any_text_is_answered(text in "\\PC{0,80}|[A-Za-z0-9_-]{72}") {
            prop_assert!(parse(&ring(), &text).is_err());
        }
    }
}
