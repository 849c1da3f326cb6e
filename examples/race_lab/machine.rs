//! Machines whose wall clock and boot id the lab sets, for unchanged programs.
//!
//! libfaketime sets the wall clock. A mount over `/proc` sets the boot id, by which a gateway recognises that its
//! machine was restarted.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use sekisho::clock::{Clock, SystemClock};
use time::{Duration, OffsetDateTime};
use tokio::process::Command;

use crate::error::LabError;

/// A wall clock that differs from the machine's by whole seconds.
pub(crate) struct WallClock {
    library: PathBuf,
    file: PathBuf,
    offset: AtomicI64,
}

impl WallClock {
    /// Creates a clock that shows the machine's time. `file` is the file that the library reads.
    pub(crate) fn new(library: PathBuf, file: PathBuf) -> Result<Self, LabError> {
        let clock = Self { library, file, offset: AtomicI64::new(0) };
        clock.set(0)?;
        Ok(clock)
    }

    /// Returns the words before a command that let it use this clock.
    pub(crate) fn prefix(&self) -> Vec<OsString> {
        let variable = |name: &str, value: &Path| {
            let mut word = OsString::from(format!("{name}="));
            word.push(value);
            word
        };
        vec![
            "env".into(),
            variable("LD_PRELOAD", &self.library),
            variable("FAKETIME_TIMESTAMP_FILE", &self.file),
            "FAKETIME_NO_CACHE=1".into(),
            "DONT_FAKE_MONOTONIC=1".into(),
            // Steps change no file's times. The library would lock a semaphore that all processes of PostgreSQL share,
            // and that a process killed meanwhile never unlocks.
            "NO_FAKE_STAT=1".into(),
        ]
    }

    pub(crate) fn step(&self, seconds: i64) -> Result<(), LabError> {
        self.set(self.offset.load(Ordering::Relaxed) + seconds)
    }

    /// Sets the difference from the machine's clock, in seconds.
    pub(crate) fn set(&self, offset: i64) -> Result<(), LabError> {
        let write = || {
            let new = self.file.with_extension("new");
            std::fs::write(&new, format!("{offset:+}\n"))?;
            // The database runs as another user.
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o644))?;
            // Never a half-written file.
            std::fs::rename(&new, &self.file)
        };
        write().map_err(LabError::io("set a clock"))?;
        self.offset.store(offset, Ordering::Relaxed);
        Ok(())
    }

    /// Returns `true` if a process that has just read this time uses this clock. The tolerance is shorter than any
    /// step.
    pub(crate) fn shows(&self, time: OffsetDateTime) -> bool {
        let expected = SystemClock.now() + Duration::seconds(self.offset.load(Ordering::Relaxed));
        (time - expected).abs() < Duration::milliseconds(500)
    }
}

/// A boot id that differs from the machine's.
pub(crate) struct BootId {
    file: PathBuf,
}

impl BootId {
    /// Creates a boot id in a file. Returns `None` without the right to mount it, which requires user
    /// namespaces or root.
    pub(crate) async fn new(file: PathBuf) -> Result<Option<Self>, LabError> {
        let id = Self { file };
        id.renew()?;
        let mut words = id.prefix().into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        let output = command.args(words).arg("true").output().await;
        Ok(output.is_ok_and(|output| output.status.success()).then_some(id))
    }

    /// Replaces the id for processes started from now on, as a restart of the machine does.
    pub(crate) fn renew(&self) -> Result<(), LabError> {
        static RESTARTS: AtomicU64 = AtomicU64::new(0);
        let restart = RESTARTS.fetch_add(1, Ordering::Relaxed);
        std::fs::write(&self.file, format!("race-lab-{restart}\n")).map_err(LabError::io("write a boot id"))
    }

    /// Returns the words before a command that let it read this id.
    pub(crate) fn prefix(&self) -> Vec<OsString> {
        let mut words = vec!["unshare".into(), "--mount".into()];
        if !rustix::process::geteuid().is_root() {
            words.push("--map-root-user".into());
        }
        words.extend(["sh".into(), "-c".into(), MOUNT.into(), self.file.clone().into()]);
        words
    }
}

/// Deletes the shared memory of libfaketime, which a killed process leaves behind.
pub(crate) fn delete_shared_memory(process: u32) {
    for name in [format!("faketime_shm_{process}"), format!("sem.faketime_sem_{process}")] {
        // An error means that there is none.
        let _ = std::fs::remove_file(Path::new("/dev/shm").join(name));
    }
}

/// Returns the library of Debian's package `libfaketime` for programs with threads.
pub(crate) fn find_library() -> Option<PathBuf> {
    let dirs = std::fs::read_dir("/usr/lib").ok()?;
    let library = |dir: std::fs::DirEntry| dir.path().join("faketime/libfaketimeMT.so.1");
    dirs.filter_map(|dir| Some(library(dir.ok()?))).find(|path| path.exists())
}

/// Runs a command that reads the file `$0` as its boot id.
const MOUNT: &str = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;
