//! Access log: one line for each request, written when the response has ended.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::time::Duration;

use http::{StatusCode, Version};
use time::OffsetDateTime;
use tracing_appender::non_blocking::NonBlocking;

use super::format::{LogFormat, push_field, push_member, push_time};
use crate::request_context::RequestContext;
use crate::session_event::SessionEvent;

/// Writes access log entries to the same sink and in the same format as the other log lines.
#[derive(Clone, Debug)]
pub struct AccessLog {
    pub(super) writer: NonBlocking,
    pub(super) format: LogFormat,
}

/// Data of an access log entry.
pub(crate) struct AccessLogEntry<'a> {
    /// Time at which the response ended.
    pub(crate) at: OffsetDateTime,
    /// Context of the request.
    pub(crate) scope: &'a RequestContext,
    /// Response status, or [`CLIENT_CLOSED_REQUEST`] if the client disconnected before the response.
    pub(crate) status: StatusCode,
    /// Number of bytes of the response body that were sent.
    pub(crate) bytes: u64,
    /// True if the response body was sent completely.
    pub(crate) whole: bool,
    /// Time from the arrival of the request to the end of the response.
    pub(crate) duration: Duration,
    /// Name of the route.
    pub(crate) route: &'a str,
    /// Session event of the request.
    pub(crate) event: Option<SessionEvent>,
    /// HTTP version of the request.
    pub(crate) version: Version,
    /// Trace id in hexadecimal.
    pub(crate) trace: &'a [u8; 32],
}

/// Status for requests whose client disconnected before the response (nginx's code). It is never sent.
pub(crate) const CLIENT_CLOSED_REQUEST: u16 = 499;

impl AccessLog {
    pub(crate) fn write(&self, entry: &AccessLogEntry<'_>) {
        let line = entry.format(self.format);
        // Never blocks. Dropped lines are counted by the writer.
        let _ = self.writer.clone().write_all(line.as_bytes());
    }
}

impl AccessLogEntry<'_> {
    /// Formats the fields that are known.
    fn format(&self, format: LogFormat) -> String {
        let mut line = Line::new(format, self.at);
        let scope = self.scope;
        line.text("method", scope.method().as_str());
        line.text("path", scope.path());
        line.number("status", self.status.as_u16());
        line.number("bytes", self.bytes);
        line.number("duration", format_args!("{:.6}", self.duration.as_secs_f64()));
        if !self.whole {
            line.text("incomplete", "true");
        }
        if let Some(client) = scope.client() {
            line.display("client", client);
        }
        line.text("route", self.route);
        if let Some(upstream) = scope.upstream() {
            line.text("upstream", upstream);
        }
        if let Some((user, session)) = scope.user() {
            line.text("user", user);
            line.display("session", session);
        }
        if let Some(event) = self.event {
            line.text("session_event", event.as_str());
        }
        line.text("protocol", protocol(self.version));
        line.text("trace_id", str::from_utf8(self.trace).unwrap_or_default());
        line.text("request_id", scope.id().as_str());
        line.finish()
    }
}

/// An entry in the format of the log, written field by field.
struct Line {
    text: String,
    format: LogFormat,
}

impl Line {
    fn new(format: LogFormat, at: OffsetDateTime) -> Self {
        let mut text = String::with_capacity(TYPICAL_LINE);
        match format {
            LogFormat::Text => {
                push_time(&mut text, at);
                text.push_str("  INFO ");
                text.push_str(MESSAGE);
            }
            LogFormat::Json => {
                text.push_str("{\"time\":\"");
                push_time(&mut text, at);
                text.push_str("\",\"level\":\"INFO\",\"message\":\"");
                text.push_str(MESSAGE);
                text.push('"');
            }
        }
        Self { text, format }
    }

    /// Appends untrusted text, which is escaped.
    fn text(&mut self, name: &str, value: &str) {
        match self.format {
            LogFormat::Text => push_field(&mut self.text, name, value),
            LogFormat::Json => push_member(&mut self.text, name, value),
        }
    }

    /// Appends a number.
    fn number(&mut self, name: &str, value: impl Display) {
        let _ = match self.format {
            LogFormat::Text => write!(self.text, " {name}={value}"),
            LogFormat::Json => write!(self.text, ",\"{name}\":{value}"),
        };
    }

    /// Appends a value whose text needs no escapes.
    fn display(&mut self, name: &str, value: impl Display) {
        let _ = match self.format {
            LogFormat::Text => write!(self.text, " {name}={value}"),
            LogFormat::Json => write!(self.text, ",\"{name}\":\"{value}\""),
        };
    }

    fn finish(mut self) -> String {
        self.text.push_str(match self.format {
            LogFormat::Text => "\n",
            LogFormat::Json => "}\n",
        });
        self.text
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP",
    }
}

/// Message of all entries.
const MESSAGE: &str = "request completed";

/// Capacity that suffices for most lines, in bytes.
const TYPICAL_LINE: usize = 512;
