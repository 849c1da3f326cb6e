//! Signatures and random ids, implemented with `ring`.
//!
//! `jsonwebtoken` uses a process-wide cryptography provider. It panics on first use unless exactly one of
//! its provider features is enabled, and another crate of a build can enable a second one. This module
//! therefore has a provider of its own, and the keys hold their `Signer` and `Verifier` directly instead of
//! using the process default. `ring` also provides HMAC, HKDF and random bytes, and builds in seconds.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{EllipticCurve, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, UnparsedPublicKey,
};
use ring::{digest, hmac};
use uuid::Uuid;

/// Provider for HS256, ES256 and EdDSA.
pub static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: new_signer,
    verifier_factory: |algorithm, key| Ok(Box::new(Verifier::new(*algorithm, key)?)),
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        rsa_pub_components_from_public_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ec_pub_components_from_private_key: ec_point,
        ed_pub_components_from_private_key: ed_point,
        compute_digest,
    },
};

/// Installs the provider as the process default, unless there is one already.
///
/// This crate does not need it. Programs that also call `jsonwebtoken` directly may.
pub fn install() {
    // Fails if a provider is already installed, which is kept.
    let _ = PROVIDER.install_default();
}

fn new_signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(Signer::new(*algorithm, key.as_bytes())?))
}

/// Private or shared key that signs.
#[derive(Debug)]
pub(crate) enum Signer {
    Es256(EcdsaKeyPair, SystemRandom),
    EdDsa(Ed25519KeyPair),
    Hs256(hmac::Key),
}

impl Signer {
    /// Creates a signer from a shared secret (HS256) or a PKCS#8 document.
    pub(crate) fn new(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, Error> {
        match algorithm {
            Algorithm::ES256 => Ok(Self::Es256(ec_key_pair(bytes)?, SystemRandom::new())),
            Algorithm::EdDSA => Ok(Self::EdDsa(ed_key_pair(bytes)?)),
            Algorithm::HS256 => Ok(Self::Hs256(hmac::Key::new(hmac::HMAC_SHA256, bytes))),
            _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
        }
    }

    /// Signs a message. Fails only if the operating system's random number generator fails (ES256).
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Signature, ring::error::Unspecified> {
        match self {
            Self::Es256(key, random) => key.sign(random, message).map(Signature::Public),
            Self::EdDsa(key) => Ok(Signature::Public(key.sign(message))),
            Self::Hs256(key) => Ok(Signature::Tag(hmac::sign(key, message))),
        }
    }

    /// Returns the verifier of the signatures of this key.
    pub(crate) fn verifier(&self) -> Verifier {
        match self {
            Self::Es256(key, _) => Verifier::Es256(UnparsedPublicKey::new(
                &ECDSA_P256_SHA256_FIXED,
                key.public_key().as_ref().into(),
            )),
            Self::EdDsa(key) => {
                Verifier::EdDsa(UnparsedPublicKey::new(&ED25519, key.public_key().as_ref().into()))
            }
            Self::Hs256(key) => Verifier::Hs256(key.clone()),
        }
    }
}

/// A signature or a MAC tag.
pub(crate) enum Signature {
    Public(signature::Signature),
    Tag(hmac::Tag),
}

impl AsRef<[u8]> for Signature {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Public(signature) => signature.as_ref(),
            Self::Tag(tag) => tag.as_ref(),
        }
    }
}

/// Public or shared key that verifies signatures.
#[derive(Debug)]
pub(crate) enum Verifier {
    Es256(UnparsedPublicKey<Box<[u8]>>),
    EdDsa(UnparsedPublicKey<Box<[u8]>>),
    Hs256(hmac::Key),
}

impl Verifier {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<Self, Error> {
        if key.family() != algorithm.family() {
            return Err(ErrorKind::InvalidKeyFormat.into());
        }
        let bytes = key.try_get_as_bytes()?;
        match algorithm {
            Algorithm::ES256 => {
                Ok(Self::Es256(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes.into())))
            }
            Algorithm::EdDSA => Ok(Self::EdDsa(UnparsedPublicKey::new(&ED25519, bytes.into()))),
            Algorithm::HS256 => Ok(Self::Hs256(hmac::Key::new(hmac::HMAC_SHA256, bytes))),
            _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
        }
    }

    /// Returns `true` if the signature is valid. MACs are compared in constant time.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Es256(key) | Self::EdDsa(key) => key.verify(message, signature).is_ok(),
            Self::Hs256(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }

    /// Returns the public key: an uncompressed P-256 point or an Ed25519 key. Returns `None` for HS256.
    pub(crate) fn public_key(&self) -> Option<&[u8]> {
        match self {
            Self::Es256(key) | Self::EdDsa(key) => Some(key.as_ref()),
            Self::Hs256(_) => None,
        }
    }
}

