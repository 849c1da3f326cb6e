//! Formatting of events as log lines.
//!
//! `tracing_subscriber` has a JSON format too. Its names are fixed: the time is `timestamp`, and the message is one of
//! `fields`, or all fields stand beside it. It does not write the sources of an error, nor escape U+2028 and the
//! characters that change the direction of text. And the access log, which has the same form, is not made of events.

use std::fmt::{self, Write};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::escape::{push_json, push_value};
use crate::clock::{Clock, SystemClock};
use crate::printable::push_printable;
use crate::request_context::RequestContext;

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level and message, followed by `name=value` fields.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Formats events, with the id, method and path of the current request.
pub(super) struct EventFormatter(pub(super) LogFormat);

impl<S, N> FormatEvent<S, N> for EventFormatter
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = FieldVisitor::default();
        event.record(&mut fields);
        let line = match self.0 {
            LogFormat::Text => text(event.metadata(), &fields, writer.has_ansi_escapes()),
            LogFormat::Json => json(event.metadata(), &fields),
        };
        writer.write_str(&line)
    }
}

fn text(metadata: &Metadata<'_>, fields: &FieldVisitor, colours: bool) -> String {
    let mut line = String::with_capacity(TYPICAL_LINE);
    push_time(&mut line, SystemClock.now());
    line.push(' ');
    push_level(&mut line, *metadata.level(), colours);
    line.push(' ');
    push_printable(&mut line, &fields.message);
    for (name, value) in &fields.others {
        push_field(&mut line, name, value.text());
    }
    RequestContext::with_current(|scope| {
        push_field(&mut line, "method", scope.method().as_str());
        push_field(&mut line, "path", scope.path());
        push_field(&mut line, "request_id", scope.id().as_str());
    });
    line.push('\n');
    line
}

/// The fields of the event are in an object of their own, so that no name occurs twice.
fn json(metadata: &Metadata<'_>, fields: &FieldVisitor) -> String {
    let mut line = String::with_capacity(TYPICAL_LINE);
    line.push_str("{\"time\":\"");
    push_time(&mut line, SystemClock.now());
    line.push('"');
    push_member(&mut line, "level", metadata.level().as_str());
    push_member(&mut line, "message", &fields.message);
    push_member(&mut line, "target", metadata.target());
    RequestContext::with_current(|scope| {
        push_member(&mut line, "request_id", scope.id().as_str());
        push_member(&mut line, "method", scope.method().as_str());
        push_member(&mut line, "path", scope.path());
    });
    if !fields.others.is_empty() {
        line.push_str(",\"fields\":{");
        for (index, (name, value)) in fields.others.iter().enumerate() {
            if index > 0 {
                line.push(',');
            }
            push_json(&mut line, name);
            line.push(':');
            match value {
                Value::Text(text) => push_json(&mut line, text),
                Value::Bare(number) => line.push_str(number),
            }
        }
        line.push('}');
    }
    line.push_str("}\n");
    line
}

/// Appends ` name=value`.
pub(super) fn push_field(line: &mut String, name: &str, value: &str) {
    line.push(' ');
    line.push_str(name);
    line.push('=');
    push_value(line, value);
}

/// Appends `,"name":"value"`.
pub(super) fn push_member(line: &mut String, name: &str, value: &str) {
    line.push(',');
    push_json(line, name);
    line.push(':');
    push_json(line, value);
}

/// Appends a time in RFC 3339 format.
pub(super) fn push_time(line: &mut String, time: OffsetDateTime) {
    line.push_str(&time.format(&Rfc3339).unwrap_or_default());
}

fn push_level(line: &mut String, level: Level, colours: bool) {
    if !colours {
        let _ = write!(line, "{:>5}", level.as_str());
        return;
    }
    let colour = match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    };
    let _ = write!(line, "\u{1b}[{colour}m{:>5}\u{1b}[0m", level.as_str());
}

/// Collects the message and the fields of an event.
#[derive(Default)]
struct FieldVisitor {
    message: String,
    others: Vec<(&'static str, Value)>,
}

enum Value {
    /// Text, which is escaped.
    Text(String),
    /// A number or boolean.
    Bare(String),
}

impl Value {
    fn text(&self) -> &str {
        let (Self::Text(text) | Self::Bare(text)) = self;
        text
    }
}

impl FieldVisitor {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", value) => self.message.push_str(value.text()),
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for FieldVisitor {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::Text(value.to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let text = value.to_string();
        self.add(field, if value.is_finite() { Value::Bare(text) } else { Value::Text(text) });
    }

    /// Adds the error with its chain of sources.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        for cause in std::iter::successors(value.source(), |&error| error.source()) {
            let _ = write!(text, ": {cause}");
        }
        self.add(field, Value::Text(text));
    }
}

/// Capacity that suffices for most lines, in bytes.
const TYPICAL_LINE: usize = 256;
