//! Certificates and private keys in PEM files.

use std::path::PathBuf;

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::error::ConfigError;
use super::raw::RawSettings;

/// The paths of a certificate and of its private key.
pub(super) struct CertificatePaths {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// Returns the paths under two keys, of which either both or none have a value.
pub(super) fn paths(
    settings: &RawSettings,
    certificate_key: &str,
    key_key: &str,
) -> Result<Option<CertificatePaths>, ConfigError> {
    let path = |key| Ok(settings.text(key)?.map(PathBuf::from));
    let (present, missing) = match (path(certificate_key)?, path(key_key)?) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => return Ok(Some(CertificatePaths { certificate, key })),
        (Some(_), None) => (certificate_key, key_key),
        (None, Some(_)) => (key_key, certificate_key),
    };
    Err(settings.invalid(present, format!("{missing} is missing: TLS needs both")))
}

/// Reads the certificates in the file `path`, which `key` names. There is at least one.
pub(super) fn read_certificates(
    settings: &RawSettings,
    key: &str,
    path: PathBuf,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    match CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Err(pem::Error::Io(source)) => {
            Err(ConfigError::Unreadable { path, key: Some(key.to_owned()), source })
        }
        _ => Err(settings.invalid(key, "expected a file of PEM certificates (-----BEGIN CERTIFICATE-----)")),
    }
}

/// Reads the private key in the file `path`, which `key` names.
pub(super) fn read_private_key(
    settings: &RawSettings,
    key: &str,
    path: PathBuf,
) -> Result<PrivateKeyDer<'static>, ConfigError> {
    PrivateKeyDer::from_pem_file(&path).map_err(|error| match error {
        pem::Error::Io(source) => ConfigError::Unreadable { path, key: Some(key.to_owned()), source },
        _ => settings
            .invalid(key, "expected a file with an unencrypted private key in PEM (BEGIN PRIVATE KEY)"),
    })
}
