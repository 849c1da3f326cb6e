//! TLS: the certificate, and how it is renewed while the server runs.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, version};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::clock::Clock;

/// A certificate and its key, as they are in their files.
///
/// Clients may speak TLS 1.2 and 1.3, and HTTP/2 or HTTP/1.1 inside.
pub struct Certificate {
    clock: Arc<dyn Clock>,
    current: Arc<ReloadableCertResolver>,
    config: Arc<ServerConfig>,
    origin: Mutex<CertificateSource>,
}

/// Where the certificate comes from.
struct CertificateSource {
    files: Files,
    /// What was read last, good or bad.
    last_read: Option<PemPair>,
}

/// Why a certificate can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The certificate isn't one, or not one for a server.
    #[error("{}: the certificate can't be used", .0.display())]
    Certificate(PathBuf, #[source] rustls::Error),
    /// It is of no use any longer.
    #[error("{}: the certificate has expired: renew it", .0.display())]
    Expired(PathBuf),
    /// The key isn't one, or not one for TLS.
    #[error("{}: the private key can't be used", .0.display())]
    Key(PathBuf, #[source] rustls::Error),
    /// The two don't belong together.
    #[error("{}: the private key is not that of the certificate in {}", .key.display(), .certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// No certificate in its file.
    #[error("{}: expected a certificate in PEM (BEGIN CERTIFICATE)", .0.display())]
    NoCertificate(PathBuf),
    /// No key in its file, or one that asks for a password.
    #[error("{}: expected a private key in PEM (BEGIN PRIVATE KEY), without a password", .0.display())]
    NoKey(PathBuf),
    /// It is of no use yet.
    #[error("{}: the certificate is not valid yet: look at its dates, and at the clock", .0.display())]
    NotYetValid(PathBuf),
    /// A certificate's file can't be read.
    #[error("{}: can't be read", .0.display())]
    UnreadableCertificate(PathBuf, #[source] io::Error),
    /// A key's file can't be read.
    #[error("{}: can't be read", .0.display())]
    UnreadableKey(PathBuf, #[source] io::Error),
}

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("the handshake failed")]
    Failed(#[from] io::Error),
    #[error("the handshake took too long")]
    TimedOut(#[from] tokio::time::error::Elapsed),
}

#[derive(PartialEq, Eq)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// Both files' content.
#[derive(PartialEq, Eq)]
struct PemPair {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
}

impl CertificateError {
    /// Whether the key is at fault, not the certificate.
    #[must_use]
    pub fn is_of_key(&self) -> bool {
        matches!(self, Self::Key(..) | Self::Mismatch { .. } | Self::NoKey(_) | Self::UnreadableKey(..))
    }
}

impl Certificate {
    /// Reads the files, and checks that a server can begin with them.
    ///
    /// # Errors
    ///
    /// [`CertificateError`] says which file is at fault, and why.
    pub fn load(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CertificateError> {
        let files = Files { certificate: certificate.into(), key: key.into() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let read = files.read()?;
        let certified = files.load_certified_key(&read, &provider, clock.now())?;
        let current = Arc::new(ReloadableCertResolver(ArcSwap::from_pointee(certified)));
        let config = server_config(&files, provider, Arc::clone(&current))?;
        let origin = Mutex::new(CertificateSource { files, last_read: Some(read) });
        Ok(Self { clock, current, config: Arc::new(config), origin })
    }

    /// Reads the files again. New connections get what is in them now; `false` if that is what was there
    /// before.
    ///
    /// # Errors
    ///
    /// [`CertificateError`], and what was there before stays in use. The same bad files are an error
    /// once.
    pub fn reload(&self) -> Result<bool, CertificateError> {
        let mut origin = self.origin();
        let CertificateSource { files, last_read } = &mut *origin;
        let read = files.read().inspect_err(|_| *last_read = None)?;
        if last_read.as_ref() == Some(&read) {
            return Ok(false);
        }
        let certified = files.load_certified_key(&read, self.config.crypto_provider(), self.clock.now());
        *last_read = Some(read);
        self.current.0.store(Arc::new(certified?));
        Ok(true)
    }

    /// Takes the certificate from these files from now on. If it came from them before, this is
    /// [`reload`](Self::reload).
    ///
    /// # Errors
    ///
    /// [`CertificateError`], and all stays as it was.
    pub fn reload_from(
        &self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<bool, CertificateError> {
        let files = Files { certificate: certificate.into(), key: key.into() };
        let is_same = self.origin().files == files;
        if is_same {
            return self.reload();
        }
        let read = files.read()?;
        let certified = files.load_certified_key(&read, self.config.crypto_provider(), self.clock.now())?;
        *self.origin() = CertificateSource { files, last_read: Some(read) };
        self.current.0.store(Arc::new(certified));
        Ok(true)
    }

    fn origin(&self) -> MutexGuard<'_, CertificateSource> {
        self.origin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files again every few seconds, for as long as the server runs. What is wrong with them
    /// goes to the log.
    pub async fn watch(self: Arc<Self>) {
        let mut last_fault = None;
        loop {
            tokio::time::sleep(REREAD).await;
            let certificate = Arc::clone(&self);
            let fault = match tokio::task::spawn_blocking(move || certificate.reload()).await {
                Ok(Ok(true)) => {
                    let file = self.origin().files.certificate.clone();
                    tracing::info!(certificate = %file.display(), "the certificate has changed");
                    None
                }
                // Nothing new, of bad files either.
                Ok(Ok(false)) | Err(_) => continue,
                Ok(Err(fault)) => Some(fault.to_string()),
            };
            if fault.is_some() && fault != last_fault {
                tracing::error!(
                    error = fault,
                    "the certificate can't be renewed; the one that there was stays in use"
                );
            }
            last_fault = fault;
        }
    }

    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        patience: Duration,
    ) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        Ok(tokio::time::timeout(patience, acceptor.accept(stream)).await??)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("file", &self.origin().files.certificate).finish_non_exhaustive()
    }
}

/// Whether HTTP/2 was agreed on.
pub(super) fn speaks_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

impl Files {
    fn read(&self) -> Result<PemPair, CertificateError> {
        let certificate = std::fs::read(&self.certificate)
            .map_err(|error| CertificateError::UnreadableCertificate(self.certificate.clone(), error))?;
        let key = std::fs::read(&self.key)
            .map_err(|error| CertificateError::UnreadableKey(self.key.clone(), error))?;
        Ok(PemPair { certificate, key: key.into() })
    }

    fn load_certified_key(
        &self,
        read: &PemPair,
        provider: &CryptoProvider,
        now: OffsetDateTime,
    ) -> Result<CertifiedKey, CertificateError> {
        let no_certificate = || CertificateError::NoCertificate(self.certificate.clone());
        let chain = CertificateDer::pem_slice_iter(&read.certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|_| no_certificate())?;
        let own = chain.first().ok_or_else(no_certificate)?;
        check_dates(own, &self.certificate, provider, now)?;
        let key = PrivateKeyDer::from_pem_slice(&read.key)
            .map_err(|_| CertificateError::NoKey(self.key.clone()))?;
        let key = provider.key_provider.load_private_key(key);
        let key = key.map_err(|error| CertificateError::Key(self.key.clone(), error))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => Ok(certified),
            Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateError::Mismatch {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
            }),
            Err(error) => Err(CertificateError::Certificate(self.certificate.clone(), error)),
        }
    }
}

/// Who signed it is the clients' business. So nobody is trusted here, and of what the check finds only
/// the dates count, which it looks at first.
fn check_dates(
    certificate: &CertificateDer<'_>,
    file: &Path,
    provider: &CryptoProvider,
    now: OffsetDateTime,
) -> Result<(), CertificateError> {
    let broken = |error| CertificateError::Certificate(file.to_owned(), error);
    let certificate = ParsedCertificate::try_from(certificate).map_err(broken)?;
    let since_1970 = Duration::from_secs(now.unix_timestamp().try_into().unwrap_or_default());
    let checked = verify_server_cert_signed_by_trust_anchor(
        &certificate,
        &RootCertStore::empty(),
        &[],
        UnixTime::since_unix_epoch(since_1970),
        provider.signature_verification_algorithms.all,
    );
    match checked {
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
    files: &Files,
    provider: Arc<CryptoProvider>,
    current: Arc<ReloadableCertResolver>,
) -> Result<ServerConfig, CertificateError> {
    let broken = |error| CertificateError::Certificate(files.certificate.clone(), error);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(broken)?
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    // A session goes on with what its client keeps: nothing is kept here, where threads would share it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new().map_err(broken)?;
    Ok(config)
}

/// The certificate for the next connection.
struct ReloadableCertResolver(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for ReloadableCertResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl fmt::Debug for ReloadableCertResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

const HTTP2: &[u8] = b"h2";

/// How often the files are read again.
const REREAD: Duration = Duration::from_secs(5);
