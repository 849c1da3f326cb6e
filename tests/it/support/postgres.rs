//! A PostgreSQL server that a test starts, stops and promotes.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sqlx::Connection;
use tempfile::TempDir;

use super::db::{run, skip_test};
use super::front_proxy::free_address;
use super::process::until;

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
        let user = unprivileged_owner(dir.path());
        let mut server = Self { url: String::new(), programs, dir, user, port: 0 };
        let initdb_args = ["-D", "data", "-U", "sekisho", "--auth=trust", "--locale=C.UTF-8", "--no-sync"];
        server.run("initdb", initdb_args).expect("initdb");
        server.start_on_free_port();
        Some(server)
    }

    /// Starts a standby that streams from this server. Blocks the thread meanwhile.
    pub(crate) fn standby(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let user = unprivileged_owner(dir.path());
        let mut standby = Self { url: String::new(), programs: self.programs.clone(), dir, user, port: 0 };
        let port = self.port.to_string();
        let source = ["-h", "127.0.0.1", "-p", port.as_str(), "-U", "sekisho"];
        let target = ["-D", "data", "-R", "-X", "stream", "-c", "fast", "--no-sync"];
        standby.run("pg_basebackup", source.into_iter().chain(target)).expect("pg_basebackup");
        standby.start_on_free_port();
        standby
    }

    /// Makes a standby the primary. Blocks the thread meanwhile.
    pub(crate) fn promote(&self) {
        self.run("pg_ctl", ["promote", "-w", "-D", "data"]).expect("pg_ctl promote");
    }

    /// Changes a setting while the server runs. New connections have it from here on, and present ones soon.
    pub(crate) async fn alter(&self, setting: &str, value: &str) {
        run(&self.url, &format!("ALTER SYSTEM SET {setting} = '{value}'")).await;
        run(&self.url, "SELECT pg_reload_conf()").await;
        let is_set = async || {
            let mut connection = sqlx::PgConnection::connect(&self.url).await.unwrap();
            let current = sqlx::query_scalar::<_, String>("SELECT current_setting($1)").bind(setting);
            (current.fetch_one(&mut connection).await.unwrap() == value).then_some(())
        };
        until(setting, is_set).await;
    }

    fn start_on_free_port(&mut self) {
        // Another program may take the port first.
        let started = (0..10).any(|_| {
            self.port = free_address().port();
            self.try_start().is_ok()
        });
        assert!(started, "PostgreSQL does not start: {}", self.log());
        self.url = format!("postgres://sekisho@127.0.0.1:{}/postgres", self.port);
    }

    /// Stops and starts the server. Blocks the thread meanwhile.
    pub(crate) fn restart(&self, mode: Stop) {
        self.stop(mode);
        self.try_start().unwrap_or_else(|error| panic!("{error}{}", self.log()));
    }

    /// Starts a server that was stopped. Blocks the thread meanwhile.
    pub(crate) fn start_again(&self) {
        self.try_start().unwrap_or_else(|error| panic!("{error}{}", self.log()));
    }

    /// Stops the server. Blocks the thread meanwhile.
    pub(crate) fn stop(&self, mode: Stop) {
        let mode = match mode {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        self.run("pg_ctl", ["stop", "-w", "-D", "data", "-m", mode]).expect("pg_ctl stop");
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

    pub(crate) fn log(&self) -> String {
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
    let initdb = folders.into_iter().find(has_both)?.join("initdb");
    // Links elsewhere may be only to some of the programs.
    Some(initdb.canonicalize().ok()?.parent()?.to_owned())
}

/// Returns `None` if an unprivileged user owns a directory. Gives one of root's to such a user, and returns
/// its ids.
pub(crate) fn unprivileged_owner(dir: &Path) -> Option<(u32, u32)> {
    let is_root = std::fs::metadata(dir).unwrap().uid() == 0;
    let user = is_root.then(|| unprivileged_user().expect("a user that may run PostgreSQL"));
    if let Some((user, group)) = user {
        chown(dir, Some(user), Some(group)).unwrap();
    }
    user
}

/// Returns the user and group ids of an unprivileged user.
fn unprivileged_user() -> Option<(u32, u32)> {
    let id = |option: &str, name: &str| {
        let Output { status, stdout, .. } = Command::new("id").args([option, name]).output().ok()?;
        status.success().then(|| String::from_utf8(stdout).ok()?.trim().parse().ok()).flatten()
    };
    ["postgres", "daemon"].iter().find_map(|name| Some((id("-u", name)?, id("-g", name)?)))
}
