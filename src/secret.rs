//! Secrets in files, such as those mounted by container platforms.
//!
//! One rule applies to all of them: secrets in files of their own, key files, private keys of certificates, and
//! configuration files that contain a secret. [`check_access`] refuses a file that other users can change. One that
//! they can only read is reported, so that the caller can warn. On a read-only mount both are accepted: platforms
//! mount secrets with modes such as 0444 that cannot be changed from inside.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use zeroize::Zeroize;

/// Reason why a secret file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The file or its directory belongs to another user.
    #[error(
        "{} belongs to user {owner}, who can change it: run sekisho as that user, run `chown {user} {}`, or \
         {READ_ONLY_MOUNT}",
        path.display(),
        path.display()
    )]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
    /// Other users can write the file, or exchange it in its directory.
    #[error(
        "{} has mode {mode:04o}, so other users can change it: run `chmod go-w {}`, or {READ_ONLY_MOUNT}",
        path.display(),
        path.display()
    )]
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// A secret file that other users can read. Its text is a warning with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadableSecret {
    path: PathBuf,
    mode: u32,
}

impl fmt::Display for ReadableSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, mode } = self;
        let path = path.display();
        write!(
            f,
            "{path} has mode {mode:04o}, so other users can read it: run `chmod go-r {path}`, {READ_ONLY_MOUNT}, or \
             set server.allow_readable_secrets = true"
        )
    }
}

/// Checks that no other user can change a secret file. Returns the file if other users can read it.
///
/// The owner of the file and of its directory must be the user of this process or root, and neither may be writable
/// by group or others. No directory above may be writable by everyone. Symbolic links in the path are checked the same
/// way. Files on a read-only mount pass, and so do pipes and devices. An absent or inaccessible file also passes:
/// reading it reports the cause.
///
/// Read access of the group is reported unless the file belongs to root, which shares files by their group.
///
/// # Errors
///
/// [`AccessError`], with the remedy.
pub fn check_access(path: &Path) -> Result<Option<ReadableSecret>, AccessError> {
    let Ok(file) = fs::canonicalize(path) else { return Ok(None) };
    let Ok(metadata) = fs::metadata(&file) else { return Ok(None) };
    if !metadata.is_file() {
        return Ok(None);
    }
    for part in path.ancestors() {
        check_link(part)?;
    }
    check_dir(file.parent().unwrap_or(&file))?;
    if is_read_only(&file) {
        return Ok(None);
    }
    check_owner(&file, &metadata)?;
    check_not_writable(&file, &metadata, WRITABLE_BY_OTHERS)?;
    let denied = if metadata.uid() == ROOT { READABLE_BY_EVERYONE } else { READABLE_BY_OTHERS };
    let is_readable = metadata.mode() & denied != 0;
    Ok(is_readable.then(|| ReadableSecret { path: path.to_owned(), mode: permissions(&metadata) }))
}

/// Checks a symbolic link and its directory. A user who can change either of them chooses the file.
fn check_link(path: &Path) -> Result<(), AccessError> {
    let Ok(link) = fs::symlink_metadata(path) else { return Ok(()) };
    if !link.is_symlink() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(path);
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let Ok(dir) = fs::canonicalize(parent) else { return Ok(()) };
    if !is_read_only(&dir) {
        check_owner(path, &link)?;
    }
    check_dir(&dir)
}

/// Checks the directory of a file, and those above it.
fn check_dir(dir: &Path) -> Result<(), AccessError> {
    for (depth, dir) in dir.ancestors().enumerate() {
        let Ok(metadata) = fs::metadata(dir) else { continue };
        if is_read_only(dir) {
            continue;
        }
        if depth == 0 {
            check_owner(dir, &metadata)?;
        }
        // In a directory with the sticky bit, such as /tmp, only the owner of a file can exchange it.
        if metadata.mode() & STICKY == 0 {
            let denied = if depth == 0 { WRITABLE_BY_OTHERS } else { WRITABLE_BY_EVERYONE };
            check_not_writable(dir, &metadata, denied)?;
        }
    }
    Ok(())
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), AccessError> {
    let user = rustix::process::geteuid().as_raw();
    let owner = metadata.uid();
    if owner == user || owner == ROOT {
        return Ok(());
    }
    Err(AccessError::Owner { path: path.to_owned(), owner, user })
}

