//! The `sekisho` program and other servers as child processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::db::{DatabaseLocation, skip_test};

/// Runs each test, a function of a [`DatabaseLocation`](super::db::DatabaseLocation), on SQLite and on PostgreSQL.
macro_rules! on_both {
    ($($test:ident;)*) => {
        mod sqlite { $(
            #[tokio::test]
            async fn $test() {
                super::$test($crate::support::db::sqlite_location().await.unwrap()).await;
            }
        )* }
        mod postgres { $(
            #[tokio::test]
            async fn $test() {
                if let Some(place) = $crate::support::db::postgres_location().await {
                    super::$test(place).await;
                }
            }
        )* }
    };
}
pub(crate) use on_both;

/// A working directory with configuration and keys, and a database. All are deleted when dropped.
pub(crate) struct TestDeployment {
    dir: TempDir,
    env: Vec<(String, String)>,
    location: DatabaseLocation,
}

/// Exit code and output of a command.
pub(crate) struct CommandOutput {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl TestDeployment {
    /// Creates a deployment with the shortest valid lifetimes, and with keys unless `serve` creates them.
    pub(crate) async fn new(location: DatabaseLocation) -> Self {
        let deployment = Self::without_keys(location);
        if !deployment.is_embedded() {
            deployment.run(&["key", "init"]).await.done();
        }
        deployment
    }

    pub(crate) fn without_keys(location: DatabaseLocation) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("sekisho.toml"), CONFIG).unwrap();
        let env = vec![("SEKISHO_DATABASE__URL".to_owned(), location.url.clone())];
        Self { dir, env, location }
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.location.url.starts_with("sqlite:")
    }

    /// Sets a configuration key, `section.key`, for processes started from now on.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        let name = format!("SEKISHO_{}", key.to_uppercase().replace('.', "__"));
        self.env.retain(|(set, _)| *set != name);
        self.env.push((name, value.to_owned()));
    }

    /// Removes a configuration key from the environment of processes started from now on.
    pub(crate) fn unset(&mut self, key: &str) {
        let name = format!("SEKISHO_{}", key.to_uppercase().replace('.', "__"));
        self.env.retain(|(set, _)| *set != name);
    }

    /// Sets an environment variable for processes started from now on.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Configures one route to `upstream` for signed-in users.
    pub(crate) fn forward_to(&self, upstream: impl std::fmt::Display) {
        let route = format!("[[routes]]\npath = \"/\"\nupstreams = [\"{upstream}\"]\n");
        std::fs::write(self.path("sekisho.toml"), format!("{CONFIG}\n{route}")).unwrap();
    }

    /// Configures one route to `upstream` without authentication.
    pub(crate) fn forward_to_without_auth(&self, upstream: impl std::fmt::Display) {
        self.forward_to(upstream);
        let config = std::fs::read_to_string(self.path("sekisho.toml")).unwrap();
        self.write("sekisho.toml", &format!("{config}auth = \"none\"\n"));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    pub(crate) fn database(&self) -> &str {
        &self.location.url
    }

    /// Runs a command until it exits.
    pub(crate) async fn run(&self, args: &[&str]) -> CommandOutput {
        self.run_with(args, "").await
    }

    /// Runs a command with `input` on standard input until it exits.
    pub(crate) async fn run_with(&self, args: &[&str], input: &str) -> CommandOutput {
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that does not read may have exited.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = timeout(PROCESS_TIMEOUT, child.wait_with_output()).await;
        CommandOutput::of(output.unwrap_or_else(|_| panic!("{args:?} did not exit")).unwrap())
    }

    /// Creates a user who signs in with [`PASSWORD`].
    pub(crate) async fn user(&self, email: &str, role: &str) {
        let args = ["user", "create", "--email", email, "--role", role, "--password-stdin"];
        self.run_with(&args, PASSWORD).await.done();
    }

    /// Starts the server and waits until it is ready.
    pub(crate) async fn serve(&self) -> ServerProcess {
        self.start().await.unwrap_or_else(|output| panic!("the server did not start: {}", output.err))
    }

    /// Starts the server and waits until it is ready or has failed.
    pub(crate) async fn start(&self) -> Result<ServerProcess, CommandOutput> {
        ServerProcess::start(self.command(&["serve"])).await
    }

    /// Starts the server with SIGXFSZ ignored, so that [`ServerProcess::limit_file_size`] makes its writes fail.
    pub(crate) async fn serve_without_file_size_signal(&self) -> ServerProcess {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" serve", PROGRAM]);
        self.prepare(&mut command);
        ServerProcess::start(command).await.unwrap_or_else(|output| panic!("{}", output.err))
    }

    /// Returns a command of the program that has not been started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        self.prepare(command.args(args));
        command
    }

    fn prepare(&self, command: &mut Command) {
        command.current_dir(self.dir.path()).env_clear().kill_on_drop(true);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
    }
}

