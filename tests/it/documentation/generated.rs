//! Parts of pages that are generated.

use std::fmt::Write;
use std::fs;

use super::root;

/// Set to write the generated parts instead of comparing them.
const WRITE_SWITCH: &str = "SEKISHO_WRITE_DOCS";

const BEGIN: &str = "<!-- Generated";
const END: &str = "<!-- End of the generated part -->\n";

/// Compares the generated part of a page with `expected`, or replaces it if the switch is set.
pub(super) fn check(page: &str, expected: &str) {
    let path = root().join(page);
    let text = fs::read_to_string(&path).unwrap();
    let (before, found, after) = split(&text).unwrap_or_else(|| panic!("{page} has no generated part"));
    if std::env::var_os(WRITE_SWITCH).is_some() {
        return fs::write(&path, [before, expected, after].concat()).unwrap();
    }
    assert!(
        found == expected,
        "{page} is out of date:\n{}\nTo write it anew: {WRITE_SWITCH}=1 cargo test --test it documentation",
        difference(found, expected),
    );
}

/// Splits a page before and after the part between the comments that begin and end it. Without the latter it extends
/// to the end of the page.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let begin = text.find(BEGIN)?;
    let start = begin + text[begin..].find("-->\n")? + "-->\n".len();
    let end = text[start..].find(END).map_or(text.len(), |length| start + length);
    Some((&text[..start], &text[start..end], &text[end..]))
}

/// Returns the lines between the first and the last that differ: `-` of the page, `+` as it should be.
fn difference(found: &str, expected: &str) -> String {
    let found: Vec<&str> = found.lines().collect();
    let expected: Vec<&str> = expected.lines().collect();
    let start = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
    let rest = found.len().min(expected.len()) - start;
    let reversed = found.iter().rev().zip(expected.iter().rev());
    let end = reversed.take_while(|(a, b)| a == b).count().min(rest);
    let mut text = String::new();
    for (mark, lines) in [('-', found), ('+', expected)] {
        for line in &lines[start..lines.len() - end] {
            writeln!(text, "{mark} {line}").unwrap();
        }
    }
    text
}

#[test]
fn difference_is_between_first_and_last_differing_line() {
    assert_eq!(difference("a\nb\nc\n", "a\nd\ne\nc\n"), "- b\n+ d\n+ e\n");
    assert_eq!(difference("a\na\n", "a\n"), "- a\n");
}

#[test]
fn page_is_split_at_its_comments() {
    let whole = "# A\n\n<!-- Generated from b:\nc -->\nd\ne\n";
    assert_eq!(split(whole), Some(("# A\n\n<!-- Generated from b:\nc -->\n", "d\ne\n", "")));
    let part = format!("a\n<!-- Generated -->\nb\n{END}c\n");
    assert_eq!(split(&part), Some(("a\n<!-- Generated -->\n", "b\n", &*format!("{END}c\n"))));
    assert_eq!(split("a\n"), None);
}
