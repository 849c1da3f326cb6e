//! Parsing, verification and computation of bcrypt hashes. Pure, except for the random salt.

use std::hint::black_box;

use base64::Engine;
use base64::alphabet::BCRYPT;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, STANDARD};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::error::{MAX_COST, MIN_COST, PasswordError};
use crate::models::user::PasswordOrigin;

/// Format of a stored hash that can be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HashFormat {
    /// `$2b$`, or the equivalent `$2a$` and `$2y$`: bcrypt over the password's first 72 bytes. This program
    /// writes `$2b$` for shorter passwords only.
    Bcrypt,
    /// passlib's `$bcrypt-sha256$v=2,t=2b,r=…$`: bcrypt over an HMAC of the password.
    BcryptSha256,
}

impl HashFormat {
    /// Returns the format of a stored hash.
    ///
    /// ```
    /// use sekisho::services::password::HashFormat;
    ///
    /// let error = HashFormat::parse("$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA").unwrap_err();
    /// assert!(error.to_string().starts_with("an Argon2 hash"));
    /// ```
    ///
    /// # Errors
    ///
    /// [`HashFormatError`], which names the format found and never contains the hash.
    pub fn parse(text: &str) -> Result<Self, HashFormatError> {
        StoredHash::parse(text).map(|stored| stored.format)
    }
}

/// Returns the cost of a stored hash, or `None` if it cannot be verified.
pub(crate) fn bcrypt_cost(text: &str) -> Option<u32> {
    StoredHash::parse(text).ok().map(|stored| stored.cost)
}

/// Reason why a stored hash cannot be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashFormatError {
    /// The bcrypt cost is invalid, or so high that each sign-in would take minutes.
    #[error("a bcrypt hash of cost {0}: expected {MIN_COST} to {MAX_COST}")]
    Cost(u32),
    /// The hash has the prefix of this format but is malformed.
    #[error("a damaged {0} hash: expected the whole hash and nothing else")]
    Damaged(&'static str),
    /// The hash has another format.
    #[error(
        "{0}, which is not supported (expected $2b$, $2a$, $2y$ or $bcrypt-sha256$v=2): create this user \
         with a new password instead"
    )]
    Unsupported(&'static str),
}

/// A parsed hash.
pub(super) struct StoredHash {
    format: HashFormat,
    cost: u32,
    has_old_prefix: bool,
    /// True for a hash that may stand for the first 72 bytes of a longer password.
    may_be_truncated: bool,
    /// The salt, cost and checksum in the `$2b$` format of 60 characters.
    bcrypt: Zeroizing<String>,
}

impl StoredHash {
    /// Parses a stored hash.
    pub(super) fn parse(text: &str) -> Result<Self, HashFormatError> {
        if let Some(rest) = text.strip_prefix("$bcrypt-sha256$v=2,t=2b,r=") {
            let parts = split(rest, "$").filter(|(cost, ..)| !cost.starts_with('0'));
            return Self::new(HashFormat::BcryptSha256, parts, "bcrypt-sha256");
        }
        for prefix in ["$2b$", "$2a$", "$2y$"] {
            let Some(rest) = text.strip_prefix(prefix) else { continue };
            let parts = split(rest, "").filter(|(cost, ..)| cost.len() == 2);
            let stored = Self::new(HashFormat::Bcrypt, parts, "bcrypt")?;
            // This program never wrote another prefix.
            let is_imported = prefix != "$2b$";
            return Ok(Self { has_old_prefix: is_imported, may_be_truncated: is_imported, ..stored });
        }
        Err(HashFormatError::Unsupported(describe_unsupported(text)))
    }

    fn new(
        format: HashFormat,
        parts: Option<(&str, &str, &str)>,
        name: &'static str,
    ) -> Result<Self, HashFormatError> {
        let damaged = HashFormatError::Damaged(name);
        let (cost, salt, checksum) = parts.ok_or(damaged)?;
        let cost = parse_cost(cost).ok_or(damaged)?;
        let salt = canonical::<16>(salt).ok_or(damaged)?;
        let checksum = canonical::<23>(checksum).ok_or(damaged)?;
        if !(MIN_COST..=MAX_COST).contains(&cost) {
            return Err(HashFormatError::Cost(cost));
        }
        let bcrypt = Zeroizing::new(format!("$2b${cost:02}${salt}{checksum}"));
        Ok(Self { format, cost, has_old_prefix: false, may_be_truncated: false, bcrypt })
    }

