//! The program, and others around it, as processes of their own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
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
                super::$test($crate::support::db::sqlite_place().await.unwrap()).await;
            }
        )* }
        mod postgres { $(
            #[tokio::test]
            async fn $test() {
                if let Some(place) = $crate::support::db::postgres_place().await {
                    super::$test(place).await;
                }
            }
        )* }
    };
}
pub(crate) use on_both;

/// Where the program runs: a directory with its configuration and keys, and a database. It is all
/// gone with this.
pub(crate) struct TestDeployment {
    dir: TempDir,
    env: Vec<(String, String)>,
    place: DatabaseLocation,
}

/// What a command did.
pub(crate) struct CommandOutput {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl TestDeployment {
    /// With the shortest lifetimes that the configuration allows, and keys unless the first start
    /// makes them.
    pub(crate) async fn new(place: DatabaseLocation) -> Self {
        let site = Self::without_keys(place);
        if !site.is_embedded() {
            site.run(&["key", "init"]).await.done();
        }
        site
    }

    pub(crate) fn without_keys(place: DatabaseLocation) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("sekisho.toml"), CONFIG).unwrap();
        let env = vec![("SEKISHO_DATABASE__URL".to_owned(), place.url.clone())];
        Self { dir, env, place }
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.place.url.starts_with("sqlite:")
    }

    /// Sets a key, `section.key`, for every process that is started from now on.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        let name = format!("SEKISHO_{}", key.to_uppercase().replace('.', "__"));
        self.env.retain(|(set, _)| *set != name);
        self.env.push((name, value.to_owned()));
    }

    /// Sets a variable for every process that is started from now on.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Everything is forwarded to `upstream`, for signed-in users.
    pub(crate) fn forward_to(&self, upstream: impl std::fmt::Display) {
        let route = format!("[[routes]]\npath = \"/\"\nupstreams = [\"{upstream}\"]\n");
        std::fs::write(self.path("sekisho.toml"), format!("{CONFIG}\n{route}")).unwrap();
    }

    /// Everything is forwarded to `upstream`, for anyone.
    pub(crate) fn forward_to_openly(&self, upstream: impl std::fmt::Display) {
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
        &self.place.url
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> CommandOutput {
        self.run_with(args, "").await
    }

    /// Runs a command to its end, with this on standard input.
    pub(crate) async fn run_with(&self, args: &[&str], input: &str) -> CommandOutput {
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that does not read is gone before it is written to.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let ended = timeout(PATIENCE, child.wait_with_output()).await;
        CommandOutput::of(ended.unwrap_or_else(|_| panic!("{args:?} did not end")).unwrap())
    }

    /// Creates a user who signs in with [`PASSWORD`].
    pub(crate) async fn user(&self, email: &str, role: &str) {
        let args = ["user", "create", "--email", email, "--role", role, "--password-stdin"];
        self.run_with(&args, PASSWORD).await.done();
    }

    /// Starts the server, and waits until it serves.
    pub(crate) async fn serve(&self) -> ServerProcess {
        self.start().await.unwrap_or_else(|ran| panic!("it did not start: {}", ran.err))
    }

    /// Starts the server, and waits until it serves or has failed.
    pub(crate) async fn start(&self) -> Result<ServerProcess, CommandOutput> {
        ServerProcess::start(self.command(&["serve"])).await
    }

    /// A command of the program, not started yet.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sekisho"));
        command.args(args).current_dir(self.dir.path()).env_clear().kill_on_drop(true);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl CommandOutput {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// It was done; this is what it said.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    /// It was done; this is the list that it printed as JSON.
    #[track_caller]
    pub(crate) fn rows(self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.done()).unwrap()
    }

    /// It failed with `code`; this is its last line, which says why.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        let line = self.err.lines().last().and_then(|line| line.strip_prefix("sekisho: "));
        line.unwrap_or_else(|| panic!("a last line of ours: {:?}", self.err))
    }
}

/// A server that serves. It is killed with this.
pub(crate) struct ServerProcess {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: Child,
    log: Arc<Mutex<String>>,
    /// Ends with the last line.
    reading: JoinHandle<()>,
}

