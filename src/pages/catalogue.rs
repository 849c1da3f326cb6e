//! The texts of the pages, by language.
//!
//! A file with texts is TOML: `[sign_in] title = "Sign in"` is the text `sign_in.title`. A text may have placeholders
//! in braces, such as `{min}`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::PagesError;
use super::files::{DEMO_TEXTS, OperatorFiles, TEXTS};

/// The texts of one language.
#[derive(Debug)]
pub(super) struct Catalogue {
    pub(super) tag: String,
    texts: BTreeMap<String, String>,
}

impl Catalogue {
    /// Returns a text, or its key if there is none.
    pub(super) fn text<'a>(&'a self, key: &'a str) -> &'a str {
        self.find(key).unwrap_or(key)
    }

    /// Returns a text.
    pub(super) fn find(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }

    /// Loads the texts of a language. A text that the language lacks is in English.
    pub(super) fn load(tag: &str, files: OperatorFiles<'_>) -> Result<Self, PagesError> {
        let name = format!("{tag}.toml");
        let english = TextFile::embedded(ENGLISH)?;
        let embedded = TextFile::embedded(&name)?;
        let operators = match files.find(&name)? {
            Some(file) => Some(TextFile::parse(file.path, &file.text)?),
            None => None,
        };
        let Some(english) = english.filter(|_| embedded.is_some() || operators.is_some()) else {
            return Err(unknown_language(tag, files));
        };
        let mut texts = english.texts();
        for file in embedded.into_iter().chain(operators) {
            file.check_against(&english)?;
            texts.extend(file.texts());
        }
        Ok(Self { tag: tag.to_owned(), texts })
    }
}

fn unknown_language(tag: &str, files: OperatorFiles<'_>) -> PagesError {
    let remedy = match files.0 {
        Some(directory) => format!("add {}", directory.join(format!("{tag}.toml")).display()),
        None => format!("set pages.templates to a directory with {tag}.toml"),
    };
    PagesError::UnknownLanguage { tag: tag.to_owned(), remedy }
}

/// A parsed file: each text with its line.
struct TextFile {
    path: PathBuf,
    texts: BTreeMap<String, (String, usize)>,
}

impl TextFile {
    /// Returns the embedded texts of a language, with those of the demo.
    fn embedded(name: &str) -> Result<Option<Self>, PagesError> {
        let mut parts = TEXTS.iter().chain(&DEMO_TEXTS).filter(|(embedded, _)| *embedded == name);
        let Some((_, text)) = parts.next() else { return Ok(None) };
        let mut file = Self::parse(Path::new(name).to_owned(), text)?;
        for (_, text) in parts {
            file.texts.extend(Self::parse(Path::new(name).to_owned(), text)?.texts);
        }
        Ok(Some(file))
    }

    fn parse(path: PathBuf, text: &str) -> Result<Self, PagesError> {
        let root = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            PagesError::Texts { path: path.clone(), line, problem: error.message().to_owned() }
        })?;
        let mut file = Self { path, texts: BTreeMap::new() };
        file.insert("", root.get_ref(), text)?;
        Ok(file)
    }

    /// Inserts the texts of a table and its subtables.
    fn insert(&mut self, prefix: &str, table: &DeTable<'_>, source: &str) -> Result<(), PagesError> {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let line = line_of(source, name.span().start);
            match value.get_ref() {
                DeValue::Table(inner) => self.insert(&format!("{key}."), inner, source)?,
                DeValue::String(text) => _ = self.texts.insert(key, (text.to_string(), line)),
                _ => return Err(self.problem(line, format!("{key}: expected text, in quotes"))),
            }
        }
        Ok(())
    }

    /// Checks that all keys and placeholders are those of `english`.
    fn check_against(&self, english: &Self) -> Result<(), PagesError> {
        for (key, (text, line)) in &self.texts {
            let Some((original, _)) = english.texts.get(key) else {
                return Err(self.problem(*line, format!("there is no text {key}")));
            };
            let known: Vec<_> = placeholders(original).collect();
            if let Some(unknown) = placeholders(text).find(|name| !known.contains(name)) {
                return Err(self.problem(*line, format!("{key} has no placeholder {{{unknown}}}")));
            }
        }
        Ok(())
    }

    fn texts(&self) -> BTreeMap<String, String> {
        self.texts.iter().map(|(key, (text, _))| (key.clone(), text.clone())).collect()
    }

    fn problem(&self, line: usize, problem: String) -> PagesError {
        PagesError::Texts { path: self.path.clone(), line, problem }
    }
}

