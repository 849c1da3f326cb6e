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
    let windows = Http2Windows::new(limits.streams);
    // Above the limit, h2 responds 431 itself. `request_head` does so below.
    let header_list_size = limits.header_bytes.saturating_add(HEADER_LIST_MARGIN);
    let mut builder = http2::Builder::new(Http2Executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(header_list_size).unwrap_or(u32::MAX))
        // Rapid reset by the client (CVE-2023-44487) or provoked from the server (CVE-2025-8671).
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_RESET_STREAMS)
        // Request body bytes that a client may send before the service reads them.
        .initial_stream_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        // Response bytes buffered per stream while the client's window is closed.
        .max_send_buf_size(MAX_BUFFER_SIZE)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Receive windows of an HTTP/2 connection, in bytes.
///
/// hyper returns both windows when the service reads, so an unread body keeps part of the connection's window.
/// That window therefore holds the full windows of all streams: unread bodies never block another one, which
/// behind a front proxy may belong to another client.
struct Http2Windows {
    stream: u32,
    connection: u32,
}

impl Http2Windows {
    /// Returns the windows of a connection with at most `streams` open streams.
    fn new(streams: u32) -> Self {
        let streams = streams.max(1);
        let stream = (CONNECTION_BUFFER_SIZE / streams).clamp(MIN_STREAM_WINDOW, MAX_STREAM_WINDOW);
        // h2 closes a connection whose unread small frames cost more than half of this window.
        let connection = stream.saturating_mul(streams).clamp(MIN_CONNECTION_WINDOW, MAX_WINDOW);
        Self { stream, connection }
    }
}

/// Buffer size of an HTTP/1.1 connection and send buffer size of an HTTP/2 stream, in bytes.
const MAX_BUFFER_SIZE: usize = 64 * 1024;

/// Request body bytes that a connection may buffer, unless it has more than 512 streams.
const CONNECTION_BUFFER_SIZE: u32 = 16 * 1024 * 1024;
/// Two frames, so that the client sends one while the other is read.
const MIN_STREAM_WINDOW: u32 = 32 * 1024;
const MAX_STREAM_WINDOW: u32 = 64 * 1024;
const MIN_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Largest window of HTTP/2 (RFC 9113 section 6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Size by which an HTTP/2 head may exceed the limit to be rejected like other requests, in bytes.
const HEADER_LIST_MARGIN: usize = 64 * 1024;

const MAX_RESET_STREAMS: usize = 20;
const HYPER_DEFAULT_HEADERS: usize = 100;

/// HTTP/2 pings detect clients that disappeared without closing the connection.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// A3: the window of a connection was that of two streams.
    #[test]
    fn connection_window_holds_the_windows_of_all_streams() {
        for streams in [1, 2, 100, 256, 257, 1_000, 10_000] {
            let Http2Windows { stream, connection } = Http2Windows::new(streams);
            assert!(u64::from(connection) >= u64::from(stream) * u64::from(streams), "{streams}");
            // The initial window of every connection (RFC 9113 section 6.9.2).
            assert!(connection >= 65_535 && stream >= 16 * 1024, "{streams}");
        }
        assert_eq!(Http2Windows::new(100).stream, 64 * 1024);
    }
}
