//! What the program tells of itself: log, access log, metrics and traces.
//!
//! | file | |
//! |---|---|
//! | `format.rs`, `escape.rs` | how an event becomes one line, whatever others have put into it |
//! | `access.rs` | the line of each request |
//! | `writer.rs` | where lines go, without anybody waiting for them |
//! | `metrics.rs` | every metric, and the handles by which requests are counted |
//! | `trace_context.rs`, `otlp.rs` | which trace a request belongs to, and spans for a collector |
//! | `ids.rs` | the numbers of requests and spans |
//!
//! A message reads alone; the fields carry the rest. Lines of a request name it: see
//! [`RequestContext`](crate::request_context::RequestContext). Never logged at any level: passwords, tokens,
//! cookies, `Authorization`, keys, query strings.

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

/// Where what the program tells goes. Nowhere by default.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    /// The line of each request.
    pub access: Option<AccessLog>,
    /// The spans of requests.
    pub spans: Option<SpanSender>,
    /// The lines that were not written.
    pub lost_lines: Option<DroppedLines>,
}

/// The log, which is written to its end when this is dropped.
#[derive(Debug)]
pub struct LogGuard {
    access: AccessLog,
    lost: DroppedLines,
    _guard: WorkerGuard,
}

impl LogGuard {
    /// Sends the log to standard error, levels coloured on a terminal only.
    ///
    /// `RUST_LOG` chooses what is logged, as in `RUST_LOG=sekisho=debug`; without it, `info` and
    /// above. A second one in the same process, as in tests, gets the access log alone.
    #[must_use]
    pub fn to_stderr(format: LogFormat) -> Self {
        let log = Self::to(std::io::stderr(), format);
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(log.access.writer.clone())
            .with_ansi(format == LogFormat::Text && std::io::stderr().is_terminal())
            .event_format(format::EventFormatter(format));
        let _ = lines.try_init();
        log
    }

    /// A log of requests alone, written to `sink`.
    #[must_use]
    pub fn to(sink: impl Write + Send + 'static, format: LogFormat) -> Self {
        let (writer, lost, guard) = writer::non_blocking(sink);
        Self { access: AccessLog { writer, format }, lost, _guard: guard }
    }

    /// Writes the line of each request.
    #[must_use]
    pub fn access(&self) -> AccessLog {
        self.access.clone()
    }

    /// The lines that were not written.
    #[must_use]
    pub fn lost(&self) -> DroppedLines {
        self.lost.clone()
    }
}
