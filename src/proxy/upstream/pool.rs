//! The connections that wait for their next request.
//!
//! Each serving thread has a pool of its own, so its lock is never waited for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum_core::body::Body;
use hyper::client::conn::http2;
use tokio::time::Instant;

use super::Upstream;
use super::connect::PeerAddr;
use super::connection::Connection;
use super::deadline_timer::DeadlineTimer;
use super::http1::Http1Connection;

/// Idle connections, by upstream.
#[derive(Default)]
pub(in crate::proxy) struct Pool(Mutex<PoolInner>);

#[derive(Default)]
struct PoolInner {
    by_upstream: BTreeMap<u64, UpstreamSlot>,
    is_swept: bool,
}

/// One upstream's.
struct UpstreamSlot {
    upstream: Weak<Upstream>,
    /// The one used last is at the end, and is used next: so the others may be let go.
    idle: Vec<IdleConnection>,
    shared: Option<Http2Connection>,
    /// Whether it agrees to HTTP/1.1 alone, as far as is known.
    http1_alone: bool,
    connecting: Arc<tokio::sync::Mutex<()>>,
    /// How many were last added to the gauge.
    counted: usize,
}

struct IdleConnection {
    connection: Box<Http1Connection>,
    patience: DeadlineTimer,
    since: Instant,
}

/// A connection of HTTP/2.
struct Http2Connection {
    sender: http2::SendRequest<Body>,
    peer: PeerAddr,
    used: Instant,
}

impl Pool {
    /// A connection that is ready for a request, if there is one.
    pub(super) fn take(&self, upstream: &Upstream, now: Instant) -> Option<(Connection, DeadlineTimer)> {
        let mut slots = self.lock();
        let slot = slots.by_upstream.get_mut(&upstream.id)?;
        if let Some(shared) = &mut slot.shared {
            if !shared.sender.is_closed() && upstream.resolves_to(&mut shared.peer) {
                shared.used = now;
                let connection = Connection::Http2(shared.sender.clone(), shared.peer);
                return Some((connection, DeadlineTimer::default()));
            }
            slot.shared = None;
        }
        while let Some(IdleConnection { mut connection, patience, since }) = slot.idle.pop() {
            let in_time = now.duration_since(since) < IDLE_TIMEOUT;
            if in_time && connection.is_usable() && upstream.resolves_to(&mut connection.peer) {
                return Some((Connection::Http1(connection), patience));
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(super) fn put(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        mut connection: Box<Http1Connection>,
        patience: DeadlineTimer,
    ) {
        connection.shrink();
        let mut slots = self.lock();
        let slot = slots.of(upstream);
        if slot.idle.len() < MOST_IDLE {
            slot.idle.push(IdleConnection { connection, patience, since: Instant::now() });
        }
        self.ensure_reaper(&mut slots);
    }

    /// Shares a connection with all requests from now on.
    pub(super) fn share(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        sender: http2::SendRequest<Body>,
        peer: PeerAddr,
    ) {
        let mut slots = self.lock();
        let slot = slots.of(upstream);
        slot.shared = Some(Http2Connection { sender, peer, used: Instant::now() });
        slot.http1_alone = false;
        self.ensure_reaper(&mut slots);
    }

    /// Notes that an upstream which was offered HTTP/2 speaks HTTP/1.1 alone.
    pub(super) fn mark_http1_only(&self, upstream: &Arc<Upstream>) {
        self.lock().of(upstream).http1_alone = true;
    }

    /// Whether it did so when it was last connected to.
    pub(super) fn speaks_http1_alone(&self, upstream: &Arc<Upstream>) -> bool {
        self.lock().of(upstream).http1_alone
    }

    /// Held while a connection to share is made, so that there is one.
    pub(super) fn connecting(&self, upstream: &Arc<Upstream>) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.lock().of(upstream).connecting)
    }

    /// Starts the task that lets go what nobody comes for, unless it runs. It ends when nothing is
    /// left.
    fn ensure_reaper(self: &Arc<Self>, slots: &mut PoolInner) {
        if std::mem::replace(&mut slots.is_swept, true) {
            return;
        }
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                let Some(pool) = pool.upgrade() else { return };
                if !pool.lock().sweep(Instant::now()) {
                    return;
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, PoolInner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolInner {
    fn of(&mut self, upstream: &Arc<Upstream>) -> &mut UpstreamSlot {
        self.by_upstream.entry(upstream.id).or_insert_with(|| UpstreamSlot {
            upstream: Arc::downgrade(upstream),
            idle: Vec::new(),
            shared: None,
            http1_alone: false,
            connecting: Arc::default(),
            counted: 0,
        })
    }

    /// Lets go what has been idle for too long, what was closed, and what belongs to an upstream that
    /// is no more. Whether anything is left.
    fn sweep(&mut self, now: Instant) -> bool {
        self.by_upstream.retain(|_, slot| {
            let Some(upstream) = slot.upstream.upgrade() else { return false };
            slot.sweep(&upstream, now);
            slot.count(&upstream);
            slot.counted > 0
        });
        self.is_swept = !self.by_upstream.is_empty();
        self.is_swept
    }
}

impl UpstreamSlot {
    fn sweep(&mut self, upstream: &Upstream, now: Instant) {
        self.idle.retain_mut(|idle| {
            now.duration_since(idle.since) < IDLE_TIMEOUT
                && idle.connection.is_usable()
                && upstream.resolves_to(&mut idle.connection.peer)
        });
        self.shared.take_if(|shared| {
            now.duration_since(shared.used) >= SHARED_TIMEOUT
                || shared.sender.is_closed()
                || !upstream.resolves_to(&mut shared.peer)
        });
    }

    fn count(&mut self, upstream: &Upstream) {
        let count = self.idle.len() + usize::from(self.shared.is_some());
        upstream.metrics.idle_changed(self.counted, count);
        self.counted = count;
    }
}

impl Drop for UpstreamSlot {
    fn drop(&mut self) {
        if let Some(upstream) = self.upstream.upgrade() {
            upstream.metrics.idle_changed(self.counted, 0);
        }
    }
}

/// Shorter than what common servers allow (uvicorn and Node: 5 s), so that we seldom send a
/// request down a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Servers of HTTP/2 say goodbye before they close.
const SHARED_TIMEOUT: Duration = Duration::from_secs(60);
/// For one upstream and thread.
const MOST_IDLE: usize = 128;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
