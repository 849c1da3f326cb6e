//! bcrypt hashes: taken apart, compared, made. Pure, but for a new salt.

use std::hint::black_box;

use base64::Engine;
use base64::alphabet::BCRYPT;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, STANDARD};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::error::{MAX_COST, MIN_COST, PasswordError};

/// How a stored hash was made, of the formats that can be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HashFormat {
    /// `$2b$`, or its twins `$2a$` and `$2y$`: bcrypt over the password's first 72 bytes.
    Bcrypt,
    /// passlib's `$bcrypt-sha256$v=2,t=2b,r=…$`: bcrypt over an HMAC of the password.
    BcryptSha256,
}

impl HashFormat {
    /// Recognises a stored hash.
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
    /// [`HashFormatError`] names the format found, and never quotes the hash.
    pub fn parse(text: &str) -> Result<Self, HashFormatError> {
        StoredHash::parse(text).map(|stored| stored.format)
    }
}

/// Why a stored hash can't be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashFormatError {
    /// Of a cost that bcrypt doesn't know, or that would take minutes at every sign-in.
    #[error("a bcrypt hash of cost {0}: only costs from {MIN_COST} to {MAX_COST} are accepted")]
    Cost(u32),
    /// Begins like a hash of this format, and goes on like none.
    #[error("a damaged {0} hash: give all of it, and nothing else")]
    Damaged(&'static str),
    /// Made by other means.
    #[error(
        "{0}, which can't be verified here (only $2b$, $2a$, $2y$ and $bcrypt-sha256$v=2 can): \
         create this user with a new password instead"
    )]
    Unsupported(&'static str),
}

/// A stored hash, taken apart.
pub(super) struct StoredHash {
    format: HashFormat,
    cost: u32,
    old_prefix: bool,
    /// The same salt, cost and checksum as plain `$2b$`, all 60 characters of it.
    bcrypt: Zeroizing<String>,
}

impl StoredHash {
    /// Takes a stored hash apart.
    pub(super) fn parse(text: &str) -> Result<Self, HashFormatError> {
        if let Some(rest) = text.strip_prefix("$bcrypt-sha256$v=2,t=2b,r=") {
            let parts = split(rest, "$").filter(|(cost, ..)| !cost.starts_with('0'));
            return Self::new(HashFormat::BcryptSha256, parts, "bcrypt-sha256");
        }
        for prefix in ["$2b$", "$2a$", "$2y$"] {
            let Some(rest) = text.strip_prefix(prefix) else { continue };
            let parts = split(rest, "").filter(|(cost, ..)| cost.len() == 2);
            let stored = Self::new(HashFormat::Bcrypt, parts, "bcrypt")?;
            return Ok(Self { old_prefix: prefix != "$2b$", ..stored });
        }
        Err(HashFormatError::Unsupported(name_of(text)))
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
        Ok(Self { format, cost, old_prefix: false, bcrypt })
    }

    fn matches(&self, password: &[u8], work: &mut RoundCounter) -> bool {
        match self.format {
            // A password with a NUL never matches, as in passlib: to bcrypt `a\0a` is the same as `a`.
            HashFormat::Bcrypt => work.verify(password, self.cost, &self.bcrypt) && !password.contains(&0),
            HashFormat::BcryptSha256 => {
                let key = digest(password, &self.bcrypt[SALT]);
                work.verify(key.as_bytes(), self.cost, &self.bcrypt)
            }
        }
    }

    fn is_outdated(&self, password: &[u8], cost: u32) -> bool {
        let cut = self.format == HashFormat::Bcrypt && password.len() > BCRYPT_READS;
        self.cost != cost || self.old_prefix || cut
    }
}

/// Result of a password check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordCheck {
    /// `true` if the password matches.
    pub ok: bool,
    /// `true` if the password matches but should be hashed anew: the stored hash has another cost than
    /// configured, an older prefix, or covers only the password's first 72 bytes.
    pub needs_rehash: bool,
}

/// Checks a password, with the work of `cost` whether or not there is a hash and whatever its cost,
/// if that isn't higher.
pub(super) fn verify(
    password: &[u8],
    stored: Option<&StoredHash>,
    cost: u32,
    work: &mut RoundCounter,
) -> PasswordCheck {
    let Some(stored) = stored else {
        work.idle(cost);
        return PasswordCheck { ok: false, needs_rehash: false };
    };
    let ok = stored.matches(password, work);
    // 2^c + (2^c + 2^(c+1) + … + 2^(C-1)) = 2^C rounds.
    for missing in stored.cost..cost {
        work.idle(missing);
    }
    PasswordCheck { ok, needs_rehash: ok && stored.is_outdated(password, cost) }
}

