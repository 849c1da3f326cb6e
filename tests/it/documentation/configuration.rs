//! `docs/configuration.md`, which is generated from `config/default.toml`.
//!
//! A key is a line `name = value`, or `#name = value` if it is commented out. The comment above it is its text. A
//! line of the comment that is indented by two spaces is an item of a list: a word, two spaces or more, its text.

use std::fmt::Write;
use std::fs;

use sekisho::config::{KEYS, RELOADED, ROUTE_KEYS};

use super::{generated, root};

#[test]
fn configuration_page_agrees_with_default_file() {
    let toml = fs::read_to_string(root().join("config/default.toml")).unwrap();
    generated::check("docs/configuration.md", &configuration_page(&toml));
}

/// Returns the generated part of the page for the text of a `default.toml`.
fn configuration_page(toml: &str) -> String {
    let mut page = String::new();
    let mut section = "";
    let mut table_at = None;
    let mut table = String::from("\n## All keys\n\n| key | default | |\n|---|---|---|\n");
    for block in toml.split("\n\n") {
        let (comment, definition) = split_block(block);
        match definition.map(|line| line.trim_start_matches('#')) {
            None => push_text(&mut page, &comment, section),
            Some(line) if line.starts_with('[') => {
                table_at.get_or_insert(page.len());
                section = line.trim_matches(['[', ']']);
                write!(page, "\n## `{line}`\n").unwrap();
                push_text(&mut page, &comment, section);
            }
            Some(line) => {
                let (name, value) = line.split_once(" = ").unwrap();
                let key = format!("{section}.{name}");
                let text = comment.join(" ");
                let before_list = comment.iter().take_while(|line| !line.starts_with("  "));
                let summary = before_list.copied().collect::<Vec<_>>().join(" ");
                let is_commented = definition.is_some_and(|line| line.starts_with('#'));
                let default = has_default(section, is_commented, &text).then_some(value);
                table.push_str(&table_row(&key, default, &summary, section));
                write!(page, "\n### `{key}`\n\n{}", value_line(&key, value, default.is_some())).unwrap();
                push_text(&mut page, &comment, section);
            }
        }
    }
    page.insert_str(table_at.unwrap_or(page.len()), &table);
    page
}

/// Splits a block into the lines of its comment and the line that defines a key or a section.
fn split_block(block: &str) -> (Vec<&str>, Option<&str>) {
    let lines: Vec<&str> = block.lines().filter(|line| !line.is_empty()).collect();
    let is_prose = |line: &&&str| **line == "#" || line.starts_with("# ");
    let definition = lines.iter().find(|line| !is_prose(line)).copied();
    let comment = lines.iter().filter(is_prose).map(|line| line[1..].strip_prefix(' ').unwrap_or(""));
    (comment.collect(), definition)
}

/// Returns a row of the table of all keys.
fn table_row(key: &str, default: Option<&str>, comment: &str, section: &str) -> String {
    let default = default.map_or(String::new(), |value| format!("`{value}`"));
    let (summary, _) = comment.split_once(". ").unwrap_or((comment.trim_end_matches(['.', ':']), ""));
    format!("| [`{key}`](#{}) | {default} | {} |\n", anchor(key), inline(summary, section))
}

/// Returns `true` if the value of a key is its default, not an example. All keys of routes are commented out.
fn has_default(section: &str, is_commented: bool, comment: &str) -> bool {
    if section != "routes" {
        return !is_commented;
    }
    !["Required", "None by default", "No limit by default"].iter().any(|words| comment.contains(words))
}

/// Returns the line below the heading of a key. An empty example is left out.
fn value_line(key: &str, value: &str, is_default: bool) -> String {
    let value = match value {
        "\"\"" => String::new(),
        value if is_default => format!("Default: `{value}` · "),
        value => format!("Example: `{value}` · "),
    };
    let reload = if key.starts_with("routes.") || RELOADED.contains(&key) {
        "reloaded without a restart"
    } else if key.starts_with("server.tls_") {
        "reloaded without a restart, unless TLS is turned on or off"
    } else {
        "a change needs a restart"
    };
    format!("{value}{reload}\n")
}

