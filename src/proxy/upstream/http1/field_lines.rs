//! Field lines that recipients have to tolerate in responses (RFC 9112, section 5.1).

use crate::http_headers::is_token_byte;

/// A head or trailer section with its tolerable field lines repaired.
pub(super) struct Repaired {
    pub(super) bytes: Vec<u8>,
    /// Length of the section before.
    pub(super) length: usize,
    /// The first name that is no token. All fields with such names are dropped.
    pub(super) dropped: Option<String>,
}

/// Repairs the section at the start of `buffer`, which its parser has rejected.
///
/// Removes whitespace between a name and its colon, and fields whose names contain visible characters that no
/// token has, unless their values are invalid. All other faults remain. Returns `None` if the section is incomplete.
pub(super) fn repair(buffer: &[u8], mut has_start_line: bool) -> Option<Repaired> {
    let mut repaired = Repaired { bytes: Vec::new(), length: 0, dropped: None };
    loop {
        let rest = &buffer[repaired.length..];
        let line = &rest[..=memchr::memchr(b'\n', rest)?];
        repaired.length += line.len();
        let is_empty = line.trim_ascii().is_empty();
        let is_field = !has_start_line && !is_empty;
        // Empty lines before the start line are ignored (RFC 9112, section 2.2).
        let is_end = !has_start_line && is_empty;
        has_start_line &= is_empty;
        if is_field {
            repaired.add_field(line);
        } else {
            repaired.bytes.extend_from_slice(line);
        }
        if is_end {
            return Some(repaired);
        }
    }
}

impl Repaired {
    fn add_field(&mut self, line: &[u8]) {
        let (name, value) = line.split_at(memchr::memchr(b':', line).unwrap_or(0));
        let end = name.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
        let trimmed = &name[..end];
        let is_visible = !trimmed.is_empty() && trimmed.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
        if is_visible && is_valid_value(value) && !trimmed.iter().copied().all(is_token_byte) {
            let name = &trimmed[..end.min(MAX_LOGGED_NAME)];
            self.dropped.get_or_insert_with(|| name.escape_ascii().to_string());
            return;
        }
        self.bytes.extend_from_slice(if is_visible { trimmed } else { name });
        self.bytes.extend_from_slice(value);
    }
}

/// Returns `true` if the rest of a line, from its colon on, has no control characters but tabs and its end.
fn is_valid_value(value: &[u8]) -> bool {
    let text = value.strip_suffix(b"\n").unwrap_or(value);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    !text.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t')
}

/// Number of bytes of a dropped name that are logged.
const MAX_LOGGED_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(section: &str, has_start_line: bool) -> Option<(String, usize, Option<String>)> {
        let Repaired { bytes, length, dropped } = repair(section.as_bytes(), has_start_line)?;
        Some((String::from_utf8(bytes).expect("text"), length, dropped))
    }

    #[test]
    fn tolerable_lines_are_repaired() {
        for (line, kept, dropped) in [
            ("A : 1", "A: 1\r\n", None),
            ("A \t: 1 : 2", "A: 1 : 2\r\n", None),
            ("A(b): 1", "", Some("A(b)")),
            ("é : 1", "", Some(r"\xc3\xa9")),
            ("A: (1)", "A: (1)\r\n", None),
            // Faults that remain.
            ("A b: 1", "A b: 1\r\n", None),
            ("A", "A\r\n", None),
            (": 1", ": 1\r\n", None),
            (" : 1", " : 1\r\n", None),
            (" A: 1", " A: 1\r\n", None),
            ("A\0: 1", "A\0: 1\r\n", None),
            ("A(b): \0", "A(b): \0\r\n", None),
            ("A(b): c\rD: e", "A(b): c\rD: e\r\n", None),
        ] {
            let section = format!("X: y\r\n{line}\r\n\r\n");
            let expected = (format!("X: y\r\n{kept}\r\n"), section.len(), dropped.map(str::to_owned));
            assert_eq!(repaired(&format!("{section}rest: x"), false).as_ref(), Some(&expected), "{line}");
            let (bytes, length, dropped) = expected;
            let start = "\r\nHTTP/1.1 200 (a): b\r\n";
            let expected = (format!("{start}{bytes}"), start.len() + length, dropped);
            assert_eq!(repaired(&format!("{start}{section}"), true), Some(expected), "{line}");
        }
        assert_eq!(repaired("HTTP/1.1 200 OK\nA: 1\n\nbody", true).map(|repaired| repaired.1), Some(22));
        for incomplete in ["", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nA(b): 1\r\n"] {
            assert_eq!(repaired(incomplete, true), None, "{incomplete:?}");
        }
    }
}
