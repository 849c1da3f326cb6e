//! TLS to upstreams, with their certificates verified. There is no switch that turns that off.

use std::io;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::UpstreamHttp;
use super::origin::Origin;
use crate::proxy::routes::RouteError;

/// How an upstream is spoken to by TLS, and by which name its certificate must know it.
pub(super) struct Tls {
    name: ServerName<'static>,
    http1: TlsConnector,
    /// Offers HTTP/2 before HTTP/1.1.
    http2: TlsConnector,
}

impl Tls {
    /// For the `https` upstream of the route at `path`.
    pub(super) fn new(path: &str, origin: &Origin, roots: Arc<RootCertStore>) -> Result<Self, RouteError> {
        let refused = |source: rustls::Error| RouteError::UpstreamTls { path: path.to_owned(), source };
        let host = origin.host().to_owned();
        let name = ServerName::try_from(host).map_err(|_| {
            refused(rustls::Error::General("the host is no name that a certificate can have".into()))
        })?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = TlsConnector::from(Arc::new(config.clone()));
        config.alpn_protocols.insert(0, b"h2".to_vec());
        Ok(Self { name, http1, http2: TlsConnector::from(Arc::new(config)) })
    }

    /// Shakes hands, and tells what was agreed upon.
    pub(super) async fn connect(
        &self,
        tcp: TcpStream,
        offered: UpstreamHttp,
    ) -> io::Result<(TlsStream<TcpStream>, UpstreamHttp)> {
        let connector = match offered {
            UpstreamHttp::Http1 => &self.http1,
            UpstreamHttp::Http2 => &self.http2,
        };
        let stream = connector.connect(self.name.clone(), tcp).await?;
        let agreed = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => UpstreamHttp::Http2,
            _ => UpstreamHttp::Http1,
        };
        Ok((stream, agreed))
    }
}

/// The authorities that certificates are checked against, loaded once for all routes that are built
/// together.
#[derive(Default)]
pub(in crate::proxy) struct Roots {
    system: Option<Arc<RootCertStore>>,
}

impl Roots {
    pub(super) fn of(
        &mut self,
        path: &str,
        ca: Option<&[CertificateDer<'static>]>,
    ) -> Result<Arc<RootCertStore>, RouteError> {
        match (ca, &self.system) {
            (Some(ca), _) => given(path, ca),
            (None, Some(system)) => Ok(Arc::clone(system)),
            (None, None) => {
                let system = Arc::new(system(path)?);
                Ok(Arc::clone(self.system.insert(system)))
            }
        }
    }
}

fn given(path: &str, ca: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, RouteError> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots
            .add(certificate.clone())
            .map_err(|source| RouteError::UpstreamTls { path: path.to_owned(), source })?;
    }
    Ok(Arc::new(roots))
}

fn system(path: &str) -> Result<RootCertStore, RouteError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Systems carry some that are too old to be read.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    for error in found.errors {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "some of the system's authorities can't be read"
        );
    }
    if usable == 0 { Err(RouteError::NoSystemRoots { path: path.to_owned() }) } else { Ok(roots) }
}
