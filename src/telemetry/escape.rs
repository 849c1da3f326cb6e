//! Writing what others sent into a line, so that it stays one line and shows what was sent.

use std::fmt::Write;

/// Adds `text` as a JSON string, quotes included. Everything that a terminal or a viewer could act
/// upon is escaped, not only what JSON demands.
pub(super) fn push_json(line: &mut String, text: &str) {
    line.push('"');
    let mut plain = 0;
    for (at, character) in text.char_indices() {
        if is_printable(character) && !matches!(character, '"' | '\\') {
            continue;
        }
        line.push_str(&text[plain..at]);
        plain = at + character.len_utf8();
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    // Writing into a String never fails.
                    let _ = write!(line, "\\u{unit:04x}");
                }
            }
        }
    }
    line.push_str(&text[plain..]);
    line.push('"');
}

/// Adds `text` as the value of a field of a text line: as it is where that is one plain word, quoted
/// and escaped otherwise.
pub(super) fn push_value(line: &mut String, text: &str) {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
    if !text.is_empty() && text.bytes().all(plain) {
        line.push_str(text);
    } else {
        push_json(line, text);
    }
}

/// Adds `text` as prose: as it is, but for what is not harmless.
pub(super) fn push_message(line: &mut String, text: &str) {
    for character in text.chars() {
        if is_printable(character) {
            line.push(character);
        } else {
            line.extend(character.escape_default());
        }
    }
}

/// Whether a character only shows itself: no control, no other end of a line (U+2028, U+2029), and
/// none that hides or reorders what stands around it.
fn is_printable(character: char) -> bool {
    match character {
        ' '..='~' => true,
        '\u{0}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{feff}' => false,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => false,
        '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_seed::proptest_config;

    fn json(text: &str) -> String {
        let mut line = String::new();
        push_json(&mut line, text);
        line
    }

    #[test]
    fn what_could_end_or_change_a_line_is_escaped() {
        for (text, written) in [
            ("plain", "\"plain\""),
            ("a\r\nb", r#""a\r\nb""#),
            ("\u{1b}[2J", r#""\u001b[2J""#),
            ("\u{2028}\u{2029}\u{202e}", r#""\u2028\u2029\u202e""#),
            ("\u{e0041}", r#""\udb40\udc41""#),
            (r#"say "\""#, r#""say \"\\\"""#),
            ("関所", "\"関所\""),
            ("", "\"\""),
        ] {
            assert_eq!(json(text), written);
        }
    }

    #[test]
    fn values_are_quoted_where_they_are_not_one_word() {
        for (text, written) in
            [("GET", "GET"), ("", "\"\""), ("a b", "\"a b\""), ("a=b", "\"a=b\""), ("/é", "\"/é\"")]
        {
            let mut line = String::new();
            push_value(&mut line, text);
            assert_eq!(line, written);
        }
    }

    proptest! {
        #![proptest_config(proptest_config())]

        #[test]
        fn json_reads_back_as_it_was(text in any::<String>()) {
            let written = json(&text);
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
            prop_assert!(written.chars().all(is_printable));
        }

        #[test]
        fn prose_is_one_line(text in any::<String>()) {
            let mut line = String::new();
            push_message(&mut line, &text);
            prop_assert!(line.chars().all(is_printable));
        }
    }
}
