//! The front proxies of `deploy/`, run with those very files: only the ports and folders in them are
//! replaced.

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
use super::http::Answer;
use super::process::{program, until};
use super::upstream::{RecordedRequest, Upstream};

/// A front proxy that `deploy/` has a folder for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrontProxyKind {
    Caddy,
    Envoy,
    Haproxy,
    Nginx,
    Traefik,
}

/// A front proxy with an application behind it, and the program beside it, whose clock is in the test's
/// hand. It all ends with this.
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
    /// Where its program is; `None`, with a word on standard error, if it is nowhere.
    fn program(self) -> Option<PathBuf> {
        match self {
            Self::Caddy => program("SEKISHO_TEST_CADDY", "/usr/bin/caddy"),
            Self::Haproxy => program("SEKISHO_TEST_HAPROXY", "/usr/sbin/haproxy"),
            Self::Nginx => program("SEKISHO_TEST_NGINX", "/usr/sbin/nginx"),
            // No Debian package: they come by pip, or not at all.
            Self::Envoy => named("SEKISHO_TEST_ENVOY"),
            Self::Traefik => named("SEKISHO_TEST_TRAEFIK"),
        }
    }

    /// Its folder, its files, and how it is started in a folder that holds them.
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

fn named(variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        eprintln!("left out: no {variable}");
    }
    program
}

impl FrontProxyHarness {
    /// `None`, with a word on standard error, if that front proxy is nowhere.
    pub(crate) async fn start(front: FrontProxyKind) -> Option<Self> {
        Self::start_with(front, str::to_owned).await
    }

    /// With its files after `edit`.
    pub(crate) async fn start_with(front: FrontProxyKind, edit: fn(&str) -> String) -> Option<Self> {
        let program = front.program()?;
        for _ in 0..5 {
            if let Some(recipe) = Self::try_start(front, &program, edit).await {
                return Some(recipe);
            }
        }
        panic!("{} does not start", program.display());
    }

    /// `None` if it ended at once: another program may have been faster to take the port.
    async fn try_start(front: FrontProxyKind, program: &Path, edit: fn(&str) -> String) -> Option<Self> {
        let upstream = Upstream::answering(echo).await;
        let listeners = [listener().await, listener().await];
        let [public, verify] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let address = free_address();
        let (folder, files, args) = front.parts();
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(folder);
        let origin = format!("http://{address}");
        let app = TestApp::from_file(recipe.join("sekisho.toml"), &[("server.public_origin", &origin)]).await;
        let (stop, stopped) = oneshot::channel();
        let [public_listener, verify_listener] = listeners;
        let limits = ServerLimits::default();
        tokio::spawn(serve(public_listener, app.app.public.clone(), limits, std::future::pending()));
        tokio::spawn(serve(verify_listener, app.app.forward_auth.clone().unwrap(), limits, async {
            let _ = stopped.await;
        }));

        let dir = tempfile::tempdir().unwrap();
        let ports = [(8000, address), (8080, public), (9091, verify), (3000, upstream.address())];
        for file in files {
            let text = std::fs::read_to_string(recipe.join(file)).unwrap();
            let text = edit(&text).replace("/etc/traefik", dir.path().to_str().unwrap());
            std::fs::write(dir.path().join(file), with_ports(&text, &ports)).unwrap();
        }
        std::fs::write(dir.path().join("nginx.conf"), nginx_config(dir.path())).unwrap();
        let child = spawn(program, args, dir.path());
        let mut recipe = Self { front, app, upstream, address, verify: Some(stop), dir, child };
        recipe.serves().await.then_some(recipe)
    }

