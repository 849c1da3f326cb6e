//! The access log: one line for each request, when its answer has ended.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use http::{StatusCode, Version};
use time::OffsetDateTime;
use tracing_appender::non_blocking::NonBlocking;

use super::format::{LogFormat, push_field, push_member, push_time};
use crate::request_context::RequestContext;
use crate::session_event::SessionEvent;

/// Writes the access log, among the other lines and in their format.
#[derive(Clone, Debug)]
pub struct AccessLog {
    pub(super) writer: NonBlocking,
    pub(super) format: LogFormat,
}

/// What became of a request.
pub(crate) struct AccessLogEntry<'a> {
    /// When its answer ended.
    pub(crate) at: OffsetDateTime,
    /// The request itself.
    pub(crate) scope: &'a RequestContext,
    /// What it was answered with; [`CLIENT_CLOSED_REQUEST`] if the client did not wait for it.
    pub(crate) status: StatusCode,
    /// How many bytes of the answer's body were sent.
    pub(crate) bytes: u64,
    /// Whether that was all of it.
    pub(crate) whole: bool,
    /// From the request's arrival to the answer's end.
    pub(crate) duration: Duration,
    /// Its route's name.
    pub(crate) route: &'a str,
    /// What the session machinery did.
    pub(crate) event: Option<SessionEvent>,
    /// What the client spoke.
    pub(crate) version: Version,
    /// The trace that it is part of.
    pub(crate) trace: &'a [u8; 32],
}

/// Stands for the status of an answer that nobody waited for. It is never sent.
pub(crate) const CLIENT_CLOSED_REQUEST: u16 = 499;

impl AccessLog {
    pub(crate) fn write(&self, ended: &AccessLogEntry<'_>) {
        let line = match self.format {
            LogFormat::Text => ended.line(Text::begin(ended)),
            LogFormat::Json => ended.line(Json::begin(ended)),
        };
        // It never blocks, and counts what is lost.
        let _ = self.writer.clone().write_all(line.as_bytes());
    }
}

impl AccessLogEntry<'_> {
    /// In the order in which one reads. What isn't known is left out.
    fn line(&self, mut line: impl LineFormatter) -> String {
        let scope = self.scope;
        line.text("method", scope.method().as_str());
        line.text("path", scope.path());
        line.number("status", self.status.as_u16().into());
        line.number("bytes", self.bytes);
        line.duration("duration", self.duration);
        if !self.whole {
            line.text("incomplete", "true");
        }
        if let Some(client) = scope.client() {
            line.shown("client", client);
        }
        line.text("route", self.route);
        if let Some(upstream) = scope.upstream() {
            line.text("upstream", upstream);
        }
        if let Some((user, session)) = scope.user() {
            line.text("user", user);
            line.shown("session", session);
        }
        if let Some(event) = self.event {
            line.text("session_event", event.as_str());
        }
        line.text("protocol", protocol(self.version));
        line.text("trace_id", str::from_utf8(self.trace).unwrap_or_default());
        line.text("request_id", scope.id().as_str());
        line.end()
    }
}

/// A line that is being written.
trait LineFormatter {
    fn begin(ended: &AccessLogEntry<'_>) -> Self;
    fn text(&mut self, name: &str, value: &str);
    fn number(&mut self, name: &str, value: u64);
    fn duration(&mut self, name: &str, value: Duration);
    fn shown(&mut self, name: &str, value: impl std::fmt::Display);
    fn end(self) -> String;
}

struct Text(String);

impl LineFormatter for Text {
    fn begin(ended: &AccessLogEntry<'_>) -> Self {
        let mut line = String::with_capacity(ORDINARY);
        push_time(&mut line, ended.at);
        line.push_str("  INFO ");
        line.push_str(MESSAGE);
        Self(line)
    }

    fn text(&mut self, name: &str, value: &str) {
        push_field(&mut self.0, name, value);
    }

    fn number(&mut self, name: &str, value: u64) {
        self.shown(name, value);
    }

    fn duration(&mut self, name: &str, value: Duration) {
        self.shown(name, format_args!("{:.6}", value.as_secs_f64()));
    }

    fn shown(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = write!(self.0, " {name}={value}");
    }

    fn end(mut self) -> String {
        self.0.push('\n');
        self.0
    }
}

struct Json(String);

impl LineFormatter for Json {
    fn begin(ended: &AccessLogEntry<'_>) -> Self {
        let mut line = String::with_capacity(ORDINARY);
        line.push_str("{\"time\":\"");
        push_time(&mut line, ended.at);
        line.push_str("\",\"level\":\"INFO\",\"message\":\"");
        line.push_str(MESSAGE);
        line.push('"');
        Self(line)
    }

    fn text(&mut self, name: &str, value: &str) {
        push_member(&mut self.0, name, value);
    }

    fn number(&mut self, name: &str, value: u64) {
        let _ = write!(self.0, ",\"{name}\":{value}");
    }

    fn duration(&mut self, name: &str, value: Duration) {
        let _ = write!(self.0, ",\"{name}\":{:.6}", value.as_secs_f64());
    }

    fn shown(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = write!(self.0, ",\"{name}\":\"{value}\"");
    }

    fn end(mut self) -> String {
        self.0.push_str("}\n");
        self.0
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

/// What the line of a request is called.
const MESSAGE: &str = "request completed";

/// Room for most lines, in bytes.
const ORDINARY: usize = 512;
