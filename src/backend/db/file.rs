//! The file of a SQLite database: its path, owner and creation.

use std::path::{Path, PathBuf};

use super::error::DbError;
use crate::database_url::DatabaseUrl;

/// Returns the path in a `sqlite:` URL. Returns `None` for other URLs and for one without a plain file.
#[must_use]
pub fn sqlite_path(url: &str) -> Option<PathBuf> {
    DatabaseUrl::parse(url).ok()?.sqlite_file().map(Path::to_owned)
}

/// Checks that the database file at `path` belongs to the current user.
///
/// The files that SQLite creates beside it would otherwise belong to the current user, even if that is
/// root, and the server could not write them. A missing file passes the check.
///
/// # Errors
///
/// [`DbError::Owner`], with the command to use instead.
pub fn check_owner(path: &Path) -> Result<(), DbError> {
    use std::os::unix::fs::MetadataExt;

    let owner = match std::fs::metadata(path) {
        Ok(metadata) => metadata.uid(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(DbError::open(path, error)),
    };
    if owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(DbError::Owner { path: path.to_owned(), uid: owner, name: user_name(owner) })
}

/// Creates an empty file with mode 600 and its parent directories, unless the file exists.
///
/// SQLite gives the files that it creates beside it the same mode.
#[cfg(feature = "sqlite")]
pub(super) fn create(path: &Path) -> std::io::Result<()> {
    use std::fs::{DirBuilder, OpenOptions};
    use std::os::fd::IntoRawFd;
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|error| {
            let message = format!("cannot create the directory {}: {error}", parent.display());
            std::io::Error::new(error.kind(), message)
        })?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        // Leaks the descriptor. Closing any descriptor of a file drops all POSIX locks of the process
        // on it, which SQLite may already hold (<https://sqlite.org/howtocorrupt.html> 2.2).
        Ok(file) => {
            let _ = file.into_raw_fd();
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn user_name(uid: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let id = uid.to_string();
    let line = users.lines().find(|line| line.split(':').nth(2) == Some(&id))?;
    line.split(':').next().map(ToOwned::to_owned)
}
