//! A PostgreSQL server of the lab's own, which can be restarted under the gateways; or a given one,
//! which can't.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use ring::rand::{SecureRandom, SystemRandom};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::process::Command;

use crate::error::LabError;
use crate::site::free_port;

/// A database for one run.
pub(crate) enum Postgres {
    /// On a server of our own, gone with this.
    Own(Server),
    /// On a server that was given: the server's address, the database's, and its name.
    Given { server: String, url: String, name: String },
}

/// How a server goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// Sessions are broken off, all is written.
    Fast,
    /// As in a crash: what was not flushed is lost.
    Immediate,
}

/// A server of our own, with the settings that a new one has: it flushes what it says it has.
pub(crate) struct Server {
    bin: PathBuf,
    /// It refuses to run as root.
    user: Option<&'static str>,
    port: u16,
    password: String,
    dir: TempDir,
}

impl Postgres {
    /// A database on the given server, or on one of our own.
    pub(crate) async fn start(given: Option<&str>) -> Result<Self, LabError> {
        let Some(server) = given else { return Ok(Self::Own(Server::start().await?)) };
        let name = format!("sekisho_lab_{}", std::process::id());
        run(server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        run(server, &format!("CREATE DATABASE {name} TEMPLATE template0")).await?;
        let url = server.parse::<PgConnectOptions>()?.database(&name).to_url_lossy().to_string();
        Ok(Self::Given { server: server.to_owned(), url, name })
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Own(server) => server.url(),
            Self::Given { url, .. } => url.clone(),
        }
    }

    /// The server, if it may be restarted.
    pub(crate) fn own(&self) -> Option<&Server> {
        match self {
            Self::Own(server) => Some(server),
            Self::Given { .. } => None,
        }
    }

    /// Leaves nothing behind.
    pub(crate) async fn drop_database(&self) -> Result<(), LabError> {
        match self {
            Self::Own(_) => Ok(()),
            Self::Given { server, name, .. } => {
                run(server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
            }
        }
    }
}

impl Server {
    async fn start() -> Result<Self, LabError> {
        let bin = find_bin().ok_or(LabError::NoServer)?;
        let dir = tempfile::tempdir().map_err(LabError::io("make a directory"))?;
        let user = if rustix::process::geteuid().is_root() { Some(unprivileged().await) } else { None };
        let mut random = [0; 16];
        SystemRandom::new().fill(&mut random).map_err(|_| LabError::Vain("random bytes".to_owned()))?;
        let password = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let server = Self { bin, user, port: free_port()?, password, dir };
        server.init().await?;
        server.control("start", &[]).await?;
        Ok(server)
    }

    fn url(&self) -> String {
        format!("postgres://sekisho:{}@127.0.0.1:{}/postgres", self.password, self.port)
    }

    /// Stops the server that way, starts it again, and waits until it answers.
    pub(crate) async fn restart(&self, how: Restart) -> Result<(), LabError> {
        let mode = match how {
            Restart::Fast => "fast",
            Restart::Immediate => "immediate",
        };
        self.control("restart", &["-m", mode]).await
    }

    async fn init(&self) -> Result<(), LabError> {
        let password = self.dir.path().join("password");
        std::fs::write(&password, &self.password).map_err(LabError::io("write a password"))?;
        if let Some(user) = self.user {
            let owned = Command::new("chown").arg("-R").arg(user).arg(self.dir.path()).output().await;
            LabError::said("chown", &owned.map_err(LabError::io("run chown"))?)?;
        }
        let mut command = self.command("initdb");
        command.arg("-D").arg(self.data()).args(["-U", "sekisho", "--auth=scram-sha-256", "--encoding=UTF8"]);
        command.arg(format!("--pwfile={}", password.display())).arg("--locale=C.UTF-8");
        self.finish("initdb", command).await
    }

    async fn control(&self, what: &str, more: &[&str]) -> Result<(), LabError> {
        let mut command = self.command("pg_ctl");
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories={}",
            self.port,
            self.dir.path().display()
        );
        command.args([what, "-w", "-D"]).arg(self.data()).args(more).arg("-o").arg(options);
        command.arg("-l").arg(self.dir.path().join("server.log"));
        self.finish(&format!("pg_ctl {what}"), command).await
    }

    /// What the command says goes to a file: the server that it starts keeps a pipe open.
    async fn finish(&self, what: &str, mut command: Command) -> Result<(), LabError> {
        let said = tempfile::NamedTempFile::new().map_err(LabError::io("make a file"))?;
        let file = || said.reopen().map(Stdio::from).map_err(LabError::io("write a file"));
        let status = command.stdout(file()?).stderr(file()?).status().await;
        let status = status.map_err(LabError::io(format_args!("run {what}")))?;
        let stderr = std::fs::read(said.path()).unwrap_or_default();
        LabError::said(what, &Output { status, stdout: Vec::new(), stderr }).map(drop)
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = match self.user {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--"]).arg(program);
                command
            }
        };
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut command = self.command("pg_ctl").into_std();
        command.args(["stop", "-w", "-m", "immediate", "-D"]).arg(self.data());
        // If it does not even run, there is nothing to stop.
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

async fn unprivileged() -> &'static str {
    let known = Command::new("id").arg("postgres").output().await;
    if known.is_ok_and(|output| output.status.success()) { "postgres" } else { "nobody" }
}

async fn run(url: &str, sql: &str) -> Result<(), LabError> {
    let mut connection = PgConnection::connect(url).await?;
    connection.execute(AssertSqlSafe(sql)).await?;
    Ok(connection.close().await?)
}
