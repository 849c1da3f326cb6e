//! The connection pool: connections that wait for their next request.
//!
//! Each worker thread has its own pool, so its lock is never contended.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::connection::Connection;
use super::deadline_timer::DeadlineTimer;
use super::dns::PeerAddr;
use super::http1::Http1Connection;
use super::http2::{Http2Connection, Http2Stream};
use super::upstream::Upstream;
use crate::proxy::request_head::ConnectionReuse;

/// Reusable connections, by upstream.
#[derive(Default)]
pub(in crate::proxy) struct Pool(Mutex<PoolInner>);

#[derive(Default)]
struct PoolInner {
    by_upstream: BTreeMap<u64, UpstreamSlot>,
    has_reaper: bool,
}

/// The connections to one upstream.
struct UpstreamSlot {
    upstream: Weak<Upstream>,
    /// A stack: the last used connection is used next, so that the others reach the idle timeout.
    idle: Vec<IdleConnection>,
    /// More than one if the upstream's limit of streams was reached.
    http2: Vec<Http2Connection>,
    /// True if the upstream chose HTTP/1.1 when HTTP/2 was last offered.
    is_http1_only: bool,
    connect_lock: Arc<tokio::sync::Mutex<()>>,
    /// Number of connections last added to the gauge.
    reported: usize,
}

/// An HTTP/1.1 connection without a request.
struct IdleConnection {
    connection: Box<Http1Connection>,
    peer: PeerAddr,
    timer: DeadlineTimer,
    idle_since: Instant,
}

impl Pool {
    /// Takes a connection that can carry a request now, if there is one.
    ///
    /// Long-lived streams (`is_stream`) have HTTP/2 connections of their own.
    pub(super) fn take(
        &self,
        upstream: &Upstream,
        reuse: ConnectionReuse,
        is_stream: bool,
        now: Instant,
    ) -> Option<(Connection, DeadlineTimer)> {
        if reuse == ConnectionReuse::None {
            return None;
        }
        let mut pool = self.0.lock();
        let slot = pool.by_upstream.get_mut(&upstream.id)?;
        if let Some(stream) = slot.open_stream(upstream, is_stream, now) {
            return Some((Connection::Http2(stream), DeadlineTimer::default()));
        }
        if reuse == ConnectionReuse::Http2 {
            return None;
        }
        while let Some(mut idle) = slot.idle.pop() {
            if idle.is_usable(upstream, now) {
                return Some((Connection::Http1(idle.connection, idle.peer), idle.timer));
            }
        }
        None
    }

    /// Keeps an HTTP/1.1 connection for another request.
    pub(super) fn put(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        mut connection: Box<Http1Connection>,
        peer: PeerAddr,
        timer: DeadlineTimer,
    ) {
        connection.shrink();
        let mut pool = self.0.lock();
        let slot = pool.slot(upstream);
        if slot.idle.len() < MAX_IDLE {
            slot.idle.push(IdleConnection { connection, peer, timer, idle_since: Instant::now() });
        }
        self.ensure_reaper(&mut pool);
    }

    /// Shares the HTTP/2 connection of a stream with subsequent requests.
    pub(super) fn share(self: &Arc<Self>, upstream: &Arc<Upstream>, stream: &Http2Stream, is_stream: bool) {
        let mut pool = self.0.lock();
        let slot = pool.slot(upstream);
        slot.http2.extend(stream.connection(is_stream));
        slot.is_http1_only = false;
        self.ensure_reaper(&mut pool);
    }

    /// Returns `true` while the limit of streams of a new HTTP/2 connection is unknown.
    pub(super) fn awaits_settings(&self, upstream: &Upstream, is_stream: bool, now: Instant) -> bool {
        let pool = self.0.lock();
        let Some(slot) = pool.by_upstream.get(&upstream.id) else { return false };
        let mut connections = slot.http2.iter().filter(|http2| http2.is_for_streams == is_stream);
        connections.any(|http2| http2.awaits_settings(now))
    }

    /// Records that the upstream chose HTTP/1.1 although HTTP/2 was offered.
    pub(super) fn mark_http1_only(&self, upstream: &Arc<Upstream>) {
        self.0.lock().slot(upstream).is_http1_only = true;
    }

