//! Tokens that prove a recent sign-in to the page after it.
//!
//! A sign-in sets cookies and redirects. If the next request has no cookies but such a token, the browser did not keep
//! them, and another redirect to the sign-in page would be a loop. A token gives no access.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use time::OffsetDateTime;

use super::keys::{KeyRing, SigningKey};

/// Issues a token: the number of the key, the time in seconds, and a MAC over both.
#[must_use]
pub fn issue(keys: &KeyRing, now: OffsetDateTime) -> String {
    let key = keys.signing(now);
    let mut bytes = vec![key.number()];
    bytes.extend(now.unix_timestamp().to_be_bytes());
    let tag = hmac::sign(key.pages(), &bytes);
    bytes.extend(tag.as_ref());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns `true` if the token is valid and at most [`LIFETIME`] old.
#[must_use]
pub fn is_valid(keys: &KeyRing, token: &str, now: OffsetDateTime) -> bool {
    let issued_at = verify(keys, token);
    // Replicas may differ slightly.
    issued_at.is_some_and(|issued_at| (now - issued_at).abs() <= LIFETIME)
}

/// Returns the time at which a token with a valid MAC was issued.
fn verify(keys: &KeyRing, token: &str) -> Option<OffsetDateTime> {
    if token.len() > MAX_LENGTH {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (message, tag) = bytes.split_at_checked(1 + size_of::<i64>())?;
    let key: &SigningKey = keys.by_number(message[0])?;
    hmac::verify(key.pages(), message, tag).ok()?;
    let seconds = i64::from_be_bytes(message[1..].try_into().ok()?);
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}

/// Lifetime of a token.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// Longer than any token, in bytes.
const MAX_LENGTH: usize = 64;

#[cfg(test)]
mod tests {
    use super::super::keys::Algorithm;
    use super::*;

    #[test]
    fn token_is_valid_for_a_minute_and_under_its_key() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let keys = KeyRing::generate(Algorithm::Es256, now).expect("random bytes");
        let others = KeyRing::generate(Algorithm::Es256, now).expect("random bytes");
        let token = issue(&keys, now);
        assert!(is_valid(&keys, &token, now) && is_valid(&keys, &token, now + LIFETIME));
        assert!(!is_valid(&keys, &token, now + LIFETIME + Duration::from_secs(1)));
        assert!(!is_valid(&others, &token, now));
        for altered in
            [token[..token.len() - 1].to_owned(), format!("{token}A"), String::new(), "é".to_owned()]
        {
            assert!(!is_valid(&keys, &altered, now), "{altered}");
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(&token).expect("base64url");
        for index in 0..bytes.len() {
            bytes[index] ^= 1;
            assert!(!is_valid(&keys, &URL_SAFE_NO_PAD.encode(&bytes), now), "byte {index}");
            bytes[index] ^= 1;
        }
    }
}
