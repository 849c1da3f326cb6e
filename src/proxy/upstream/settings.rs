//! Settings of a route's upstreams.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use rustls_pki_types::CertificateDer;

use super::client_certificate::ClientCertificate;
use super::dns::Resolve;

/// Settings for all upstreams of a route.
#[derive(Clone, PartialEq)]
pub struct UpstreamSettings {
    /// HTTP version of the connections.
    pub http: UpstreamHttp,
    /// Case of the header names in requests over HTTP/1.1.
    pub header_case: HeaderCase,
    /// Certificate authorities that verify an `https` upstream's certificate. `None` uses the system's.
    /// Verification cannot be disabled.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// Name that an `https` upstream's certificate must be valid for, and that is sent in SNI. `None` uses the host
    /// of its URL.
    pub server_name: Option<String>,
    /// Certificate that is presented to `https` upstreams. `None` presents none.
    pub client_certificate: Option<ClientCertificate>,
    /// Active health check. `None` disables it.
    pub health: Option<HealthCheck>,
    /// Number of consecutive failures after which an upstream is ejected. At least 1.
    pub eject_after: u32,
    /// Duration of the first ejection. Each subsequent one doubles it, up to five minutes, with a jitter of
    /// a fifth.
    pub eject_for: Duration,
    /// Slow start: the time in which a recovered upstream regains its full share of requests.
    pub slow_start: Duration,
    /// Maximum number of requests that wait for the start of their response from one upstream.
    pub max_in_flight: usize,
    /// Maximum number of requests that wait for a busy upstream.
    pub max_queued: usize,
    /// Timeout for a request in that queue.
    pub queue_timeout: Duration,
    /// Interval between DNS lookups of the host.
    pub dns_refresh: Duration,
    /// Resolver of host names. `None` uses the system's.
    pub resolver: Option<Arc<dyn Resolve>>,
}

/// HTTP version of connections to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamHttp {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by prior knowledge (RFC 9113, section 3.3) with `http`, and negotiated by ALPN with `https`,
    /// with HTTP/1.1 as the alternative.
    Http2,
}

/// Case of header names, which has no meaning (RFC 9110, section 5.1). Over HTTP/2 all names are in lower case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCase {
    /// Lower case: `content-length`.
    #[default]
    Lower,
    /// The usual case: `Content-Length`, `ETag`.
    Title,
}

/// An active health check: a `GET` request that succeeds if the status is 2xx or 3xx.
///
/// Two consecutive failures take the upstream out, two successes bring it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Path and query of the request.
    pub path: PathAndQuery,
    /// Interval between checks, and the timeout of each.
    pub interval: Duration,
}

/// Timeouts of a request to an upstream.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct UpstreamTimeouts {
    /// Timeout for DNS, TCP and TLS, over all the upstreams that are tried.
    pub(in crate::proxy) connect: Duration,
    /// Timeout for the response head, from the end of the request.
    pub(in crate::proxy) first_byte: Duration,
    /// Timeout for the next part of a body, in either direction.
    pub(in crate::proxy) idle: Duration,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            http: UpstreamHttp::default(),
            header_case: HeaderCase::default(),
            ca: None,
            server_name: None,
            client_certificate: None,
            health: None,
            eject_after: 5,
            eject_for: Duration::from_secs(10),
            slow_start: Duration::from_secs(10),
            max_in_flight: 1024,
            max_queued: 256,
            queue_timeout: Duration::from_secs(1),
            dns_refresh: Duration::from_secs(10),
            resolver: None,
        }
    }
}

impl fmt::Debug for UpstreamSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamSettings")
            .field("http", &self.http)
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}
