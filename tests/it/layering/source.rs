//! Just enough of a Rust parser to find the paths in a source.

/// One token of a source and its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    line: usize,
    text: &'a str,
}

/// The tokens that matter: words, `::`, and single characters. Comments and literals are gone.
pub(super) fn lex(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest).unwrap_or_else(|| {
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

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the comment or literal that `rest` begins with.
fn skipped(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    if rest.starts_with('\'') {
        return character(rest);
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
    (hashes == 0).then(|| start + closing_quote(body, '"'))
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
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
fn character(rest: &str) -> Option<usize> {
    let mut chars = rest[1..].chars();
    let first = chars.next()?;
    let literal = first == '\\' || chars.next() == Some('\'');
    literal.then(|| 1 + closing_quote(&rest[1..], '\''))
}

/// How far it is to behind the next `quote` that isn't escaped.
fn closing_quote(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    body.len()
}

/// Leaves out the items under `#[cfg(test)]`.
pub(super) fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let here = &tokens[at..];
        if here.len() >= MARK.len() && here.iter().zip(MARK).all(|(token, mark)| token.text == mark) {
            at += MARK.len() + item_length(&here[MARK.len()..]);
        } else {
            kept.push(here[0]);
            at += 1;
        }
    }
    kept
}

/// How many tokens the item has that `tokens` begin with: to its semicolon or closing brace.
fn item_length(tokens: &[Token<'_>]) -> usize {
    // The braces of an import don't end it.
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

/// Every path that begins at `crate`, `super` or `self`, from the crate's root on, with its line.
pub(super) fn paths_of_this_crate(module: &str, tokens: &[Token<'_>]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut here = Place::new(module);
    for at in 0..tokens.len() {
        here.step(&tokens[at..]);
        let begins = at == 0 || tokens[at - 1].text != "::";
        if !begins || tokens.get(at + 1).is_none_or(|next| next.text != "::") {
            continue;
        }
        let root = match tokens[at].text {
            // The program is a crate of its own, to which the library is another one.
            "crate" | "sekisho" => Vec::new(),
            "self" => here.module(),
            "super" => here.module().split_last().map(|(_, parents)| parents.to_vec()).unwrap_or_default(),
            _ => continue,
        };
        let mut paths = Vec::new();
        expand(&tokens[at + 2..], root, &mut paths);
        found.extend(paths.into_iter().map(|path| (tokens[at].line, path)));
    }
    found
}

/// Follows the path that goes on in `tokens`, groups included. Returns how many tokens it has.
fn expand(tokens: &[Token<'_>], mut path: Vec<String>, found: &mut Vec<String>) -> usize {
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.text {
            "super" => drop(path.pop()),
            "{" => {
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at += expand(&tokens[at..], path.clone(), found);
                    at += tokens[at..].iter().take_while(|token| !matches!(token.text, "," | "}")).count();
                    at += usize::from(tokens.get(at).is_some_and(|token| token.text == ","));
                }
                return at + 1;
            }
            // `{self, …}` is what stands before it.
            "self" => {}
            text => path.push(text.to_owned()),
        }
        if tokens.get(at).is_none_or(|next| next.text != "::") {
            break;
        }
        at += 1;
    }
    found.push(path.join("::"));
    at
}

/// Where in the file we are, inline modules included.
struct Place {
    file: Vec<String>,
    /// Inline modules, with the depth of braces outside them.
    inline: Vec<(String, usize)>,
    depth: usize,
}

impl Place {
    fn new(module: &str) -> Self {
        let file = if module == "lib" { Vec::new() } else { module.split("::").map(str::to_owned).collect() };
        Self { file, inline: Vec::new(), depth: 0 }
    }

    fn step(&mut self, tokens: &[Token<'_>]) {
        match tokens {
            [Token { text: "mod", .. }, name, Token { text: "{", .. }, ..] => {
                self.inline.push((name.text.to_owned(), self.depth));
            }
            [Token { text: "{", .. }, ..] => self.depth += 1,
            [Token { text: "}", .. }, ..] => {
                self.depth = self.depth.saturating_sub(1);
                self.inline.pop_if(|(_, outside)| *outside == self.depth);
            }
            _ => {}
        }
    }

    fn module(&self) -> Vec<String> {
        self.file.iter().chain(self.inline.iter().map(|(name, _)| name)).cloned().collect()
    }
}

/// Every other path, as far as its second segment: what begins with a crate's name names the crate.
pub(super) fn paths_of_other_crates(tokens: &[Token<'_>]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let before = |back: usize| at.checked_sub(back).map(|at| tokens[at].text);
        let next = |ahead: usize| tokens.get(at + ahead).map(|token| token.text);
        let goes_on = next(1) == Some("::");
        let imported = before(1) == Some("use");
        // `a::name` is within a path, `::name` and `use ::name` begin one.
        let within = before(1) == Some("::")
            && before(2).is_some_and(|text| text.ends_with(is_word) && !KEYWORDS.contains(&text));
        if !token.text.starts_with(is_word) || within || !(goes_on || imported) {
            continue;
        }
        let second = next(2).filter(|text| goes_on && text.starts_with(is_word));
        let path = second.map_or(token.text.to_owned(), |second| format!("{}::{second}", token.text));
        found.push((token.line, path));
    }
    found
}

/// Words that may stand before a path, so that it isn't the middle of one.
const KEYWORDS: &[&str] = &["as", "dyn", "for", "impl", "in", "mut", "return", "use"];
