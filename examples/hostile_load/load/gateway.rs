//! The gateway process.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::error::LoadError;
use super::settings::PASSWORD;

/// A running gateway with a directory and a SQLite file. Dropping it kills the process and deletes both.
pub(super) struct Gateway {
    pub(super) public: SocketAddr,
    program: PathBuf,
    dir: TempDir,
    process: Child,
}

impl Gateway {
    /// Starts a gateway and waits until it serves.
    pub(super) async fn start(program: &Path, config: &str) -> Result<Self, LoadError> {
        let dir = tempfile::tempdir().map_err(LoadError::io("create a directory"))?;
        std::fs::write(dir.path().join("sekisho.toml"), config)
            .map_err(LoadError::io("write sekisho.toml"))?;
        let log = dir.path().join(LOG);
        let log_file = File::create(&log).map_err(LoadError::io("create a log"))?;
        let mut command = command(program, dir.path());
        let mut process =
            command.arg("serve").stderr(log_file).spawn().map_err(LoadError::io("start sekisho"))?;
        let public = public_address(&log, &mut process).await?;
        Ok(Self { public, program: program.to_owned(), dir, process })
    }

    /// Creates users with [`PASSWORD`].
    pub(super) async fn import_users(&self, emails: &[String], bcrypt_cost: u32) -> Result<(), LoadError> {
        let failed = |output| LoadError::Command { what: "sekisho user import".to_owned(), output };
        let hash = bcrypt::hash(PASSWORD, bcrypt_cost).map_err(|error| failed(error.to_string()))?;
        let line = |email| format!("{}\n", json!({ "email": email, "hashed_password": hash }));
        std::fs::write(self.dir.path().join("users.jsonl"), emails.iter().map(line).collect::<String>())
            .map_err(LoadError::io("write users.jsonl"))?;
        let mut command = command(&self.program, self.dir.path());
        command.args(["user", "import", "users.jsonl"]).stderr(Stdio::piped());
        let output = timeout(START_TIMEOUT, command.output()).await;
        let output = output.map_err(|_| LoadError::Timeout("sekisho user import".to_owned()))?;
        let output = output.map_err(LoadError::io("start sekisho"))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(())
    }

    /// Returns its peak resident memory, in KiB.
    pub(super) fn peak_memory(&self) -> Result<u64, LoadError> {
        let status = read_process_file(self.process.id(), "status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let memory = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        memory.ok_or_else(|| LoadError::Timeout("the memory of the gateway".to_owned()))
    }

    /// Returns the processor time of the gateway and of this process.
    pub(super) fn cpu_times(&self) -> Result<[Duration; 2], LoadError> {
        let gateway = cpu_time(&read_process_file(self.process.id(), "stat")?);
        let load = cpu_time(&read_process_file(Some(std::process::id()), "stat")?);
        Ok([gateway, load])
    }
}

fn command(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command.env("SEKISHO_DATABASE__URL", format!("sqlite://{}/sekisho.db", dir.display()));
    command
}

/// Waits until the log of a gateway contains its address.
async fn public_address(log: &Path, process: &mut Child) -> Result<SocketAddr, LoadError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let has_exited = process.try_wait().map_err(LoadError::io("wait for the gateway"))?.is_some();
        let text = std::fs::read_to_string(log).map_err(LoadError::io("read the log"))?;
        if let Some(address) = text.lines().find_map(parse_public_address) {
            return Ok(address);
        }
        if has_exited || Instant::now() > deadline {
            return Err(LoadError::Command { what: "sekisho serve".to_owned(), output: text });
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn parse_public_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("serving")?.1.split_once("public=")?;
    rest.split_whitespace().next()?.parse().ok()
}

fn read_process_file(process: Option<u32>, name: &str) -> Result<String, LoadError> {
    let path = format!("/proc/{}/{name}", process.unwrap_or_default());
    std::fs::read_to_string(&path).map_err(LoadError::io(format!("read {path}: the gateway has exited")))
}

/// Returns the user and system time of `/proc/PID/stat`, in hundredths of a second.
fn cpu_time(stat: &str) -> Duration {
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let times = fields.split_whitespace().skip(11).take(2);
    times.filter_map(|ticks| ticks.parse().ok()).map(|ticks: u64| Duration::from_millis(10 * ticks)).sum()
}

const LOG: &str = "gateway.log";

/// Timeout for the start of a process, long enough for a loaded machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);
