//! Identity of the files of the database: their device and inode numbers.
//!
//! SQLite keeps using files that were removed or replaced, while commands and backups use those at the
//! path. A database that has lost one of its files therefore counts as unavailable.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files of a database when it was opened: the database itself, its write-ahead log, and the index of
/// that log.
#[derive(Clone, Debug)]
pub(super) struct DatabaseFiles(Arc<[FileIdentity]>);

/// The file at a path.
#[derive(Debug)]
struct FileIdentity {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Error of [`DatabaseFiles::check`].
#[derive(Debug, thiserror::Error)]
pub(super) enum FileIdentityError {
    #[error("{0} was removed while in use: restore it, or restart the server")]
    Removed(PathBuf),
    #[error("{0} was replaced while in use: restart the server")]
    Replaced(PathBuf),
    #[error("cannot examine {path}")]
    Io { path: PathBuf, source: io::Error },
}

impl DatabaseFiles {
    /// Reads the identities of the files of an open database. Connections must be open that have read it:
    /// SQLite creates the log for the first reader, and removes it with the last connection.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        // The log is beside the file that a symbolic link leads to.
        let target = std::fs::canonicalize(path)?;
        let beside = |suffix: &str| {
            let mut name = target.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let paths = [path.to_owned(), beside("-wal"), beside("-shm")];
        paths.into_iter().map(FileIdentity::read).collect::<Result<_, _>>().map(Self)
    }

    /// Checks that the paths still lead to the files.
    pub(super) fn check(&self) -> Result<(), FileIdentityError> {
        self.0.iter().try_for_each(FileIdentity::check)
    }
}

impl FileIdentity {
    fn read(path: PathBuf) -> io::Result<Self> {
        let metadata = std::fs::metadata(&path)?;
        Ok(Self { path, device: metadata.dev(), inode: metadata.ino() })
    }

    fn check(&self) -> Result<(), FileIdentityError> {
        let path = || self.path.clone();
        match std::fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (self.device, self.inode) => Ok(()),
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
        let identity = FileIdentity::read(path.clone()).expect("readable");
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
