//! Untrusted text for terminals and logs.

use std::fmt::Write;

/// Returns `true` for characters other than controls, line separators (U+2028, U+2029), and characters that are
/// invisible or reorder text.
pub(crate) fn is_printable(character: char) -> bool {
    match character {
        ' '..='~' => true,
        '\u{0}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{feff}' => false,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => false,
        '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => false,
        _ => true,
    }
}

/// Appends `text`, with characters escaped that are not printable.
pub(crate) fn push_printable(line: &mut String, text: &str) {
    for character in text.chars() {
        if is_printable(character) {
            line.push(character);
        } else {
            line.extend(character.escape_default());
        }
    }
}

/// Returns `text`, with characters escaped that are not printable.
pub(crate) fn to_printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    push_printable(&mut line, text);
    line
}

/// Appends a UTF-16 escape of JSON for a character.
pub(crate) fn push_json_escape(line: &mut String, character: char) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        // Writing into a String never fails.
        let _ = write!(line, "\\u{unit:04x}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_seed::proptest_config;

    #[test]
    fn characters_that_alter_a_terminal_are_escaped() {
        for (text, expected) in [
            ("関所 1", "関所 1"),
            ("\u{1b}[2J", r"\u{1b}[2J"),
            ("\u{9b}2J", r"\u{9b}2J"),
            ("a\nb", r"a\nb"),
            ("\u{202e}nimda\u{2066}\u{2028}", r"\u{202e}nimda\u{2066}\u{2028}"),
        ] {
            assert_eq!(to_printable(text), expected);
        }
    }

    proptest! {
        #![proptest_config(proptest_config())]

        #[test]
        fn escaped_text_is_one_line(text in any::<String>()) {
            prop_assert!(to_printable(&text).chars().all(is_printable));
        }
    }
}
