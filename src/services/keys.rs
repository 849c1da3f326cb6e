//! Signing keys and their rotation.
//!
//! A [`KeyRing`] holds keys with ascending numbers, all of which verify tokens. The newest key signs, but
//! only after the activation time, so that all replicas have loaded it before they see a token signed with
//! it. A rotation therefore terminates no session. Each key has two parts: one that signs access tokens,
//! and 32 independent bytes for the MAC of refresh tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Header;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, EllipticCurveKeyParameters, EllipticCurveKeyType,
    Jwk, JwkSet, KeyAlgorithm, OctetKeyPairParameters, OctetKeyPairType, PublicKeyUse,
};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use ring::{hkdf, hmac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::crypto::{self, Signer, Verifier};
use super::weak_secret::{Weakness, find_weakness};

/// Signature algorithm of access tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256 (RFC 7518, section 3.4). The public keys are published.
    Es256,
    /// Ed25519 (RFC 8037). The public keys are published.
    EdDsa,
    /// HMAC with SHA-256 (RFC 7518, section 3.2). The key that verifies also signs, so it is not published.
    Hs256,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 3] = [Self::Es256, Self::EdDsa, Self::Hs256];

    /// Returns the name registered by RFC 7518: `ES256`, `EdDSA` or `HS256`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
        }
    }

    /// Returns the algorithm with the given name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    fn as_jwt_algorithm(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
        }
    }
}

/// Stored form of a key.
#[derive(Clone, Debug)]
pub struct KeyMaterial {
    /// Number from 1. Numbers are not reused.
    pub number: u8,
    /// Signature algorithm.
    pub algorithm: Algorithm,
    /// Creation time.
    pub created_at: OffsetDateTime,
    /// Key for access tokens: at least 32 bytes for HS256, otherwise a PKCS#8 document.
    pub signing: SecretSlice<u8>,
    /// Key for refresh tokens: 32 bytes.
    pub refresh: SecretSlice<u8>,
}

/// A key ready for use.
#[derive(Debug)]
pub struct SigningKey {
    number: u8,
    kid: String,
    algorithm: Algorithm,
    created_at: OffsetDateTime,
    fingerprint: String,
    header: String,
    signer: Signer,
    verifier: Verifier,
    refresh: hmac::Key,
    pages: hmac::Key,
}

/// Reason why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The number is 0.
    #[error("expected a key number from 1 to 255")]
    Number,
    /// The bytes are not a private key of the algorithm.
    #[error("not a private key for {}", .0.as_str())]
    NotAKey(Algorithm),
    /// The operating system's random number generator failed.
    #[error("the system gives no random bytes")]
    Random,
    /// The key for refresh tokens is not 32 bytes long.
    #[error("the key for refresh tokens must be 32 bytes")]
    RefreshKey,
    /// Two keys have the same number.
    #[error("duplicate key number {0}")]
    Duplicate(u8),
    /// The key ring is empty.
    #[error("there is no key")]
    None,
    /// A secret can be guessed. The first field names it.
    #[error("the {0} {1}")]
    Weak(&'static str, Weakness),
}

impl KeyMaterial {
    /// Generates a random key.
    ///
    /// # Errors
    ///
    /// If `number` is 0, or the operating system's random number generator fails.
    pub fn generate(number: u8, algorithm: Algorithm, now: OffsetDateTime) -> Result<Self, KeyError> {
        if number == 0 {
            return Err(KeyError::Number);
        }
        let random = SystemRandom::new();
        let signing = match algorithm {
            Algorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                .map(|document| document.as_ref().to_vec()),
            Algorithm::EdDsa => {
                Ed25519KeyPair::generate_pkcs8(&random).map(|document| document.as_ref().to_vec())
            }
            Algorithm::Hs256 => random_bytes(&random),
        };
        let signing = signing.map_err(|_| KeyError::Random)?;
        let refresh = random_bytes(&random).map_err(|_| KeyError::Random)?;
        Ok(Self { number, algorithm, created_at: now, signing: signing.into(), refresh: refresh.into() })
    }