impl CommandOutput {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Asserts success and returns standard output.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    /// Asserts success and returns the rows that it printed as JSON.
    #[track_caller]
    pub(crate) fn rows(self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.done()).unwrap()
    }

    /// Asserts failure with `code` and returns the error, which is the last line.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        let line = self.err.lines().last().and_then(|line| line.strip_prefix("sekisho: "));
        line.unwrap_or_else(|| panic!("expected an error of sekisho on the last line: {:?}", self.err))
    }
}

/// A running server, killed when dropped.
pub(crate) struct ServerProcess {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: Child,
    log: Arc<Mutex<String>>,
    /// Completes at the end of the log.
    log_task: JoinHandle<()>,
}

impl ServerProcess {
    async fn start(mut command: Command) -> Result<Self, CommandOutput> {
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        let ready = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                log.push_str(&line);
                log.push('\n');
                if let Some(addresses) = addresses(&line) {
                    return Some(addresses);
                }
            }
            None
        };
        let addresses =
            timeout(PROCESS_TIMEOUT, ready).await.expect("the server is neither ready nor failed");
        let Some((public, admin)) = addresses else {
            let code = child.wait().await.unwrap().code();
            return Err(CommandOutput { code, out: String::new(), err: log });
        };
        let log = Arc::new(Mutex::new(log));
        let written = Arc::clone(&log);
        // Read to the end, so that the server never blocks on a full pipe.
        let log_task = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut written = written.lock().unwrap();
                written.push_str(&line);
                written.push('\n');
            }
        });
        Ok(Self { public, admin, child, log, log_task })
    }

    /// Returns the log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Returns its resident memory, in KiB.
    pub(crate) fn memory(&self) -> usize {
        self.status("VmRSS:")
    }

    /// Returns its peak resident memory, in KiB.
    pub(crate) fn peak_memory(&self) -> usize {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Limits the size of the files that it writes. `None` removes the limit.
    pub(crate) fn limit_file_size(&self, bytes: Option<u64>) {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Pid::from_raw(id), Resource::Fsize, limit).unwrap();
    }

    /// Sends SIGTERM, as container platforms do.
    pub(crate) fn terminate(&self) {
        signal(&self.child, Signal::TERM);
    }

    /// Sends SIGHUP, which reloads the configuration.
    pub(crate) fn hang_up(&self) {
        signal(&self.child, Signal::HUP);
    }

    /// Waits until it exits.
    pub(crate) async fn ended(self) -> ExitStatus {
        self.wait_with_log().await.0
    }

    /// Waits until it exits, and returns its whole log.
    pub(crate) async fn wait_with_log(mut self) -> (ExitStatus, String) {
        let exited = timeout(PROCESS_TIMEOUT, self.child.wait()).await;
        let status = exited.unwrap_or_else(|_| panic!("the server did not stop: {}", self.log())).unwrap();
        timeout(PROCESS_TIMEOUT, &mut self.log_task).await.expect("end of the log").unwrap();
        (status, self.log())
    }

    /// Waits until the log contains `words` `times` times.
    pub(crate) async fn wait_for_log(&self, words: &str, times: usize) {
        let is_logged = async || (self.log().matches(words).count() >= times).then_some(());
        until(&format!("{times} times {words:?}"), is_logged).await;
    }

    /// Stops it with SIGTERM and waits until it exits.
    pub(crate) async fn stop(self) {
        self.terminate();
        assert_eq!(self.ended().await.code(), Some(0));
    }

    /// Kills it, as `kill -9` does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Sends a signal to a child process.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
}

/// Parses the addresses of a log line such as `serving public=127.0.0.1:1 admin=127.0.0.1:2 origin="…"`,
/// or of the same event in JSON.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    if let Ok(line) = serde_json::from_str::<serde_json::Value>(line) {
        let field = |name: &str| address(line["fields"][name].as_str()?);
        return (line["message"] == "serving").then(|| Some((field("public")?, field("admin")?))).flatten();
    }
    let field = |name| {
        let (_, rest) = line.split_once(name)?;
        address(rest.split_whitespace().next()?)
    };
    line.contains("serving").then(|| Some((field("public=")?, field("admin=")?))).flatten()
}

/// Parses an address. A Unix socket has none, so that it becomes port 0.
fn address(text: &str) -> Option<SocketAddr> {
    let is_unix = text.trim_matches('"').starts_with("unix:");
    text.parse().ok().or_else(|| is_unix.then(|| SocketAddr::from(([0, 0, 0, 0], 0))))
}