/// Appends a comment as paragraphs and lists.
fn push_text(page: &mut String, comment: &[&str], section: &str) {
    let mut previous = Line::Blank;
    for line in comment {
        let item = line.strip_prefix("  ").and_then(|item| item.split_once("  "));
        let current = match item {
            _ if line.is_empty() => Line::Blank,
            Some(_) => Line::Item,
            None => Line::Text,
        };
        if current != Line::Blank && previous != current {
            page.push('\n');
        }
        match item {
            Some((word, text)) => {
                writeln!(page, "- `{word}`: {}", inline(text.trim_start(), section)).unwrap()
            }
            None if current == Line::Text => writeln!(page, "{}", inline(line, section)).unwrap(),
            None => {}
        }
        previous = current;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Blank,
    Item,
    Text,
}

/// Marks code and links keys. Text in backquotes stays.
fn inline(text: &str, section: &str) -> String {
    let parts = text.split('`').enumerate().map(|(index, part)| match index % 2 {
        1 => format!("`{part}`"),
        _ => part.split(' ').map(|word| mark_word(word, section)).collect::<Vec<_>>().join(" "),
    });
    parts.collect()
}

fn mark_word(word: &str, section: &str) -> String {
    let start = word.len() - word.trim_start_matches('(').len();
    let end = word.trim_end_matches([',', '.', ':', ';', ')']).len().max(start);
    let (before, core, after) = (&word[..start], &word[start..end], &word[end..]);
    let key = if core.contains('.') { core.to_owned() } else { format!("{section}.{core}") };
    let is_key = KEYS.iter().chain(ROUTE_KEYS.iter()).any(|known| *known == key);
    let is_code = core.contains(['_', '"', '*', '[', '{', '}', '=', '<', '>', '$', '%', '&'])
        || core.contains("://")
        || ["/", "./", "--"].iter().any(|start| core.starts_with(start))
        || core == ".env";
    let marked = if is_key && (core.contains('.') || core.contains('_')) {
        format!("[`{core}`](#{})", anchor(&key))
    } else if is_code {
        format!("`{core}`")
    } else {
        core.to_owned()
    };
    format!("{before}{marked}{after}")
}

/// Returns the anchor of the heading of a key.
fn anchor(key: &str) -> String {
    key.replace('.', "")
}

#[test]
fn page_is_generated_from_comments_keys_and_sections() {
    let toml = "# Head, see server.listen.\n\n# The listener.\n[server]\n\n# Text (\"a\").\n#   auth    sign-in\n\
                #   docs    /docs\n# More.\n#builtin = [\"auth\"]\n\n# Needs tls_key.\ndrain = \"30s\"\n";
    let page = configuration_page(toml);
    let (head, rest) = page.split_once("\n## All keys\n").unwrap();
    assert_eq!(head, "\nHead, see [`server.listen`](#serverlisten).\n");
    let (table, rest) = rest.split_once("\n## `[server]`\n").unwrap();
    assert!(
        table.ends_with(
            "| [`server.drain`](#serverdrain) | `\"30s\"` | Needs [`tls_key`](#servertls_key) |\n"
        )
    );
    assert!(table.contains("| [`server.builtin`](#serverbuiltin) |  | Text (`\"a\"`) |\n"), "{table}");
    assert_eq!(
        rest,
        "\nThe listener.\n\n### `server.builtin`\n\nExample: `[\"auth\"]` · a change needs a restart\n\n\
         Text (`\"a\"`).\n\n- `auth`: sign-in\n- `docs`: `/docs`\n\nMore.\n\n### `server.drain`\n\n\
         Default: `\"30s\"` · reloaded without a restart\n\nNeeds [`tls_key`](#servertls_key).\n"
    );
}
