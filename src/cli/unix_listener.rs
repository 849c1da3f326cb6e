//! Binding a Unix socket, whose file outlives a process that was killed.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixSocket;
use tokio::time::sleep;

/// The file of a listening Unix socket, which is removed when this is dropped.
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file.
    id: (u64, u64),
}

/// Reason why a Unix socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub(super) enum BindError {
    #[error("another program listens on it: stop that program, or choose another path")]
    InUse,
    #[error("cannot bind it{}", remedy(.0))]
    Io(#[from] io::Error),
    #[error("there is a file that is no socket: remove it, or choose another path")]
    NotASocket,
}

/// Binds a Unix socket with this mode and length of its accept queue. A file that is left over is replaced, unless a
/// program listens on it.
pub(super) async fn bind(
    path: &Path,
    mode: u32,
    backlog: u32,
) -> Result<(UnixListener, SocketFile), BindError> {
    // Another process that starts at the same time would take the new file for one that is left over.
    let _lock = lock_directory(path).await;
    remove_left_over(path)?;
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    // Connections are refused until the socket listens, so that none precedes its mode.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    let listener = socket.listen(backlog)?.into_std()?;
    let id = file_id(&fs::symlink_metadata(path)?);
    Ok((listener, SocketFile { path: path.to_owned(), id }))
}

/// Locks the directory of the socket while other processes bind one in it, for a second at most: any program that can
/// read the directory can lock it.
async fn lock_directory(path: &Path) -> Option<File> {
    let directory = File::open(path.parent()?).ok()?;
    for _ in 0..LOCK_ATTEMPTS {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(directory),
            Err(_) => sleep(LOCK_INTERVAL).await,
        }
    }
    None
}

/// Removes a socket on which no program listens.
fn remove_left_over(path: &Path) -> Result<(), BindError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket);
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "socket of a killed process removed");
            Ok(fs::remove_file(path)?)
        }
        // The listener's backlog may be full.
        Ok(_) => Err(BindError::InUse),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BindError::InUse),
        Err(error) => Err(error.into()),
    }
}

fn file_id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Returns the remedy for a failure to bind.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => ": its directory does not exist, create it",
        io::ErrorKind::PermissionDenied => ": the user of the server needs write access to its directory",
        _ => "",
    }
}

impl Drop for SocketFile {
    /// Leaves the file of another process that has replaced this one.
    fn drop(&mut self) {
        let is_own = fs::symlink_metadata(&self.path).is_ok_and(|metadata| file_id(&metadata) == self.id);
        if is_own && let Err(error) = fs::remove_file(&self.path) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(path = %self.path.display(), error, "cannot remove the socket");
        }
    }
}

const LOCK_ATTEMPTS: u32 = 50;
const LOCK_INTERVAL: Duration = Duration::from_millis(20);
