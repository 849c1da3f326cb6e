//! `sekisho demo` as a process.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::support::process::{PROCESS_TIMEOUT, until};
use crate::support::socket_browser::SocketBrowser;

/// A running demo, killed when dropped.
struct Demo {
    server: SocketAddr,
    /// The lines it has printed.
    banner: Vec<String>,
    log: Lines<BufReader<ChildStderr>>,
    child: Child,
}

impl Demo {
    /// Starts the demo in `directory` for this machine.
    async fn start(directory: &Path) -> Self {
        Self::listen(directory, "127.0.0.1:0").await
    }

    /// Starts the demo in `directory` for all machines.
    async fn start_for_others(directory: &Path) -> Self {
        // Port 0 is no part of a public origin.
        Self::listen(directory, &format!("0.0.0.0:{}", unused_port())).await
    }

    async fn listen(directory: &Path, address: &str) -> Self {
        let mut command = command(directory, &["demo", "--listen", address]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut banner: Vec<String> = Vec::new();
        while !banner.last().is_some_and(|line| line.contains("Ctrl-C")) {
            let line = timeout(PROCESS_TIMEOUT, lines.next_line()).await.expect("a banner").unwrap();
            banner.push(line.expect("the demo serves"));
        }
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let open = banner.iter().find(|line| line.contains("open")).unwrap();
        let port = open.split(',').next().unwrap().rsplit(':').next().unwrap();
        let server = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
        Self { server, banner, log, child }
    }

    /// Returns the rest of the line of the banner that begins with `name`.
    fn line(&self, name: &str) -> &str {
        let line = self.banner.iter().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {:?}", self.banner)).trim()
    }

    async fn sign_in(&self, password: &str) -> (SocketBrowser, u16) {
        let mut browser = SocketBrowser::default();
        let response = browser.sign_in(self.server, EMAIL, password).await;
        (browser, response.status.as_u16())
    }

    async fn stop(mut self) {
        self.child.kill().await.unwrap();
    }
}

fn command(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sekisho"));
    command.args(args).current_dir(directory).env_clear().kill_on_drop(true).stdin(Stdio::null());
    command
}

/// D2: a browser that drops `Secure` cookies of plain http, as Safari does, could not stay signed in.
#[tokio::test]
async fn browser_that_drops_secure_cookies_of_plain_http_stays_signed_in() {
    let directory = tempfile::tempdir().unwrap();
    let demo = Demo::start(directory.path()).await;
    let mut browser = SocketBrowser::default();
    let response = browser.sign_in(demo.server, EMAIL, PASSWORD).await;
    let cookies = response.set_cookies();
    assert_eq!(cookies.len(), 2);
    for cookie in cookies {
        assert!(!cookie.attributes.iter().any(|attribute| attribute == "secure"), "{cookie:?}");
        assert!(!cookie.name.to_lowercase().starts_with("__"), "{cookie:?}");
    }
    assert_eq!(browser.status(demo.server, "/movies").await, 200);
    let page = browser.get(demo.server, "/").await;
    let page = String::from_utf8(page.body).unwrap();
    assert!(page.contains(EMAIL) && page.contains("valid for 20 seconds"), "{page}");
    let (_, logo) = page.split_once("<img src=\"").expect("a logo");
    assert_eq!(browser.status(demo.server, logo.split('"').next().unwrap()).await, 200);
}

/// Returns a port outside the range from which the kernel gives ports to the sockets of other tests, which could take
/// it before the demo does.
fn unused_port() -> u16 {
    let ports = std::iter::repeat_with(|| fastrand::u16(20_000..32_768));
    ports.take(100).find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok()).expect("an unused port")
}

/// D3: a demo that other machines reach had a user with a published password.
#[tokio::test]
async fn password_is_random_when_other_machines_reach_the_demo() {
    let directory = tempfile::tempdir().unwrap();
    let demo = Demo::start(directory.path()).await;
    assert_eq!(demo.line("sign in"), format!("{EMAIL} / {PASSWORD}"));
    let (mut kept, status) = demo.sign_in(PASSWORD).await;
    assert_eq!(status, 200);
    demo.stop().await;

    let mut passwords = vec![PASSWORD.to_owned()];
    for _ in 0..2 {
        let mut demo = Demo::start_for_others(directory.path()).await;
        let (_, password) = demo.line("sign in").split_once(" / ").unwrap();
        let password = password.to_owned();
        for former in &passwords {
            assert_eq!(demo.sign_in(former).await.1, 401, "{former}");
        }
        let (mut browser, status) = demo.sign_in(&password).await;
        assert_eq!(status, 200);
        assert_eq!(browser.status(demo.server, "/movies").await, 200, "without Secure");
        kept.get(demo.server, "/movies").await.problem(401, "password_changed");
        let page = SocketBrowser::default().get(demo.server, "/auth/sign-in").await;
        let page = String::from_utf8(page.body).unwrap();
        assert!(page.contains("in the terminal") && !page.contains(PASSWORD) && !page.contains(&password));
        let warning = async || {
            let line = demo.log.next_line().await.unwrap().expect("a log");
            (line.contains("WARN") && line.contains("random password")).then_some(())
        };
        until("a warning", warning).await;
        passwords.push(password);
        demo.stop().await;
    }

    let demo = Demo::start(directory.path()).await;
    assert_eq!(demo.sign_in(PASSWORD).await.1, 200);
    assert_eq!(demo.sign_in(&passwords[1]).await.1, 401);
}

/// D10: commands beside the demo opened a database of their own.
#[tokio::test]
async fn banner_names_how_commands_reach_the_database() {
    let directory = tempfile::tempdir().unwrap();
    let demo = Demo::start(directory.path()).await;
    assert_eq!(demo.sign_in(PASSWORD).await.1, 200);
    let words: Vec<_> = demo.line("commands").split(' ').chain(["--json"]).collect();
    let Output { status, stdout, .. } = command(directory.path(), &words[1..]).output().await.unwrap();
    assert!(status.success());
    let rows: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
    assert_eq!(rows[0]["email"], EMAIL);
    assert!(!directory.path().join("data/sekisho.db").exists());
}

const EMAIL: &str = "taro@example.jp";
const PASSWORD: &str = "mountain-lantern-over-hakone";
