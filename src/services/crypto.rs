//! Signing and checking, by `ring`.
//!
//! `jsonwebtoken` leaves cryptography to a provider that is chosen once a process, and panics on
//! first use unless exactly one of its features is on, which another crate in a build can upset. So
//! this module brings a provider of its own, and nothing here goes through the process's choice:
//! `Signer` and `Verifier` are held by the keys themselves. `ring` because it also has the rest of
//! what we need (HMAC, HKDF, random bytes) and builds in a few seconds.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{EllipticCurve, ThumbprintHash};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, UnparsedPublicKey,
};
use ring::{digest, hmac};
use uuid::Uuid;

/// The provider, for HS256, ES256 and EdDSA.
pub static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(Signer::new(*algorithm, key)?)),
    verifier_factory: |algorithm, key| Ok(Box::new(Verifier::new(*algorithm, key)?)),
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        rsa_pub_components_from_public_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ec_pub_components_from_private_key: ec_point,
        ed_pub_components_from_private_key: ed_point,
        compute_digest: hash,
    },
};

/// Makes the provider the process's choice, unless one was made before. Nothing in this crate needs
/// it; programs that call `jsonwebtoken` themselves beside us may.
pub fn install() {
    // Fails if there is a choice already, which then serves as well.
    let _ = PROVIDER.install_default();
}

/// Signs with a private or shared key.
pub(crate) enum Signer {
    Es256(EcdsaKeyPair, SystemRandom),
    EdDsa(Ed25519KeyPair),
    Hs256(hmac::Key),
}

impl Signer {
    /// A signer for a shared secret (HS256) or a PKCS#8 document.
    pub(crate) fn new(algorithm: Algorithm, key: &EncodingKey) -> Result<Self, Error> {
        if key.family() != algorithm.family() {
            return Err(ErrorKind::InvalidKeyFormat.into());
        }
        let bytes = key.as_bytes();
        match algorithm {
            Algorithm::ES256 => Ok(Self::Es256(ec_key_pair(bytes)?, SystemRandom::new())),
            Algorithm::EdDSA => Ok(Self::EdDsa(ed_key_pair(bytes)?)),
            Algorithm::HS256 => Ok(Self::Hs256(hmac::Key::new(hmac::HMAC_SHA256, bytes))),
            _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
        }
    }

    /// The signature. Fails only if the system gives no random bytes, which ES256 needs.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Signature, ring::error::Unspecified> {
        match self {
            Self::Es256(key, random) => key.sign(random, message).map(Signature::Public),
            Self::EdDsa(key) => Ok(Signature::Public(key.sign(message))),
            Self::Hs256(key) => Ok(Signature::Tag(hmac::sign(key, message))),
        }
    }

    /// What checks this signer's signatures.
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

/// A signature or a MAC's tag.
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

/// Checks signatures with a public or shared key.
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

    /// Whether the signature is the message's, in constant time for MACs.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Es256(key) | Self::EdDsa(key) => key.verify(message, signature).is_ok(),
            Self::Hs256(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }

    /// The public key's bytes: a point of P-256, uncompressed, or of Ed25519. None of a shared key.
    pub(crate) fn public_key(&self) -> Option<&[u8]> {
        match self {
            Self::Es256(key) | Self::EdDsa(key) => Some(key.as_ref()),
            Self::Hs256(_) => None,
        }
    }

    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Es256(_) => Algorithm::ES256,
            Self::EdDsa(_) => Algorithm::EdDSA,
            Self::Hs256(_) => Algorithm::HS256,
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
        self.verifier().algorithm()
    }
}

impl jsonwebtoken::signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), jsonwebtoken::signature::Error> {
        if self.verify(message, signature) { Ok(()) } else { Err(jsonwebtoken::signature::Error::new()) }
    }
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm()
    }
}

/// 16 random bytes, all of them random (a version 4 UUID would fix six bits).
///
/// # Errors
///
/// If the system gives no random bytes.
pub fn random_id() -> Result<Uuid, ring::error::Unspecified> {
    ring::rand::generate(&SystemRandom::new()).map(|bytes| Uuid::from_bytes(bytes.expose()))
}

/// The `EncodingKey` of an algorithm for these bytes.
pub(crate) fn encoding_key(algorithm: Algorithm, bytes: &[u8]) -> EncodingKey {
    match algorithm.family() {
        AlgorithmFamily::Ec => EncodingKey::from_ec_der(bytes),
        AlgorithmFamily::Ed => EncodingKey::from_ed_der(bytes),
        _ => EncodingKey::from_secret(bytes),
    }
}

fn ec_key_pair(pkcs8: &[u8]) -> Result<EcdsaKeyPair, Error> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new())
        .map_err(|_| ErrorKind::InvalidEcdsaKey.into())
}

fn ed_key_pair(pkcs8: &[u8]) -> Result<Ed25519KeyPair, Error> {
    // OpenSSL leaves the public key out (RFC 5958, version 1). Where it is there, it is checked.
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

/// Both coordinates of an uncompressed point of P-256 (SEC 1, section 2.3.3).
pub(crate) fn coordinates(point: &[u8]) -> Option<(&[u8], &[u8])> {
    let coordinates = point.strip_prefix(&[4])?;
    (coordinates.len() == 64).then(|| coordinates.split_at(32))
}

fn hash(data: &[u8], function: ThumbprintHash) -> Result<Vec<u8>, Error> {
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

    /// The keys of RFC 8410, section 10: as OpenSSL writes them, and with the public key.
    const WITHOUT_PUBLIC_KEY: &str = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
    const PUBLIC_KEY: &str = "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

    #[test]
    fn a_key_of_ed25519_without_its_public_key_is_read() {
        let pkcs8 = STANDARD.decode(WITHOUT_PUBLIC_KEY).expect("base64");
        let point = STANDARD.decode(PUBLIC_KEY).expect("base64");
        assert_eq!(ed_point(&pkcs8, &EllipticCurve::Ed25519).ok(), Some(point.clone()));

        let key = encoding_key(Algorithm::EdDSA, &pkcs8);
        let signer = Signer::new(Algorithm::EdDSA, &key).expect("a key");
        let signature = signer.sign(b"message").expect("a signature");
        assert!(signer.verifier().verify(b"message", signature.as_ref()));
        assert_eq!(signer.verifier().public_key(), Some(point.as_slice()));
    }

    #[test]
    fn a_key_of_ed25519_beside_another_ones_public_key_is_refused() {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("random bytes");
        let mut pkcs8 = pkcs8.as_ref().to_vec();
        *pkcs8.last_mut().expect("some bytes") ^= 1;
        assert!(ed_key_pair(&pkcs8).is_err());
    }
}