    /// Sets the origin, which is [`Own`](PasswordOrigin::Own) by default for `$2b$`.
    pub(super) fn with_origin(mut self, origin: PasswordOrigin) -> Self {
        let is_imported = origin == PasswordOrigin::Imported || self.has_old_prefix;
        self.may_be_truncated = is_imported && self.format == HashFormat::Bcrypt;
        self
    }

    fn matches(&self, password: &[u8], rounds: &mut RoundCounter) -> bool {
        match self.format {
            // A password with NUL never matches, as in passlib: bcrypt hashes `a\0a` like `a`. The conditions
            // come last, so that every check does the same work.
            HashFormat::Bcrypt => {
                rounds.verify(password, self.cost, &self.bcrypt)
                    && !password.contains(&0)
                    && (self.may_be_truncated || password.len() <= MAX_BCRYPT_BYTES)
            }
            HashFormat::BcryptSha256 => {
                let key = digest(password, &self.bcrypt[SALT]);
                rounds.verify(key.as_bytes(), self.cost, &self.bcrypt)
            }
        }
    }

    /// Returns `true` if a matching password should be hashed anew.
    ///
    /// A truncated hash matches every password with the same 72 bytes at the beginning. Which of them is the
    /// user's is unknown, so it keeps its hash.
    fn is_outdated(&self, password: &[u8], cost: u32) -> bool {
        let fills_bcrypt = self.format == HashFormat::Bcrypt && password.len() >= MAX_BCRYPT_BYTES;
        if fills_bcrypt && self.may_be_truncated {
            return false;
        }
        self.cost != cost || self.has_old_prefix || fills_bcrypt
    }
}

/// Result of a password check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordCheck {
    /// `true` if the password matches.
    pub ok: bool,
    /// `true` if the password matches but should be hashed anew: the stored hash has another cost than
    /// configured, an older prefix, or is plain bcrypt of 72 bytes. Never `true` for a hash that may cover only
    /// the beginning of the user's password.
    pub needs_rehash: bool,
}

/// Verifies a password with the work of `cost`, even without a hash or with a hash of a lower cost.
pub(super) fn verify(
    password: &[u8],
    stored: Option<&StoredHash>,
    cost: u32,
    rounds: &mut RoundCounter,
) -> PasswordCheck {
    let Some(stored) = stored else {
        rounds.waste(cost);
        return PasswordCheck { ok: false, needs_rehash: false };
    };
    let ok = stored.matches(password, rounds);
    // 2^c + (2^c + 2^(c+1) + … + 2^(C-1)) = 2^C rounds.
    for missing in stored.cost..cost {
        rounds.waste(missing);
    }
    PasswordCheck { ok, needs_rehash: ok && stored.is_outdated(password, cost) }
}

/// Hashes a password with a random salt.
pub(super) fn hash(
    password: &[u8],
    cost: u32,
    rounds: &mut RoundCounter,
) -> Result<SecretString, PasswordError> {
    let mut salt = [0; 16];
    SystemRandom::new().fill(&mut salt).map_err(|_| PasswordError::NoRandomness)?;
    hash_with_salt(password, cost, salt, rounds)
}

/// Hashes a password with a given salt.
pub(super) fn hash_with_salt(
    password: &[u8],
    cost: u32,
    salt: [u8; 16],
    rounds: &mut RoundCounter,
) -> Result<SecretString, PasswordError> {
    if password.len() < MAX_BCRYPT_BYTES && !password.contains(&0) {
        return Ok(rounds.hash(password, cost, salt)?.into());
    }
    let key = digest(password, &BASE64.encode(salt));
    let bcrypt = rounds.hash(key.as_bytes(), cost, salt)?;
    let salt = &bcrypt[SALT];
    let checksum = &bcrypt[CHECKSUM];
    Ok(format!("$bcrypt-sha256$v=2,t=2b,r={cost}${salt}${checksum}").into())
}

/// Returns the bcrypt input of passlib's `bcrypt-sha256`, version 2: an HMAC keyed with the encoded salt.
fn digest(password: &[u8], salt: &str) -> Zeroizing<String> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, salt.as_bytes());
    Zeroizing::new(STANDARD.encode(hmac::sign(&key, password)))
}

/// Runs bcrypt and counts its rounds, so that tests can compare work instead of time.
#[derive(Debug, Default)]
pub(super) struct RoundCounter {
    pub(super) rounds: u64,
}

impl RoundCounter {
    /// Verifies in constant time.
    fn verify(&mut self, key: &[u8], cost: u32, bcrypt: &str) -> bool {
        self.rounds += 1 << cost;
        bcrypt::verify(key, bcrypt).unwrap_or(false)
    }

