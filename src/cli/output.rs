//! Output of commands: aligned columns, or JSON.
//!
//! All of it may hold text of users, such as names and agents. Characters that alter a terminal are escaped.

use std::io::{self, Write};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::error::CliError;
use super::plural::counted;
use crate::printable::{is_printable, push_json_escape, to_printable};

/// A row of a list. Its JSON form is that of [`Serialize`].
pub trait TableRow: Serialize {
    /// The column headings.
    const HEAD: &'static [&'static str];

    /// The columns that are cut where a row is too wide for a terminal. Their whole text is in the JSON form.
    const CUT: &'static [usize] = &[];

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

/// Prints text of several lines.
///
/// # Errors
///
/// Returns [`CliError::Output`] if writing fails.
pub fn print_text(text: &str) -> Result<(), CliError> {
    print_lines(&text.lines().collect::<Vec<_>>())
}

/// Prints a warning on standard error.
pub fn print_warning(text: &str) {
    // The warning is best effort: standard error may be closed.
    let _ = writeln!(io::stderr(), "sekisho: warning: {}", to_printable(text));
}

/// Prints text as it is.
///
/// # Errors
///
/// Returns [`CliError::Output`] if writing fails.
pub fn print_bytes(text: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Prints lines.
///
/// # Errors
///
/// Returns [`CliError::Output`] if writing fails.
pub fn print_lines(lines: &[impl AsRef<str>]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    let written = lines.iter().try_for_each(|line| writeln!(out, "{}", to_printable(line.as_ref())));
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
        _ => format!("{} ended", counted(count, "session")),
    }
}

fn format_prefix(characters: usize, time: OffsetDateTime) -> String {
    let text = time.to_offset(time::UtcOffset::UTC).format(&Rfc3339).unwrap_or_default();
    text.get(..characters).map(|part| part.replace('T', " ")).unwrap_or_default()
}

fn write_json(out: &mut impl Write, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    let json = serde_json::to_string_pretty(value)?;
    let mut printable = String::with_capacity(json.len());
    for character in json.chars() {
        // JSON escapes line breaks in texts. Those between its elements stay.
        if is_printable(character) || character == '\n' {
            printable.push(character);
        } else {
            push_json_escape(&mut printable, character);
        }
    }
    writeln!(out, "{printable}")
}

fn write_table<R: TableRow>(out: &mut impl Write, rows: &[R]) -> io::Result<()> {
    let head = R::HEAD.iter().map(ToString::to_string).collect();
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows.iter().map(printable_cells)).collect();
    let widest = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.width()).max().unwrap_or_default()
    };
    let mut widths: Vec<usize> = (0..R::HEAD.len()).map(widest).collect();
    cut_columns(&mut widths, R::CUT);
    for line in &lines {
        let cells: Vec<_> = line.iter().zip(&widths).map(|(cell, width)| pad(cell, *width)).collect();
        writeln!(out, "{}", cells.join(GAP).trim_end())?;
    }
    Ok(())
}

fn printable_cells(row: &impl TableRow) -> Vec<String> {
    row.cells().iter().map(|cell| to_printable(cell)).collect()
}

/// Narrows the widest of `columns` until a row fits into [`MAX_ROW_WIDTH`], or all are as narrow as [`MIN_CUT_WIDTH`].
fn cut_columns(widths: &mut [usize], columns: &[usize]) {
    let row: usize = widths.iter().map(|width| width + GAP.len()).sum();
    for _ in MAX_ROW_WIDTH + GAP.len()..row {
        let Some(widest) = columns.iter().copied().max_by_key(|column| widths[*column]) else { return };
        if widths[widest] <= MIN_CUT_WIDTH {
            return;
        }
        widths[widest] -= 1;
    }
}

/// Returns a text that takes `width` columns of a terminal: padded, or cut with an ellipsis.
fn pad(text: &str, width: usize) -> String {
    let mut padded = if text.width() <= width { text.to_owned() } else { cut(text, width) };
    padded.extend(std::iter::repeat_n(' ', width - padded.width()));
    padded
}

fn cut(text: &str, width: usize) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if shown.width() + character.width().unwrap_or_default() >= width {
            break;
        }
        shown.push(character);
    }
    shown + "…"
}

/// Space between two columns.
const GAP: &str = "  ";

/// Width of the rows of tables with columns that may be cut.
const MAX_ROW_WIDTH: usize = 120;

/// Width below which no column is cut.
const MIN_CUT_WIDTH: usize = 12;

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

    fn table<R: TableRow>(rows: &[R]) -> String {
        let mut out = Vec::new();
        write_table(&mut out, rows).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_is_aligned_and_harmless() {
        let expected = "NAME            AGE\nBärli\\u{1b}[2J  3\nRex             12\n";
        assert_eq!(table(&DOGS), expected);
    }

    /// D17: C1 controls and characters that reorder or break lines reached the terminal.
    #[test]
    fn neither_tables_nor_json_alter_a_terminal() {
        for name in ["\u{9b}2J", "\u{202e}xeR\u{2066}", "Rex\u{2028}Rex", "\u{7f}\u{85}", "\u{e0041}\u{feff}"]
        {
            let rows = [Dog { name, age: 3 }];
            let mut json = Vec::new();
            write_json(&mut json, &rows).unwrap();
            let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(value[0]["name"], name);
            for text in [table(&rows), String::from_utf8(json).unwrap()] {
                assert!(text.lines().all(|line| line.chars().all(is_printable)), "{text:?}");
            }
        }
    }

    /// D16: names of wide characters shifted the columns after them.
    #[test]
    fn columns_are_aligned_by_the_width_of_characters() {
        let rows = [Dog { name: "関所", age: 3 }, Dog { name: "e\u{301}ric", age: 12 }];
        assert_eq!(table(&rows), "NAME  AGE\n関所  3\ne\u{301}ric  12\n");
    }

    #[derive(Serialize)]
    struct Cat(&'static str, String);

    impl TableRow for Cat {
        const HEAD: &'static [&'static str] = &["ID", "NAME", "OWNER"];
        const CUT: &'static [usize] = &[1, 2];

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.clone(), "Ada Lovelace, London".to_owned()]
        }
    }

    /// D16: rows were 235 columns wide.
    #[test]
    fn long_cells_are_cut_with_an_ellipsis() {
        for name in ["n".repeat(300), "関".repeat(300), "関n".repeat(200)] {
            let text = table(&[Cat("1", name), Cat("2", "Tama".to_owned())]);
            let widths: Vec<_> = text.lines().map(UnicodeWidthStr::width).collect();
            assert!(widths.iter().all(|width| *width <= MAX_ROW_WIDTH), "{widths:?}");
            assert!(
                widths[1] >= MAX_ROW_WIDTH - 1
                    && text.contains("… ")
                    && text.contains("  Ada Lovelace, London"),
                "{text}"
            );
        }
        assert_eq!(
            table(&[Cat("1", "Tama".to_owned())]),
            "ID  NAME  OWNER\n1   Tama  Ada Lovelace, London\n"
        );
    }

    #[test]
    fn columns_are_not_cut_below_the_minimum() {
        let mut widths = [200, 40, 30];
        cut_columns(&mut widths, &[1, 2]);
        assert_eq!(widths, [200, MIN_CUT_WIDTH, MIN_CUT_WIDTH]);
        cut_columns(&mut [], &[]);
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
