//! The list of the library's public API, so that a review sees each change of it.

use std::fmt::Write;

use self::crate_source::{CrateSource, Module};
use self::render::{render_impls, render_item};
use super::generated;

mod crate_source;
mod render;

#[test]
fn public_api_is_up_to_date() {
    let source = CrateSource::read("src/lib.rs");
    let mut list = String::new();
    write_module(&source, source.root(), &mut list);
    generated::check("docs/public-api.md", &list);
}

/// Writes the public items of a module, and then those of its public modules.
fn write_module(source: &CrateSource, module: &Module, list: &mut String) {
    let mut items: Vec<String> = source.public_items(module).iter().map(|item| entry(source, item)).collect();
    items.sort_by_key(|item| item.lines().find(|line| !line.starts_with('#')).map(ToOwned::to_owned));
    if !items.is_empty() {
        let path = module.path.iter().fold("sekisho".to_owned(), |path, name| path + "::" + name);
        write!(list, "\n## `{path}`\n\n```text\n{}```\n", items.join("\n")).unwrap();
    }
    for child in source.public_modules(module) {
        write_module(source, child, list);
    }
}

/// Returns an item with the methods and traits of its type.
fn entry(source: &CrateSource, item: &crate_source::PublicItem<'_>) -> String {
    render_item(item) + &render_impls(&source.impls_of(item))
}