    /// Derives key number 1 for HS256 from a secret. Both parts are derived by HKDF (RFC 5869).
    ///
    /// # Errors
    ///
    /// [`KeyError::Weak`] if the secret is [too weak](find_weakness).
    pub fn from_secret(secret: &SecretString) -> Result<Self, KeyError> {
        let secret = secret.expose_secret();
        check_strength("secret", secret.as_bytes())?;
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sekisho").extract(secret.as_bytes());
        let derive = |purpose: &[u8]| {
            let mut key = vec![0; 32];
            let output = prk.expand(&[purpose], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut key));
            output.map(|()| SecretSlice::from(key)).map_err(|_| KeyError::NotAKey(Algorithm::Hs256))
        };
        Ok(Self {
            number: 1,
            algorithm: Algorithm::Hs256,
            created_at: OffsetDateTime::UNIX_EPOCH,
            signing: derive(b"access token")?,
            refresh: derive(b"refresh token")?,
        })
    }
}

/// Derives a key for another purpose from the key for refresh tokens, by HKDF (RFC 5869).
fn derive_key(refresh: &[u8], purpose: &[u8]) -> Option<hmac::Key> {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sekisho").extract(refresh);
    prk.expand(&[purpose], hmac::HMAC_SHA256).ok().map(hmac::Key::from)
}

fn random_bytes(random: &SystemRandom) -> Result<Vec<u8>, ring::error::Unspecified> {
    let mut bytes = vec![0; 32];
    random.fill(&mut bytes)?;
    Ok(bytes)
}

fn check_strength(name: &'static str, secret: &[u8]) -> Result<(), KeyError> {
    find_weakness(secret).map_or(Ok(()), |weakness| Err(KeyError::Weak(name, weakness)))
}

/// Returns the secret part of a signing key: all of it for HS256, else the 32 bytes of the private key within the
/// PKCS#8 document (RFC 5915, section 3; RFC 8410, section 7).
fn secret_part(algorithm: Algorithm, signing: &[u8]) -> Option<&[u8]> {
    let header: &[u8] = match algorithm {
        Algorithm::Es256 => &[0x02, 0x01, 0x01, 0x04, 0x20],
        Algorithm::EdDsa => &[0x04, 0x22, 0x04, 0x20],
        Algorithm::Hs256 => return Some(signing),
    };
    let start = memchr::memmem::find(signing, header)? + header.len();
    signing.get(start..start + 32)
}

impl SigningKey {
    /// Validates and prepares a key.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the key is invalid.
    pub fn new(material: &KeyMaterial) -> Result<Self, KeyError> {
        let algorithm = material.algorithm;
        let signing = material.signing.expose_secret();
        let refresh = material.refresh.expose_secret();
        if material.number == 0 {
            return Err(KeyError::Number);
        }
        if refresh.len() != 32 {
            return Err(KeyError::RefreshKey);
        }
        let jwt_algorithm = algorithm.as_jwt_algorithm();
        let signer = Signer::new(jwt_algorithm, signing).map_err(|_| KeyError::NotAKey(algorithm))?;
        let secret = secret_part(algorithm, signing).ok_or(KeyError::NotAKey(algorithm))?;
        check_strength("signing key", secret)?;
        check_strength("key for refresh tokens", refresh)?;
        let kid = material.number.to_string();
        let pages = derive_key(refresh, b"pages").ok_or(KeyError::RefreshKey)?;
        let refresh = hmac::Key::new(hmac::HMAC_SHA256, refresh);
        Ok(Self {
            number: material.number,
            algorithm,
            created_at: material.created_at,
            header: encoded_header(jwt_algorithm, &kid),
            kid,
            verifier: signer.verifier(),
            signer,
            fingerprint: fingerprint(&refresh, algorithm, signing),
            refresh,
            pages,
        })
    }