/// nginx as an upstream that responds 200 once it has read the whole request. Killed when dropped.
pub(crate) struct Nginx {
    pub(crate) address: SocketAddr,
    dir: TempDir,
    _child: Child,
}

impl Nginx {
    /// Starts nginx. Without it, reports a skipped test and returns `None`.
    ///
    /// # Panics
    ///
    /// In CI, where a skipped test would go unnoticed.
    pub(crate) async fn start() -> Option<Self> {
        let program = program("SEKISHO_TEST_NGINX", "/usr/sbin/nginx")?;
        for _ in 0..10 {
            if let Some(nginx) = Self::try_start(&program).await {
                return Some(nginx);
            }
        }
        panic!("{} does not start", program.display());
    }

    /// Returns `None` if another program took the port. nginx cannot choose a free one itself.
    async fn try_start(program: &Path) -> Option<Self> {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("nginx.conf");
        std::fs::write(&config, nginx_config(address, dir.path())).unwrap();
        let mut command = Command::new(program);
        command.arg("-p").arg(dir.path()).arg("-c").arg(&config).arg("-e").arg(dir.path().join("error.log"));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let mut nginx = Self { address, dir, _child: child };
        let pid = nginx.dir.path().join("pid");
        let is_ready = async || {
            // nginx writes the pid file after it has bound the port.
            let has_exited = nginx._child.try_wait().unwrap().is_some();
            (has_exited || pid.exists() && TcpStream::connect(address).await.is_ok()).then_some(!has_exited)
        };
        until("nginx", is_ready).await.then_some(nginx)
    }

    /// Waits for the request of `last` and returns all requests in nginx's log.
    pub(crate) async fn requests_until(&self, last: &str) -> Vec<serde_json::Value> {
        until("the last request in nginx's log", async || {
            let log = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
            let seen: Vec<serde_json::Value> =
                log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            seen.iter().any(|request| request["uri"] == last).then_some(seen)
        })
        .await
    }
}

/// Returns a configuration that proxies to itself, which makes nginx read and count the request body.
fn nginx_config(listen: SocketAddr, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"
daemon off;
master_process off;
pid {dir}/pid;
events {{ worker_connections 64; }}
http {{
    log_format seen escape=json '{{"method":"$request_method","uri":"$request_uri","length":"$request_length",'
        '"user":"$http_x_forwarded_user","email":"$http_x_forwarded_email","groups":"$http_x_forwarded_groups",'
        '"cookie":"$http_cookie","authorization":"$http_authorization","status":"$status"}}';
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    client_max_body_size 20m;
    server {{
        listen {listen};
        access_log {dir}/access.log seen;
        location / {{
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_pass http://unix:{dir}/response:/;
        }}
    }}
    server {{
        listen unix:{dir}/response;
        access_log off;
        return 200 "the upstream's response\n";
    }}
}}
"#
    )
}

/// Replaces the part of a key file that signs refresh tokens.
pub(crate) fn replace_refresh_key(file: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    let line = "refresh_key = \"RXx2nznYZEGZwOW9vPvIWzfOkcveH8Gw6mtE8TBDbdc=\"";
    let lines = text.lines().map(|old| if old.starts_with("refresh_key") { line } else { old });
    std::fs::write(file, lines.collect::<Vec<_>>().join("\n")).unwrap();
}

/// Returns the program in this environment variable, or at the usual path. Without either, reports a
/// skipped test and returns `None`.
pub(crate) fn program(variable: &str, usual: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map_or_else(|| PathBuf::from(usual), PathBuf::from);
    if program.exists() {
        return Some(program);
    }
    skip_test(&program.display().to_string());
    None
}

/// Polls until there is a value. Only for other processes, which send no event when they are ready.
pub(crate) async fn until<T>(what: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let polling = async {
        loop {
            if let Some(value) = poll().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PROCESS_TIMEOUT, polling).await.unwrap_or_else(|_| panic!("timed out waiting for {what}"))
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_sekisho");

pub(crate) const PASSWORD: &str = "mountain-lantern-over-hakone";

/// Timeout for anything another process does, long enough for a loaded machine.
pub(crate) const PROCESS_TIMEOUT: Duration = Duration::from_secs(30);

/// The shortest valid lifetimes and the lowest bcrypt cost.
const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[tokens]
access_ttl = "2s"
access_ttl_jitter = 0
leeway = "0s"
[session]
grace = "1s"
[login]
bcrypt_cost = 4
"#;

/// libfaketime of Debian's package `libfaketime`.
pub(crate) const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