fn check_not_writable(path: &Path, metadata: &Metadata, denied: u32) -> Result<(), AccessError> {
    if metadata.mode() & denied == 0 {
        return Ok(());
    }
    Err(AccessError::Writable { path: path.to_owned(), mode: permissions(metadata) })
}

fn permissions(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o7777
}

fn is_read_only(path: &Path) -> bool {
    let flags = rustix::fs::statvfs(path).map(|mount| mount.f_flag);
    flags.is_ok_and(|flags| flags.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Reads a secret from a file and [trims][`trimmed`] it.
///
/// # Errors
///
/// Returns an error if the file cannot be read, with the kind [`InvalidData`](io::ErrorKind::InvalidData) if it
/// is not UTF-8.
///
/// ```
/// use secrecy::ExposeSecret;
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("secret");
/// std::fs::write(&path, "correct horse\n")?;
/// assert_eq!(sekisho::secret::read_file(&path)?.expose_secret(), "correct horse");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read_file(path: &Path) -> io::Result<SecretString> {
    let mut text = fs::read_to_string(path)?;
    let secret = trimmed(&text).into();
    text.zeroize();
    Ok(secret)
}

/// Returns a secret without surrounding whitespace and byte order mark.
///
/// Editors, `echo` and YAML add them to files and variables. Every source of a secret is trimmed by this
/// function, so that one secret has one value wherever it comes from.
#[must_use]
pub fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == BYTE_ORDER_MARK)
}

/// Returns a password without the line end that ends the input. Passwords may begin and end with spaces.
#[must_use]
pub fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

const BYTE_ORDER_MARK: char = '\u{feff}';

const ROOT: u32 = 0;
const STICKY: u32 = 0o1000;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const WRITABLE_BY_EVERYONE: u32 = 0o002;
const READABLE_BY_OTHERS: u32 = 0o044;
const READABLE_BY_EVERYONE: u32 = 0o004;

