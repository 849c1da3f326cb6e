//! The file of a SQLite database: its path and owner.

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

fn user_name(uid: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let id = uid.to_string();
    let line = users.lines().find(|line| line.split(':').nth(2) == Some(&id))?;
    line.split(':').next().map(ToOwned::to_owned)
}