    /// Returns `true` if the upstream chose HTTP/1.1 when it was last connected to.
    pub(super) fn is_http1_only(&self, upstream: &Arc<Upstream>) -> bool {
        self.0.lock().slot(upstream).is_http1_only
    }

    /// A lock held while an HTTP/2 connection is made, so that concurrent requests share one.
    pub(super) fn connect_lock(&self, upstream: &Arc<Upstream>) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.0.lock().slot(upstream).connect_lock)
    }

    /// Starts the task that closes idle connections, unless it runs. The task ends when the pool is empty.
    fn ensure_reaper(self: &Arc<Self>, inner: &mut PoolInner) {
        if std::mem::replace(&mut inner.has_reaper, true) {
            return;
        }
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(REAP_INTERVAL).await;
                let Some(pool) = pool.upgrade() else { return };
                if !pool.0.lock().reap(Instant::now()) {
                    return;
                }
            }
        });
    }
}

impl PoolInner {
    fn slot(&mut self, upstream: &Arc<Upstream>) -> &mut UpstreamSlot {
        self.by_upstream.entry(upstream.id).or_insert_with(|| UpstreamSlot {
            upstream: Arc::downgrade(upstream),
            idle: Vec::new(),
            http2: Vec::new(),
            is_http1_only: false,
            connect_lock: Arc::default(),
            reported: 0,
        })
    }

    /// Drops connections that are closed, have been idle for too long, or belong to a removed upstream.
    /// Returns `true` if any are left.
    fn reap(&mut self, now: Instant) -> bool {
        self.by_upstream.retain(|_, slot| {
            let Some(upstream) = slot.upstream.upgrade() else { return false };
            slot.reap(&upstream, now);
            slot.report(&upstream);
            slot.reported > 0
        });
        self.has_reaper = !self.by_upstream.is_empty();
        self.has_reaper
    }
}

impl UpstreamSlot {
    /// Opens a stream on the least loaded HTTP/2 connection. Returns `None` if all are at their limit.
    fn open_stream(&mut self, upstream: &Upstream, is_stream: bool, now: Instant) -> Option<Http2Stream> {
        self.http2.retain_mut(|http2| http2.is_usable(&upstream.connector.addresses));
        let connections = self.http2.iter_mut().filter(|http2| http2.is_for_streams == is_stream);
        let with_capacity = connections.filter(|http2| http2.has_capacity(now));
        let least_loaded = with_capacity.min_by_key(|http2| http2.open_streams())?;
        Some(least_loaded.open_stream(now))
    }

    fn reap(&mut self, upstream: &Upstream, now: Instant) {
        self.idle.retain_mut(|idle| idle.is_usable(upstream, now));
        let addresses = &upstream.connector.addresses;
        self.http2
            .retain_mut(|http2| http2.unused_for(now) < HTTP2_IDLE_TIMEOUT && http2.is_usable(addresses));
    }

    fn report(&mut self, upstream: &Upstream) {
        let count = self.idle.len() + self.http2.len();
        upstream.metrics.adjust_idle(self.reported, count);
        self.reported = count;
    }
}

impl IdleConnection {
    fn is_usable(&mut self, upstream: &Upstream, now: Instant) -> bool {
        now.duration_since(self.idle_since) < IDLE_TIMEOUT
            && self.connection.is_usable()
            && upstream.connector.addresses.is_current(&mut self.peer)
    }
}

impl Drop for UpstreamSlot {
    fn drop(&mut self) {
        if let Some(upstream) = self.upstream.upgrade() {
            upstream.metrics.adjust_idle(self.reported, 0);
        }
    }
}

/// Idle timeout for HTTP/1.1. Shorter than that of common servers (uvicorn and Node.js: 5 s), so that
/// requests seldom meet a connection that the upstream is closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Idle timeout for HTTP/2, whose servers announce with GOAWAY that they close.
const HTTP2_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of idle HTTP/1.1 connections per upstream and worker thread.
const MAX_IDLE: usize = 128;
const REAP_INTERVAL: Duration = Duration::from_secs(1);
