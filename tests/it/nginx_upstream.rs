//! Silent refresh between independent programs: curl as the client, nginx as the upstream.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::Command;

use crate::support::db::DatabaseLocation;
use crate::support::process::on_both;
use crate::support::process::{Nginx, PASSWORD, TestDeployment, program};

on_both! { curl_and_nginx_notice_nothing_of_expiry; }

async fn curl_and_nginx_notice_nothing_of_expiry(location: DatabaseLocation) {
    let (Some(nginx), Some(curl)) = (Nginx::start().await, program("SEKISHO_TEST_CURL", "/usr/bin/curl"))
    else {
        return;
    };
    let deployment = TestDeployment::new(location).await;
    deployment.forward_to(format_args!("http://{}", nginx.address));
    deployment.user("ann@example.com", "admin").await;
    let server = deployment.serve().await;
    let jar =
        |name: &str| CurlClient { curl: curl.clone(), server: server.public, file: deployment.path(name) };
    let (reads, writes) = (jar("reads.txt"), jar("writes.txt"));
    for jar in [&reads, &writes] {
        jar.sign_in().await;
    }
    let (first_read, first_write) = (reads.tokens(), writes.tokens());
    assert_eq!(reads.curl("/early", &[]).await, 200);

    // Real time, since separate processes share no test clock.
    tokio::time::sleep(Duration::from_millis(2100)).await;

    let upload = deployment.write("upload", &"x".repeat(TEN_MB));
    let upload = format!("@{}", upload.display());
    reads.curl_and_refresh(&first_read, "/read?x=%20", &[]).await;
    writes.curl_and_refresh(&first_write, "/write", &["-X", "POST", "--data-binary", &upload]).await;

    assert_eq!(reads.curl("/last", &[]).await, 200);
    let seen = nginx.requests_until("/last").await;
    let targets: Vec<_> =
        seen.iter().map(|request| format!("{} {}", request["method"], request["uri"])).collect();
    assert_eq!(
        targets,
        [r#""GET" "/early""#, r#""GET" "/read?x=%20""#, r#""POST" "/write""#, r#""GET" "/last""#],
        "each request arrives once"
    );
    for request in &seen {
        assert_identity(request);
    }
    let length: usize = seen[2]["length"].as_str().unwrap().parse().unwrap();
    assert!((TEN_MB..TEN_MB + 4096).contains(&length), "the body is complete: {length}");
    server.stop().await;
}

fn assert_identity(request: &Value) {
    let user = request["user"].as_str().unwrap();
    assert!(user.parse::<uuid::Uuid>().is_ok(), "{request}");
    assert_eq!(
        (&request["email"], &request["groups"]),
        (&"ann@example.com".into(), &"admin".into()),
        "{request}"
    );
    assert_eq!(
        (&request["cookie"], &request["authorization"]),
        (&"theme=dark".into(), &"".into()),
        "{request}"
    );
}

/// curl with its own cookie jar.
struct CurlClient {
    curl: PathBuf,
    server: SocketAddr,
    file: PathBuf,
}

impl CurlClient {
    async fn sign_in(&self) {
        // The jar already contains a cookie of the application.
        let host = self.server.ip();
        std::fs::write(&self.file, format!("{host}\tFALSE\t/\tFALSE\t0\ttheme\tdark\n")).unwrap();
        let form = format!("email=ann@example.com&password={PASSWORD}");
        assert_eq!(self.curl("/auth/login", &["-d", &form]).await, 200);
    }

    /// Returns the response status, and fails without a response.
    async fn curl(&self, target: &str, args: &[&str]) -> u16 {
        let jar: &Path = &self.file;
        let mut command = Command::new(&self.curl);
        command.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-b"]).arg(jar).arg("-c").arg(jar);
        command.args(args).arg(format!("http://{}{target}", self.server)).stderr(Stdio::inherit());
        let output = command.env_clear().output().await.unwrap();
        assert!(output.status.success(), "{}", output.status);
        String::from_utf8(output.stdout).unwrap().parse().unwrap()
    }

    /// Sends a request that refreshes the session with the tokens `before`, and checks that both cookies are new.
    ///
    /// A response later than a sixth of the grace period sets no cookies. On a slow machine the next request gets
    /// them, here one that nginx does not receive.
    async fn curl_and_refresh(&self, before: &[String; 2], target: &str, args: &[&str]) {
        let started = Instant::now();
        assert_eq!(self.curl(target, args).await, 200);
        let mut may_be_late = started.elapsed() > MAX_COOKIE_AGE;
        while may_be_late && self.tokens() == *before {
            let started = Instant::now();
            assert_eq!(self.curl("/auth/session", &[]).await, 200);
            may_be_late = started.elapsed() > MAX_COOKIE_AGE;
        }
        let after = self.tokens();
        assert!(
            before[0] != after[0] && before[1] != after[1],
            "both cookies are new: {before:?}, {after:?}"
        );
    }

    /// Returns the values of both session cookies.
    fn tokens(&self) -> [String; 2] {
        let jar = std::fs::read_to_string(&self.file).unwrap();
        ["__Host-access_token", "__Host-refresh_token"].map(|name| {
            let mut lines = jar.lines().filter(|line| line.split('\t').nth(5) == Some(name));
            let line = lines.next().unwrap_or_else(|| panic!("{name} in {jar}"));
            assert!(line.starts_with("#HttpOnly_") && lines.next().is_none(), "{jar}");
            line.split('\t').nth(6).unwrap().to_owned()
        })
    }
}

/// A sixth of the grace period of [`TestDeployment`], less some time for the clocks of two processes.
const MAX_COOKIE_AGE: Duration = Duration::from_millis(150);

const TEN_MB: usize = 10_000_000;
