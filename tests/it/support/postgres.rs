//! A PostgreSQL server that a test starts and stops.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::db::skip_test;
use super::front_proxy::free_address;

/// A running server, stopped when dropped.
pub(crate) struct Server {
    /// The `database.url`.
    pub(crate) url: String,
    programs: PathBuf,
    dir: TempDir,
    /// The user and group it runs as, since it refuses to run as root.
    user: Option<(u32, u32)>,
    port: u16,
}

/// The shutdown mode of `pg_ctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Aborts transactions and flushes everything, as for an upgrade.
    Fast,
    /// Stops as in a crash. Commits with `synchronous_commit = off` may be lost.
    Immediate,
}

impl Server {
    /// Starts a server. Without PostgreSQL's programs, reports a skipped test and returns `None`.
    ///
    /// # Panics
    ///
    /// In CI, where a skipped test would go unnoticed.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            skip_test("PostgreSQL's initdb and pg_ctl");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let is_root = std::fs::metadata(dir.path()).unwrap().uid() == 0;
        let user = is_root.then(|| unprivileged_user().expect("a user that may run PostgreSQL"));
        if let Some((user, group)) = user {
            chown(dir.path(), Some(user), Some(group)).unwrap();
        }
        let mut server = Self { url: String::new(), programs, dir, user, port: 0 };
        let initdb_args = ["-D", "data", "-U", "sekisho", "--auth=trust", "--locale=C.UTF-8", "--no-sync"];
        server.run("initdb", initdb_args).expect("initdb");
        // Another program may take the port first.
        let started = (0..10).any(|_| {
            server.port = free_address().port();
            server.try_start().is_ok()
        });
        assert!(started, "PostgreSQL does not start: {}", server.log());
        server.url = format!("postgres://sekisho@127.0.0.1:{}/postgres", server.port);
        Some(server)
    }

    /// Stops and starts the server. Blocks the thread meanwhile.
    pub(crate) fn restart(&self, mode: Stop) {
        let mode = match mode {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        self.run("pg_ctl", ["stop", "-w", "-D", "data", "-m", mode]).expect("pg_ctl stop");
        self.try_start().unwrap_or_else(|error| panic!("{error}{}", self.log()));
    }

    fn try_start(&self) -> Result<(), String> {
        // A crash of the server loses no data that the operating system holds. With a long delay of the WAL
        // writer, asynchronous commits stay in the server, so that a crash loses many of them.
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories={} -c fsync=off \
             -c wal_writer_delay=10s",
            self.port,
            self.dir.path().display()
        );
        self.run("pg_ctl", ["start", "-w", "-D", "data", "-l", "log", "-o", options.as_str()])
    }

    fn run<'a>(&self, program: &str, args: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
        let mut command = Command::new(self.programs.join(program));
        command.args(args.into_iter().map(OsStr::new)).current_dir(self.dir.path()).stdin(Stdio::null());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        // A file, because the server would keep a pipe open.
        let output = std::fs::File::create(self.dir.path().join("output")).unwrap();
        let status = command.stdout(output.try_clone().unwrap()).stderr(output).status().unwrap();
        let output = || std::fs::read_to_string(self.dir.path().join("output")).unwrap_or_default();
        if status.success() { Ok(()) } else { Err(format!("{program}: {}", output())) }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.run("pg_ctl", ["stop", "-w", "-D", "data", "-m", "immediate"]);
    }
}

/// Returns the folder of PostgreSQL's programs, on the PATH or where Debian installs them.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    let has_both = |folder: &PathBuf| ["initdb", "pg_ctl"].iter().all(|name| folder.join(name).exists());
    folders.into_iter().find(has_both)
}

/// Returns the user and group ids of an unprivileged user.
fn unprivileged_user() -> Option<(u32, u32)> {
    let id = |option: &str, name: &str| {
        let Output { status, stdout, .. } = Command::new("id").args([option, name]).output().ok()?;
        status.success().then(|| String::from_utf8(stdout).ok()?.trim().parse().ok()).flatten()
    };
    ["postgres", "daemon"].iter().find_map(|name| Some((id("-u", name)?, id("-g", name)?)))
}
