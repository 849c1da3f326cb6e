//! Wording: phrases that no text of the repository contains, the form of doc summaries, and the names of
//! constants.

use super::lexer::lex;
use super::{SourceFile, read_files};

/// Everything that people read. Migrations are left out: sqlx stores their checksums.
const TEXTS: &[&str] = &[
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.toml",
    "Dockerfile",
    "README.ja.md",
    "README.md",
    "SECURITY.md",
    "benches",
    "build.rs",
    "config",
    "deploy",
    "docs",
    "examples",
    "fuzz/Cargo.toml",
    "fuzz/fuzz_targets",
    "scripts",
    "src",
    "tests",
    "web",
];

/// Phrases that have a plainer word.
const DENIED_PHRASES: &[&str] = &[
    "nobody",
    "somebody",
    "anybody",
    "whoever",
    "for ever",
    "in vain",
    "under way",
    "by now",
    "comes to its end",
    "as it likes",
    "as they like",
];

/// The file that lists the phrases.
const THIS_FILE: &str = "tests/it/source_rules/words.rs";

/// A doc summary is a noun phrase or begins with a verb, as in "Returns the number of sessions".
const DENIED_SUMMARY_STARTS: &[&str] =
    &["What", "Who", "Whose", "How", "Whether", "Why", "When", "Where", "Which"];

#[test]
fn texts_contain_no_denied_phrase() {
    let files = read_files(TEXTS);
    assert!(files.iter().any(|file| file.path == "README.md"), "the repository was not read");
    let checked = files.iter().filter(|file| file.path != THIS_FILE);
    assert_none(checked.flat_map(|file| in_file(file, denied_phrases(&file.text))));
}

#[test]
fn doc_summaries_are_noun_phrases_or_begin_with_a_verb() {
    let files = read_files(&["src"]);
    let checked = files.iter();
    assert_none(checked.flat_map(|file| in_file(file, denied_summaries(&file.text))));
}

#[test]
fn constants_have_standard_names() {
    let files = read_files(&["benches", "examples", "src", "tests"]);
    let checked = files.iter().filter(|file| file.path.ends_with(".rs"));
    assert_none(checked.flat_map(|file| in_file(file, denied_constants(&file.text))));
}

fn in_file(file: &SourceFile, found: Vec<(usize, String)>) -> Vec<String> {
    found.into_iter().map(|(line, text)| format!("{}:{line}: {text}", file.path)).collect()
}

fn assert_none(found: impl Iterator<Item = String>) {
    let found: Vec<String> = found.collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Returns the denied phrases of a text, also where a line break divides them.
fn denied_phrases(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<String> = text.lines().map(|line| without_comment_mark(line).to_lowercase()).collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let next = lines.get(at + 1).map_or("", String::as_str);
        let joined = format!("{line} {next}");
        for phrase in DENIED_PHRASES {
            if phrase_starts(&joined, phrase).any(|start| start < line.len()) {
                found.push((at + 1, format!("\"{phrase}\"")));
            }
        }
    }
    found
}

fn without_comment_mark(line: &str) -> &str {
    line.trim().trim_start_matches(['/', '!', '#', '*', '-', ';']).trim()
}

/// Returns where `phrase` begins in `text` as whole words.
fn phrase_starts<'a>(text: &'a str, phrase: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(phrase).map(|(start, _)| start).filter(move |start| {
        let before = text[..*start].chars().next_back();
        let after = text[*start + phrase.len()..].chars().next();
        // `nobody@example.com` is data.
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(|c| c.is_alphanumeric() || c == '@')
    })
}

/// Returns the first lines of doc comments that begin with a denied word.
fn denied_summaries(source: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut previous = None;
    for (at, line) in source.lines().enumerate() {
        let doc = ["///", "//!"].into_iter().find(|mark| line.trim_start().starts_with(mark));
        let summary = line.trim_start().get(3..).unwrap_or_default().trim();
        let first_word = summary.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        if doc.is_some() && doc != previous && DENIED_SUMMARY_STARTS.contains(&first_word) {
            found.push((at + 1, format!("the summary begins with \"{first_word}\"")));
        }
        previous = doc;
    }
    found
}

/// Returns the constants whose names are not of the form `MAX_…`, `…_TIMEOUT`, `…_INTERVAL` and so on.
fn denied_constants(source: &str) -> Vec<(usize, String)> {
    let tokens = lex(source);
    let constants = tokens.windows(2).filter(|pair| matches!(pair[0].text, "const" | "static"));
    constants
        .filter(|pair| is_denied_constant(pair[1].text))
        .map(|pair| (pair[1].line, pair[1].text.to_owned()))
        .collect()
}

fn is_denied_constant(name: &str) -> bool {
    name.starts_with("MOST_")
        || name.starts_with("LONGEST_")
        || name.ends_with("_WITHIN")
        || name.ends_with("_EVERY")
        || name.ends_with("AT_ONCE")
}

#[test]
fn denied_phrase_is_found_as_whole_words() {
    let text = "No-one and nobodys.\n// Nobody.\n/// requests under\n///   way\nlet under_way = 1;\n# stands by\n\nnow";
    let found = denied_phrases(text);
    assert_eq!(found, [(2, "\"nobody\"".to_owned()), (3, "\"under way\"".to_owned())]);
}

#[test]
fn denied_summary_is_found_on_the_first_line_only() {
    let source = "//! How it works.\n\n/// Returns the time\n/// When it is set.\nfn a() {}\n    /// Whether it is set.\n    b: bool,\n// When.\n/// Whenever.\n";
    let lines: Vec<usize> = denied_summaries(source).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [1, 6]);
}

#[test]
fn denied_constant_is_found_by_its_name() {
    let source =
        "const MOST_USERS: u8 = 1;\nconst MAX_USERS: u8 = 1;\nstatic READ_WITHIN: u8 = 1;\nconst fn at() {}";
    let names: Vec<String> = denied_constants(source).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["MOST_USERS", "READ_WITHIN"]);
    assert!(
        is_denied_constant("LONGEST_WAIT")
            && is_denied_constant("LOOK_EVERY")
            && is_denied_constant("AT_ONCE")
    );
}
