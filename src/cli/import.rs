//! Parser of files of users exported from another application, with their password hashes.
//!
//! A file is JSON Lines or CSV with a header; both have `email` and `hashed_password`, and may have
//! `name`, `role` (`user` or `admin`) and `disabled` (`true` or `false`). Hashes are bcrypt's
//! (`$2a$`, `$2b$`, `$2y$`) or passlib's `$bcrypt-sha256$` of version 2.

mod csv;
mod hash;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;

use super::args::{parse_email, parse_role};
use super::error::ImportError;
use crate::services::users::HashedUser;

/// Format of an import file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values, with a header.
    Csv,
    /// One JSON object on each line.
    JsonLines,
}

impl Format {
    /// Detects the format by the file extension, or else by the first bytes.
    #[must_use]
    pub fn of(file: &Path, beginning: &[u8]) -> Self {
        let extension =
            file.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        match extension.as_deref() {
            Some("csv") => Self::Csv,
            Some("json" | "jsonl" | "ndjson") => Self::JsonLines,
            _ => match without_bom(beginning).trim_ascii_start().first() {
                Some(b'{' | b'[') => Self::JsonLines,
                _ => Self::Csv,
            },
        }
    }
}

/// Reads all users. Calls `progress` with the number of bytes read so far.
///
/// # Errors
///
/// Every bad line, each with the first thing that is wrong with it.
pub fn parse(
    reader: impl Read,
    format: Format,
    progress: impl FnMut(u64),
) -> Result<Vec<HashedUser>, Vec<ImportError>> {
    let mut import = Import::default();
    match format {
        Format::Csv => import.read_csv(reader, progress),
        Format::JsonLines => import.read_json_lines(reader, progress),
    }
    if import.bad.is_empty() { Ok(import.users) } else { Err(import.bad) }
}

/// A line's values, not yet looked at.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportRecord {
    email: String,
    hashed_password: String,
    name: Option<String>,
    role: Option<String>,
    disabled: Option<bool>,
}

#[derive(Default)]
struct Import {
    users: Vec<HashedUser>,
    bad: Vec<ImportError>,
    lines: HashMap<String, u64>,
}

impl Import {
    fn read_json_lines(&mut self, reader: impl Read, mut progress: impl FnMut(u64)) {
        let mut reader = BufReader::new(reader);
        let (mut line, mut bytes) = (Vec::new(), 0);
        for number in 1.. {
            line.clear();
            match reader.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(read) => bytes += read as u64,
                Err(error) => return self.refuse(number, format!("can't be read: {error}")),
            }
            progress(bytes);
            let text = if number == 1 { without_bom(&line) } else { &line[..] };
            if text.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice(text) {
                Ok(draft) => self.add(number, draft),
                Err(error) if is_other_layout(text, &error) => {
                    return self.refuse(number, OTHER_LAYOUT.to_owned());
                }
                Err(error) => self.refuse(number, json_reason(&error)),
            }
        }
    }

    fn add(&mut self, line: u64, draft: ImportRecord) {
        match self.check(line, draft) {
            Ok(user) => self.users.push(user),
            Err(reason) => self.refuse(line, reason),
        }
    }

    fn check(&mut self, line: u64, draft: ImportRecord) -> Result<HashedUser, String> {
        let email = parse_email(draft.email.trim()).map_err(|problem| format!("email: {problem}"))?;
        if let Some(first) = self.lines.insert(email.clone(), line) {
            self.lines.insert(email.clone(), first);
            return Err(format!("email: {email} is on line {first} already"));
        }
        if !hash::is_known(&draft.hashed_password) {
            return Err(format!("hashed_password: {}", hash::EXPECTED));
        }
        let name = draft.name.filter(|name| !name.is_empty());
        if name.as_ref().is_some_and(|name| name.contains(char::is_control)) {
            return Err("name: holds control characters".to_owned());
        }
        let role = draft.role.filter(|role| !role.is_empty());
        let role =
            role.as_deref().map(parse_role).transpose().map_err(|problem| format!("role: {problem}"))?;
        Ok(HashedUser {
            email,
            hashed_password: draft.hashed_password.into(),
            name,
            role: role.unwrap_or_default(),
            disabled: draft.disabled.unwrap_or_default(),
        })
    }

    fn refuse(&mut self, line: u64, reason: String) {
        self.bad.push(ImportError { line, reason });
    }
}

/// Returns `true` for the first line of an array, or of an object that continues on the next line.
fn is_other_layout(line: &[u8], error: &serde_json::Error) -> bool {
    line.trim_ascii_start().starts_with(b"[") || line.trim_ascii() == b"{" && error.is_eof()
}

const OTHER_LAYOUT: &str = "expected one object on each line: convert an array with `jq -c '.[]' FILE`, and objects of \
    several lines with `jq -c . FILE`";

/// serde's message, with the column, but not the line: it counts that from each line anew.
fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    format!("{text} (column {})", error.column())
}

/// Spreadsheets write one.
fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho user import users.csv
  sekisho user import users.jsonl

  email,hashed_password,name,role,disabled
  ada@example.com,$2b$12$…,Ada,admin,false

  {\"email\": \"ada@example.com\", \"hashed_password\": \"$2b$12$…\", \"role\": \"admin\"}

Only email and hashed_password are required. Hashes are bcrypt's ($2a$, $2b$, $2y$) or passlib's \
$bcrypt-sha256$, which has commas and so needs quotes in CSV. If any line is invalid, every invalid line is \
reported and no user is imported.";

#[cfg(test)]
mod tests;
