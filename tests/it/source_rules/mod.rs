//! Checks of the source text itself: import directions, import cycles, names and wording.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

mod cycles;
mod imports;
mod lexer;
mod paths;
mod words;

/// The text of a file and its path below the repository's root.
struct SourceFile {
    path: String,
    text: String,
}

/// Reads the text files at and below `entries`, which are paths below the repository's root.
fn read_files(entries: &[&str]) -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for entry in entries {
        collect_files(&root.join(entry), &mut paths).unwrap();
    }
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        fs::read_to_string(path).ok().map(|text| SourceFile { path: name, text })
    };
    paths.iter().filter_map(read).collect()
}

fn collect_files(path: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        collect_files(&entry?.path(), found)?;
    }
    Ok(())
}

/// Returns the path of a module of the library: `backend::sqlite` for `src/backend/sqlite/mod.rs`.
fn module_of(file: &str) -> String {
    let path = file.strip_prefix("src/").unwrap_or(file).trim_end_matches(".rs");
    path.trim_end_matches("/mod").replace('/', "::")
}

/// Returns `true` for a Rust file that is compiled for tests only.
fn is_test_file(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/")
}
