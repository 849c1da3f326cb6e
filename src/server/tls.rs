//! TLS certificate, and its reload while the server runs.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, version};
use time::OffsetDateTime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::socket::Socket;
use crate::clock::Clock;
use crate::secret::{AccessError, check_access};

/// TLS certificate chain and private key, loaded from PEM files that can be reloaded.
///
/// Connections use TLS 1.2 or 1.3, with HTTP/2 or HTTP/1.1 negotiated by ALPN.
pub struct Certificate {
    clock: Arc<dyn Clock>,
    resolver: Arc<ReloadableCertResolver>,
    config: Arc<ServerConfig>,
    source: Mutex<CertificateSource>,
}

/// Files of the certificate, and their content when it was last read.
struct CertificateSource {
    files: CertificateFiles,
    /// Content of the last read, valid or not; `None` if it failed.
    last_read: Option<PemPair>,
}

/// Reason why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Other users can change the key file.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The certificate is malformed or not usable for a server.
    #[error("{}: invalid certificate", .0.display())]
    Certificate(PathBuf, #[source] rustls::Error),
    /// The certificate has expired.
    #[error("{}: the certificate has expired", .0.display())]
    Expired(PathBuf),
    /// The key is malformed or not usable for TLS.
    #[error("{}: invalid private key", .0.display())]
    Key(PathBuf, #[source] rustls::Error),
    /// The key does not belong to the certificate.
    #[error("{}: the private key does not match the certificate in {}", .key.display(), .certificate.display())]
    Mismatch {
        /// Certificate file.
        certificate: PathBuf,
        /// Key file.
        key: PathBuf,
    },
    /// The certificate file contains no certificate.
    #[error("{}: expected a certificate in PEM (BEGIN CERTIFICATE)", .0.display())]
    NoCertificate(PathBuf),
    /// The key file contains no private key, or an encrypted one.
    #[error("{}: expected an unencrypted private key in PEM (BEGIN PRIVATE KEY)", .0.display())]
    NoKey(PathBuf),
    /// The validity period of the certificate has not started.
    #[error("{}: the certificate is not valid yet", .0.display())]
    NotYetValid(PathBuf),
    /// The certificate file cannot be read.
    #[error("cannot read {}", .0.display())]
    UnreadableCertificate(PathBuf, #[source] io::Error),
    /// The key file cannot be read.
    #[error("cannot read {}", .0.display())]
    UnreadableKey(PathBuf, #[source] io::Error),
}

/// Reason why a TLS handshake failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("handshake failed")]
    Failed(#[from] io::Error),
    #[error("handshake timed out")]
    TimedOut(#[from] tokio::time::error::Elapsed),
}

#[derive(PartialEq, Eq)]
struct CertificateFiles {
    certificate: PathBuf,
    key: PathBuf,
}

/// Content of both files.
#[derive(PartialEq, Eq)]
struct PemPair {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
}

impl CertificateError {
    /// Returns `true` if the key file is the cause, and `false` if the certificate file is.
    #[must_use]
    pub fn is_key_error(&self) -> bool {
        matches!(
            self,
            Self::Access(_)
                | Self::Key(..)
                | Self::Mismatch { .. }
                | Self::NoKey(_)
                | Self::UnreadableKey(..)
        )
    }
}

impl Certificate {
    /// Loads a certificate and its private key from PEM files.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or does not hold what is expected, if other users can change the
    /// key file, if the certificate is outside its validity period, or if the key does not match it.
    pub fn load(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CertificateError> {
        let files = CertificateFiles { certificate: certificate.into(), key: key.into() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pem = files.read()?;
        let certified_key = files.certified_key(&pem, &provider, clock.now())?;
        let resolver = Arc::new(ReloadableCertResolver(ArcSwap::from_pointee(certified_key)));
        let config = Arc::new(server_config(&files, provider, Arc::clone(&resolver))?);
        let source = Mutex::new(CertificateSource { files, last_read: Some(pem) });
        Ok(Self { clock, resolver, config, source })
    }

    /// Reads the files again and uses their content for new connections.
    ///
    /// Returns `false` if the content has not changed since the last read.
    ///
    /// # Errors
    ///
    /// Fails like [`load`](Self::load), and keeps the previous certificate. Invalid content is reported only
    /// once: a later call returns `false` until the files change.
    pub fn reload(&self) -> Result<bool, CertificateError> {
        let mut source = self.source.lock();
        let CertificateSource { files, last_read } = &mut *source;
        let pem = files.read().inspect_err(|_| *last_read = None)?;
        if last_read.as_ref() == Some(&pem) {
            return Ok(false);
        }
        let certified_key = files.certified_key(&pem, self.config.crypto_provider(), self.clock.now());
        *last_read = Some(pem);
        self.resolver.0.store(Arc::new(certified_key?));
        Ok(true)
    }

    /// Switches to other files, or [reloads](Self::reload) if they are the current ones.
    ///
    /// # Errors
    ///
    /// Fails like [`load`](Self::load), and keeps the previous certificate and files.
    pub fn reload_from(
        &self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<bool, CertificateError> {
        let files = CertificateFiles { certificate: certificate.into(), key: key.into() };
        let is_same = self.source.lock().files == files;
        if is_same {
            return self.reload();
        }
        let pem = files.read()?;
        let certified_key = files.certified_key(&pem, self.config.crypto_provider(), self.clock.now())?;
        *self.source.lock() = CertificateSource { files, last_read: Some(pem) };
        self.resolver.0.store(Arc::new(certified_key));
        Ok(true)
    }

    /// Reloads the files at a regular interval, and logs changes and errors. Never completes.
    pub async fn watch(self: Arc<Self>) {
        let mut last_error = None;
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            let certificate = Arc::clone(&self);
            let error = match tokio::task::spawn_blocking(move || certificate.reload()).await {
                Ok(Ok(true)) => {
                    let file = self.source.lock().files.certificate.clone();
                    tracing::info!(certificate = %file.display(), "certificate reloaded");
                    None
                }
                // Unchanged, including unchanged invalid content.
                Ok(Ok(false)) | Err(_) => continue,
                Ok(Err(error)) => Some(error.to_string()),
            };
            if error.is_some() && error != last_error {
                tracing::error!(error, "certificate reload failed; the previous certificate stays in use");
            }
            last_error = error;
        }
    }

    pub(super) async fn handshake(
        &self,
        socket: Socket,
        timeout: Duration,
    ) -> Result<TlsStream<Socket>, HandshakeError> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        Ok(tokio::time::timeout(timeout, acceptor.accept(socket)).await??)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("file", &self.source.lock().files.certificate)
            .finish_non_exhaustive()
    }
}

/// Returns `true` if ALPN selected HTTP/2.
pub(super) fn negotiated_http2(stream: &TlsStream<Socket>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

impl CertificateFiles {
    fn read(&self) -> Result<PemPair, CertificateError> {
        let certificate = std::fs::read(&self.certificate)
            .map_err(|error| CertificateError::UnreadableCertificate(self.certificate.clone(), error))?;
        check_access(&self.key)?;
        let key = std::fs::read(&self.key)
            .map_err(|error| CertificateError::UnreadableKey(self.key.clone(), error))?;
        Ok(PemPair { certificate, key: key.into() })
    }

    /// Parses and checks the certificate and key.
    fn certified_key(
        &self,
        pem: &PemPair,
        provider: &CryptoProvider,
        now: OffsetDateTime,
    ) -> Result<CertifiedKey, CertificateError> {
        let no_certificate = || CertificateError::NoCertificate(self.certificate.clone());
        let chain = CertificateDer::pem_slice_iter(&pem.certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|_| no_certificate())?;
        let leaf = chain.first().ok_or_else(no_certificate)?;
        check_validity_period(leaf, &self.certificate, provider, now)?;
        let key =
            PrivateKeyDer::from_pem_slice(&pem.key).map_err(|_| CertificateError::NoKey(self.key.clone()))?;
        let key = provider.key_provider.load_private_key(key);
        let key = key.map_err(|error| CertificateError::Key(self.key.clone(), error))?;
        let certified_key = CertifiedKey::new(chain, key);
        match certified_key.keys_match() {
            Ok(()) => Ok(certified_key),
            Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateError::Mismatch {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
            }),
            Err(error) => Err(CertificateError::Certificate(self.certificate.clone(), error)),
        }
    }
}

/// Checks the validity period of a certificate.
///
/// The verification uses an empty root store, because the issuer only matters to clients. It checks the
/// validity period first, so that any other error means that the period is valid.
fn check_validity_period(
    certificate: &CertificateDer<'_>,
    file: &Path,
    provider: &CryptoProvider,
    now: OffsetDateTime,
) -> Result<(), CertificateError> {
    let invalid = |error| CertificateError::Certificate(file.to_owned(), error);
    let certificate = ParsedCertificate::try_from(certificate).map_err(invalid)?;
    let since_epoch = Duration::from_secs(now.unix_timestamp().try_into().unwrap_or_default());
    let verified = verify_server_cert_signed_by_trust_anchor(
        &certificate,
        &RootCertStore::empty(),
        &[],
        UnixTime::since_unix_epoch(since_epoch),
        provider.signature_verification_algorithms.all,
    );
    match verified {
        Err(rustls::Error::InvalidCertificate(
            rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. },
        )) => Err(CertificateError::Expired(file.to_owned())),
        Err(rustls::Error::InvalidCertificate(
            rustls::CertificateError::NotValidYet | rustls::CertificateError::NotValidYetContext { .. },
        )) => Err(CertificateError::NotYetValid(file.to_owned())),
        _ => Ok(()),
    }
}

fn server_config(
    files: &CertificateFiles,
    provider: Arc<CryptoProvider>,
    resolver: Arc<ReloadableCertResolver>,
) -> Result<ServerConfig, CertificateError> {
    let invalid = |error| CertificateError::Certificate(files.certificate.clone(), error);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(invalid)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    // Sessions are resumed by tickets, which the client stores. A server-side cache would be shared by threads.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new().map_err(invalid)?;
    Ok(config)
}

/// Resolver that returns the current certificate.
#[derive(Debug)]
struct ReloadableCertResolver(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for ReloadableCertResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// ALPN protocol name of HTTP/2.
const HTTP2: &[u8] = b"h2";

const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
