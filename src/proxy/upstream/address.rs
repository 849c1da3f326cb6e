//! The addresses of an upstream's host: looked up when they are first needed, kept for a while, and
//! looked up again beside the requests.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::lookup_host;
use tokio::time::Instant;

use super::origin::Origin;

/// Knows the addresses of host names. The program asks the system; a test says what it likes.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `host`, the best first, each with `port`.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from knowing.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// An upstream's addresses. A failing lookup leaves the old ones in place.
pub(super) struct DnsCache {
    host: String,
    port: u16,
    resolver: Option<Arc<dyn Resolve>>,
    refresh: Duration,
    /// Empty before the first lookup.
    known: Mutex<Arc<[SocketAddr]>>,
    /// How often they have changed.
    generation: AtomicU32,
    since: Instant,
    /// When to look again, in milliseconds after `since`.
    due: AtomicU64,
    turn: AtomicUsize,
}

impl DnsCache {
    pub(super) fn new(origin: &Origin, resolver: Option<Arc<dyn Resolve>>, refresh: Duration) -> Self {
        let (host, port) = (origin.host().to_owned(), origin.port());
        let fixed: Option<IpAddr> = host.parse().ok();
        let known: Vec<_> = fixed.map(|ip| SocketAddr::new(ip, port)).into_iter().collect();
        Self {
            host,
            port,
            resolver,
            refresh,
            known: Mutex::new(known.into()),
            generation: AtomicU32::new(0),
            since: Instant::now(),
            due: AtomicU64::new(u64::MAX),
            turn: AtomicUsize::new(0),
        }
    }

    /// The addresses in the order in which to try them. Each call begins with another one, so that
    /// connections are spread over all of them.
    pub(super) async fn next_order(&self) -> io::Result<Vec<SocketAddr>> {
        if self.known().is_empty() {
            self.look_up().await?;
        }
        let mut addresses = self.known().to_vec();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(first);
        Ok(addresses)
    }

    /// Whether it is time to look again. It says so to one who asks, and to nobody else until
    /// another while has passed.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        if due == u64::MAX || self.millis(now) < due {
            return false;
        }
        let next = self.millis(now + self.refresh);
        self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// They may have changed: it is time to look again soon.
    pub(super) fn mark_stale(&self, now: Instant) {
        if self.due.load(Ordering::Relaxed) != u64::MAX {
            self.due.fetch_min(self.millis(now + SOON), Ordering::Relaxed);
        }
    }

    /// Looks again. Whatever goes wrong, the old addresses are as good as any.
    pub(super) async fn renew(&self) {
        if let Err(error) = self.look_up().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(host = self.host, error, "the upstream's addresses could not be looked up again");
        }
    }

    /// Changes whenever the addresses do.
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn has(&self, address: SocketAddr) -> bool {
        self.known().contains(&address)
    }

    async fn look_up(&self) -> io::Result<()> {
        let found = match &self.resolver {
            Some(resolver) => resolver.resolve(&self.host, self.port).await?,
            None => lookup_host((self.host.as_str(), self.port)).await?.collect(),
        };
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let same = known.len() == found.len() && found.iter().all(|address| known.contains(address));
        if !same {
            *known = found.into();
            self.generation.fetch_add(1, Ordering::Release);
        }
        self.due.store(self.millis(Instant::now() + self.refresh), Ordering::Relaxed);
        Ok(())
    }

    fn known(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn millis(&self, instant: Instant) -> u64 {
        let passed = instant.saturating_duration_since(self.since);
        u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
    }
}

/// So that a dead upstream's name isn't looked up at every request.
const SOON: Duration = Duration::from_secs(1);