/// The remedy where modes and owners cannot be changed.
const READ_ONLY_MOUNT: &str = "mount it read-only (Kubernetes: a Secret volume with defaultMode 0440 and fsGroup; \
                               Docker: a secret, or a volume with :ro)";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    /// A secret file in a directory of its own.
    struct Fixture {
        parent: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let fixture = Self { parent: tempfile::tempdir().expect("a directory") };
            fs::create_dir(fixture.dir()).expect("created");
            fs::write(fixture.file(), "secret").expect("written");
            fixture.set_mode("dir", 0o700).set_mode("dir/secret", 0o600)
        }

        fn dir(&self) -> PathBuf {
            self.parent.path().join("dir")
        }

        fn file(&self) -> PathBuf {
            self.dir().join("secret")
        }

        fn set_mode(self, name: &str, mode: u32) -> Self {
            let path = self.parent.path().join(name);
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
            self
        }
    }

    /// B12: what others may write is refused, and what others may read is reported.
    #[test]
    fn mode_of_the_file_decides() {
        // Root shares files by their group.
        let is_group_reported = rustix::process::geteuid().as_raw() != ROOT;
        for (mode, is_reported) in [
            (0o600, false),
            (0o400, false),
            (0o440, is_group_reported),
            (0o640, is_group_reported),
            (0o644, true),
            (0o444, true),
            (0o604, true),
        ] {
            let fixture = Fixture::new().set_mode("dir/secret", mode);
            let readable = check_access(&fixture.file()).expect("accepted");
            assert_eq!(readable.is_some(), is_reported, "{mode:o}");
            assert!(readable.is_none_or(|secret| secret.to_string().contains("`chmod go-r ")), "{mode:o}");
        }
        for mode in [0o660, 0o602, 0o620, 0o622, 0o666] {
            let fixture = Fixture::new().set_mode("dir/secret", mode);
            let error = check_access(&fixture.file()).expect_err("must be refused").to_string();
            assert!(error.contains("`chmod go-w "), "{mode:o}: {error}");
        }
    }

    /// B12: the remedy has to be possible on each platform.
    #[test]
    fn messages_name_the_remedy_of_each_platform() {
        let readable = Fixture::new().set_mode("dir/secret", 0o644);
        let readable = check_access(&readable.file()).expect("accepted").expect("reported").to_string();
        let writable = Fixture::new().set_mode("dir/secret", 0o666);
        let writable = check_access(&writable.file()).expect_err("must be refused").to_string();
        assert!(readable.contains("server.allow_readable_secrets"), "{readable}");
        for text in [readable, writable] {
            for remedy in ["chmod", "Kubernetes", "defaultMode", "fsGroup", "Docker", ":ro"] {
                assert!(text.contains(remedy), "{remedy}: {text}");
            }
        }
    }

    /// B12: a file can be exchanged in a directory that others can write.
    #[test]
    fn directory_that_others_can_write_is_refused() {
        for mode in [0o770, 0o720, 0o702, 0o777] {
            let fixture = Fixture::new().set_mode("dir", mode);
            let error = check_access(&fixture.file()).expect_err("must be refused");
            assert!(matches!(&error, AccessError::Writable { path, .. } if path.ends_with("dir")), "{error}");
        }
        for mode in [0o750, 0o755, 0o1777] {
            let fixture = Fixture::new().set_mode("dir", mode);
            assert_eq!(check_access(&fixture.file()).expect("accepted"), None, "{mode:o}");
        }
        let fixture = Fixture::new().set_mode("", 0o777);
        assert!(check_access(&fixture.file()).is_err(), "a directory above");
    }

    /// B12: a link is as safe as its own directory and as the file that it names.
    #[test]
    fn links_are_followed() {
        let fixture = Fixture::new();
        let links = fixture.parent.path().join("links");
        fs::create_dir(&links).expect("created");
        symlink(fixture.file(), links.join("link")).expect("linked");
        let fixture = fixture.set_mode("links", 0o755);
        assert_eq!(check_access(&links.join("link")).expect("accepted"), None);
        let fixture = fixture.set_mode("links", 0o777);
        assert!(check_access(&links.join("link")).is_err(), "the directory of the link");
        let fixture = fixture.set_mode("links", 0o755).set_mode("dir", 0o777);
        assert!(check_access(&links.join("link")).is_err(), "the directory of the file");
        let fixture = fixture.set_mode("dir", 0o700).set_mode("dir/secret", 0o666);
        assert!(check_access(&links.join("link")).is_err(), "the file");

        let fixture = fixture.set_mode("dir/secret", 0o600);
        symlink(fixture.dir(), links.join("dir")).expect("linked");
        assert_eq!(check_access(&links.join("dir/secret")).expect("accepted"), None);
        let _fixture = fixture.set_mode("links", 0o777);
        assert!(check_access(&links.join("dir/secret")).is_err(), "the directory of a linked directory");
    }

    /// B12: only root can give a file away, so the test does nothing for other users.
    #[test]
    fn file_and_directory_of_another_user_are_refused() {
        if rustix::process::geteuid().as_raw() != ROOT {
            return;
        }
        for name in ["dir", "dir/secret"] {
            let fixture = Fixture::new();
            chown(fixture.parent.path().join(name), Some(12_345), None).expect("changed");
            let error = check_access(&fixture.file()).expect_err("must be refused");
            assert!(matches!(error, AccessError::Owner { owner: 12_345, .. }), "{error}");
            assert!(error.to_string().contains("`chown 0 "), "{error}");
        }
    }

    #[test]
    fn absent_files_and_devices_pass() {
        for path in ["/nonexistent", "/nonexistent/secret", "/dev/null", "/", ""] {
            assert_eq!(check_access(Path::new(path)).expect("accepted"), None, "{path}");
        }
    }

    /// B4: what a source adds around a secret does not change it.
    #[test]
    fn trimmed_removes_surrounding_whitespace_and_byte_order_mark() {
        for text in ["a b", "a b\n", "a b\r\n", "a b\n\n", " a b ", "\ta b\u{a0}", "\u{feff}a b\n"] {
            assert_eq!(trimmed(text), "a b", "{text:?}");
        }
        assert_eq!(trimmed(" \n"), "");
    }

    #[test]
    fn without_line_end_removes_one_line_end_only() {
        assert_eq!(without_line_end("a\n"), "a");
        assert_eq!(without_line_end("a\r\n"), "a");
        assert_eq!(without_line_end("a\n\n"), "a\n");
        assert_eq!(without_line_end(" a "), " a ");
        assert_eq!(without_line_end(""), "");
    }
}