    /// Returns the number.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Returns the signature algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns 128 bits in hexadecimal that differ for different keys and reveal nothing about them.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Returns the encoded header of the access tokens that this key signs.
    pub(crate) fn header(&self) -> &str {
        &self.header
    }

    pub(crate) fn signer(&self) -> &Signer {
        &self.signer
    }

    pub(crate) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    pub(crate) fn refresh(&self) -> &hmac::Key {
        &self.refresh
    }

    /// Returns the key for tokens of the pages.
    pub(crate) fn pages(&self) -> &hmac::Key {
        &self.pages
    }

    /// Returns the public key as a JWK (RFC 7517). Returns `None` for HS256.
    fn jwk(&self) -> Option<Jwk> {
        let point = self.verifier.public_key()?;
        let (key_algorithm, algorithm) = match self.algorithm {
            Algorithm::Es256 => (KeyAlgorithm::ES256, ec_parameters(point)?),
            Algorithm::EdDsa => (KeyAlgorithm::EdDSA, ed_parameters(point)),
            Algorithm::Hs256 => return None,
        };
        let common = CommonParameters {
            public_key_use: Some(PublicKeyUse::Signature),
            key_algorithm: Some(key_algorithm),
            key_id: Some(self.kid.clone()),
            ..CommonParameters::default()
        };
        Some(Jwk { common, algorithm })
    }
}

/// Computes a MAC over both parts of a key. No refresh token has such a text.
fn fingerprint(refresh: &hmac::Key, algorithm: Algorithm, signing: &[u8]) -> String {
    let mut context = hmac::Context::with_key(refresh);
    context.update(b"sekisho key fingerprint ");
    context.update(algorithm.as_str().as_bytes());
    context.update(b" ");
    context.update(signing);
    context.sign().as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encoded_header(algorithm: jsonwebtoken::Algorithm, kid: &str) -> String {
    let mut header = Header::new(algorithm);
    header.typ = Some("at+jwt".to_owned());
    header.kid = Some(kid.to_owned());
    // Serializing a header of three strings cannot fail.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).unwrap_or_default())
}

fn ec_parameters(point: &[u8]) -> Option<AlgorithmParameters> {
    let (x, y) = crypto::coordinates(point)?;
    Some(AlgorithmParameters::EllipticCurve(EllipticCurveKeyParameters {
        key_type: EllipticCurveKeyType::EC,
        curve: EllipticCurve::P256,
        x: URL_SAFE_NO_PAD.encode(x),
        y: URL_SAFE_NO_PAD.encode(y),
    }))
}

fn ed_parameters(point: &[u8]) -> AlgorithmParameters {
    AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
        key_type: OctetKeyPairType::OctetKeyPair,
        curve: EllipticCurve::Ed25519,
        x: URL_SAFE_NO_PAD.encode(point),
    })
}

/// The keys, sorted by number. Never empty.
#[derive(Debug)]
pub struct KeyRing {
    id: u64,
    keys: Vec<SigningKey>,
    activation: Duration,
}

