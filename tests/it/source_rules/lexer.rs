//! A lexer for the parts of Rust that matter to the checks: words, paths and braces.

/// One token of a source and its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) line: usize,
    pub(super) text: &'a str,
}

/// Splits a source into words, `::` and single characters. Comments and literals are dropped.
pub(super) fn lex(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let length = skipped_length(rest).unwrap_or_else(|| {
            let length = token_length(rest, first);
            if !first.is_whitespace() {
                tokens.push(Token { line, text: &rest[..length] });
            }
            length
        });
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

fn token_length(rest: &str, first: char) -> usize {
    if is_word(first) {
        return rest.find(|c| !is_word(c)).unwrap_or(rest.len());
    }
    if rest.starts_with("::") { 2 } else { first.len_utf8() }
}

pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the length of the comment or literal at the start of `rest`.
fn skipped_length(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment_length(rest));
    }
    if rest.starts_with('\'') {
        return character_length(rest);
    }
    // b"…", c"…", r"…", br#"…"#
    let prefix = rest.find(|c| !matches!(c, 'b' | 'c' | 'r')).filter(|length| *length <= 2)?;
    let hashes = rest[prefix..].chars().take_while(|c| *c == '#').count();
    let raw = rest[..prefix].ends_with('r');
    let body = rest[prefix + hashes..].strip_prefix('"')?;
    let start = rest.len() - body.len();
    if raw {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(body.find(&end).map_or(rest.len(), |at| start + at + end.len()));
    }
    (hashes == 0).then(|| start + length_to_quote(body, '"'))
}

fn block_comment_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut depth = 0;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// `'a'` and `'\n'` are literals, `'a` is a lifetime.
fn character_length(rest: &str) -> Option<usize> {
    let mut chars = rest[1..].chars();
    let first = chars.next()?;
    let literal = first == '\\' || chars.next() == Some('\'');
    literal.then(|| 1 + length_to_quote(&rest[1..], '\''))
}

/// Returns the length up to and including the next `quote` that is not escaped.
fn length_to_quote(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    body.len()
}

/// Drops the items under `#[cfg(test)]` and `#[cfg(all(test, …))]`.
pub(super) fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let rest = &tokens[at..];
        if starts_with(rest, &["#", "[", "cfg", "(", "test", ")"])
            || starts_with(rest, &["#", "[", "cfg", "(", "all", "(", "test", ","])
        {
            let attribute = rest.iter().position(|token| token.text == "]").map_or(rest.len(), |end| end + 1);
            at += attribute + item_length(&rest[attribute..]);
        } else {
            kept.push(rest[0]);
            at += 1;
        }
    }
    kept
}

fn starts_with(tokens: &[Token<'_>], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.text == *text)
}

/// Counts the tokens of the item at the start of `tokens`, up to its semicolon or closing brace.
fn item_length(tokens: &[Token<'_>]) -> usize {
    // The closing brace of an import list does not end the item.
    let import =
        tokens.iter().map(|token| token.text).take_while(|text| *text != "{").any(|text| text == "use");
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return at,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 && !import {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}
