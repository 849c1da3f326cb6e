//! `[tokens]`: who issues them, with which keys, and how long they live.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::error::ConfigError;
use super::settings::Settings;
use crate::services::keys::Algorithm;

/// Tokens and their keys: `[tokens]`.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// How access tokens are signed.
    pub algorithm: Algorithm,
    /// Who issues them (`iss`).
    pub issuer: String,
    /// Whom they are for (`aud`).
    pub audience: String,
    /// Where the keys come from.
    pub keys: KeySource,
    /// How long a new key is only accepted before it signs.
    pub key_activation: Duration,
    /// How long an access token lives.
    pub access_ttl: Duration,
    /// The part of `access_ttl` by which lifetimes differ, from 0 to 0.25.
    pub access_ttl_jitter: f64,
    /// By how much clocks may be wrong where `exp` and `nbf` are checked.
    pub leeway: Duration,
}

/// Where keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A folder with one file for each key.
    Dir(PathBuf),
    /// A single secret, for HS256, from which all keys are derived. At least 32 bytes.
    Secret(SecretString),
}

impl Tokens {
    pub(super) fn read(settings: &Settings, warnings: &mut Vec<String>) -> Result<Self, ConfigError> {
        let algorithm =
            settings.required("tokens.algorithm", settings.one_of("tokens.algorithm", &ALGORITHMS))?;
        let tokens = Self {
            algorithm,
            issuer: name(settings, "tokens.issuer")?,
            audience: name(settings, "tokens.audience")?,
            keys: keys(settings, algorithm)?,
            key_activation: duration(settings, "tokens.key_activation", Duration::ZERO)?,
            access_ttl: duration(settings, "tokens.access_ttl", SHORTEST_ACCESS)?,
            access_ttl_jitter: settings.required(
                "tokens.access_ttl_jitter",
                settings.fraction("tokens.access_ttl_jitter", 0.0..=0.25),
            )?,
            leeway: duration(settings, "tokens.leeway", Duration::ZERO)?,
        };
        if tokens.leeway >= tokens.access_ttl {
            return Err(settings.invalid("tokens.leeway", "expected less than tokens.access_ttl"));
        }
        if tokens.key_activation < SAFE_ACTIVATION {
            warnings.push(format!(
                "tokens.key_activation is below {}: replicas that haven't read a new key yet will refuse its tokens",
                humantime::format_duration(SAFE_ACTIVATION)
            ));
        }
        Ok(tokens)
    }
}

fn duration(settings: &Settings, key: &str, min: Duration) -> Result<Duration, ConfigError> {
    settings.required(key, settings.duration(key, min))
}

fn name(settings: &Settings, key: &str) -> Result<String, ConfigError> {
    let name = settings.required(key, settings.text(key))?;
    if is_name(name) { Ok(name.to_owned()) } else { Err(settings.invalid(key, EXPECTED_NAME)) }
}

/// Whether `text` can be an issuer or an audience.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic())
}

fn keys(settings: &Settings, algorithm: Algorithm) -> Result<KeySource, ConfigError> {
    let Some(secret) = settings.secret("tokens.secret")? else {
        let dir = settings.required("tokens.key_dir", settings.text("tokens.key_dir"))?;
        if dir.is_empty() || dir.contains(char::is_control) {
            return Err(settings.invalid("tokens.key_dir", "expected the path of a folder"));
        }
        return Ok(KeySource::Dir(dir.into()));
    };
    let in_file = settings.is_explicit("tokens.secret_file");
    let key = if in_file { "tokens.secret_file" } else { "tokens.secret" };
    if algorithm != Algorithm::Hs256 {
        let name = algorithm.as_str();
        let problem =
            format!("a secret signs HS256 only, and tokens.algorithm is {name}: use tokens.key_dir");
        return Err(settings.invalid(key, problem));
    }
    if settings.is_explicit("tokens.key_dir") {
        let problem =
            format!("tokens.key_dir is given too, {}: keep one of them", settings.place("tokens.key_dir"));
        return Err(settings.invalid(key, problem));
    }
    match weakness(secret.expose_secret()) {
        Some(weakness) => {
            Err(settings.invalid(key, format!("{weakness}: make one with `openssl rand -base64 32`")))
        }
        None => Ok(KeySource::Secret(secret)),
    }
}

/// Why `secret` must not sign anything, if so.
fn weakness(secret: &str) -> Option<&'static str> {
    if secret.len() < 32 {
        return Some("the secret is shorter than 32 bytes");
    }
    let bytes = secret.as_bytes();
    let repeats = (1..=bytes.len() / 2).any(|period| bytes[period..] == bytes[..bytes.len() - period]);
    if repeats {
        return Some("the secret repeats itself");
    }
    let letters: String =
        secret.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let known = PUBLISHED.contains(&secret) || PLACEHOLDERS.iter().any(|word| letters.contains(word));
    known.then_some("the secret is a well-known example")
}

const ALGORITHMS: [(&str, Algorithm); 3] =
    [("HS256", Algorithm::Hs256), ("ES256", Algorithm::Es256), ("EdDSA", Algorithm::EdDsa)];

pub(super) const EXPECTED_NAME: &str = "expected 1 to 255 visible ASCII characters";

/// Grace is at least a second and at most half of it.
const SHORTEST_ACCESS: Duration = Duration::from_secs(2);

/// Twice the time after which replicas reread the folder.
const SAFE_ACTIVATION: Duration = Duration::from_secs(20);

/// Keys that tutorials and standards print, and that are found in production.
const PUBLISHED: [&str; 3] = [
    // FastAPI's tutorial on OAuth2 with JWT.
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    // RFC 7515, appendix A.1.
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    // RFC 7520, section 3.5.
    "hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg",
];

/// What stands in examples, in lower case and without punctuation.
const PLACEHOLDERS: [&str; 16] = [
    "0123456789",
    "1234567890",
    "abcdefghij",
    "asecretstring",
    "astringsecret",
    "avalidstringsecret",
    "changeit",
    "changeme",
    "changethis",
    "insecure",
    "mysecret",
    "replacethis",
    "secretkey",
    "supersecret",
    "verysecret",
    "yoursecret",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_secrets_are_found() {
        for weak in [
            "",
            "secret",
            "your-256-bit-secret",
            "changeme-changeme-changeme-now-please",
            "CHANGE_ME_to_something_long_and_random",
            "a-string-secret-at-least-256-bits-long",
            "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
            "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
            "django-insecure-4#x9!kq2pz7$w8v6u5t3s1r0",
            "secretsecretsecretsecretsecretsecret",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "your-secret-key-that-nobody-can-guess-1",
        ] {
            assert!(weakness(weak).is_some(), "{weak}");
        }
        for good in ["kq2V8mYb0Zr4n7PxWc1sTgH5uJdLfA9eXo3iRvBzQ6E=", "5f1d7c0b9e2a4836f7d0c1b2a3948576"] {
            assert_eq!(weakness(good), None, "{good}");
        }
    }
}