impl KeyRing {
    /// Creates a key ring. A new key starts to sign `activation` after its creation.
    ///
    /// # Errors
    ///
    /// If `keys` is empty, or two keys have the same number.
    pub fn new(mut keys: Vec<SigningKey>, activation: Duration) -> Result<Self, KeyError> {
        keys.sort_by_key(SigningKey::number);
        if keys.is_empty() {
            return Err(KeyError::None);
        }
        if let Some(pair) = keys.windows(2).find(|pair| pair[0].number == pair[1].number) {
            return Err(KeyError::Duplicate(pair[0].number));
        }
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Ok(Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), keys, activation })
    }

    /// Creates a key ring of one key, which signs at once.
    ///
    /// # Errors
    ///
    /// If the key is invalid.
    pub fn from_material(material: &KeyMaterial) -> Result<Self, KeyError> {
        Self::new(vec![SigningKey::new(material)?], Duration::ZERO)
    }

    /// Creates a key ring of one random key, which is not stored.
    ///
    /// # Errors
    ///
    /// If the operating system's random number generator fails.
    pub fn generate(algorithm: Algorithm, now: OffsetDateTime) -> Result<Self, KeyError> {
        Self::from_material(&KeyMaterial::generate(1, algorithm, now)?)
    }

    /// Returns the key that signs at `now`: the newest one past its activation time, or the oldest key if
    /// there is none.
    #[must_use]
    pub fn signing(&self, now: OffsetDateTime) -> &SigningKey {
        let is_active = |key: &&SigningKey| key.created_at + self.activation <= now;
        self.keys.iter().rev().find(is_active).unwrap_or(&self.keys[0])
    }

    /// Returns the newest key and the time from which it signs, if that is after `now`.
    #[must_use]
    pub fn pending(&self, now: OffsetDateTime) -> Option<(&SigningKey, OffsetDateTime)> {
        let newest = self.keys.last()?;
        let signs_from = newest.created_at + self.activation;
        (signs_from > now && newest.number != self.signing(now).number).then_some((newest, signs_from))
    }

    /// Returns an id that is unique within the process. Cached verification results are bound to it.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Returns the key with the given number.
    #[must_use]
    pub fn by_number(&self, number: u8) -> Option<&SigningKey> {
        self.keys.iter().find(|key| key.number == number)
    }

    /// Returns the key with the given key id.
    #[must_use]
    pub fn by_kid(&self, kid: &str) -> Option<&SigningKey> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    /// Returns the keys, sorted by number.
    #[must_use]
    pub fn keys(&self) -> &[SigningKey] {
        &self.keys
    }

    /// Returns `true` if the other ring has the same keys under the same numbers, created at the same times.
    #[must_use]
    pub fn has_same_keys(&self, other: &Self) -> bool {
        fn identity(key: &SigningKey) -> (u8, OffsetDateTime, &str) {
            (key.number, key.created_at, &key.fingerprint)
        }
        self.keys.iter().map(identity).eq(other.keys.iter().map(identity))
    }

    /// Returns the public keys as a JWK set (RFC 7517, section 5). HS256 keys are omitted.
    #[must_use]
    pub fn jwks(&self) -> JwkSet {
        JwkSet { keys: self.keys.iter().filter_map(SigningKey::jwk).collect() }
    }
}

/// The current key ring, replaced as a whole when the key folder changes. Reads are lock-free.
#[derive(Debug)]
pub struct SharedKeys {
    ring: ArcSwap<KeyRing>,
    unknown_key: Notify,
}

impl SharedKeys {
    /// Creates a holder of `ring`.
    #[must_use]
    pub fn new(ring: KeyRing) -> Self {
        Self { ring: ArcSwap::from_pointee(ring), unknown_key: Notify::new() }
    }

    /// Returns the current key ring.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<KeyRing>> {
        self.ring.load()
    }

    /// Replaces the key ring.
    pub fn replace(&self, ring: KeyRing) {
        self.ring.store(Arc::new(ring));
    }

    /// Reports a token with an unknown key id, so that the key folder can be reloaded.
    pub fn notify_unknown_key(&self) {
        self.unknown_key.notify_one();
    }

    /// Waits for the next token with an unknown key id.
    pub async fn unknown_key(&self) {
        self.unknown_key.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn debug_output_contains_no_key_bytes() {
        for algorithm in Algorithm::ALL {
            let created_at = datetime!(2026-03-01 12:00 UTC);
            let material = KeyMaterial::generate(1, algorithm, created_at).expect("random bytes");
            let ring = KeyRing::from_material(&material).expect("a key");
            let text = format!("{material:?} {:?}", SharedKeys::new(ring));
            for secret in [&material.signing, &material.refresh] {
                for part in secret.expose_secret().windows(4) {
                    let list = format!("{part:?}");
                    assert!(!text.contains(list.trim_matches(['[', ']'])), "{algorithm:?}: {text}");
                }
            }
            let hex: String =
                material.refresh.expose_secret().iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(!text.contains(&hex[..8]), "{algorithm:?}: {text}");
        }
    }
}