impl ServerProcess {
    async fn start(mut command: Command) -> Result<Self, CommandOutput> {
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        let reading = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                log.push_str(&line);
                log.push('\n');
                if let Some(addresses) = addresses(&line) {
                    return Some(addresses);
                }
            }
            None
        };
        let read = timeout(PATIENCE, reading).await.expect("the server neither serves nor fails");
        let Some((public, admin)) = read else {
            let code = child.wait().await.unwrap().code();
            return Err(CommandOutput { code, out: String::new(), err: log });
        };
        let log = Arc::new(Mutex::new(log));
        let kept = Arc::clone(&log);
        // To the end, so that it never blocks on a full pipe.
        let reading = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        Ok(Self { public, admin, child, log, reading })
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The memory that it holds, in KiB.
    pub(crate) fn memory(&self) -> usize {
        self.status("VmRSS:")
    }

    /// The most that it has held, in KiB.
    pub(crate) fn peak_memory(&self) -> usize {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Asks it to stop, as an operator or a container platform does.
    pub(crate) fn terminate(&self) {
        signal(&self.child, Signal::TERM);
    }

    /// Asks it to read its configuration again.
    pub(crate) fn hang_up(&self) {
        signal(&self.child, Signal::HUP);
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(self) -> ExitStatus {
        self.ended_saying().await.0
    }

    /// Waits until it has ended by itself, and for the last word of its log.
    pub(crate) async fn ended_saying(mut self) -> (ExitStatus, String) {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("it did not stop: {}", self.log())).unwrap();
        timeout(PATIENCE, &mut self.reading).await.expect("the log's end").unwrap();
        (status, self.log())
    }

    /// Waits until the log says this so many times.
    pub(crate) async fn says(&self, words: &str, times: usize) {
        let said = async || (self.log().matches(words).count() >= times).then_some(());
        until(&format!("{times} times {words:?}"), said).await;
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) async fn stop(self) {
        self.terminate();
        assert_eq!(self.ended().await.code(), Some(0));
    }

    /// Ends it at once, as `kill -9` does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Sends a signal to a process that was started here.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
}

/// The addresses of a line such as `serving public=127.0.0.1:1 admin=127.0.0.1:2 origin="…"`, or of one
/// that says so in JSON.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    if let Ok(line) = serde_json::from_str::<serde_json::Value>(line) {
        let field = |name: &str| line["fields"][name].as_str()?.parse().ok();
        return (line["message"] == "serving").then(|| Some((field("public")?, field("admin")?))).flatten();
    }
    let field = |name| {
        let (_, rest) = line.split_once(name)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    line.contains("serving").then(|| Some((field("public=")?, field("admin=")?))).flatten()
}

/// nginx as an upstream that answers 200 once it has read the whole request. It is killed with this.
pub(crate) struct Nginx {
    pub(crate) address: SocketAddr,
    dir: TempDir,
    _child: Child,
}

impl Nginx {
    /// `None`, with a word on standard error, if there is no nginx.
    ///
    /// # Panics
    ///
    /// In CI, where leaving these tests out would go unnoticed.
    pub(crate) async fn start() -> Option<Self> {
        let program = program("SEKISHO_TEST_NGINX", "/usr/sbin/nginx")?;
        for _ in 0..10 {
            if let Some(nginx) = Self::try_start(&program).await {
                return Some(nginx);
            }
        }
        panic!("{} does not start", program.display());
    }

    /// `None` if another program was faster to take the port, for nginx can't choose one.
    async fn try_start(program: &Path) -> Option<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("nginx.conf");
        std::fs::write(&config, nginx_config(free, dir.path())).unwrap();
        let mut command = Command::new(program);
        command.arg("-p").arg(dir.path()).arg("-c").arg(&config).arg("-e").arg(dir.path().join("error.log"));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let mut nginx = Self { address: free, dir, _child: child };
        let pid = nginx.dir.path().join("pid");
        let serves = async || {
            // It writes the file after it has bound the port.
            let ended = nginx._child.try_wait().unwrap().is_some();
            (ended || pid.exists() && TcpStream::connect(free).await.is_ok()).then_some(!ended)
        };
        until("nginx", serves).await.then_some(nginx)
    }

    /// The requests it has answered, once it has answered one for `last`.
    pub(crate) async fn seen_until(&self, last: &str) -> Vec<serde_json::Value> {
        until("the last request in nginx's log", async || {
            let log = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
            let seen: Vec<serde_json::Value> =
                log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            seen.iter().any(|request| request["uri"] == last).then_some(seen)
        })
        .await
    }
}

/// Passing the request on makes it read the body to its end, and count it.
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
            proxy_pass http://unix:{dir}/answer:/;
        }}
    }}
    server {{
        listen unix:{dir}/answer;
        access_log off;
        return 200 "the upstream's answer\n";
    }}
}}
"#
    )
}

/// The program that the environment names, or the usual one; `None`, with a word on standard error,
/// if neither is there.
pub(crate) fn program(variable: &str, usual: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map_or_else(|| PathBuf::from(usual), PathBuf::from);
    if program.exists() {
        return Some(program);
    }
    skip_test(&program.display().to_string());
    None
}

/// Asks again and again, until there is an answer. (Only other processes need that: nothing here is
/// told when they are ready.)
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub(crate) const PASSWORD: &str = "mountain-lantern-over-hakone";

/// How long another process may take for anything, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The shortest lifetimes, and the cheapest passwords.
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
