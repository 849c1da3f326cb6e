//! The keys that sign tokens, and their rotation that signs nobody out.
//!
//! A [`KeyRing`] holds keys with ascending numbers. All of them verify; the newest signs, once it has
//! been there for the activation time, so that every replica knows a key before the first token
//! signed with it turns up. Each key has two halves: one for access tokens, and 32 bytes of their
//! own for the MAC of refresh tokens.

use std::fmt;
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

/// How access tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256 (RFC 7518, section 3.4). The public keys are published.
    Es256,
    /// Ed25519 (RFC 8037). The public keys are published.
    EdDsa,
    /// HMAC with SHA-256 (RFC 7518, section 3.2): whoever checks could sign.
    Hs256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Es256, Self::EdDsa, Self::Hs256];

    /// The name in the registry of RFC 7518: `ES256`, `EdDSA` or `HS256`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
        }
    }

    /// The algorithm of this name.
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

/// What a key is made from and kept as.
#[derive(Clone)]
pub struct KeyMaterial {
    /// Its number, from 1; never used again.
    pub number: u8,
    /// How it signs.
    pub algorithm: Algorithm,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// At least 32 bytes for HS256, else a PKCS#8 document.
    pub signing: SecretSlice<u8>,
    /// 32 bytes for refresh tokens.
    pub refresh: SecretSlice<u8>,
}

/// One key.
pub struct SigningKey {
    number: u8,
    kid: String,
    algorithm: Algorithm,
    created_at: OffsetDateTime,
    header: String,
    signer: Signer,
    verifier: Verifier,
    refresh: hmac::Key,
}

/// Why a key can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Numbers are 1 to 255.
    #[error("a key's number is 1 to 255")]
    Number,
    /// Not a key of its algorithm.
    #[error("not a private key for {}", .0.as_str())]
    NotAKey(Algorithm),
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// The half for refresh tokens isn't 32 bytes long.
    #[error("the key for refresh tokens must be 32 bytes")]
    RefreshKey,
    /// Two keys with one number.
    #[error("key {0} is there twice")]
    Twice(u8),
    /// No keys at all.
    #[error("there is no key")]
    None,
    /// A secret that can be guessed.
    #[error("the secret is too weak: use at least 32 random bytes, such as `openssl rand -base64 48` prints")]
    Weak,
}

