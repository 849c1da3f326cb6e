//! Examples in TOML, JSON and Rust.

use std::fs;

use sekisho::config::{Config, Sources};

use super::markdown::{CodeBlock, Page};
use super::{assert_none, pages, root};

const LANGUAGES: &[&str] =
    &["css", "csv", "html", "http", "js", "json", "python", "rust", "sh", "text", "toml"];

#[test]
fn code_blocks_name_their_language() {
    check_blocks(|page, block| {
        let language = block.language.split([',', ' ']).next().unwrap_or_default();
        if !LANGUAGES.contains(&language) {
            return Err(format!("expected one of {LANGUAGES:?}, found \"{}\"", block.language));
        }
        let is_doc_test = || {
            let library = fs::read_to_string(root().join("src/lib.rs")).unwrap();
            library.contains(&format!("include_str!(\"../{}\")", page.path))
        };
        if language == "rust" && !is_doc_test() {
            return Err("src/lib.rs does not include the page, so the example is not compiled".to_owned());
        }
        Ok(())
    });
}

/// `toml texts` is a file of texts for the pages.
#[test]
fn toml_examples_are_valid_configurations() {
    check_blocks(|_, block| match &*block.language {
        "toml" if block.text.contains("[dependencies]") => check_dependencies(&block.text),
        "toml" => check_configuration(&block.text),
        "toml texts" => block.text.parse::<toml::Table>().map(|_| ()).map_err(|error| error.to_string()),
        _ => Ok(()),
    });
}

#[test]
fn json_examples_are_valid() {
    check_blocks(|_, block| match &*block.language {
        "json" => {
            serde_json::from_str::<serde_json::Value>(&block.text).map(|_| ()).map_err(|e| e.to_string())
        }
        _ => Ok(()),
    });
}

fn check_blocks(check: impl Fn(&Page, &CodeBlock) -> Result<(), String>) {
    let pages = pages();
    let errors = pages.iter().flat_map(|page| {
        let errors = page.blocks.iter().filter_map(|block| check(page, block).err().map(|e| (block, e)));
        errors.map(|(block, error)| format!("{}: {error}", page.at(block.line))).collect::<Vec<_>>()
    });
    assert_none(errors);
}

/// Loads the example as a configuration file, which must cause no warning either.
fn check_configuration(text: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("sekisho.toml"), text).unwrap();
    let sources = Sources { dir: Some(dir.path().to_owned()), ..Sources::default() };
    let loaded = Config::load(&sources).map_err(|error| error.to_string())?;
    loaded.warnings.first().map_or(Ok(()), |warning| Err(warning.clone()))
}

/// Checks the name and the features of the crate in an example of a `Cargo.toml`.
fn check_dependencies(text: &str) -> Result<(), String> {
    let example: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let manifest: toml::Table = include_str!("../../../Cargo.toml").parse().unwrap();
    let name = manifest["package"]["name"].as_str().unwrap();
    let dependency = example["dependencies"].get(name).ok_or_else(|| format!("{name} is missing"))?;
    let features = dependency.get("features").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let unknown = features
        .iter()
        .filter_map(toml::Value::as_str)
        .find(|feature| manifest["features"].get(*feature).is_none());
    unknown.map_or(Ok(()), |feature| Err(format!("there is no feature {feature}")))
}
