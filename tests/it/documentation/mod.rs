//! The documentation: its links, its examples, and the pages that are generated.
//!
//! Rust examples are compiled and run as doc tests of the library; see the end of `src/lib.rs`.

use std::fs;
use std::path::{Path, PathBuf};

mod cli;
mod commands;
mod configuration;
mod generated;
mod http_api;
mod index;
mod links;
mod markdown;
mod metrics;
mod public_api;
mod shell;
mod snippets;

use self::markdown::Page;

/// Reads all pages: those at the root of the repository, and those of `docs` and `deploy`.
fn pages() -> Vec<Page> {
    let mut paths = Vec::new();
    for dir in ["", "docs", "deploy"] {
        let entries = fs::read_dir(root().join(dir)).unwrap();
        let files = entries.map(|entry| entry.unwrap().path());
        paths.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        Page::parse(name, &fs::read_to_string(path).unwrap())
    };
    paths.iter().map(read).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn assert_none(found: impl IntoIterator<Item = String>) {
    let found: Vec<String> = found.into_iter().collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}