/// Replaces each placeholder by its value. One without a value stays.
pub(super) fn fill_in(text: &str, value_of: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, name, after)) = next_placeholder(rest) {
        filled.push_str(before);
        match value_of(name) {
            Some(value) => filled.push_str(&value),
            None => filled.push_str(&rest[before.len()..rest.len() - after.len()]),
        }
        rest = after;
    }
    filled + rest
}

fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, name, after) = next_placeholder(rest)?;
        rest = after;
        Some(name)
    })
}

/// Returns the text before the first placeholder, its name, and the text after it.
fn next_placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name, after))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The language whose file has every text.
const ENGLISH: &str = "en.toml";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::files::{DEMO_TEMPLATES, TEMPLATES};
    use super::*;

    fn embedded(name: &str) -> TextFile {
        TextFile::embedded(name).unwrap().unwrap()
    }

    #[test]
    fn embedded_languages_have_the_same_texts() {
        let english = embedded(ENGLISH);
        for (name, _) in TEXTS {
            let file = embedded(name);
            file.check_against(&english).unwrap();
            for (key, (text, _)) in &english.texts {
                let translated = file.texts.get(key).unwrap_or_else(|| panic!("{name} lacks {key}"));
                let expected: BTreeSet<_> = placeholders(text).collect();
                assert_eq!(placeholders(&translated.0).collect::<BTreeSet<_>>(), expected, "{name}: {key}");
                assert!(!translated.0.trim().is_empty(), "{name}: {key}");
            }
        }
    }

    #[test]
    fn every_text_is_used_and_every_used_text_exists() {
        let keys: BTreeSet<_> = embedded(ENGLISH).texts.into_keys().collect();
        let mut used: BTreeSet<String> = DATE_KEYS.map(str::to_owned).into();
        for (name, template) in TEMPLATES.into_iter().chain(DEMO_TEMPLATES) {
            for call in template.split("t(\"").skip(1) {
                let key = call.split('"').next().unwrap();
                assert!(keys.contains(key), "{name}: {key}");
                used.insert(key.to_owned());
            }
        }
        // The other keys are literals of these modules.
        let sections: BTreeSet<_> =
            keys.iter().filter_map(|key| key.split_once('.')).map(|(name, _)| name).collect();
        let modules = concat!(include_str!("page.rs"), include_str!("demo_page.rs"));
        for literal in modules.split('"').skip(1).step_by(2) {
            let section = literal.split_once('.').map(|(section, _)| section);
            if section.is_some_and(|section| sections.contains(section)) && !literal.ends_with(".html") {
                assert!(keys.contains(literal), "{literal}");
                used.insert(literal.to_owned());
            }
        }
        assert_eq!(keys.difference(&used).collect::<Vec<_>>(), Vec::<&String>::new(), "unused");
    }

    /// The texts that `date.rs` uses.
    const DATE_KEYS: [&str; 2] = ["date.months", "date.pattern"];

    #[test]
    fn placeholders_are_filled_in() {
        let value_of = |name: &str| (name == "min").then(|| "15{min}".to_owned());
        assert_eq!(fill_in("at least {min}, {max} {", value_of), "at least 15{min}, {max} {");
        assert_eq!(fill_in("{}{min}", value_of), "{}15{min}");
    }

    #[test]
    fn invalid_texts_are_named_with_their_line() {
        let english = embedded(ENGLISH);
        for (text, expected) in [
            ("[sign_in]\ntitle = 5", "x.toml, line 2: sign_in.title: expected text, in quotes"),
            ("[sign_in]\n\ntitel = 'x'", "x.toml, line 3: there is no text sign_in.titel"),
            ("[sign_in]\ntitle = '{name}'", "x.toml, line 2: sign_in.title has no placeholder {name}"),
            ("[sign_in\n", "x.toml, line 1: "),
        ] {
            let file = TextFile::parse(PathBuf::from("x.toml"), text);
            let error = file.and_then(|file| file.check_against(&english)).expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
