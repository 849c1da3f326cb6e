//! One installation under test: a directory with configuration and keys, a database, and gateways
//! that can be killed and come back.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::error::LabError;
use crate::options::Options;
use crate::wire::{Ask, Cut};

/// One installation. Its processes end and its directory is gone with this.
pub(crate) struct Site {
    program: PathBuf,
    dir: TempDir,
    database_url: String,
    replicas: Vec<Replica>,
}

/// A gateway, dead or alive.
struct Replica {
    public: SocketAddr,
    admin: SocketAddr,
    process: Mutex<Option<Child>>,
}

impl Site {
    /// Starts so many gateways over a database; without a URL over a file of their own.
    pub(crate) async fn start(
        options: &Options,
        upstream: SocketAddr,
        database_url: Option<&str>,
        replicas: u8,
    ) -> Result<Self, LabError> {
        let dir = tempfile::tempdir().map_err(LabError::io("make a directory"))?;
        let config = dir.path().join("sekisho.toml");
        std::fs::write(&config, config_text(options, upstream))
            .map_err(LabError::io("write sekisho.toml"))?;
        let file = || format!("sqlite://{}/sekisho.db", dir.path().display());
        let database_url = database_url.map_or_else(file, str::to_owned);
        let program = options.program()?;
        let replicas = (0..replicas).map(|_| Replica::new()).collect::<Result<_, _>>()?;
        let site = Self { program, dir, database_url, replicas };
        if !site.database_url.starts_with("sqlite:") {
            site.run(&["key", "init"]).await?;
        }
        for replica in 0..site.replicas.len() {
            site.bring_up(replica).await?;
        }
        Ok(site)
    }

    /// Makes these users, with this password.
    pub(crate) async fn import_users<'a>(
        &self,
        emails: impl Iterator<Item = &'a str>,
        password: &str,
    ) -> Result<(), LabError> {
        let hash = bcrypt::hash(password, 4).map_err(|error| {
            let (what, said) = ("hashing a password".to_owned(), error.to_string());
            LabError::Command { what, said }
        })?;
        let line = |email| format!("{}\n", json!({ "email": email, "hashed_password": hash }));
        let file = self.dir.path().join("users.jsonl");
        std::fs::write(&file, emails.map(line).collect::<String>())
            .map_err(LabError::io("write users.jsonl"))?;
        self.run(&["user", "import", "users.jsonl"]).await.map(drop)
    }

    pub(crate) fn replicas(&self) -> usize {
        self.replicas.len()
    }

    /// Where browsers reach the gateway of this number.
    pub(crate) fn public(&self, replica: usize) -> SocketAddr {
        self.replicas[replica].public
    }

    /// Whether the gateway says that it is ready.
    pub(crate) async fn is_ready(&self, replica: usize) -> bool {
        let admin = self.replicas[replica].admin;
        let answer = timeout(PATIENCE, Ask::get("/readyz").send(admin, "", "lab", Cut::Nowhere)).await;
        matches!(answer, Ok(Ok(answer)) if answer.status == 200)
    }

    /// Ends a gateway as `kill -9` does.
    pub(crate) async fn kill(&self, replica: usize) -> Result<(), LabError> {
        let mut process = self.replicas[replica].process.lock().await;
        if let Some(mut child) = process.take() {
            child.kill().await.map_err(LabError::io("kill a gateway"))?;
        }
        Ok(())
    }

    /// Starts a gateway and waits until it is ready. One that finds no database tries again.
    pub(crate) async fn bring_up(&self, replica: usize) -> Result<(), LabError> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut child = self.spawn(replica)?;
            while child.try_wait().map_err(LabError::io("wait for a gateway"))?.is_none() {
                if self.is_ready(replica).await {
                    *self.replicas[replica].process.lock().await = Some(child);
                    return Ok(());
                }
                if Instant::now() > deadline {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        let said = self.log_lines(|_| true).pop().unwrap_or_default();
        Err(LabError::Vain(format!("a gateway to be ready; the last that it said: {said}")))
    }

    /// Runs a command of the program to its end, and returns what it said.
    pub(crate) async fn run(&self, args: &[&str]) -> Result<String, LabError> {
        let mut command = self.command();
        let output = timeout(PATIENCE, command.args(args).output()).await;
        let output = output.map_err(|_| LabError::Vain(format!("sekisho {}", args.join(" "))))?;
        let output = output.map_err(LabError::io("start sekisho"))?;
        LabError::said(&format!("sekisho {}", args.join(" ")), &output)
    }

    /// Those lines of all gateways' logs.
    pub(crate) fn log_lines(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        for replica in 0..self.replicas.len() {
            let log = std::fs::read_to_string(self.log(replica)).unwrap_or_default();
            let wanted = log.lines().filter(|line| wanted(line));
            lines.extend(wanted.map(|line| format!("gateway {replica}: {line}")));
        }
        lines
    }

    fn spawn(&self, replica: usize) -> Result<Child, LabError> {
        let Replica { public, admin, .. } = &self.replicas[replica];
        let log = self.open_log(replica).map_err(LabError::io("write a log"))?;
        let mut command = self.command();
        command.arg("serve").stdout(Stdio::null()).stderr(log);
        command.env("SEKISHO_SERVER__LISTEN", public.to_string());
        command.env("SEKISHO_ADMIN__LISTEN", admin.to_string());
        command.spawn().map_err(LabError::io("start sekisho"))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(self.dir.path()).env_clear().stdin(Stdio::null()).kill_on_drop(true);
        command.env("SEKISHO_DATABASE__URL", &self.database_url);
        command
    }

    fn open_log(&self, replica: usize) -> std::io::Result<File> {
        OpenOptions::new().create(true).append(true).open(self.log(replica))
    }

    fn log(&self, replica: usize) -> PathBuf {
        self.dir.path().join(format!("gateway-{replica}.log"))
    }
}

impl Replica {
    fn new() -> Result<Self, LabError> {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (public, admin) = (address(free_port()?), address(free_port()?));
        Ok(Self { public, admin, process: Mutex::new(None) })
    }
}

/// A free port that no connection gets by chance: while a gateway is down, a browser's own end could
/// sit on its port.
pub(crate) fn free_port() -> Result<u16, LabError> {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    // Neighbours in number, as two labs at once are, begin far from each other.
    let start = (std::process::id().wrapping_mul(2_654_435_769) >> 8) % u32::from(PORTS);
    for _ in 0..PORTS {
        let tried = u32::from(TRIED.fetch_add(1, Ordering::Relaxed));
        let port = FIRST_PORT + ((start + tried) % u32::from(PORTS)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(LabError::Vain("a free port".to_owned()))
}

fn config_text(options: &Options, upstream: SocketAddr) -> String {
    let access_ttl = humantime::format_duration(options.access_ttl);
    let grace = humantime::format_duration(options.grace);
    format!(
        r#"
[tokens]
access_ttl = "{access_ttl}"
leeway = "0s"
[session]
grace = "{grace}"
[login]
bcrypt_cost = 4
[[routes]]
path = "/app"
upstreams = ["http://{upstream}"]
"#
    )
}

/// Below those that the system gives to connections.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;

/// How long another process may take for anything, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
