//! Finds the paths in a source: those of this crate, with imports resolved, and those of other crates.

use super::lexer::{Token, is_word};

/// A path of this crate, from the crate's root on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CratePath {
    pub(super) line: usize,
    pub(super) path: String,
    /// Set if the path stands in a `use` declaration.
    pub(super) import: Option<Import>,
}

/// The part of a `use` declaration beside the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Import {
    /// The name that it brings into scope, `*` for all names.
    pub(super) name: String,
    /// True for `pub use` and `pub(…) use`.
    pub(super) is_reexport: bool,
}

/// Returns every path that begins with `crate`, `super`, `self` or the library's name.
pub(super) fn paths_of_this_crate(module: &str, tokens: &[Token<'_>]) -> Vec<CratePath> {
    find_paths(module, tokens, |first, here| match first {
        // `main.rs` is another crate, which names the library by its name.
        "crate" | "sekisho" => Some(Vec::new()),
        "self" => Some(here.to_vec()),
        "super" => Some(here.split_last().map(|(_, parents)| parents.to_vec()).unwrap_or_default()),
        _ => None,
    })
}

/// Returns every path of two or more segments for whose first segment `root_of` returns a module.
///
/// `root_of` also receives the module that contains the path, which may be an inline one.
pub(super) fn find_paths(
    module: &str,
    tokens: &[Token<'_>],
    root_of: impl Fn(&str, &[String]) -> Option<Vec<String>>,
) -> Vec<CratePath> {
    let mut found = Vec::new();
    let mut scope = ModuleScope::new(module);
    for (at, token) in tokens.iter().enumerate() {
        scope.step(&tokens[at..]);
        let previous = at.checked_sub(1).map(|at| tokens[at].text);
        let is_start = !matches!(previous, Some("::" | "."));
        let has_more = tokens.get(at + 1).is_some_and(|next| next.text == "::");
        if !is_start || !has_more {
            continue;
        }
        let Some(root) = root_of(token.text, &scope.module()) else { continue };
        let is_import = previous == Some("use");
        let is_reexport = is_import && at >= 2 && matches!(tokens[at - 2].text, "pub" | ")");
        let mut expanded = Vec::new();
        expand(&tokens[at + 2..], root, &mut expanded);
        found.extend(expanded.into_iter().map(|(path, name)| CratePath {
            line: token.line,
            path,
            import: is_import.then_some(Import { name, is_reexport }),
        }));
    }
    found
}

/// Appends the paths at the start of `tokens`, with the name each has in scope. Returns the number of tokens.
fn expand(tokens: &[Token<'_>], mut path: Vec<String>, found: &mut Vec<(String, String)>) -> usize {
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
            // In `module::{self, …}` it stands for `module`.
            "self" => {}
            text => path.push(text.to_owned()),
        }
        if tokens.get(at).is_none_or(|next| next.text != "::") {
            break;
        }
        at += 1;
    }
    let alias = match &tokens[at..] {
        [Token { text: "as", .. }, alias, ..] => Some(alias.text),
        _ => None,
    };
    let name = alias.or(path.last().map(String::as_str)).unwrap_or_default().to_owned();
    found.push((path.join("::"), name));
    at
}

/// The module at the current token, inline modules included.
struct ModuleScope {
    file: Vec<String>,
    /// Inline modules, with the brace depth outside them.
    inline: Vec<(String, usize)>,
    depth: usize,
}

impl ModuleScope {
    fn new(module: &str) -> Self {
        let file = if matches!(module, "" | "lib") {
            Vec::new()
        } else {
            module.split("::").map(str::to_owned).collect()
        };
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

/// Returns the first two segments of every other path. The first may be the name of another crate.
pub(super) fn paths_of_other_crates(tokens: &[Token<'_>]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let before = |back: usize| at.checked_sub(back).map(|at| tokens[at].text);
        let next = |ahead: usize| tokens.get(at + ahead).map(|token| token.text);
        let has_second = next(1) == Some("::");
        let is_import = before(1) == Some("use");
        // `name` continues the path `a::name` and begins the path `::name` or `use ::name`.
        let is_middle = before(1) == Some("::")
            && before(2).is_some_and(|text| text.ends_with(is_word) && !KEYWORDS.contains(&text));
        if !token.text.starts_with(is_word) || is_middle || !(has_second || is_import) {
            continue;
        }
        let second = next(2).filter(|text| has_second && text.starts_with(is_word));
        let path = second.map_or(token.text.to_owned(), |second| format!("{}::{second}", token.text));
        found.push((token.line, path));
    }
    found
}

/// Keywords that may precede a path that begins with `::`.
const KEYWORDS: &[&str] = &["as", "dyn", "for", "impl", "in", "mut", "return", "use"];
