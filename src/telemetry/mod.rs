//! Telemetry: log, access log, metrics and traces.
//!
//! | file | contents |
//! |---|---|
//! | `format.rs`, `escape.rs` | formatting of events as single lines, with untrusted values escaped |
//! | `access.rs` | access log entries |
//! | `writer.rs` | non-blocking log writer |
//! | `metrics.rs` | list of metrics, and handles of the HTTP metrics |
//! | `trace_context.rs`, `otlp.rs` | W3C Trace Context, and export of spans to a collector |
//! | `ids.rs` | request and span ids |
//!
//! Log lines written during a request carry its id, method and path: see
//! [`RequestContext`](crate::request_context::RequestContext). Passwords, tokens, cookies, `Authorization`,
//! keys and query strings are not logged at any level.

mod access;
mod escape;
mod format;
pub(crate) mod ids;
pub mod metrics;
mod otlp;
mod trace_context;
mod writer;

use std::io::{IsTerminal, Write};

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

pub use self::access::AccessLog;
pub(crate) use self::access::{AccessLogEntry, CLIENT_CLOSED_REQUEST};
pub use self::format::LogFormat;
pub use self::otlp::{ExporterHandle, OtlpError, SpanSender};
pub(crate) use self::trace_context::TraceContext;
pub use self::writer::DroppedLines;

/// Sinks of access log entries and spans. None by default.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    /// Access log.
    pub access: Option<AccessLog>,
    /// Span exporter.
    pub spans: Option<SpanSender>,
    /// Counter of dropped log lines.
    pub lost_lines: Option<DroppedLines>,
}

/// Guard of the log. Dropping it flushes the queued lines.
#[derive(Debug)]
pub struct LogGuard {
    access: AccessLog,
    lost: DroppedLines,
    _guard: WorkerGuard,
}

impl LogGuard {
    /// Writes the log to standard error. Levels are coloured only on a terminal.
    ///
    /// `RUST_LOG` filters events, as in `RUST_LOG=sekisho=debug`; the default level is `info`. A second log
    /// in the same process, as in tests, receives only access log entries.
    #[must_use]
    pub fn to_stderr(format: LogFormat) -> Self {
        let log = Self::to(std::io::stderr(), format);
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(log.access.writer.clone())
            .with_ansi(format == LogFormat::Text && std::io::stderr().is_terminal())
            .event_format(format::EventFormatter(format));
        let _ = subscriber.try_init();
        log
    }

    /// Writes only the access log, to `sink`.
    #[must_use]
    pub fn to(sink: impl Write + Send + 'static, format: LogFormat) -> Self {
        let (writer, lost, guard) = writer::non_blocking(sink);
        Self { access: AccessLog { writer, format }, lost, _guard: guard }
    }

    /// Returns a handle to the access log.
    #[must_use]
    pub fn access(&self) -> AccessLog {
        self.access.clone()
    }

    /// Returns the counter of dropped log lines.
    #[must_use]
    pub fn lost(&self) -> DroppedLines {
        self.lost.clone()
    }
}
