//! A temporary PostgreSQL server that the lab restarts, or a given one that it does not.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use ring::rand::{SecureRandom, SystemRandom};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::deployment::free_port;
use crate::error::LabError;
use crate::machine::WallClock;

/// The database of a run.
pub(crate) enum Postgres {
    /// On a temporary server, stopped when dropped.
    Temporary(Server),
    /// On a given server: the URLs of server and database, and the database's name.
    Given { server: String, url: String, name: String },
}

/// The shutdown mode of a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShutdownMode {
    /// Closes connections and flushes everything.
    Fast,
    /// Stops as in a crash: unflushed writes are lost.
    Immediate,
}

/// A temporary server with default settings, which flush each commit.
pub(crate) struct Server {
    bin: PathBuf,
    /// The user that it runs as if the lab runs as root, since it refuses to run as root.
    user: Option<&'static str>,
    port: u16,
    password: String,
    dir: TempDir,
    /// The clock of the server, if clocks step. Locked while the server restarts, since `pg_ctl` compares the time of
    /// the start with its own.
    clock: Mutex<Option<WallClock>>,
}

impl Postgres {
    /// Creates a database on the given server or on a temporary one, whose clock libfaketime sets if there is a
    /// `library`.
    pub(crate) async fn start(given: Option<&str>, library: Option<PathBuf>) -> Result<Self, LabError> {
        let Some(server) = given else { return Ok(Self::Temporary(Server::start(library).await?)) };
        let name = format!("sekisho_lab_{}", std::process::id());
        run(server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        run(server, &format!("CREATE DATABASE {name} TEMPLATE template0")).await?;
        let url = server.parse::<PgConnectOptions>()?.database(&name).to_url_lossy().to_string();
        Ok(Self::Given { server: server.to_owned(), url, name })
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Temporary(server) => server.url(),
            Self::Given { url, .. } => url.clone(),
        }
    }

    /// Returns the temporary server, if it is one.
    pub(crate) fn temporary_server(&self) -> Option<&Server> {
        match self {
            Self::Temporary(server) => Some(server),
            Self::Given { .. } => None,
        }
    }

    /// Deletes the database on a given server.
    pub(crate) async fn drop_database(&self) -> Result<(), LabError> {
        match self {
            Self::Temporary(_) => Ok(()),
            Self::Given { server, name, .. } => {
                run(server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
            }
        }
    }
}

impl Server {
    async fn start(library: Option<PathBuf>) -> Result<Self, LabError> {
        let bin = find_bin().ok_or(LabError::NoServer)?;
        let dir = tempfile::tempdir().map_err(LabError::io("create a directory"))?;
        let user = if rustix::process::geteuid().is_root() { Some(unprivileged_user().await) } else { None };
        let mut random = [0; 16];
        SystemRandom::new().fill(&mut random).map_err(|_| LabError::Timeout("random bytes".to_owned()))?;
        let password = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut server = Self { bin, user, port: free_port()?, password, dir, clock: Mutex::new(None) };
        server.init().await?;
        let file = server.dir.path().join("clock");
        // The variant for threads locks a mutex, and PostgreSQL reads the clock in a signal handler.
        let library = library.map(|library| library.with_file_name("libfaketime.so.1"));
        *server.clock.get_mut() = library.map(|library| WallClock::new(library, file)).transpose()?;
        server.control("start", server.clock.lock().await.as_ref(), &[]).await?;
        Ok(server)
    }

    /// Sets the clock, if clocks step, and waits until the server uses it.
    pub(crate) async fn set_clock(
        &self,
        set: impl FnOnce(&WallClock) -> Result<(), LabError>,
    ) -> Result<(), LabError> {
        let clock = self.clock.lock().await;
        let Some(clock) = clock.as_ref() else { return Ok(()) };
        set(clock)?;
        let mut connection = PgConnection::connect(&self.url()).await?;
        for _ in 0..MAX_CLOCK_READS {
            let now: OffsetDateTime =
                sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut connection).await?;
            if clock.shows(now) {
                return Ok(connection.close().await?);
            }
        }
        Err(LabError::Timeout("PostgreSQL to use the time of its clock".to_owned()))
    }

