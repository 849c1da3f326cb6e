//! A deployment under test: a directory with configuration and keys, a database, and gateway processes.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::error::LabError;
use crate::http_client::{ConnectionFault, HttpRequest};
use crate::machine::{self, BootId, WallClock};
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
    /// The machine that it runs on, if clocks step.
    machine: Option<Machine>,
    process: Mutex<Option<Child>>,
}

struct Machine {
    clock: WallClock,
    /// Absent without the right to set one. Then no start is uncertain.
    boot_id: Option<BootId>,
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
        let library = options.faketime_library()?;
        let mut deployment = Self { program, dir, database_url, replicas: Vec::new() };
        for replica in 0..replicas {
            let machine = match &library {
                Some(library) => Some(Machine::new(library, deployment.dir.path(), replica).await?),
                None => None,
            };
            deployment.replicas.push(Replica::new(machine)?);
        }
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
            let id = child.id();
            child.kill().await.map_err(LabError::io("kill a gateway"))?;
            id.into_iter().for_each(machine::delete_shared_memory);
        }
        Ok(())
    }

    /// Kills all gateways. Their machines have new boot ids when they are started again, as after a power cut.
    pub(crate) async fn kill_machines(&self) -> Result<(), LabError> {
        for replica in 0..self.replicas.len() {
            self.kill(replica).await?;
        }
        self.replicas
            .iter()
            .filter_map(|replica| replica.machine.as_ref()?.boot_id.as_ref())
            .try_for_each(BootId::renew)
    }

    /// Returns the wall clock of a gateway, if clocks step.
    pub(crate) fn clock(&self, replica: usize) -> Option<&WallClock> {
        Some(&self.replicas[replica].machine.as_ref()?.clock)
    }

    /// Returns `true` if a restart of the machines changes their boot ids.
    pub(crate) fn has_boot_ids(&self) -> bool {
        self.replicas
            .iter()
            .all(|replica| replica.machine.as_ref().is_some_and(|machine| machine.boot_id.is_some()))
    }

    /// Waits until the log shows that a gateway uses the present time of its clock.
    ///
    /// The `Date` header would not do: hyper caches it until the wall clock has passed the next second.
    pub(crate) async fn wait_for_clock(&self, replica: usize) -> Result<(), LabError> {
        let Some(clock) = self.clock(replica) else { return Ok(()) };
        let deadline = Instant::now() + READY_TIMEOUT;
        while Instant::now() < deadline {
            if self.last_log_time(replica).is_some_and(|time| clock.shows(time)) {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Err(LabError::Timeout(format!("gateway {replica} to use the time of its clock")))
    }

    fn last_log_time(&self, replica: usize) -> Option<OffsetDateTime> {
        let log = read_end(&self.log(replica)).ok()?;
        log.lines().rev().find_map(|line| OffsetDateTime::parse(line.split(' ').next()?, &Rfc3339).ok())
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
        let log = read_end(&self.log(replica)).unwrap_or_default();
        Err(LabError::Timeout(format!("gateway {replica} to be ready; the end of its log:\n{log}")))
    }

    /// Runs a command of the program and returns its output.
    pub(crate) async fn run(&self, args: &[&str]) -> Result<String, LabError> {
        let mut command = self.command(0);
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
        let mut command = self.command(replica);
        command.arg("serve").stdout(Stdio::null()).stderr(log);
        command.env("SEKISHO_SERVER__LISTEN", public.to_string());
        command.env("SEKISHO_ADMIN__LISTEN", admin.to_string());
        command.spawn().map_err(LabError::io("start sekisho"))
    }

    /// Returns a command of the program on the machine of this gateway.
    fn command(&self, replica: usize) -> Command {
        let mut words = self.replicas[replica].machine.as_ref().map(Machine::prefix).unwrap_or_default();
        words.push(self.program.clone().into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
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
    fn new(machine: Option<Machine>) -> Result<Self, LabError> {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (public, admin) = (address(free_port()?), address(free_port()?));
        Ok(Self { public, admin, machine, process: Mutex::new(None) })
    }
}

impl Machine {
    async fn new(library: &Path, dir: &Path, replica: u8) -> Result<Self, LabError> {
        let clock = WallClock::new(library.to_owned(), dir.join(format!("clock-{replica}")))?;
        let boot_id = BootId::new(dir.join(format!("boot-id-{replica}"))).await?;
        Ok(Self { clock, boot_id })
    }

    /// Returns the words before a command that run it on this machine.
    fn prefix(&self) -> Vec<OsString> {
        let mut words = self.boot_id.as_ref().map(BootId::prefix).unwrap_or_default();
        words.extend(self.clock.prefix());
        words
    }
}

/// Returns the last lines of a file.
fn read_end(file: &Path) -> std::io::Result<String> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4_096)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
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
# Cold starts may set session time ahead by months.
keep_ended = "3000d"
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
