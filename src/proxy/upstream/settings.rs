//! What an operator may say of a route's upstreams.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use rustls_pki_types::CertificateDer;

use super::Resolve;

/// How a route's upstreams are spoken to, watched and spared.
#[derive(Clone)]
pub struct UpstreamSettings {
    /// The version of HTTP.
    pub http: UpstreamHttp,
    /// The certificate authorities that an `https` upstream's certificate is checked against;
    /// `None` takes the system's. There is no way not to check it.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// How an upstream is asked whether it is well; `None` doesn't ask.
    pub health: Option<HealthCheck>,
    /// After how many failures in a row an upstream gets no more requests for a while. At least 1.
    pub eject_after: u32,
    /// How long the first such while is. Each one that follows at once is twice as long, up to
    /// five minutes; all are spread by a fifth.
    pub eject_for: Duration,
    /// How long an upstream that comes back takes to get its full share of requests again.
    pub slow_start: Duration,
    /// How many requests may be under way to one upstream. Event streams and upgraded connections
    /// count only until they begin.
    pub max_in_flight: usize,
    /// How many requests may wait for one upstream to become free.
    pub max_queued: usize,
    /// How long they may wait.
    pub queue_timeout: Duration,
    /// How long the addresses of a host name are good for.
    pub dns_refresh: Duration,
    /// What knows the addresses of host names; `None` is the system.
    pub resolver: Option<Arc<dyn Resolve>>,
}

/// The version of HTTP that an upstream is spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamHttp {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2. For `http` upstreams that is by prior knowledge (RFC 9113, section 3.3); with `https`
    /// it is offered in the handshake, beside HTTP/1.1.
    Http2,
}

/// A `GET` that a healthy upstream answers with 2xx or 3xx. Two failures in a row take it out, two
/// successes bring it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What to ask for.
    pub path: PathAndQuery,
    /// How often, and how long it may take.
    pub interval: Duration,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            http: UpstreamHttp::default(),
            ca: None,
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

/// Whether an upstream built from one would be the same, built from the other.
impl PartialEq for UpstreamSettings {
    fn eq(&self, other: &Self) -> bool {
        let same_resolver = match (&self.resolver, &other.resolver) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        };
        same_resolver
            && (self.http, &self.ca, &self.health) == (other.http, &other.ca, &other.health)
            && (self.eject_after, self.eject_for, self.slow_start)
                == (other.eject_after, other.eject_for, other.slow_start)
            && (self.max_in_flight, self.max_queued, self.queue_timeout)
                == (other.max_in_flight, other.max_queued, other.queue_timeout)
            && self.dns_refresh == other.dns_refresh
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
