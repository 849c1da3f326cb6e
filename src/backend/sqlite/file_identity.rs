//! Identity of the database file: its device and inode numbers.
//!
//! SQLite keeps using a file that was removed or replaced, while commands and backups use the file at the
//! path. A database that is no longer at its path therefore counts as unavailable.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file at a path when it was opened.
#[derive(Clone, Debug)]
pub(super) struct FileIdentity {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Error of [`FileIdentity::check`].
#[derive(Debug, thiserror::Error)]
pub(super) enum FileIdentityError {
    #[error("{0} was removed while in use: restore it, or restart the server")]
    Removed(PathBuf),
    #[error("{0} was replaced while in use: restart the server")]
    Replaced(PathBuf),
    #[error("cannot examine {path}")]
    Io { path: PathBuf, source: io::Error },
}

impl FileIdentity {
    /// Reads the identity of the file at `path`. Follows symbolic links, as SQLite does.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }

    /// Checks that the path still leads to the file.
    pub(super) fn check(&self) -> Result<(), FileIdentityError> {
        let path = || self.path.clone();
        match Self::read(&self.path) {
            Ok(found) if (found.device, found.inode) == (self.device, self.inode) => Ok(()),
            Ok(_) => Err(FileIdentityError::Replaced(path())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FileIdentityError::Removed(path())),
            Err(source) => Err(FileIdentityError::Io { path: path(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_and_replaced_files_are_distinguished() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("sekisho.db");
        let away = directory.path().join("away.db");
        std::fs::write(&path, "first").expect("written");
        let identity = FileIdentity::read(&path).expect("readable");
        std::fs::write(&path, "changed in place").expect("written");
        identity.check().expect("the same file");

        std::fs::rename(&path, &away).expect("moved");
        assert!(matches!(identity.check(), Err(FileIdentityError::Removed(_))));
        std::fs::write(&path, "second").expect("written");
        assert!(matches!(identity.check(), Err(FileIdentityError::Replaced(_))));
        std::fs::rename(&away, &path).expect("moved back");
        identity.check().expect("the first file");
    }
}