impl jsonwebtoken::signature::Signer<Vec<u8>> for Signer {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, jsonwebtoken::signature::Error> {
        let signature = self.sign(message).map_err(|_| jsonwebtoken::signature::Error::new())?;
        Ok(signature.as_ref().to_vec())
    }
}

impl JwtSigner for Signer {
    fn algorithm(&self) -> Algorithm {
        JwtVerifier::algorithm(&self.verifier())
    }
}

impl jsonwebtoken::signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), jsonwebtoken::signature::Error> {
        if self.verify(message, signature) { Ok(()) } else { Err(jsonwebtoken::signature::Error::new()) }
    }
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Es256(_) => Algorithm::ES256,
            Self::EdDsa(_) => Algorithm::EdDSA,
            Self::Hs256(_) => Algorithm::HS256,
        }
    }
}

/// Returns a UUID of 128 random bits. (Version 4 would fix six of them.)
///
/// # Errors
///
/// If the operating system's random number generator fails.
pub fn random_id() -> Result<Uuid, ring::error::Unspecified> {
    ring::rand::generate(&SystemRandom::new()).map(|bytes| Uuid::from_bytes(bytes.expose()))
}

fn ec_key_pair(pkcs8: &[u8]) -> Result<EcdsaKeyPair, Error> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new())
        .map_err(|_| ErrorKind::InvalidEcdsaKey.into())
}

fn ed_key_pair(pkcs8: &[u8]) -> Result<Ed25519KeyPair, Error> {
    // OpenSSL omits the public key (RFC 5958, version 1). If it is present, ring checks it.
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map_err(|_| ErrorKind::InvalidEddsaKey.into())
}

fn ec_point(pkcs8: &[u8], algorithm: Algorithm) -> Result<(EllipticCurve, Vec<u8>, Vec<u8>), Error> {
    if algorithm != Algorithm::ES256 {
        return Err(ErrorKind::UnsupportedAlgorithm.into());
    }
    let pair = ec_key_pair(pkcs8)?;
    let (x, y) = coordinates(pair.public_key().as_ref()).ok_or(ErrorKind::InvalidEcdsaKey)?;
    Ok((EllipticCurve::P256, x.to_vec(), y.to_vec()))
}

fn ed_point(pkcs8: &[u8], curve: &EllipticCurve) -> Result<Vec<u8>, Error> {
    match curve {
        EllipticCurve::Ed25519 => Ok(ed_key_pair(pkcs8)?.public_key().as_ref().to_vec()),
        _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
    }
}

/// Splits an uncompressed P-256 point into its coordinates (SEC 1, section 2.3.3).
pub(crate) fn coordinates(point: &[u8]) -> Option<(&[u8], &[u8])> {
    let coordinates = point.strip_prefix(&[4])?;
    (coordinates.len() == 64).then(|| coordinates.split_at(32))
}

fn compute_digest(data: &[u8], function: ThumbprintHash) -> Result<Vec<u8>, Error> {
    let algorithm = match function {
        ThumbprintHash::SHA256 => &digest::SHA256,
        ThumbprintHash::SHA384 => &digest::SHA384,
        ThumbprintHash::SHA512 => &digest::SHA512,
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    Ok(digest::digest(algorithm, data).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    // The key of RFC 8410, section 10.3, in the format of OpenSSL.
    const WITHOUT_PUBLIC_KEY: &str = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
    const PUBLIC_KEY: &str = "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

    #[test]
    fn ed25519_key_without_public_key_is_accepted() {
        let pkcs8 = STANDARD.decode(WITHOUT_PUBLIC_KEY).expect("base64");
        let point = STANDARD.decode(PUBLIC_KEY).expect("base64");
        assert_eq!(ed_point(&pkcs8, &EllipticCurve::Ed25519).ok(), Some(point.clone()));

        let signer = Signer::new(Algorithm::EdDSA, &pkcs8).expect("a key");
        let signature = signer.sign(b"message").expect("a signature");
        assert!(signer.verifier().verify(b"message", signature.as_ref()));
        assert_eq!(signer.verifier().public_key(), Some(point.as_slice()));
    }

    #[test]
    fn ed25519_key_with_wrong_public_key_is_refused() {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("random bytes");
        let mut pkcs8 = pkcs8.as_ref().to_vec();
        *pkcs8.last_mut().expect("some bytes") ^= 1;
        assert!(ed_key_pair(&pkcs8).is_err());
    }
}
