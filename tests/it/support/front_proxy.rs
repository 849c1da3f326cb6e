//! The front proxies of `deploy/`, run with those files. Only ports and folders are replaced.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use axum_core::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use sekisho::server::{ServerLimits, serve};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::app::TestApp;
use super::http::TestResponse;
use super::process::{program, until};
use super::upstream::{RecordedRequest, Upstream};

/// A front proxy with a folder in `deploy/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrontProxyKind {
    Caddy,
    Envoy,
    Haproxy,
    Nginx,
    Traefik,
}

/// A front proxy with an application behind it and the gateway as its forward-auth endpoint. All are
/// stopped when it is dropped.
pub(crate) struct FrontProxyHarness {
    pub(crate) front: FrontProxyKind,
    pub(crate) app: TestApp,
    pub(crate) upstream: Upstream,
    pub(crate) address: SocketAddr,
    verify: Option<oneshot::Sender<()>>,
    dir: TempDir,
    child: Child,
}

impl FrontProxyKind {
    /// Returns the path of its program. Without one, reports a skipped test and returns `None`.
    fn program(self) -> Option<PathBuf> {
        match self {
            Self::Caddy => program("SEKISHO_TEST_CADDY", "/usr/bin/caddy"),
            Self::Haproxy => program("SEKISHO_TEST_HAPROXY", "/usr/sbin/haproxy"),
            Self::Nginx => program("SEKISHO_TEST_NGINX", "/usr/sbin/nginx"),
            // There is no Debian package. scripts/test installs them with pip if it can.
            Self::Envoy => path_from_env("SEKISHO_TEST_ENVOY"),
            Self::Traefik => path_from_env("SEKISHO_TEST_TRAEFIK"),
        }
    }

    /// Returns its folder in `deploy/`, its files there, and its arguments.
    fn parts(self) -> (&'static str, &'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Caddy => {
                ("caddy", &["Caddyfile"], &["run", "--config", "Caddyfile", "--adapter", "caddyfile"])
            }
            Self::Envoy => (
                "envoy",
                &["envoy.yaml"],
                &["-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart"],
            ),
            Self::Haproxy => ("haproxy", &["haproxy.cfg", "sekisho.lua"], &["-db", "-f", "haproxy.cfg"]),
            Self::Nginx => ("nginx", &["sekisho.conf"], &["-c", "nginx.conf", "-e", "error.log"]),
            Self::Traefik => ("traefik", &["traefik.yaml", "sekisho.yaml"], &["--configFile=traefik.yaml"]),
        }
    }
}

fn path_from_env(variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        eprintln!("skipped: {variable} is not set");
    }
    program
}

impl FrontProxyHarness {
    /// Starts the front proxy. Without its program, reports a skipped test and returns `None`.
    pub(crate) async fn start(front: FrontProxyKind) -> Option<Self> {
        Self::start_with(front, str::to_owned).await
    }

    /// Starts the front proxy with its files changed by `edit`.
    pub(crate) async fn start_with(front: FrontProxyKind, edit: fn(&str) -> String) -> Option<Self> {
        Self::start_any(front, edit, None).await
    }

    /// Starts the front proxy in front of this application instead of the harness's own.
    #[allow(dead_code, reason = "used by tests/browser")]
    pub(crate) async fn start_before(front: FrontProxyKind, application: SocketAddr) -> Option<Self> {
        Self::start_any(front, str::to_owned, Some(application)).await
    }

    async fn start_any(
        front: FrontProxyKind,
        edit: fn(&str) -> String,
        application: Option<SocketAddr>,
    ) -> Option<Self> {
        let program = front.program()?;
        for _ in 0..5 {
            if let Some(harness) = Self::try_start(front, &program, edit, application).await {
                return Some(harness);
            }
        }
        panic!("{} does not start", program.display());
    }