    /// Whether it got as far as listening.
    async fn serves(&mut self) -> bool {
        let (address, child) = (self.address, &mut self.child);
        let serves = until("the front proxy", async || {
            let ended = child.try_wait().unwrap().is_some();
            (ended || is_guarded(address).await).then_some(!ended)
        })
        .await;
        if !serves {
            eprintln!("{}", std::fs::read_to_string(self.path("log")).unwrap());
        }
        serves
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What `X-Session-Event` says of this event beside the application's answer: Traefik keeps it.
    pub(crate) fn told(&self, event: &'static str) -> Option<&'static str> {
        (self.front != FrontProxyKind::Traefik).then_some(event)
    }

    /// Takes the endpoint away that the front proxy asks.
    pub(crate) fn lose_verify(&mut self) {
        drop(self.verify.take());
    }

    /// curl with a cookie jar of this name.
    pub(crate) fn curl(&self, jar: &str) -> Curl {
        let curl =
            std::env::var_os("SEKISHO_TEST_CURL").map_or_else(|| "/usr/bin/curl".into(), PathBuf::from);
        Curl { curl, address: self.address, jar: self.path(jar), readable: Mutex::default() }
    }
}

/// An application that hides nothing: it answers with what it was sent.
fn echo(seen: &RecordedRequest) -> Response<Body> {
    let headers = seen.headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
    let text = format!("{} {}\n{}", seen.method, seen.target, headers.collect::<String>());
    let status = if seen.target.starts_with("/broken") { 500 } else { 200 };
    Response::builder()
        .status(status)
        .header("set-cookie", "theme=dark; Path=/")
        .header("cache-control", "max-age=60")
        .body(Body::from(text))
        .unwrap()
}

/// Whether it holds requests back: Traefik listens before it has read its files.
async fn is_guarded(address: SocketAddr) -> bool {
    let Ok(mut socket) = TcpStream::connect(address).await else { return false };
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let asked = socket.write_all(request.as_bytes()).await.is_ok();
    asked
        && socket.read_to_string(&mut answer).await.is_ok()
        && ["HTTP/1.1 401", "HTTP/1.1 503"].iter().any(|held| answer.starts_with(held))
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// Returns a free address whose port is below the ephemeral range, so that no outgoing connection takes
/// the port while the server is not listening.
pub(crate) fn free_address() -> SocketAddr {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    loop {
        let nth = std::process::id().wrapping_mul(97).wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(nth % 20_000).unwrap();
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return SocketAddr::from(([127, 0, 0, 1], port));
        }
    }
}

/// In two steps, so that no port that was put in is taken for one of the file's.
fn with_ports(text: &str, ports: &[(u16, SocketAddr)]) -> String {
    let marked = ports.iter().fold(text.to_owned(), |text, (port, _)| {
        assert!(!text.contains(&format!("<{port}>")), "no such mark is there");
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

/// As Debian's includes `/etc/nginx/conf.d/`.
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

/// curl with a cookie jar of its own, and every answer that it got.
pub(crate) struct Curl {
    curl: PathBuf,
    address: SocketAddr,
    jar: PathBuf,
    readable: Mutex<String>,
}

impl Curl {
    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask(target, &[]).await
    }

    /// Asks for `target`, byte for byte, with these arguments.
    pub(crate) async fn ask(&self, target: &str, args: &[&str]) -> Answer {
        let (head, body) = (self.jar.with_extension("head"), self.jar.with_extension("body"));
        std::fs::write(&body, "").unwrap();
        let mut command = Command::new(&self.curl);
        command.args(["-sS", "--path-as-is", "-b"]).arg(&self.jar).arg("-c").arg(&self.jar);
        command.arg("-D").arg(&head).arg("-o").arg(&body).args(args);
        command.args(["--request-target", target]).arg(format!("http://{}/", self.address));
        let output = command.env_clear().stdin(Stdio::null()).output().await.unwrap();
        assert!(output.status.success(), "{target} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let (head, body) = (std::fs::read_to_string(head).unwrap(), std::fs::read(body).unwrap());
        // There curl repeats the head as the body.
        let body = if args.contains(&"-I") { Vec::new() } else { body };
        let answer = answer(&head, body);
        self.note(&answer);
        answer
    }

    /// The values of our two cookies, if they are there.
    pub(crate) fn tokens(&self) -> Option<[String; 2]> {
        let jar = std::fs::read_to_string(&self.jar).unwrap_or_default();
        let value = |name: &str| {
            let mut lines = jar.lines().map(|line| line.split('\t').collect::<Vec<_>>());
            lines.find(|line| line.get(5) == Some(&name)).map(|line| line[6].to_owned())
        };
        Some([value("__Host-access_token")?, value("__Host-refresh_token")?])
    }

    /// Puts the cookies of another jar in place of its own.
    pub(crate) fn copy(&self, other: &Self) {
        std::fs::copy(&other.jar, &self.jar).unwrap();
    }

    /// All that scripts could have read of the answers so far: their bodies, and their headers but for
    /// `Set-Cookie`.
    pub(crate) fn readable(&self) -> String {
        self.readable.lock().unwrap().clone()
    }

    fn note(&self, answer: &Answer) {
        let readable = answer.headers.iter().filter(|(name, _)| *name != "set-cookie");
        let mut text = self.readable.lock().unwrap();
        text.extend(readable.map(|(name, value)| format!("{name}: {value:?}\n")));
        text.push_str(&String::from_utf8_lossy(&answer.body));
    }
}

/// The last of the answers whose heads these are, for some are but `100 Continue`.
fn answer(head: &str, body: Vec<u8>) -> Answer {
    let last = head.trim_end().rsplit("\r\n\r\n").next().unwrap();
    let mut lines = last.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = HeaderValue::from_str(value.trim()).unwrap();
        headers.append(name.parse::<HeaderName>().unwrap(), value);
    }
    Answer { status, headers, body }
}
