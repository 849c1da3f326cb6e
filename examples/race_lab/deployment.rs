//! A deployment under test: a directory with configuration and keys, a database, and gateway processes.

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
use crate::http_client::{ConnectionFault, HttpRequest};
use crate::options::Options;

/// A deployment. Its processes are killed and its directory is deleted when it is dropped.
pub(crate) struct Deployment {
    program: PathBuf,
    dir: TempDir,
    database_url: String,
    replicas: Vec<Replica>,
}

/// A gateway, which may not be running.
struct Replica {
    public: SocketAddr,
    admin: SocketAddr,
    process: Mutex<Option<Child>>,
}

impl Deployment {
    /// Starts gateways on a database, or on a SQLite file without a URL.
    pub(crate) async fn start(
        options: &Options,
        upstream: SocketAddr,
        database_url: Option<&str>,
        replicas: u8,
    ) -> Result<Self, LabError> {
        let dir = tempfile::tempdir().map_err(LabError::io("create a directory"))?;
        let config = dir.path().join("sekisho.toml");
        std::fs::write(&config, config_text(options, upstream))
            .map_err(LabError::io("write sekisho.toml"))?;
        let file = || format!("sqlite://{}/sekisho.db", dir.path().display());
        let database_url = database_url.map_or_else(file, str::to_owned);
        let program = options.program()?;
        let replicas = (0..replicas).map(|_| Replica::new()).collect::<Result<_, _>>()?;
        let deployment = Self { program, dir, database_url, replicas };
        if !deployment.database_url.starts_with("sqlite:") {
            deployment.run(&["key", "init"]).await?;
        }
        for replica in 0..deployment.replicas.len() {
            deployment.bring_up(replica).await?;
        }
        Ok(deployment)
    }

    /// Creates users with this password.
    pub(crate) async fn import_users<'a>(
        &self,
        emails: impl Iterator<Item = &'a str>,
        password: &str,
    ) -> Result<(), LabError> {
        let hash = bcrypt::hash(password, 4).map_err(|error| {
            let what = "hash a password".to_owned();
            LabError::Command { what, output: error.to_string() }
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

    /// Returns the public address of a gateway.
    pub(crate) fn public(&self, replica: usize) -> SocketAddr {
        self.replicas[replica].public
    }

    /// Returns `true` if `/readyz` of the gateway reports that it is ready.
    pub(crate) async fn is_ready(&self, replica: usize) -> bool {
        let admin = self.replicas[replica].admin;
        let response = timeout(
            READY_TIMEOUT,
            HttpRequest::get("/readyz").send(admin, "", "lab", ConnectionFault::Nowhere),
        )
        .await;
        matches!(response, Ok(Ok(response)) if response.status == 200)
    }

    /// Kills a gateway, as `kill -9` does.
    pub(crate) async fn kill(&self, replica: usize) -> Result<(), LabError> {
        let mut process = self.replicas[replica].process.lock().await;
        if let Some(mut child) = process.take() {
            child.kill().await.map_err(LabError::io("kill a gateway"))?;
        }
        Ok(())
    }

    /// Starts a gateway and waits until it is ready. Starts it again if it exits without a database.
    pub(crate) async fn bring_up(&self, replica: usize) -> Result<(), LabError> {
        let deadline = Instant::now() + READY_TIMEOUT;
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
        let line = self.log_lines(|_| true).pop().unwrap_or_default();
        Err(LabError::Timeout(format!("a gateway to be ready; its last log line: {line}")))
    }

    /// Runs a command of the program and returns its output.
    pub(crate) async fn run(&self, args: &[&str]) -> Result<String, LabError> {
        let mut command = self.command();
        let output = timeout(READY_TIMEOUT, command.args(args).output()).await;
        let output = output.map_err(|_| LabError::Timeout(format!("sekisho {}", args.join(" "))))?;
        let output = output.map_err(LabError::io("start sekisho"))?;
        LabError::stdout(&format!("sekisho {}", args.join(" ")), &output)
    }

    /// Returns the matching log lines of all gateways.
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

/// Returns a free port below the ephemeral range, so that no outgoing connection takes it while a gateway is
/// down.
pub(crate) fn free_port() -> Result<u16, LabError> {
    static TRIES: AtomicU16 = AtomicU16::new(0);
    // Labs with adjacent process ids start with distant ports.
    let start = (std::process::id().wrapping_mul(2_654_435_769) >> 8) % u32::from(PORTS);
    for _ in 0..PORTS {
        let tried = u32::from(TRIES.fetch_add(1, Ordering::Relaxed));
        let port = FIRST_PORT + ((start + tried) % u32::from(PORTS)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(LabError::Timeout("a free port".to_owned()))
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

/// Below the ephemeral range.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;

/// Timeout for anything another process does, long enough for a loaded machine.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