    /// Returns `None` if it exits at once, because another program may have taken the port.
    async fn try_start(
        front: FrontProxyKind,
        program: &Path,
        edit: fn(&str) -> String,
        application: Option<SocketAddr>,
    ) -> Option<Self> {
        let upstream = Upstream::responding_with(echo).await;
        let listeners = [listener().await, listener().await];
        let [public, verify] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let address = free_address();
        let (folder, files, args) = front.parts();
        let deploy_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(folder);
        let origin = format!("http://{address}");
        let app =
            TestApp::from_file(deploy_dir.join("sekisho.toml"), &[("server.public_origin", &origin)]).await;
        let (stop, stopped) = oneshot::channel();
        let [public_listener, verify_listener] = listeners;
        let limits = ServerLimits::default();
        tokio::spawn(serve(public_listener, app.app.public.clone(), limits, std::future::pending()));
        tokio::spawn(serve(verify_listener, app.app.forward_auth.clone().unwrap(), limits, async {
            let _ = stopped.await;
        }));

        let dir = tempfile::tempdir().unwrap();
        let application = application.unwrap_or(upstream.address());
        let ports = [(8000, address), (8080, public), (9091, verify), (3000, application)];
        for file in files {
            let text = std::fs::read_to_string(deploy_dir.join(file)).unwrap();
            let text = edit(&text).replace("/etc/traefik", dir.path().to_str().unwrap());
            std::fs::write(dir.path().join(file), with_ports(&text, &ports)).unwrap();
        }
        std::fs::write(dir.path().join("nginx.conf"), nginx_config(dir.path())).unwrap();
        let child = spawn(program, args, dir.path());
        let mut harness = Self { front, app, upstream, address, verify: Some(stop), dir, child };
        harness.wait_until_ready().await.then_some(harness)
    }

    /// Waits until it serves. Returns `false` if it exits instead.
    async fn wait_until_ready(&mut self) -> bool {
        let address = self.address;
        let child = &mut self.child;
        let is_ready = until("the front proxy", async || {
            let has_exited = child.try_wait().unwrap().is_some();
            (has_exited || is_guarded(address).await).then_some(!has_exited)
        })
        .await;
        if !is_ready {
            eprintln!("{}", std::fs::read_to_string(self.path("log")).unwrap());
        }
        is_ready
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the expected `X-Session-Event` of an application's response, which Traefik does not pass on.
    pub(crate) fn told(&self, event: &'static str) -> Option<&'static str> {
        (self.front != FrontProxyKind::Traefik).then_some(event)
    }

    /// Stops the forward-auth endpoint.
    pub(crate) fn stop_forward_auth(&mut self) {
        drop(self.verify.take());
    }

    /// Returns curl with the cookie jar of this name.
    pub(crate) fn curl(&self, jar: &str) -> Curl {
        let curl =
            std::env::var_os("SEKISHO_TEST_CURL").map_or_else(|| "/usr/bin/curl".into(), PathBuf::from);
        Curl { curl, address: self.address, jar: self.path(jar), readable: Mutex::default() }
    }
}

/// An application that responds with the request that it received.
fn echo(request: &RecordedRequest) -> Response<Body> {
    let headers =
        request.headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
    let text = format!("{} {}\n{}", request.method, request.target, headers.collect::<String>());
    let status = if request.target.starts_with("/broken") { 500 } else { 200 };
    Response::builder()
        .status(status)
        .header("set-cookie", "theme=dark; Path=/")
        .header("cache-control", "max-age=60")
        .body(Body::from(text))
        .unwrap()
}

/// Returns `true` once unauthenticated requests are rejected. Traefik listens before it has read its files.
async fn is_guarded(address: SocketAddr) -> bool {
    let Ok(mut socket) = TcpStream::connect(address).await else { return false };
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut response = String::new();
    let is_sent = socket.write_all(request.as_bytes()).await.is_ok();
    is_sent
        && socket.read_to_string(&mut response).await.is_ok()
        && ["HTTP/1.1 401", "HTTP/1.1 503"].iter().any(|status_line| response.starts_with(status_line))
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// Returns a free address whose port is below the ephemeral range, so that no outgoing connection takes
/// the port while the server is not listening.
pub(crate) fn free_address() -> SocketAddr {
    static TRIES: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(97).wrapping_add(TRIES.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(number % 20_000).unwrap();
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return SocketAddr::from(([127, 0, 0, 1], port));
        }
    }
}

/// Replaces ports. Placeholders keep a new port from being replaced again.
fn with_ports(text: &str, ports: &[(u16, SocketAddr)]) -> String {
    let marked = ports.iter().fold(text.to_owned(), |text, (port, _)| {
        assert!(!text.contains(&format!("<{port}>")), "the placeholder is in use");
        text.replace(&port.to_string(), &format!("<{port}>"))
    });
    ports
        .iter()
        .fold(marked, |text, (port, address)| text.replace(&format!("<{port}>"), &address.port().to_string()))
}

fn spawn(program: &Path, args: &[&str], dir: &Path) -> Child {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).env_clear().kill_on_drop(true).stdin(Stdio::null());
    command.env("HOME", dir).env("CADDY_ADMIN", format!("unix/{}/admin", dir.display()));
    if program.file_name().is_some_and(|name| name == "nginx") {
        command.arg("-p").arg(dir);
    }
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// A main configuration that includes `sekisho.conf`, as Debian's includes `/etc/nginx/conf.d/`.
fn nginx_config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "
daemon off;
master_process off;
pid {dir}/pid;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    include {dir}/sekisho.conf;
}}
"
    )
}

