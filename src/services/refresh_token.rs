//! Refresh tokens. They are computed and never stored.
//!
//! | bytes | |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | key number |
//! | 16 | session id |
//! | 4 | generation, big endian |
//! | 32 | HMAC-SHA-256 of the preceding bytes |
//!
//! The bytes are encoded in base64url, as 72 characters. A copy of the database contains no token, and
//! the token of a generation is the same whenever it is computed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use uuid::Uuid;

use super::keys::{KeyRing, SigningKey};
use crate::models::session::SessionId;

/// Length of a refresh token, in characters.
pub const LENGTH: usize = 72;

const VERSION: u8 = 1;
const SIGNED_BYTES: usize = 22;
const TOKEN_BYTES: usize = SIGNED_BYTES + 32;

/// The contents of a refresh token with a valid signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    /// The session.
    pub session: SessionId,
    /// The generation, from 1.
    pub generation: u32,
    /// Number of the key that signed it.
    pub key_number: u8,
}

/// Reason why a text is not a valid refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshTokenError {
    /// It has another form, or its signature is not valid.
    #[error("malformed refresh token")]
    Malformed,
    /// This process has no key of this number.
    #[error("unknown key {0} of a refresh token")]
    UnknownKey(u8),
}

/// Returns the refresh token of a generation of a session.
#[must_use]
pub fn mint(key: &SigningKey, session: SessionId, generation: u32) -> String {
    let mut token = [0; TOKEN_BYTES];
    token[0] = VERSION;
    token[1] = key.number();
    token[2..18].copy_from_slice(session.0.as_bytes());
    token[18..SIGNED_BYTES].copy_from_slice(&generation.to_be_bytes());
    let mac = hmac::sign(key.refresh(), &token[..SIGNED_BYTES]);
    token[SIGNED_BYTES..].copy_from_slice(mac.as_ref());
    URL_SAFE_NO_PAD.encode(token)
}

/// Parses a refresh token and verifies its signature in constant time, without any I/O.
///
/// # Errors
///
/// [`RefreshTokenError`] if the text or its key is not valid.
pub fn parse(keys: &KeyRing, text: &str) -> Result<RefreshToken, RefreshTokenError> {
    let mut token = [0; TOKEN_BYTES];
    if text.len() != LENGTH || URL_SAFE_NO_PAD.decode_slice(text, &mut token) != Ok(TOKEN_BYTES) {
        return Err(RefreshTokenError::Malformed);
    }
    let [version, number, ..] = token;
    if version != VERSION || number == 0 {
        return Err(RefreshTokenError::Malformed);
    }
    let key = keys.by_number(number).ok_or(RefreshTokenError::UnknownKey(number))?;
    let (signed, mac) = token.split_at(SIGNED_BYTES);
    hmac::verify(key.refresh(), signed, mac).map_err(|_| RefreshTokenError::Malformed)?;
    decode(signed).ok_or(RefreshTokenError::Malformed)
}

fn decode(signed: &[u8]) -> Option<RefreshToken> {
    let session = SessionId(Uuid::from_slice(signed.get(2..18)?).ok()?);
    let generation = u32::from_be_bytes(signed.get(18..SIGNED_BYTES)?.try_into().ok()?);
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
    fn minted_token_is_parsed() {
        let ring = ring();
        for number in [1, 7] {
            let key = ring.by_number(number).expect("the key");
            let text = mint(key, SESSION, 42);
            assert_eq!(text.len(), LENGTH);
            assert_eq!(text, mint(key, SESSION, 42), "deterministic");
            let expected = RefreshToken { session: SESSION, generation: 42, key_number: number };
            assert_eq!(parse(&ring, &text), Ok(expected));
        }
    }

    #[test]
    fn bytes_are_as_documented() {
        let ring = ring();
        let text = mint(ring.by_number(7).expect("the key"), SESSION, 0x0102_0304);
        let bytes = URL_SAFE_NO_PAD.decode(text).expect("base64url");
        assert_eq!(bytes.len(), 54);
        assert_eq!(bytes[..2], [1, 7]);
        assert_eq!(bytes[2..18], *SESSION.0.as_bytes());
        assert_eq!(bytes[18..22], [1, 2, 3, 4]);
    }

    #[test]
    fn changing_any_bit_invalidates_the_token() {
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
    fn unknown_key_is_reported_by_number() {
        let token = mint(&key(3), SESSION, 1);
        assert_eq!(parse(&ring(), &token), Err(RefreshTokenError::UnknownKey(3)));
    }

    #[test]
    fn another_key_of_the_same_number_is_malformed() {
        assert_eq!(parse(&ring(), &mint(&key(7), SESSION, 1)), Err(RefreshTokenError::Malformed));
    }

    #[test]
    fn generation_zero_is_malformed() {
        let ring = ring();
        let token = mint(ring.by_number(1).expect("the key"), SESSION, 0);
        assert_eq!(parse(&ring, &token), Err(RefreshTokenError::Malformed));
    }

    #[test]
    fn only_the_canonical_encoding_is_accepted() {
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
    fn tokens_of_sessions_and_generations_are_distinct() {
        let key = key(1);
        let tokens: HashSet<_> = (0..100_000)
            .map(|n| mint(&key, SessionId(Uuid::from_u128(n / 10)), (n % 10) as u32 + 1))
            .collect();
        assert_eq!(tokens.len(), 100_000);
    }

    proptest! {
        #![proptest_config(proptest_config())]

        #[test]
        fn arbitrary_text_is_rejected_without_panic(text in "\\PC{0,80}|[A-Za-z0-9_-]{72}") {
            prop_assert!(parse(&ring(), &text).is_err());
        }
    }
}
