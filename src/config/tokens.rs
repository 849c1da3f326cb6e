//! `[tokens]`.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::error::ConfigError;
use super::raw::RawSettings;
use crate::duration_format::format_duration;
use crate::services::keys::Algorithm;
use crate::services::tokens_builder::{EXPECTED_NAME, MIN_ACCESS_TTL, is_name};
use crate::services::weak_secret::find_weakness;

/// Access tokens and signing keys: `[tokens]`.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// The signing algorithm.
    pub algorithm: Algorithm,
    /// The issuer (`iss`).
    pub issuer: String,
    /// The audience (`aud`).
    pub audience: String,
    /// The source of the keys.
    pub keys: KeySource,
    /// Time in which a new key only verifies before it signs.
    pub key_activation: Duration,
    /// Lifetime of access tokens.
    pub access_ttl: Duration,
    /// Random reduction of `access_ttl`, as a fraction from 0 to 0.25.
    pub access_ttl_jitter: f64,
    /// Tolerated clock skew for `exp` and `nbf`.
    pub leeway: Duration,
}

/// The source of the keys.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A directory with one file for each key.
    Dir(PathBuf),
    /// A secret of at least 32 bytes from which the HS256 key is derived.
    Secret(SecretString),
}

impl Tokens {
    pub(super) fn read(settings: &RawSettings, warnings: &mut Vec<String>) -> Result<Self, ConfigError> {
        let algorithm =
            settings.required("tokens.algorithm", settings.one_of("tokens.algorithm", &ALGORITHMS))?;
        let tokens = Self {
            algorithm,
            issuer: name(settings, "tokens.issuer")?,
            audience: name(settings, "tokens.audience")?,
            keys: keys(settings, algorithm)?,
            key_activation: duration(settings, "tokens.key_activation", Duration::ZERO)?,
            access_ttl: duration(settings, "tokens.access_ttl", MIN_ACCESS_TTL)?,
            access_ttl_jitter: settings.required(
                "tokens.access_ttl_jitter",
                settings.fraction("tokens.access_ttl_jitter", 0.0..=0.25),
            )?,
            leeway: duration(settings, "tokens.leeway", Duration::ZERO)?,
        };
        if tokens.leeway >= tokens.access_ttl {
            return Err(settings.invalid("tokens.leeway", "expected less than tokens.access_ttl"));
        }
        if tokens.key_activation < RECOMMENDED_MIN_ACTIVATION {
            warnings.push(format!(
                "tokens.key_activation is below {}: replicas that have not read a new key yet reject its tokens",
                format_duration(RECOMMENDED_MIN_ACTIVATION)
            ));
        }
        Ok(tokens)
    }
}

fn duration(settings: &RawSettings, key: &str, min: Duration) -> Result<Duration, ConfigError> {
    settings.required(key, settings.duration(key, min))
}

fn name(settings: &RawSettings, key: &str) -> Result<String, ConfigError> {
    let name = settings.required(key, settings.text(key))?;
    if is_name(name) { Ok(name.to_owned()) } else { Err(settings.invalid(key, EXPECTED_NAME)) }
}

fn keys(settings: &RawSettings, algorithm: Algorithm) -> Result<KeySource, ConfigError> {
    let Some(secret) = settings.secret("tokens.secret")? else {
        let dir = settings.required("tokens.key_dir", settings.text("tokens.key_dir"))?;
        if dir.is_empty() || dir.contains(char::is_control) {
            return Err(settings.invalid("tokens.key_dir", "expected the path of a directory"));
        }
        return Ok(KeySource::Dir(dir.into()));
    };
    let is_file = settings.is_explicit("tokens.secret_file");
    let key = if is_file { "tokens.secret_file" } else { "tokens.secret" };
    if algorithm != Algorithm::Hs256 {
        let name = algorithm.as_str();
        let problem =
            format!("a secret can only sign HS256, but tokens.algorithm is {name}: use tokens.key_dir");
        return Err(settings.invalid(key, problem));
    }
    if settings.is_explicit("tokens.key_dir") {
        let problem =
            format!("tokens.key_dir is set too, {}: keep one of them", settings.place("tokens.key_dir"));
        return Err(settings.invalid(key, problem));
    }
    if let Some(weakness) = find_weakness(secret.expose_secret().as_bytes()) {
        let remedy = "generate one with `openssl rand -base64 32`";
        return Err(settings.invalid(key, format!("the secret {weakness}: {remedy}")));
    }
    Ok(KeySource::Secret(secret))
}

const ALGORITHMS: [(&str, Algorithm); 3] =
    [("HS256", Algorithm::Hs256), ("ES256", Algorithm::Es256), ("EdDSA", Algorithm::EdDsa)];

/// Twice the interval at which replicas reread the key directory.
const RECOMMENDED_MIN_ACTIVATION: Duration = Duration::from_secs(20);
