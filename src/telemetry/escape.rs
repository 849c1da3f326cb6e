//! Escaping of untrusted text, so that it cannot end or alter a log line.

use crate::printable::{is_printable, push_json_escape};

/// Appends `text` as a quoted JSON string. Escapes all characters that could affect a terminal or viewer,
/// not only those that JSON requires.
pub(super) fn push_json(line: &mut String, text: &str) {
    line.push('"');
    let mut start = 0;
    for (at, character) in text.char_indices() {
        if is_printable(character) && !matches!(character, '"' | '\\') {
            continue;
        }
        line.push_str(&text[start..at]);
        start = at + character.len_utf8();
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            other => push_json_escape(line, other),
        }
    }
    line.push_str(&text[start..]);
    line.push('"');
}

/// Appends `text` as a field value of a text line: unquoted if it is one plain word, otherwise quoted and
/// escaped.
pub(super) fn push_value(line: &mut String, text: &str) {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
    if !text.is_empty() && text.bytes().all(is_plain) {
        line.push_str(text);
    } else {
        push_json(line, text);
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
    fn control_characters_are_escaped() {
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
    fn values_are_quoted_unless_they_are_one_word() {
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
        fn json_round_trips(text in any::<String>()) {
            let written = json(&text);
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
            prop_assert!(written.chars().all(is_printable));
        }
    }
}
