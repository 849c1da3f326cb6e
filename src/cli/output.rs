//! Output of commands: aligned columns, or JSON.

use std::io::{self, Write};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::CliError;

/// A row of a list. Its JSON form is that of [`Serialize`].
pub trait TableRow: Serialize {
    /// The column headings.
    const HEAD: &'static [&'static str];

    /// Returns the text of each column.
    fn cells(&self) -> Vec<String>;
}

/// Prints a list as a JSON array or as aligned columns with headings.
///
/// # Errors
///
/// Returns [`CliError::Output`] if writing fails.
pub fn print_list<R: TableRow>(rows: &[R], json: bool) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    let written = if json { write_json(&mut out, rows) } else { write_table(&mut out, rows) };
    written.and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Prints a value as JSON.
///
/// # Errors
///
/// Returns [`CliError::Output`] if writing fails.
pub fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    write_json(&mut out, value).and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Prints text of several lines, with control characters replaced.
///
/// # Errors
///
/// Returns [`CliError::Output`] if writing fails.
pub fn print_text(text: &str) -> Result<(), CliError> {
    let lines: Vec<_> = text.lines().map(sanitize).collect();
    print_lines(&lines)
}

/// Prints a warning on standard error.
pub fn print_warning(text: &str) {
    // The warning is best effort: standard error may be closed.
    let _ = writeln!(io::stderr(), "sekisho: warning: {text}");
}

/// Prints lines.
///
/// # Errors
///
/// Returns [`CliError::Output`] if writing fails.
pub fn print_lines(lines: &[impl AsRef<str>]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    let written = lines.iter().try_for_each(|line| writeln!(out, "{}", line.as_ref()));
    written.and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Formats a time to the minute, in UTC.
#[must_use]
pub fn minute(time: OffsetDateTime) -> String {
    format_prefix(16, time)
}

/// Formats a time to the second, in UTC.
#[must_use]
pub fn second(time: OffsetDateTime) -> String {
    format_prefix(19, time)
}

/// Formats the result of a command that terminates sessions.
pub(super) fn sessions_ended(count: usize) -> String {
    match count {
        0 => "no session ended".to_owned(),
        1 => "1 session ended".to_owned(),
        _ => format!("{count} sessions ended"),
    }
}

fn format_prefix(characters: usize, time: OffsetDateTime) -> String {
    let text = time.to_offset(time::UtcOffset::UTC).format(&Rfc3339).unwrap_or_default();
    text.get(..characters).map(|part| part.replace('T', " ")).unwrap_or_default()
}

fn write_json(out: &mut impl Write, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

fn write_table<R: TableRow>(out: &mut impl Write, rows: &[R]) -> io::Result<()> {
    let head = R::HEAD.iter().map(ToString::to_string).collect();
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows.iter().map(plain_cells)).collect();
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..R::HEAD.len()).map(|column| width(column).unwrap_or_default()).collect();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Returns the cells with control characters replaced: user names and agents could contain terminal escapes.
fn plain_cells(row: &impl TableRow) -> Vec<String> {
    row.cells().iter().map(|cell| sanitize(cell)).collect()
}

fn sanitize(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Dog {
        name: &'static str,
        age: u8,
    }

    impl TableRow for Dog {
        const HEAD: &'static [&'static str] = &["NAME", "AGE"];

        fn cells(&self) -> Vec<String> {
            vec![self.name.to_owned(), self.age.to_string()]
        }
    }

    const DOGS: [Dog; 2] = [Dog { name: "Bärli\u{1b}[2J", age: 3 }, Dog { name: "Rex", age: 12 }];

    #[test]
    fn a_table_is_aligned_and_harmless() {
        let mut out = Vec::new();
        write_table(&mut out, &DOGS).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME       AGE\nBärli?[2J  3\nRex        12\n");
    }

    #[test]
    fn json_is_an_array() {
        let mut out = Vec::new();
        write_json(&mut out, &DOGS[1..]).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value, serde_json::json!([{"name": "Rex", "age": 12}]));
        let mut out = Vec::new();
        write_json(&mut out, &[] as &[Dog]).unwrap();
        assert_eq!(out, b"[]\n");
    }

    #[test]
    fn times_for_people() {
        assert_eq!(minute(OffsetDateTime::UNIX_EPOCH), "1970-01-01 00:00");
        assert_eq!(second(OffsetDateTime::UNIX_EPOCH), "1970-01-01 00:00:00");
    }
}
