//! Creation of the file of a database.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Creates an empty file with mode 600 and its parent directories, unless the file exists.
///
/// SQLite gives the files that it creates beside it the same mode.
pub(super) fn create(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|error| {
            let message = format!("cannot create the directory {}: {error}", parent.display());
            io::Error::new(error.kind(), message)
        })?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        // Leaks the descriptor. Closing any descriptor of a file drops all POSIX locks of the process
        // on it, which SQLite may already hold (<https://sqlite.org/howtocorrupt.html> 2.2).
        Ok(file) => {
            let _ = file.into_raw_fd();
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