/// Hashes a password, with a new salt.
pub(super) fn hash(
    password: &[u8],
    cost: u32,
    work: &mut RoundCounter,
) -> Result<SecretString, PasswordError> {
    let mut salt = [0; 16];
    SystemRandom::new().fill(&mut salt).map_err(|_| PasswordError::NoRandomness)?;
    hash_with_salt(password, cost, salt, work)
}

/// Hashes a password with this salt.
pub(super) fn hash_with_salt(
    password: &[u8],
    cost: u32,
    salt: [u8; 16],
    work: &mut RoundCounter,
) -> Result<SecretString, PasswordError> {
    if password.len() <= BCRYPT_READS && !password.contains(&0) {
        return Ok(work.hash(password, cost, salt)?.into());
    }
    let key = digest(password, &BASE64.encode(salt));
    let bcrypt = work.hash(key.as_bytes(), cost, salt)?;
    let (salt, checksum) = (&bcrypt[SALT], &bcrypt[CHECKSUM]);
    Ok(format!("$bcrypt-sha256$v=2,t=2b,r={cost}${salt}${checksum}").into())
}

/// What bcrypt is given in passlib's `bcrypt-sha256`, version 2: the key is the salt as text.
fn digest(password: &[u8], salt: &str) -> Zeroizing<String> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, salt.as_bytes());
    Zeroizing::new(STANDARD.encode(hmac::sign(&key, password)))
}

/// Does bcrypt, and counts its rounds, so that tests can compare work instead of time.
#[derive(Debug, Default)]
pub(super) struct RoundCounter {
    pub(super) rounds: u64,
}

impl RoundCounter {
    /// Compares in constant time.
    fn verify(&mut self, key: &[u8], cost: u32, bcrypt: &str) -> bool {
        self.rounds += 1 << cost;
        bcrypt::verify(key, bcrypt).unwrap_or(false)
    }

    fn hash(&mut self, key: &[u8], cost: u32, salt: [u8; 16]) -> Result<String, PasswordError> {
        self.rounds += 1 << cost;
        let parts = bcrypt::hash_with_salt(key, cost, salt).map_err(|_| PasswordError::Cost(cost))?;
        Ok(parts.to_string())
    }

    /// Work for nothing.
    fn idle(&mut self, cost: u32) {
        self.rounds += 1 << cost;
        black_box(bcrypt::bcrypt(black_box(cost), [0; 16], b"\0"));
    }
}

/// Cost, salt and checksum of `COST$SALT`, the separator, `CHECKSUM`.
fn split<'a>(rest: &'a str, separator: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (cost, rest) = rest.split_once('$')?;
    let (salt, rest) = rest.split_at_checked(SALT.end - SALT.start)?;
    Some((cost, salt, rest.strip_prefix(separator)?))
}

fn parse_cost(text: &str) -> Option<u32> {
    let digits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// The same `N` bytes, as bcrypt's own base64 writes them. Some old libraries left the last
/// character's unused bits set; passlib mends that too.
fn canonical<const N: usize>(text: &str) -> Option<String> {
    let bytes: [u8; N] = BASE64.decode(text).ok()?.try_into().ok()?;
    Some(BASE64.encode(bytes))
}

/// What a hash that can't be verified seems to be.
fn name_of(text: &str) -> &'static str {
    if let Some((_, name)) = OTHERS.iter().find(|(prefix, _)| text.starts_with(prefix)) {
        return name;
    }
    let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
    match text.len() {
        0 => "no hash at all",
        32 if hex => "what looks like an MD5 digest",
        40 if hex => "what looks like a SHA-1 digest",
        64 if hex => "what looks like a SHA-256 digest",
        128 if hex => "what looks like a SHA-512 digest",
        _ => "not a password hash of a known format",
    }
}

const OTHERS: [(&str, &str); 27] = [
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

/// How many bytes of a password bcrypt reads.
const BCRYPT_READS: usize = 72;

/// Where the salt stands in `$2b$12$…`.
const SALT: std::ops::Range<usize> = 7..29;

/// Where the checksum stands in `$2b$12$…`.
const CHECKSUM: std::ops::RangeFrom<usize> = 29..;

/// bcrypt's own base64.
pub(super) const BASE64: GeneralPurpose =
    GeneralPurpose::new(&BCRYPT, NO_PAD.with_decode_allow_trailing_bits(true));