impl KeyMaterial {
    /// Makes a key.
    ///
    /// # Errors
    ///
    /// If the system gives no random bytes, or `number` is 0.
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
            Algorithm::Hs256 => bytes(&random),
        };
        let (signing, refresh) =
            signing.and_then(|signing| Ok((signing, bytes(&random)?))).map_err(|_| KeyError::Random)?;
        Ok(Self { number, algorithm, created_at: now, signing: signing.into(), refresh: refresh.into() })
    }

    /// Derives key number 1, for HS256, from a secret: both halves by HKDF (RFC 5869).
    ///
    /// # Errors
    ///
    /// [`KeyError::Weak`] below 32 bytes, and for secrets that stand in well-known examples.
    pub fn from_secret(secret: &SecretString) -> Result<Self, KeyError> {
        let secret = secret.expose_secret();
        if secret.len() < 32 || is_guessable(secret) {
            return Err(KeyError::Weak);
        }
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sekisho").extract(secret.as_bytes());
        let derive = |purpose: &[u8]| {
            let mut key = vec![0; 32];
            let output = prk.expand(&[purpose], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut key));
            output.map(|()| SecretSlice::from(key)).map_err(|_| KeyError::Weak)
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

fn bytes(random: &SystemRandom) -> Result<Vec<u8>, ring::error::Unspecified> {
    let mut bytes = vec![0; 32];
    random.fill(&mut bytes)?;
    Ok(bytes)
}

/// Long enough, but known to everybody, or hardly varied.
fn is_guessable(secret: &str) -> bool {
    let lower = secret.to_lowercase();
    let varied = secret.bytes().collect::<std::collections::HashSet<_>>().len() >= 8;
    !varied || KNOWN_SECRETS.iter().any(|known| lower.contains(known))
}

/// From tutorials and templates; their owners' tokens can be forged by anyone.
const KNOWN_SECRETS: [&str; 7] = [
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    "a-string-secret-at-least-256-bits-long",
    "change-me",
    "changeme",
    "change_me",
    "supersecret",
    "your-256-bit-secret",
];

impl SigningKey {
    /// Prepares a key for use.
    ///
    /// # Errors
    ///
    /// [`KeyError`] says what is wrong with it.
    pub fn new(material: &KeyMaterial) -> Result<Self, KeyError> {
        let KeyMaterial { number, algorithm, created_at, signing, refresh } = material;
        let (number, algorithm) = (*number, *algorithm);
        let signing = signing.expose_secret();
        if number == 0 {
            return Err(KeyError::Number);
        }
        if algorithm == Algorithm::Hs256 && signing.len() < 32 {
            return Err(KeyError::Weak);
        }
        if refresh.expose_secret().len() != 32 {
            return Err(KeyError::RefreshKey);
        }
        let registered = algorithm.as_jwt_algorithm();
        let signer = Signer::new(registered, &crypto::encoding_key(registered, signing))
            .map_err(|_| KeyError::NotAKey(algorithm))?;
        let kid = number.to_string();
        Ok(Self {
            number,
            algorithm,
            created_at: *created_at,
            header: encoded_header(registered, &kid),
            kid,
            verifier: signer.verifier(),
            signer,
            refresh: hmac::Key::new(hmac::HMAC_SHA256, refresh.expose_secret()),
        })
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its name in tokens and in the published set: the number.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// How it signs.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// When it was made.
    #[must_use]
    pub fn created_at(&self) -> OffsetDateTime {
        self.created_at
    }

    /// The first segment of every access token it signs.
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

    /// The public key for others (RFC 7517); none of a shared key.
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

fn encoded_header(algorithm: jsonwebtoken::Algorithm, kid: &str) -> String {
    let mut header = Header::new(algorithm);
    header.typ = Some("at+jwt".to_owned());
    header.kid = Some(kid.to_owned());
    // A header of three strings always has a JSON form.
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

/// All keys, by number. Never empty.
pub struct KeyRing {
    id: u64,
    keys: Vec<SigningKey>,
    activation: Duration,
}

impl KeyRing {
    /// A ring of these keys. A new one signs after `activation`.
    ///
    /// # Errors
    ///
    /// If there is none, or two have one number.
    pub fn new(mut keys: Vec<SigningKey>, activation: Duration) -> Result<Self, KeyError> {
        keys.sort_by_key(SigningKey::number);
        if keys.is_empty() {
            return Err(KeyError::None);
        }
        if let Some(pair) = keys.windows(2).find(|pair| pair[0].number == pair[1].number) {
            return Err(KeyError::Twice(pair[0].number));
        }
        static RINGS: AtomicU64 = AtomicU64::new(0);
        Ok(Self { id: RINGS.fetch_add(1, Ordering::Relaxed), keys, activation })
    }

    /// A ring of one key, which signs at once.
    ///
    /// # Errors
    ///
    /// If the key can't be used.
    pub fn of_one(material: &KeyMaterial) -> Result<Self, KeyError> {
        Self::new(vec![SigningKey::new(material)?], Duration::ZERO)
    }

    /// A ring of one new key, which nobody else has and which is gone with the process.
    ///
    /// # Errors
    ///
    /// If the system gives no random bytes.
    pub fn generate(algorithm: Algorithm, now: OffsetDateTime) -> Result<Self, KeyError> {
        Self::of_one(&KeyMaterial::generate(1, algorithm, now)?)
    }

    /// The key that signs at `now`: the newest that has been there for the activation time, or the
    /// oldest if none has.
    #[must_use]
    pub fn signing(&self, now: OffsetDateTime) -> &SigningKey {
        let active = |key: &&SigningKey| key.created_at + self.activation <= now;
        self.keys.iter().rev().find(active).unwrap_or(&self.keys[0])
    }

    /// Tells rings apart within the process: what was checked with one may not hold with the next.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The key with this number.
    #[must_use]
    pub fn by_number(&self, number: u8) -> Option<&SigningKey> {
        self.keys.iter().find(|key| key.number == number)
    }

    /// The key of this name.
    #[must_use]
    pub fn by_kid(&self, kid: &str) -> Option<&SigningKey> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    /// The keys, by number.
    #[must_use]
    pub fn keys(&self) -> &[SigningKey] {
        &self.keys
    }

    /// The public keys, for `/.well-known/jwks.json` (RFC 7517, section 5). Shared keys never appear.
    #[must_use]
    pub fn jwks(&self) -> JwkSet {
        JwkSet { keys: self.keys.iter().filter_map(SigningKey::jwk).collect() }
    }
}

/// The keys in use, replaced as a whole when the key folder changes. Reading takes no lock.
pub struct SharedKeys {
    ring: ArcSwap<KeyRing>,
    unknown: Notify,
}

impl SharedKeys {
    /// Starts with `ring`.
    #[must_use]
    pub fn new(ring: KeyRing) -> Self {
        Self { ring: ArcSwap::from_pointee(ring), unknown: Notify::new() }
    }

    /// The keys at the moment.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<KeyRing>> {
        self.ring.load()
    }

    /// Puts other keys in their place.
    pub fn replace(&self, ring: KeyRing) {
        self.ring.store(Arc::new(ring));
    }

    /// Says that a token named a key that isn't here: perhaps it is in the folder by now.
    pub fn notice_unknown(&self) {
        self.unknown.notify_one();
    }

    /// Waits until a token names a key that isn't here.
    pub async fn unknown_noticed(&self) {
        self.unknown.notified().await;
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyMaterial")
            .field("number", &self.number)
            .field("algorithm", &self.algorithm)
            .field("created_at", &self.created_at)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("number", &self.number)
            .field("algorithm", &self.algorithm)
            .field("created_at", &self.created_at)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("keys", &self.keys).field("activation", &self.activation).finish()
    }
}

impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedKeys").field(&**self.load()).finish()
    }
}
