//! hyper's connection builders, configured from the server's limits.

use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;

use super::http2_executor::Http2Executor;
use super::limits::ServerLimits;

/// One builder for each kind of connection.
pub(super) struct HttpBuilders {
    pub(super) http1: http1::Builder,
    pub(super) http1_over_tls: http1::Builder,
    pub(super) http2: http2::Builder<Http2Executor>,
}

impl HttpBuilders {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        let mut http1 = http1_builder(limits);
        // Without half-close, hyper detects a disconnect by reading ahead, into a buffer that it allocates
        // for the purpose. `MonitoredIo` peeks at the socket instead, which TLS does not allow.
        http1.half_close(true);
        Self { http1, http1_over_tls: http1_builder(limits), http2: http2_builder(limits) }
    }
}

/// Creates an HTTP/1.1 builder without hyper's header timer: the connection registry enforces timeouts.
fn http1_builder(limits: &ServerLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(MAX_BUFFER_SIZE));
    // hyper keeps its default number of headers on the stack and allocates any other for each request.
    if limits.header_fields != HYPER_DEFAULT_HEADERS {
        builder.max_headers(limits.header_fields);
    }
    builder
}

fn http2_builder(limits: &ServerLimits) -> http2::Builder<Http2Executor> {
    let mut builder = http2::Builder::new(Http2Executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        // Rapid reset by the client (CVE-2023-44487) or provoked from the server (CVE-2025-8671).
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_RESET_STREAMS)
        // Request body bytes that a client may send before the service reads them.
        .initial_stream_window_size(STREAM_WINDOW_SIZE)
        .initial_connection_window_size(CONNECTION_WINDOW_SIZE)
        // Response bytes buffered per stream while the client's window is closed.
        .max_send_buf_size(MAX_BUFFER_SIZE)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Buffer size of an HTTP/1.1 connection and send buffer size of an HTTP/2 stream, in bytes.
const MAX_BUFFER_SIZE: usize = 64 * 1024;
const STREAM_WINDOW_SIZE: u32 = 128 * 1024;
const CONNECTION_WINDOW_SIZE: u32 = 256 * 1024;
const MAX_RESET_STREAMS: usize = 20;
const HYPER_DEFAULT_HEADERS: usize = 100;

/// HTTP/2 pings detect clients that disappeared without closing the connection.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
