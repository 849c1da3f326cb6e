//! TLS connections to upstreams.
//!
//! Certificates are always verified; no setting disables that.

use std::io;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate_verifier::CertificateVerifier;
use super::error::UpstreamConfigError;
use super::origin::Origin;
use super::settings::{UpstreamHttp, UpstreamSettings};

/// TLS client configuration of one upstream.
pub(super) struct TlsClient {
    /// The name that the upstream's certificate must be valid for.
    server_name: ServerName<'static>,
    http1: TlsConnector,
    /// Offers HTTP/2 before HTTP/1.1 in ALPN.
    http2: TlsConnector,
}

impl TlsClient {
    /// Creates the configuration with these trust anchors: those of `settings`, or the system's.
    pub(super) fn new(
        origin: &Origin,
        roots: Arc<RootCertStore>,
        settings: &UpstreamSettings,
    ) -> Result<Self, UpstreamConfigError> {
        let server_name = settings.server_name.as_deref().unwrap_or(origin.host());
        let server_name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| rustls::Error::General("the host is not a valid server name".into()))?;
        let provider = Arc::new(ring::default_provider());
        let listed = settings.ca.as_deref().unwrap_or_default();
        let verifier = CertificateVerifier::new(roots, listed, &provider)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &settings.client_certificate {
            Some(certificate) => config.with_client_cert_resolver(certificate.resolver()),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = TlsConnector::from(Arc::new(config.clone()));
        config.alpn_protocols.insert(0, b"h2".to_vec());
        let http2 = TlsConnector::from(Arc::new(config));
        Ok(Self { server_name, http1, http2 })
    }

    /// Performs the handshake. Returns the stream and the negotiated HTTP version.
    pub(super) async fn connect(
        &self,
        tcp: TcpStream,
        offered: UpstreamHttp,
    ) -> io::Result<(TlsStream<TcpStream>, UpstreamHttp)> {
        let connector = match offered {
            UpstreamHttp::Http1 => &self.http1,
            UpstreamHttp::Http2 => &self.http2,
        };
        let stream = connector.connect(self.server_name.clone(), tcp).await?;
        let negotiated = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => UpstreamHttp::Http2,
            _ => UpstreamHttp::Http1,
        };
        Ok((stream, negotiated))
    }
}

/// Trust anchors for the upstreams' certificates.
///
/// The system's are loaded once for all routes of a table.
#[derive(Default)]
pub(in crate::proxy) struct TrustAnchors {
    system: Option<Arc<RootCertStore>>,
}

impl TrustAnchors {
    /// Returns the anchors for an upstream: its own CA certificates, or the system's if there are none.
    pub(super) fn get(
        &mut self,
        ca: Option<&[CertificateDer<'static>]>,
    ) -> Result<Arc<RootCertStore>, UpstreamConfigError> {
        match (ca, &self.system) {
            (Some(ca), _) => root_store(ca),
            (None, Some(system)) => Ok(Arc::clone(system)),
            (None, None) => Ok(Arc::clone(self.system.insert(system_roots()?))),
        }
    }
}

fn root_store(certificates: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, UpstreamConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone())?;
    }
    Ok(Arc::new(roots))
}

fn system_roots() -> Result<Arc<RootCertStore>, UpstreamConfigError> {
    let mut roots = RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    // Some systems carry certificates in obsolete encodings. They are skipped.
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    for error in loaded.errors {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "cannot load some of the system's certificate authorities");
    }
    if added == 0 { Err(UpstreamConfigError::NoSystemRoots) } else { Ok(Arc::new(roots)) }
}
