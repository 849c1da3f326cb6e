//! Users as comma-separated values.

use std::io::Read;

use csv::{ByteRecord, ReaderBuilder, Terminator};

use super::{Import, ImportRecord, without_bom};
use crate::config::nearest;

impl Import {
    pub(super) fn read_csv(&mut self, reader: impl Read, mut progress: impl FnMut(u64)) {
        // Carriage returns are trimmed with other white space, and every record ends with a line end:
        // only then does the reader's own count tell where a record began.
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .terminator(Terminator::Any(b'\n'))
            .from_reader(reader.chain(&b"\n"[..]));
        let mut columns = None::<Columns>;
        let mut record = ByteRecord::new();
        loop {
            let read = reader.read_byte_record(&mut record);
            let inner = record.iter().flatten().filter(|byte| **byte == b'\n').count() as u64;
            let line = reader.position().line().saturating_sub(1 + inner);
            match read {
                Ok(false) => break,
                Ok(true) => progress(reader.position().byte()),
                Err(error) => return self.refuse(line + 1, format!("can't be read: {error}")),
            }
            if is_blank(&record) {
                continue;
            }
            let fields = fields(&record);
            match (&columns, fields) {
                (Some(columns), Some(fields)) => match columns.draft(&fields) {
                    Ok(draft) => self.add(line, draft),
                    Err(reason) => self.refuse(line, reason),
                },
                (None, Some(names)) => match Columns::of(&names) {
                    Ok(known) => columns = Some(known),
                    Err(reason) => return self.refuse(line, reason),
                },
                (_, None) => self.refuse(line, "is not UTF-8: save the file as UTF-8".to_owned()),
            }
        }
        if columns.is_none() && self.bad.is_empty() {
            self.refuse(1, NO_COLUMNS.to_owned());
        }
    }
}

/// Columns of a CSV file, in the order of its header.
struct Columns(Vec<&'static str>);

impl Columns {
    fn of(names: &[&str]) -> Result<Self, String> {
        let mut columns = Vec::new();
        for name in names {
            let Some(known) = COLUMNS.into_iter().find(|column| column == name) else {
                let hint = nearest(name, COLUMNS).map(|near| format!(": did you mean {near}?"));
                let hint = hint.unwrap_or_else(|| format!(": there are {}", COLUMNS.join(", ")));
                return Err(format!("unknown column {name}{hint}"));
            };
            if columns.contains(&known) {
                return Err(format!("column {name} comes twice"));
            }
            columns.push(known);
        }
        match COLUMNS[..2].iter().find(|required| !columns.contains(required)) {
            Some(missing) => Err(format!("column {missing} is missing: {NO_COLUMNS}")),
            None => Ok(Self(columns)),
        }
    }

    fn draft(&self, fields: &[&str]) -> Result<ImportRecord, String> {
        if fields.len() != self.0.len() {
            return Err(format!(
                "expected {} fields, found {}: values with commas need quotes",
                self.0.len(),
                fields.len()
            ));
        }
        let mut draft = ImportRecord::default();
        // An empty field is a missing one.
        for (column, value) in self.0.iter().zip(fields).filter(|(_, value)| !value.is_empty()) {
            let text = || (*value).to_owned();
            match *column {
                "email" => draft.email = text(),
                "hashed_password" => draft.hashed_password = text(),
                "name" => draft.name = Some(text()),
                "role" => draft.role = Some(text()),
                _ => draft.disabled = Some(parse_bool(value).ok_or("disabled: expected true or false")?),
            }
        }
        Ok(draft)
    }
}

/// Parses a truth value as databases write it: PostgreSQL `t`, SQLite and MySQL `1`, Python `True`.
fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Some(true),
        "false" | "f" | "0" => Some(false),
        _ => None,
    }
}

/// The fields less white space at their ends, if they are text.
fn fields(record: &ByteRecord) -> Option<Vec<&str>> {
    record.iter().map(|field| str::from_utf8(without_bom(field)).ok().map(str::trim)).collect()
}

fn is_blank(record: &ByteRecord) -> bool {
    record.len() <= 1 && record.iter().all(|field| field.trim_ascii().is_empty())
}

/// The first two are required.
const COLUMNS: [&str; 5] = ["email", "hashed_password", "name", "role", "disabled"];

pub(super) const NO_COLUMNS: &str = "the first line names the columns, email and hashed_password among them";