    fn hash(&mut self, key: &[u8], cost: u32, salt: [u8; 16]) -> Result<String, PasswordError> {
        self.rounds += 1 << cost;
        let parts = bcrypt::hash_with_salt(key, cost, salt).map_err(|_| PasswordError::Cost(cost))?;
        Ok(parts.to_string())
    }

    /// Does the work of a hash and discards the result.
    fn waste(&mut self, cost: u32) {
        self.rounds += 1 << cost;
        black_box(bcrypt::bcrypt(black_box(cost), [0; 16], b"\0"));
    }
}

/// Splits `COST$SALT`, the separator and `CHECKSUM` into cost, salt and checksum.
fn split<'a>(rest: &'a str, separator: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (cost, rest) = rest.split_once('$')?;
    let (salt, rest) = rest.split_at_checked(SALT.end - SALT.start)?;
    Some((cost, salt, rest.strip_prefix(separator)?))
}

fn parse_cost(text: &str) -> Option<u32> {
    let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// Re-encodes `N` bytes in canonical bcrypt base64. Some old libraries set the unused bits of the last
/// character; passlib clears them too.
fn canonical<const N: usize>(text: &str) -> Option<String> {
    let bytes: [u8; N] = BASE64.decode(text).ok()?.try_into().ok()?;
    Some(BASE64.encode(bytes))
}

/// Describes a hash of an unsupported format.
fn describe_unsupported(text: &str) -> &'static str {
    if let Some((_, name)) = UNSUPPORTED_PREFIXES.iter().find(|(prefix, _)| text.starts_with(prefix)) {
        return name;
    }
    let is_hex = text.bytes().all(|b| b.is_ascii_hexdigit());
    match text.len() {
        0 => "no hash at all",
        32 if is_hex => "what looks like an MD5 digest",
        40 if is_hex => "what looks like a SHA-1 digest",
        64 if is_hex => "what looks like a SHA-256 digest",
        128 if is_hex => "what looks like a SHA-512 digest",
        _ => "not a password hash of a known format",
    }
}

const UNSUPPORTED_PREFIXES: [(&str, &str); 27] = [
    ("$1$", "an md5-crypt hash"),
    ("$2$", "a bcrypt hash of the first version ($2$)"),
    ("$2x$", "a bcrypt hash of the faulty version $2x$"),
    ("$5$", "a sha256-crypt hash"),
    ("$6$", "a sha512-crypt hash"),
    ("$7$", "a scrypt hash"),
    ("$H$", "a phpass hash"),
    ("$P$", "a phpass hash"),
    ("$apr1$", "an Apache md5 hash"),
    ("$argon2", "an Argon2 hash"),
    ("$bcrypt-sha256$2", "a bcrypt-sha256 hash of version 1"),
    ("$bcrypt-sha256$", "a bcrypt-sha256 hash of another version than 2"),
    ("$gy$", "a gost-yescrypt hash"),
    ("$pbkdf2", "a PBKDF2 hash"),
    ("$scrypt$", "a scrypt hash"),
    ("$y$", "a yescrypt hash"),
    ("argon2$", "an Argon2 hash of Django's"),
    ("bcrypt$", "a bcrypt hash of Django's"),
    ("bcrypt_sha256$", "a bcrypt hash of Django's"),
    ("md5$", "an MD5 hash of Django's"),
    ("pbkdf2:", "a PBKDF2 hash of Werkzeug's"),
    ("pbkdf2_", "a PBKDF2 hash of Django's"),
    ("scrypt$", "a scrypt hash of Django's"),
    ("scrypt:", "a scrypt hash of Werkzeug's"),
    ("sha1$", "a SHA-1 hash of Django's"),
    ("{SHA", "an LDAP SHA hash"),
    ("{SSHA", "an LDAP SHA hash"),
];

/// Number of password bytes that bcrypt uses.
const MAX_BCRYPT_BYTES: usize = 72;

/// Position of the salt in a `$2b$` hash.
const SALT: std::ops::Range<usize> = 7..29;

/// Position of the checksum in a `$2b$` hash.
const CHECKSUM: std::ops::RangeFrom<usize> = 29..;

/// The base64 variant of bcrypt. Decoding ignores the unused bits of the last character.
pub(super) const BASE64: GeneralPurpose =
    GeneralPurpose::new(&BCRYPT, NO_PAD.with_decode_allow_trailing_bits(true));
