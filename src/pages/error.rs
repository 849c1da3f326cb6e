//! Errors of the settings of pages.

use std::io;
use std::path::PathBuf;

/// Error of [`Pages::new`](super::Pages::new): a file that cannot be used. The message names its key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PagesError {
    /// A template that does not parse, or that cannot be rendered.
    #[error("pages.templates: {}, line {line}: {problem}", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The problem.
        problem: String,
    },
    /// A file with texts that is not valid.
    #[error("pages.templates: {}, line {line}: {problem}", path.display())]
    Texts {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The problem.
        problem: String,
    },
    /// A language without a file.
    #[error("pages.languages: there are no texts for {tag}: {remedy}")]
    UnknownLanguage {
        /// The language.
        tag: String,
        /// The remedy.
        remedy: String,
    },
    /// An image of a type that browsers may not display.
    #[error("pages.logo: {}: expected a file named *.svg, *.png, *.jpg, *.gif, *.webp or *.avif", .0.display())]
    NotAnImage(PathBuf),
    /// A file that is too large for a page.
    #[error("{key}: {} is larger than {} KiB", path.display(), limit / 1024)]
    TooLarge {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The maximum size in bytes.
        limit: u64,
    },
    /// A file that cannot be read.
    #[error("{key}: cannot read {}", path.display())]
    Unreadable {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}
