//! The file `.env`, which other programs read as well.
//!
//! Only variables whose names begin with `SEKISHO_` are checked. Lines of other programs may have any form; those
//! that are valid can be referred to by `$NAME`.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::ConfigError;
use super::keys::ENV_PREFIX;

/// The variables of a file, and its errors.
#[derive(Default)]
pub(super) struct DotEnv {
    pub(super) variables: Vec<(String, String)>,
    pub(super) errors: Vec<ConfigError>,
}

/// Parses the contents of the file `path`.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> DotEnv {
    let error = |line, problem: &str| ConfigError::Syntax {
        path: path.to_owned(),
        line,
        problem: problem.to_owned(),
    };
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        let errors = vec![error(1, "the file is in UTF-16: save it as UTF-8")];
        return DotEnv { errors, ..DotEnv::default() };
    }
    // Other programs may use another encoding.
    let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    let mut file = DotEnv::default();
    let mut accepted = String::new();
    let mut names = BTreeSet::new();
    for entry in entries(&text) {
        match entry.check(&names) {
            Ok(name) => {
                names.insert(name);
                accepted.push_str(entry.text);
                accepted.push('\n');
            }
            Err(problem) if entry.is_own() => file.errors.push(error(entry.line, &problem)),
            Err(_) => {}
        }
    }
    let variables = dotenvy::from_read_iter(accepted.as_bytes()).flatten();
    file.variables = variables.filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    file
}

/// The definition of a variable, on one line or several.
struct Entry<'t> {
    /// Its first line, from 1.
    line: usize,
    text: &'t str,
}

impl<'t> Entry<'t> {
    /// Returns the name of the variable.
    fn name(&self) -> &'t str {
        let text = self.text.trim_start();
        let exported = text.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t']));
        let text = exported.map_or(text, str::trim_start);
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        &text[..end]
    }

    fn is_own(&self) -> bool {
        self.name().starts_with(ENV_PREFIX)
    }

    /// Returns the name, or the problem. `names` are the variables on earlier lines.
    fn check(&self, names: &BTreeSet<String>) -> Result<String, String> {
        if self.text.contains(char::REPLACEMENT_CHARACTER) {
            return Err("the value is not UTF-8".to_owned());
        }
        let line = format!("{}\n", self.text);
        let mut parsed = dotenvy::from_read_iter(line.as_bytes());
        let (Some(Ok((name, _))), None) = (parsed.next(), parsed.next()) else {
            return Err(EXPECTED.to_owned());
        };
        let is_unknown =
            |name: &&str| name.is_empty() || !names.contains(*name) && std::env::var_os(name).is_none();
        if self.references().any(|name| is_unknown(&name)) {
            return Err(UNDEFINED.to_owned());
        }
        Ok(name)
    }

    /// Returns the names that are replaced in the value.
    fn references(&self) -> impl Iterator<Item = &'t str> {
        let value = self.text.split_once('=').map_or("", |(_, value)| value.trim_start());
        let value = if value.starts_with('\'') { "" } else { value };
        let is_escaped = move |at: usize| value[..at].ends_with('\\');
        value.match_indices('$').filter(move |(at, _)| !is_escaped(*at)).map(move |(at, _)| {
            let rest = &value[at + 1..];
            match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                Some((name, _)) => name,
                // dotenvy ends a name without braces there, also at `_`.
                None => &rest[..rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len())],
            }
        })
    }
}

/// Returns the definitions in `text`. A value in quotes may continue on the next lines, if a quote ends it there.
fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    let mut rest = text;
    let mut line = 1;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = entry_length(rest);
        let (entry, after) = rest.split_at(length);
        let found = Entry { line, text: entry.trim_end_matches(['\n', '\r']) };
        line += entry.matches('\n').count();
        rest = after;
        Some(found)
    })
    .filter(|entry| !entry.name().is_empty())
}

/// Returns the length of the first definition in bytes, with its line end.
fn entry_length(text: &str) -> usize {
    let end_of_line = |from: usize| text[from..].find('\n').map_or(text.len(), |at| from + at + 1);
    let first = end_of_line(0);
    let value = text[..first].find('=').map_or(first, |at| at + 1);
    let value = first - text[value..first].trim_start().len();
    let quote = text[value..first].chars().next().filter(|c| matches!(c, '"' | '\''));
    let Some(quote) = quote else { return first };
    if text.trim_start().starts_with('#') {
        return first;
    }
    match closing_quote(&text[value + 1..], quote) {
        Some(at) if is_end(&text[value + 2 + at..]) => end_of_line(value + 1 + at),
        _ => first,
    }
}

/// Returns the position of the first `quote` that no backslash escapes.
fn closing_quote(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let is_end = c == quote && !is_escaped;
        is_escaped = c == '\\' && !is_escaped && quote == '"';
        is_end.then_some(at)
    })
}

/// Returns `true` if nothing but a comment follows on the line.
fn is_end(text: &str) -> bool {
    let rest = text.lines().next().unwrap_or_default().trim_start();
    rest.is_empty() || rest.starts_with('#')
}

const UNDEFINED: &str = "$ refers to a variable that is not defined before this line: write ${NAME} for one that is, or the \
    value in single quotes if $ is a part of it";

const EXPECTED: &str = "expected NAME=value; values with spaces or # in them need quotes";
