//! The file of a SQLite database: where it is, whose it is, and making it.

use std::path::{Path, PathBuf};

use super::DbError;

/// The file that a `sqlite:` address names; `None` for other addresses and for one without a file.
#[must_use]
pub fn sqlite_path(url: &str) -> Option<PathBuf> {
    let rest = url.strip_prefix("sqlite:")?;
    let path = rest.strip_prefix("//").unwrap_or(rest);
    let file = !path.is_empty() && !path.starts_with(':') && !path.contains(['?', '#', '%']);
    file.then(|| PathBuf::from(path))
}

/// Refuses to go on as another user than the owner of the database file at `path`, root included:
/// the files that SQLite puts beside it would then belong to that user, and the server could not
/// write them. A file that isn't there yet has no owner.
///
/// # Errors
///
/// [`DbError::Owner`], which says how to run the command instead.
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

/// Makes the file, empty and its owner's alone, and the directories above it, unless it is there.
/// SQLite gives the files that it puts beside it the same mode.
#[cfg(feature = "sqlite")]
pub(super) fn make(path: &Path) -> std::io::Result<()> {
    use std::fs::{DirBuilder, OpenOptions};
    use std::os::fd::IntoRawFd;
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|error| {
            let what = format!("can't make the directory {}: {error}", parent.display());
            std::io::Error::new(error.kind(), what)
        })?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        // Never closed: closing any descriptor of a file drops all the locks that this process
        // holds on it, and SQLite may hold some by now (<https://sqlite.org/howtocorrupt.html> 2.2).
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