/// curl with a cookie jar and a record of its responses.
pub(crate) struct Curl {
    curl: PathBuf,
    address: SocketAddr,
    jar: PathBuf,
    readable: Mutex<String>,
}

impl Curl {
    pub(crate) async fn get(&self, target: &str) -> TestResponse {
        self.ask(target, &[]).await
    }

    /// Requests `target`, sent byte for byte, with further arguments for curl.
    pub(crate) async fn ask(&self, target: &str, args: &[&str]) -> TestResponse {
        let head = self.jar.with_extension("head");
        let body = self.jar.with_extension("body");
        std::fs::write(&body, "").unwrap();
        let mut command = Command::new(&self.curl);
        command.args(["-sS", "--path-as-is", "-b"]).arg(&self.jar).arg("-c").arg(&self.jar);
        command.arg("-D").arg(&head).arg("-o").arg(&body).args(args);
        command.args(["--request-target", target]).arg(format!("http://{}/", self.address));
        let output = command.env_clear().stdin(Stdio::null()).output().await.unwrap();
        assert!(output.status.success(), "{target} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let head = std::fs::read_to_string(head).unwrap();
        let body = std::fs::read(body).unwrap();
        // For a HEAD request curl writes the header as the body.
        let body = if args.contains(&"-I") { Vec::new() } else { body };
        let response = parse_response(&head, body);
        self.record(&response);
        response
    }

    /// Returns the values of the session cookies.
    pub(crate) fn tokens(&self) -> Option<[String; 2]> {
        let jar = std::fs::read_to_string(&self.jar).unwrap_or_default();
        let value = |name: &str| {
            let mut lines = jar.lines().map(|line| line.split('\t').collect::<Vec<_>>());
            lines.find(|line| line.get(5) == Some(&name)).map(|line| line[6].to_owned())
        };
        Some([value("__Host-access_token")?, value("__Host-refresh_token")?])
    }

    /// Replaces the cookie jar by a copy of another.
    pub(crate) fn copy(&self, other: &Self) {
        std::fs::copy(&other.jar, &self.jar).unwrap();
    }

    /// Returns the parts of all responses that scripts can read: bodies, and headers except `Set-Cookie`.
    pub(crate) fn readable(&self) -> String {
        self.readable.lock().unwrap().clone()
    }

    fn record(&self, response: &TestResponse) {
        let readable = response.headers.iter().filter(|(name, _)| *name != "set-cookie");
        let mut text = self.readable.lock().unwrap();
        text.extend(readable.map(|(name, value)| format!("{name}: {value:?}\n")));
        text.push_str(&String::from_utf8_lossy(&response.body));
    }
}

/// Parses the last of these response heads. Interim responses such as `100 Continue` precede it.
fn parse_response(head: &str, body: Vec<u8>) -> TestResponse {
    let last = head.trim_end().rsplit("\r\n\r\n").next().unwrap();
    let mut lines = last.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = HeaderValue::from_str(value.trim()).unwrap();
        headers.append(name.parse::<HeaderName>().unwrap(), value);
    }
    TestResponse { status, headers, body }
}
