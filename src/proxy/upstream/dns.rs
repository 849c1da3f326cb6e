//! DNS lookups of upstream hosts, cached and refreshed in the background.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::net::lookup_host;
use tokio::time::Instant;

use super::origin::Origin;
use crate::proxy::idle_timer::to_millis;

/// Resolves host names to addresses.
///
/// By default the operating system's resolver is used. Tests and embedders can provide another one.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// Returns the addresses of `host`, most preferred first, each with `port`.
    ///
    /// # Errors
    ///
    /// Any error of the lookup.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// Two resolvers are equal if they are the same object.
impl PartialEq for dyn Resolve {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self, other)
    }
}

/// The address at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerAddr {
    /// `None` for a Unix socket.
    pub(super) address: Option<SocketAddr>,
    /// The generation of the [`DnsCache`] that last contained the address.
    pub(super) generation: u32,
}

/// The addresses of one upstream's host.
///
/// The first lookup happens on the first connect. When a later lookup fails, the previous addresses remain.
pub(super) struct DnsCache {
    host: String,
    port: u16,
    resolver: Option<Arc<dyn Resolve>>,
    refresh_interval: Duration,
    /// Empty before the first lookup.
    addresses: Mutex<Arc<[SocketAddr]>>,
    /// Number of times the addresses have changed.
    generation: AtomicU32,
    created_at: Instant,
    /// The time of the next lookup, in milliseconds after `created_at`. `u64::MAX` before the first lookup,
    /// and always if the host is an IP address.
    next_lookup: AtomicU64,
    next_start: AtomicUsize,
}

impl DnsCache {
    pub(super) fn new(origin: &Origin, resolver: Option<Arc<dyn Resolve>>, interval: Duration) -> Self {
        let host = origin.host().to_owned();
        let port = origin.port();
        let ip: Option<IpAddr> = host.parse().ok();
        let addresses: Vec<_> = ip.map(|ip| SocketAddr::new(ip, port)).into_iter().collect();
        Self {
            host,
            port,
            resolver,
            refresh_interval: interval,
            addresses: Mutex::new(addresses.into()),
            generation: AtomicU32::new(0),
            created_at: Instant::now(),
            next_lookup: AtomicU64::new(u64::MAX),
            next_start: AtomicUsize::new(0),
        }
    }

    /// Returns the addresses in the order in which to try them.
    ///
    /// The list is rotated at each call, so that connections are spread over all addresses.
    pub(super) async fn connect_order(&self) -> io::Result<Vec<SocketAddr>> {
        if self.addresses().is_empty() {
            self.look_up().await?;
        }
        let mut addresses = self.addresses().to_vec();
        let start = self.next_start.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(start);
        Ok(addresses)
    }

    /// Returns `true` if the refresh interval has passed.
    ///
    /// It returns `true` to one caller per interval, who must call [`refresh`](Self::refresh).
    pub(super) fn take_refresh(&self, now: Instant) -> bool {
        let due = self.next_lookup.load(Ordering::Relaxed);
        if due == u64::MAX || self.millis(now) < due {
            return false;
        }
        let next = self.millis(now + self.refresh_interval);
        self.next_lookup.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Schedules an early refresh, after an address has failed.
    pub(super) fn mark_stale(&self, now: Instant) {
        if self.next_lookup.load(Ordering::Relaxed) != u64::MAX {
            self.next_lookup.fetch_min(self.millis(now + STALE_REFRESH_DELAY), Ordering::Relaxed);
        }
    }

    /// Looks the host up again. On failure the previous addresses remain.
    pub(super) async fn refresh(&self) {
        if let Err(error) = self.look_up().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(host = self.host, error, "cannot refresh upstream addresses");
        }
    }

    /// Increases whenever the addresses change.
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns `true` if the host still resolves to the peer's address.
    pub(super) fn is_current(&self, peer: &mut PeerAddr) -> bool {
        let generation = self.generation();
        let is_known = |address| self.addresses().contains(&address);
        if peer.generation != generation && peer.address.is_some_and(is_known) {
            peer.generation = generation;
        }
        peer.generation == generation
    }

    async fn look_up(&self) -> io::Result<()> {
        let resolved = match &self.resolver {
            Some(resolver) => resolver.resolve(&self.host, self.port).await?,
            None => lookup_host((self.host.as_str(), self.port)).await?.collect(),
        };
        if resolved.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
        }
        let mut addresses = self.addresses.lock();
        let is_same_set =
            addresses.len() == resolved.len() && resolved.iter().all(|address| addresses.contains(address));
        if !is_same_set {
            *addresses = resolved.into();
            self.generation.fetch_add(1, Ordering::Release);
        }
        self.next_lookup.store(self.millis(Instant::now() + self.refresh_interval), Ordering::Relaxed);
        Ok(())
    }

    fn addresses(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.addresses.lock())
    }

    fn millis(&self, instant: Instant) -> u64 {
        to_millis(instant.saturating_duration_since(self.created_at))
    }
}

/// Limits the lookups of an unreachable upstream's name to one per second.
const STALE_REFRESH_DELAY: Duration = Duration::from_secs(1);
