//! The embedded files, and those of `pages.templates` that replace them.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::PagesError;

/// The files of an operator: the directory `pages.templates`, if there is one.
#[derive(Clone, Copy)]
pub(super) struct OperatorFiles<'a>(pub(super) Option<&'a Path>);

/// A text file of an operator.
pub(super) struct OperatorFile {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl OperatorFiles<'_> {
    /// Returns the file that replaces or extends the built-in file `name`.
    pub(super) fn find(self, name: &str) -> Result<Option<OperatorFile>, PagesError> {
        let Some(path) = self.0.map(|directory| directory.join(name)).filter(|path| path.exists()) else {
            return Ok(None);
        };
        let text = read_text(TEMPLATES_KEY, &path)?;
        Ok(Some(OperatorFile { name: name.to_owned(), path, text }))
    }

    /// Returns all templates in the directory, by name.
    pub(super) fn templates(self) -> Result<Vec<OperatorFile>, PagesError> {
        let Some(directory) = self.0 else { return Ok(Vec::new()) };
        let unreadable =
            |source| PagesError::Unreadable { key: TEMPLATES_KEY, path: directory.to_owned(), source };
        let mut files = Vec::new();
        for entry in fs::read_dir(directory).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            let Some(name) = name.to_str().filter(|name| name.ends_with(".html")) else { continue };
            files.extend(self.find(name)?);
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }
}

/// Reads the file that `key` names, of at most [`MAX_SIZE`] bytes.
pub(super) fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, PagesError> {
    let unreadable = |source| PagesError::Unreadable { key, path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut content = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > MAX_SIZE {
        return Err(PagesError::TooLarge { key, path: path.to_owned(), limit: MAX_SIZE });
    }
    Ok(content)
}

fn read_text(key: &'static str, path: &Path) -> Result<String, PagesError> {
    String::from_utf8(read(key, path)?).map_err(|_| PagesError::Unreadable {
        key,
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, "the file is not UTF-8"),
    })
}

const TEMPLATES_KEY: &str = "pages.templates";

/// Maximum size of a file of an operator in bytes. Files are kept in memory.
const MAX_SIZE: u64 = 1024 * 1024;

macro_rules! embedded {
    ($directory:literal: $($name:literal)*) => {
        [$(($name, include_str!(concat!("../../web/", $directory, "/", $name)))),*]
    };
}

/// The embedded templates.
pub(super) const TEMPLATES: [(&str, &str); 8] = embedded! {
    "pages":
    "account.html"
    "base.html"
    "cookies.html"
    "ended.html"
    "error.html"
    "refresh.html"
    "sign-in.html"
    "sign-out.html"
};

/// The embedded templates of the demo.
pub(super) const DEMO_TEMPLATES: [(&str, &str); 4] = embedded! {
    "demo":
    "demo.html"
    "movie-form.html"
    "movie-list.html"
    "sample.html"
};

/// The embedded texts: `TAG.toml` for each language.
pub(super) const TEXTS: [(&str, &str); 2] = embedded! { "pages": "en.toml" "ja.toml" };

/// The embedded texts of the demo, in files of the same names.
pub(super) const DEMO_TEXTS: [(&str, &str); 2] = embedded! { "demo": "en.toml" "ja.toml" };

/// The embedded stylesheet and scripts.
pub(super) const ASSETS: [(&str, &str); 7] = embedded! {
    "pages":
    "account.js"
    "ended.js"
    "fragment.js"
    "pages.css"
    "retry.js"
    "signed-in.js"
    "times.js"
};
