//! TOML parsing that keeps the line of every key.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, ValueSource};
use super::keys::{KEYS, TABLE_KEYS};
use super::value::{RawValue, SourcedValue};

/// The contents of a file: values by dotted key, and one map for each `[[routes]]` table.
#[derive(Default)]
pub(super) struct ParsedFile {
    pub(super) settings: BTreeMap<String, SourcedValue>,
    pub(super) routes: Vec<BTreeMap<String, SourcedValue>>,
    /// The errors of the lines that are missing in both.
    pub(super) errors: Vec<ConfigError>,
    /// The keys on these lines.
    pub(super) unreadable_keys: Vec<String>,
}

/// Parses `text`, the contents of the file `path`; `place_of_line` makes the source of a value from its line.
pub(super) fn parse(path: &Path, text: &str, place_of_line: impl Fn(usize) -> ValueSource) -> ParsedFile {
    let mut file = ParsedFile::default();
    let text = file.remove_bad_lines(path, text);
    if let Ok(root) = DeTable::parse(&text) {
        let place = |span: Range<usize>| place_of_line(line_of(&text, span.start));
        if let Err(error) = file.add(root.get_ref(), &place) {
            file.errors.push(error);
        }
    }
    file
}

impl ParsedFile {
    /// Returns `text` with the lines `key = value` emptied that are no TOML, and keeps their errors. Returns an empty
    /// text if another line is no TOML, as the structure is then unknown.
    fn remove_bad_lines(&mut self, path: &Path, text: &str) -> String {
        let mut text = text.to_owned();
        while let Err(error) = DeTable::parse(&text).map(drop) {
            let line = error.span().map_or(1, |span| line_of(&text, span.start));
            let content = text.lines().nth(line - 1).unwrap_or_default().to_owned();
            let key = key_of(&content);
            if key.is_some() || self.errors.is_empty() {
                let problem = syntax_problem(&content, error.message());
                self.errors.push(ConfigError::Syntax { path: path.to_owned(), line, problem });
            }
            let Some(key) = key else { return String::new() };
            self.unreadable_keys.push(full_key(&text, line, key));
            text = without_line(&text, line);
        }
        text
    }

    fn add(
        &mut self,
        root: &DeTable<'_>,
        place: &impl Fn(Range<usize>) -> ValueSource,
    ) -> Result<(), ConfigError> {
        let file = self;
        for (key, value) in root {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("routes", DeValue::Array(tables)) => {
                    for table in tables {
                        let DeValue::Table(table) = table.get_ref() else {
                            return Err(not_routes(place(key.span())));
                        };
                        let mut route = BTreeMap::new();
                        flatten("routes", table, place, &mut route);
                        file.routes.push(route);
                    }
                }
                ("routes", _) => return Err(not_routes(place(key.span()))),
                (section, DeValue::Table(table)) if is_section(section) || !table.is_empty() => {
                    flatten(section, table, place, &mut file.settings);
                }
                (name, value) => {
                    let value = SourcedValue { value: raw_value(value), place: place(key.span()) };
                    file.settings.insert(name.to_owned(), value);
                }
            }
        }
        Ok(())
    }
}

/// Returns the key of a line `key = value`.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim().trim_matches(['"', '\'']);
    let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    is_key.then_some(key)
}

/// Returns `key` on this line, counted from 1, with the table that it is in.
fn full_key(text: &str, line: usize, key: &str) -> String {
    let heads = text.lines().take(line).filter_map(|line| line.trim().strip_prefix('['));
    let head = heads.last().and_then(|head| head.split(']').next());
    match head.map(|head| head.trim_start_matches('[').trim()) {
        Some(head) => format!("{head}.{key}"),
        None => key.to_owned(),
    }
}

fn without_line(text: &str, line: usize) -> String {
    let keep = |(index, content)| if index + 1 == line { "" } else { content };
    text.lines().enumerate().map(keep).collect::<Vec<_>>().join("\n")
}

/// Returns the problem of a line. Most often it is text without quotes. The value is left out: it may be a secret.
fn syntax_problem(line: &str, message: &str) -> String {
    let (Some(key), Some((_, value))) = (key_of(line), line.split_once('=')) else {
        return message.to_owned();
    };
    let value = value.trim();
    let word = value.split(['#', ' ']).next().unwrap_or_default();
    if ["true", "false"].iter().any(|known| word.eq_ignore_ascii_case(known)) {
        return "expected true or false, in lower case".to_owned();
    }
    if value.starts_with(['\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}']) {
        return format!("expected straight quotes: {key} = \"…\"");
    }
    if value.is_empty() {
        return format!("expected a value after {key} =");
    }
    if value.starts_with(['"', '\'', '[', '{']) || word.bytes().all(|b| b.is_ascii_digit() || b == b'_') {
        return message.to_owned();
    }
    format!("text needs quotes: {key} = \"…\"")
}

/// Parses the items of a TOML array that stands in an environment variable.
pub(super) fn parse_list(text: &str) -> Option<Vec<RawValue>> {
    let document = format!("list = {text}");
    let root = DeTable::parse(&document).ok()?;
    let (_, list) = root.get_ref().iter().next().filter(|_| root.get_ref().len() == 1)?;
    match raw_value(list.get_ref()) {
        RawValue::List(items) => Some(items),
        _ => None,
    }
}

/// Inserts the values of `table` under dotted keys. A nested table is flattened too, unless its key
/// accepts a table, so that an unknown key is reported by its full name.
fn flatten(
    prefix: &str,
    table: &DeTable<'_>,
    place: &impl Fn(Range<usize>) -> ValueSource,
    values: &mut BTreeMap<String, SourcedValue>,
) {
    for (key, value) in table {
        let name = format!("{prefix}.{}", key.get_ref());
        let is_key = KEYS.contains(&name.as_str()) || TABLE_KEYS.contains(&name.as_str());
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() && !is_key => flatten(&name, inner, place, values),
            value => {
                values.insert(name, SourcedValue { value: raw_value(value), place: place(key.span()) });
            }
        }
    }
}

fn raw_value(value: &DeValue<'_>) -> RawValue {
    match value {
        DeValue::String(text) => RawValue::Text(text.to_string()),
        DeValue::Integer(number) => {
            // Converts other radixes to decimal. A number beyond 128 bits stays as written, and no key
            // accepts it.
            let decimal = i128::from_str_radix(number.as_str(), number.radix());
            RawValue::Integer(decimal.map_or_else(|_| number.to_string(), |number| number.to_string()))
        }
        DeValue::Float(number) => RawValue::Other(number.to_string()),
        DeValue::Boolean(value) => RawValue::Boolean(*value),
        DeValue::Datetime(time) => RawValue::Other(time.to_string()),
        DeValue::Array(items) => RawValue::List(items.iter().map(|item| raw_value(item.get_ref())).collect()),
        DeValue::Table(table) => {
            let pairs = table.iter();
            RawValue::Table(
                pairs.map(|(key, value)| (key.get_ref().to_string(), raw_value(value.get_ref()))).collect(),
            )
        }
    }
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.split_once('.').is_some_and(|(section, _)| section == name))
}

fn not_routes(place: ValueSource) -> ConfigError {
    ConfigError::Invalid {
        key: "routes".to_owned(),
        value: None,
        place,
        problem: "expected one table for each route, headed [[routes]]".to_owned(),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}
