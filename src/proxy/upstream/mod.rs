//! Talking to upstreams: which one, over which connection, and how long each step may take.
//!
//! # The life of a request here
//!
//! 1. `choose.rs` picks one of the route's upstreams, by its `health.rs` and its `load.rs`; a full one
//!    is waited for, shortly.
//! 2. `pool.rs` has a connection that an earlier answer has left ready, or `connect.rs` makes one,
//!    to one of the addresses that `address.rs` knows, by `tls.rs` if need be. An upstream that can't
//!    be connected to is passed over for another one, for nothing has been sent.
//! 3. `send.rs` sends the request, and waits for the answer's head. Where a kept connection turns out
//!    to have been closed before the request went out, it takes the next one.
//! 4. The answer's body holds on to a [`Lease`]. Once it has ended as it should, and the request too,
//!    the connection goes back to the pool; in any other case it is closed. What has come whole with its
//!    head gives it back at once.
//!
//! An [`Upstream`] belongs to its route, and all threads share it. The connections are each thread's
//! own: no request crosses over. One of HTTP/1.1, in `http1/`, is driven by the request that has it; one
//! of HTTP/2, which requests share, by a task of its thread.
//!
//! # Sent once
//!
//! What an upstream may have seen is not sent again, with one exception: a `GET`, `HEAD` or `OPTIONS`
//! without a body, sent on a kept connection that ended, or a stream of HTTP/2 that was reset, without a
//! byte of an answer. The upstream closed it in that moment, most likely, or refused the stream; it is
//! sent once more.
//!
//! # How long it may take
//!
//! | | from `RouteSpec` | otherwise |
//! |---|---|---|
//! | waiting for a full upstream | `queue_timeout` | 503 `upstream_busy`, as when too many wait |
//! | looking up, connecting, TLS, on all upstreams tried together | `connect_timeout` | 504 `upstream_connect_timeout` |
//! | the client's next piece of its body | `idle_timeout` | 408 `body_timeout` |
//! | the upstream's taking the next piece | `idle_timeout` | 504 `upstream_timeout` |
//! | the answer's head, once all is sent | `first_byte_timeout` | 504 `upstream_timeout` |
//! | the next piece of the answer's body | `idle_timeout` | the client's connection breaks off |

mod address;
mod balancer;
mod circuit_breaker;
mod concurrency;
mod connect;
mod connection;
mod deadline_timer;
mod health_check;
mod http1;
mod metrics;
mod origin;
mod pool;
mod send;
mod settings;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

pub use self::address::Resolve;
pub(super) use self::balancer::LoadBalancer;
pub(super) use self::connection::{Lease, UpstreamBody};
pub(super) use self::health_check::run;
pub(super) use self::http1::UpgradedIo;
pub(super) use self::pool::Pool;
pub(super) use self::send::send;
pub use self::settings::{HealthCheck, UpstreamHttp, UpstreamSettings};
pub(super) use self::tls::Roots;

use self::address::DnsCache;
use self::circuit_breaker::{CircuitBreaker, Failure, Transition};
use self::concurrency::ConcurrencyLimit;
use self::connect::PeerAddr;
use self::metrics::UpstreamMetrics;
use self::origin::Origin;
use self::tls::Tls;
use super::routes::{RouteError, RouteSpec};

/// One upstream of a route: where it is, and how it is doing.
pub(super) struct Upstream {
    /// Of this process's upstreams it alone has this one.
    id: u64,
    route: String,
    url: String,
    settings: UpstreamSettings,
    origin: Origin,
    tls: Option<Tls>,
    addresses: DnsCache,
    health: CircuitBreaker,
    load: ConcurrencyLimit,
    metrics: UpstreamMetrics,
}

impl LoadBalancer {
    /// The upstreams of a route. One that `previous` routes have, with the same settings, is taken
    /// over with all that is known of it.
    pub(super) fn new(spec: &RouteSpec, previous: &[&Self], roots: &mut Roots) -> Result<Self, RouteError> {
        let upstreams = spec.upstreams.iter().map(|url| {
            let known = previous.iter().flat_map(|upstreams| &upstreams.0);
            match known
                .into_iter()
                .find(|upstream| upstream.matches(&spec.path, url, &spec.upstream_settings))
            {
                Some(same) => Ok(Arc::clone(same)),
                None => Upstream::new(spec, url, roots).map(Arc::new),
            }
        });
        let upstreams: Vec<_> = upstreams.collect::<Result<_, _>>()?;
        if upstreams.is_empty() {
            return Err(RouteError::NoUpstream { path: spec.path.clone() });
        }
        Ok(Self(upstreams))
    }
}

impl Upstream {
    fn new(spec: &RouteSpec, url: &str, roots: &mut Roots) -> Result<Self, RouteError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let origin = Origin::parse(&spec.path, url)?;
        let settings = spec.upstream_settings.clone();
        let tls = if origin.is_https() {
            let roots = roots.of(&spec.path, settings.ca.as_deref())?;
            Some(Tls::new(&spec.path, &origin, roots)?)
        } else {
            None
        };
        Ok(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            route: spec.path.clone(),
            url: url.to_owned(),
            addresses: DnsCache::new(&origin, settings.resolver.clone(), settings.dns_refresh),
            health: CircuitBreaker::new(&settings),
            load: ConcurrencyLimit::new(settings.max_in_flight, settings.max_queued, settings.queue_timeout),
            metrics: UpstreamMetrics::new(&spec.path, url),
            settings,
            origin,
            tls,
        })
    }

    fn url(&self) -> &str {
        &self.url
    }

    /// Whether it is what would be built from these.
    fn matches(&self, route: &str, url: &str, settings: &UpstreamSettings) -> bool {
        (&*self.route, &*self.url, &self.settings) == (route, url, settings)
    }

    /// Whether the host still has that address.
    fn resolves_to(&self, peer: &mut PeerAddr) -> bool {
        let generation = self.addresses.generation();
        if peer.generation != generation && self.addresses.has(peer.address) {
            peer.generation = generation;
        }
        peer.generation == generation
    }

    /// Has the host's addresses looked up again if they are old, beside the request that asks.
    fn refresh_dns_if_stale(self: &Arc<Self>, now: Instant) {
        if self.addresses.is_stale(now) {
            let upstream = Arc::clone(self);
            tokio::spawn(async move { upstream.addresses.renew().await });
        }
    }

    fn succeeded(&self) {
        self.changed(self.health.succeed());
    }

    fn failed(&self, failure: Failure) {
        if failure == Failure::Connection {
            self.metrics.connect_failures.increment(1);
            self.addresses.mark_stale(Instant::now());
        }
        self.changed(self.health.fail(failure, Instant::now()));
    }

    fn checked(&self, is_well: bool) {
        self.changed(self.health.check(is_well, Instant::now()));
    }

    fn changed(&self, change: Transition) {
        self.metrics.changed(change);
        match change {
            Transition::Ejected => {
                tracing::warn!(
                    upstream = self.url(),
                    route = self.route,
                    "an upstream fails, and gets no requests"
                );
            }
            Transition::None => {}
            Transition::Returned => {
                tracing::info!(upstream = self.url(), route = self.route, "an upstream is back");
            }
        }
    }
}

impl std::fmt::Debug for LoadBalancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|upstream| upstream.url())).finish()
    }
}
