//! HTTP/2 connections to an upstream, which concurrent requests share.
//!
//! hyper queues a request without limit while the upstream allows no further stream, so the pool counts the
//! open streams and opens another connection at the limit.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum_core::body::Body;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::dns::{DnsCache, PeerAddr};
use super::http1::MaybeTlsStream;
use super::http2_io::Http2Io;

/// A connection in the pool.
pub(super) struct Http2Connection {
    sender: SendRequest<Body>,
    shared: Arc<Shared>,
    peer: PeerAddr,
    last_used: Instant,
    /// True for a connection of long-lived streams, which carries no other requests.
    pub(super) is_for_streams: bool,
}

/// A stream of a connection, for one request.
pub(super) struct Http2Stream {
    pub(super) sender: SendRequest<Body>,
    pub(super) peer: PeerAddr,
    /// `None` once it was taken, to be held until the response ends.
    pub(super) slot: Option<StreamSlot>,
}

/// Counts a stream as open until it is dropped.
pub(in crate::proxy) struct StreamSlot(Arc<Shared>);

struct Shared {
    open_streams: AtomicUsize,
    /// Its task and the pool belong to one thread, so the lock is never contended.
    driver: Weak<Mutex<Driver>>,
    connected_at: Instant,
}

type Driver = http2::Connection<TokioIo<Http2Io>, Body, TokioExecutor>;

impl Http2Stream {
    /// Starts HTTP/2 on a connection, which a task of the current runtime drives, and opens its first stream.
    pub(super) async fn connect(io: MaybeTlsStream, peer: PeerAddr) -> hyper::Result<Self> {
        let (sender, driver) = builder().handshake(TokioIo::new(Http2Io::new(io))).await?;
        let driver = Arc::new(Mutex::new(driver));
        let shared = Arc::new(Shared {
            open_streams: AtomicUsize::new(0),
            driver: Arc::downgrade(&driver),
            connected_at: Instant::now(),
        });
        tokio::spawn(async move {
            // hyper reports the error to the requests in flight.
            if let Err(error) = poll_fn(|cx| Pin::new(&mut *driver.lock()).poll(cx)).await {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(
                    address = peer.address.map(tracing::field::display),
                    error,
                    "upstream connection failed"
                );
            }
        });
        Ok(Self { sender, peer, slot: Some(StreamSlot::new(&shared)) })
    }

    /// Returns the connection of the stream, to be shared with requests of the same kind.
    pub(super) fn connection(&self, is_for_streams: bool) -> Option<Http2Connection> {
        let StreamSlot(shared) = self.slot.as_ref()?;
        Some(Http2Connection {
            sender: self.sender.clone(),
            shared: Arc::clone(shared),
            peer: self.peer,
            last_used: Instant::now(),
            is_for_streams,
        })
    }
}

impl Http2Connection {
    pub(super) fn open_stream(&mut self, now: Instant) -> Http2Stream {
        self.last_used = now;
        let slot = Some(StreamSlot::new(&self.shared));
        Http2Stream { sender: self.sender.clone(), peer: self.peer, slot }
    }

    /// Returns the number of open streams.
    pub(super) fn open_streams(&self) -> usize {
        self.shared.open_streams.load(Relaxed)
    }

    /// Returns `true` if another stream can be opened.
    pub(super) fn has_capacity(&self, now: Instant) -> bool {
        let open = self.open_streams();
        open == 0 || open < self.shared.stream_limit(now)
    }

    /// Returns `true` while the upstream's limit of streams is expected to arrive.
    pub(super) fn awaits_settings(&self, now: Instant) -> bool {
        self.shared.awaits_settings(now)
    }

    /// Returns `true` if the connection is open, to one of the upstream's `addresses`.
    pub(super) fn is_usable(&mut self, addresses: &DnsCache) -> bool {
        !self.sender.is_closed() && addresses.is_current(&mut self.peer)
    }

    pub(super) fn unused_for(&self, now: Instant) -> Duration {
        now.duration_since(self.last_used)
    }
}

impl Shared {
    fn stream_limit(&self, now: Instant) -> usize {
        if self.awaits_settings(now) { 1 } else { self.peer_limit().min(MAX_STREAMS) }
    }

    fn awaits_settings(&self, now: Instant) -> bool {
        self.peer_limit() == UNKNOWN_LIMIT && now.duration_since(self.connected_at) < SETTINGS_TIMEOUT
    }

    /// Returns the upstream's `SETTINGS_MAX_CONCURRENT_STREAMS` (RFC 9113 section 5.1.2).
    fn peer_limit(&self) -> usize {
        self.driver.upgrade().map_or(0, |driver| driver.lock().current_max_send_streams())
    }
}

impl StreamSlot {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.open_streams.fetch_add(1, Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.open_streams.fetch_sub(1, Relaxed);
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(UNKNOWN_LIMIT)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEADER_LIST)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    builder
}

/// Maximum number of open streams on one connection.
const MAX_STREAMS: usize = 100;
/// Limit of streams before the upstream's SETTINGS have arrived: a number that no connection reaches.
const UNKNOWN_LIMIT: usize = MAX_STREAMS + 1;
/// Time in which the SETTINGS of a new connection are expected. They are the first frame of an upstream.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);

/// Receive window of a stream, in bytes. It suffices for 1 Gbit/s at a round trip of 0.5 ms, and bounds the
/// memory that a slow client can make the gateway hold.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Receive window of a connection, in bytes: more than the windows of all its streams, so that a response that
/// is not read never blocks another one. h2 also closes a connection whose unread frames of less than 256 bytes
/// cost more than half of it.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
const MAX_HEADER_LIST: u32 = 64 * 1024;
/// Interval of pings while a stream is open, and the timeout for their acknowledgement.
const PING_INTERVAL: Duration = Duration::from_secs(20);

const _: () = assert!(CONNECTION_WINDOW as usize >= STREAM_WINDOW as usize * MAX_STREAMS);
