//! A PostgreSQL server of the test's own, which it may stop.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::db::skip_test;
use super::front_proxy::free_address;

/// A server that runs. It is gone with this.
pub(crate) struct Server {
    /// What `database.url` says.
    pub(crate) url: String,
    programs: PathBuf,
    dir: TempDir,
    /// It refuses to run as root.
    user: Option<(u32, u32)>,
    port: u16,
}

/// How to stop a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// As for an upgrade: what is under way is undone, and everything is on disk.
    Fast,
    /// As in a crash: commits that nobody waited for may be lost.
    Immediate,
}

impl Server {
    /// `None`, with a word on standard error, if PostgreSQL's programs are not there.
    ///
    /// # Panics
    ///
    /// In CI, where leaving these tests out would go unnoticed.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            skip_test("PostgreSQL's initdb and pg_ctl");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let is_root = std::fs::metadata(dir.path()).unwrap().uid() == 0;
        let user = is_root.then(|| unprivileged().expect("a user postgres or nobody"));
        if let Some((user, group)) = user {
            chown(dir.path(), Some(user), Some(group)).unwrap();
        }
        let mut server = Self { url: String::new(), programs, dir, user, port: 0 };
        let made = ["-D", "data", "-U", "sekisho", "--auth=trust", "--locale=C.UTF-8", "--no-sync"];
        server.run("initdb", made).expect("initdb");
        // Another program may be faster to take the port.
        let started = (0..10).any(|_| {
            server.port = free_address().port();
            server.try_start().is_ok()
        });
        assert!(started, "PostgreSQL does not start: {}", server.log());
        server.url = format!("postgres://sekisho@127.0.0.1:{}/postgres", server.port);
        Some(server)
    }

    /// Stops it and starts it again. Takes as long as that does, so not for a runtime's thread.
    pub(crate) fn restart(&self, how: Stop) {
        let mode = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        self.run("pg_ctl", ["stop", "-w", "-D", "data", "-m", mode]).expect("pg_ctl stop");
        self.try_start().unwrap_or_else(|error| panic!("{error}{}", self.log()));
    }

    fn try_start(&self) -> Result<(), String> {
        // A crash of the server alone loses nothing that the system has been given; and so that it
        // loses much, the system is given late what nobody waits for.
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
        // Not through a pipe, which the server would keep open.
        let said = std::fs::File::create(self.dir.path().join("said")).unwrap();
        let status = command.stdout(said.try_clone().unwrap()).stderr(said).status().unwrap();
        let said = || std::fs::read_to_string(self.dir.path().join("said")).unwrap_or_default();
        if status.success() { Ok(()) } else { Err(format!("{program}: {}", said())) }
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

/// The folder that has the programs: on the path, or where Debian keeps them.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    let has_both = |folder: &PathBuf| ["initdb", "pg_ctl"].iter().all(|name| folder.join(name).exists());
    folders.into_iter().find(has_both)
}

/// The ids of somebody who may run a server.
fn unprivileged() -> Option<(u32, u32)> {
    let id = |what: &str, name: &str| {
        let Output { status, stdout, .. } = Command::new("id").args([what, name]).output().ok()?;
        status.success().then(|| String::from_utf8(stdout).ok()?.trim().parse().ok()).flatten()
    };
    ["postgres", "nobody"].iter().find_map(|name| Some((id("-u", name)?, id("-g", name)?)))
}