    fn url(&self) -> String {
        format!("postgres://sekisho:{}@127.0.0.1:{}/postgres", self.password, self.port)
    }

    /// Restarts the server and waits until it is ready.
    pub(crate) async fn restart(&self, mode: ShutdownMode) -> Result<(), LabError> {
        let mode = match mode {
            ShutdownMode::Fast => "fast",
            ShutdownMode::Immediate => "immediate",
        };
        self.control("restart", self.clock.lock().await.as_ref(), &["-m", mode]).await
    }

    async fn init(&self) -> Result<(), LabError> {
        let password = self.dir.path().join("password");
        std::fs::write(&password, &self.password).map_err(LabError::io("write a password"))?;
        if let Some(user) = self.user {
            let owned = Command::new("chown").arg("-R").arg(user).arg(self.dir.path()).output().await;
            LabError::stdout("chown", &owned.map_err(LabError::io("run chown"))?)?;
        }
        let mut command = self.command("initdb", None);
        // Not SCRAM: on a busy machine a debug build takes seconds for its rounds, longer than a gateway waits for a
        // connection.
        command.arg("-D").arg(self.data()).args(["-U", "sekisho", "--auth=password", "--encoding=UTF8"]);
        command.arg(format!("--pwfile={}", password.display())).arg("--locale=C.UTF-8");
        self.finish("initdb", command).await
    }

    async fn control(&self, what: &str, clock: Option<&WallClock>, more: &[&str]) -> Result<(), LabError> {
        let mut command = self.command("pg_ctl", clock);
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories={}",
            self.port,
            self.dir.path().display()
        );
        command.args([what, "-w", "-D"]).arg(self.data()).args(more).arg("-o").arg(options);
        command.arg("-l").arg(self.dir.path().join("server.log"));
        self.finish(&format!("pg_ctl {what}"), command).await
    }

    /// Runs a command with its output in a file, since the server that it starts would keep a pipe open.
    async fn finish(&self, what: &str, mut command: Command) -> Result<(), LabError> {
        let output = tempfile::NamedTempFile::new().map_err(LabError::io("create a file"))?;
        let file = || output.reopen().map(Stdio::from).map_err(LabError::io("write a file"));
        let status = command.stdout(file()?).stderr(file()?).status().await;
        let status = status.map_err(LabError::io(format_args!("run {what}")))?;
        let stderr = std::fs::read(output.path()).unwrap_or_default();
        LabError::stdout(what, &Output { status, stdout: Vec::new(), stderr }).map(drop)
    }

    fn command(&self, program: &str, clock: Option<&WallClock>) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(user) = self.user {
            words.extend(["runuser", "-u", user, "--"].map(OsString::from));
        }
        words.extend(clock.map(WallClock::prefix).unwrap_or_default());
        words.push(self.bin.join(program).into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut command = self.command("pg_ctl", None).into_std();
        command.args(["stop", "-w", "-m", "immediate", "-D"]).arg(self.data());
        // An error means that the server is not running.
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn find_bin() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |dir: &PathBuf| dir.join("initdb").exists() && dir.join("pg_ctl").exists();
    std::env::split_paths(&path).find(has).or_else(|| {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
        let number = |dir: &Path| dir.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
        let bins = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).filter(has);
        bins.max_by_key(|dir| number(dir))
    })
}

async fn unprivileged_user() -> &'static str {
    let known = Command::new("id").arg("postgres").output().await;
    if known.is_ok_and(|output| output.status.success()) { "postgres" } else { "daemon" }
}

async fn run(url: &str, sql: &str) -> Result<(), LabError> {
    let mut connection = PgConnection::connect(url).await?;
    connection.execute(AssertSqlSafe(sql)).await?;
    Ok(connection.close().await?)
}

/// Maximum number of reads until the server uses its clock. A machine that is busy may take long for one.
const MAX_CLOCK_READS: usize = 100;
