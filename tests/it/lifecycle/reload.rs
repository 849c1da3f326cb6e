//! Reload of the configuration.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::time::Instant;

use axum::body::Body;
use http::{Request, Response};
use rustls::version::TLS13;
use tokio::net::TcpStream;

use super::{config, open_route};
use crate::support::db;
use crate::support::http::{TestResponse, with};
use crate::support::process::{PROCESS_TIMEOUT, ServerProcess, TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;
use crate::support::test_server::{Files, get1, send_and_read};
use crate::support::upstream::Upstream;

async fn new_deployment(text: &str) -> TestDeployment {
    let deployment = TestDeployment::without_keys(db::sqlite_location().await.unwrap());
    deployment.write("sekisho.toml", text);
    deployment
}

/// Starts an upstream that responds with its name.
async fn named_upstream(name: &'static str) -> Upstream {
    Upstream::responding_with(move |_| Response::new(Body::from(name))).await
}

async fn get(address: SocketAddr, path: &str) -> TestResponse {
    SocketBrowser::default().get(address, path).await
}

async fn body(address: SocketAddr, path: &str) -> String {
    String::from_utf8(get(address, path).await.body).unwrap()
}

const IN_FORCE: &str = "configuration reloaded";
const REFUSED: &str = "configuration reload failed";

async fn metric(server: &ServerProcess, line: &str) -> f64 {
    let text = body(server.admin, "/metrics").await;
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{line}\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn sighup_applies_changes() {
    let (one, other) = (named_upstream("one").await, named_upstream("other").await);
    let mut deployment = new_deployment(&config("", &open_route("/", &one.url()))).await;
    // Environment variables override the file on reload too.
    deployment.set("server.max_header_fields", "20");
    let server = deployment.serve().await;
    let mut connection = TcpStream::connect(server.public).await.unwrap();
    assert!(send_and_read(&mut connection, &get1("/before")).await.ends_with("one"));
    let loaded_at = metric(&server, "sekisho_reload_last_success_timestamp_seconds").await;

    let keys = "max_uri = '300B'\nmax_header_fields = 50\nallowed_origins = ['https://a.example']\n\
                trusted_proxies = ['127.0.0.1']";
    let routes = format!("{}{}", open_route("/", &other.url()), open_route("/new", &one.url()));
    deployment.write("sekisho.toml", &config(keys, &format!("[log]\naccess = false\n{routes}")));
    server.hang_up();
    server.wait_for_log(IN_FORCE, 1).await;

    // Routes, also for existing connections.
    assert!(send_and_read(&mut connection, &get1("/quiet")).await.ends_with("other"));
    assert_eq!(body(server.public, "/new/x").await, "one");
    // Limits, for new connections.
    assert_eq!(get(server.public, &format!("/{}", "x".repeat(300))).await.status, 414);
    let fields: String = (0..30).map(|nth| format!("X-{nth}: 1\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let mut socket = TcpStream::connect(server.public).await.unwrap();
    assert!(
        send_and_read(&mut socket, &many).await.starts_with("HTTP/1.1 431"),
        "the limit of the environment"
    );
    // Allowed origins.
    let request = with(crate::support::http::get("/"), "origin", "https://a.example");
    let response = SocketBrowser::default().send(server.public, request).await.unwrap();
    assert_eq!(response.header("access-control-allow-origin"), Some("https://a.example"));
    // Trusted proxies.
    let mut other = other;
    while other.try_next_request().is_some() {}
    let request = with(crate::support::http::get("/"), "x-forwarded-for", "192.0.2.7");
    SocketBrowser::default().send(server.public, request).await.unwrap();
    assert!(other.seen().await.all("x-forwarded-for")[0].starts_with("192.0.2.7"));

    assert_eq!(metric(&server, "sekisho_reloads_total{outcome=\"done\"}").await, 1.0);
    assert!(metric(&server, "sekisho_reload_last_success_timestamp_seconds").await > loaded_at);
    server.terminate();
    let (_, log) = server.wait_with_log().await;
    assert!(log.contains("path=/before") && !log.contains("path=/quiet"), "the access log is off: {log}");
}

#[tokio::test]
async fn invalid_file_changes_nothing_and_is_logged() {
    let upstream = named_upstream("one").await;
    let good = config("", &open_route("/", &upstream.url()));
    let deployment = new_deployment(&good).await;
    let server = deployment.serve().await;
    let cases = [
        (config("max_uri = 'long'", ""), "server.max_uri", ", line 3: expected a size"),
        (format!("{good}{}", open_route("/", "http://a")), "routes.path", "sekisho.toml, line"),
        ("[server".to_owned(), "sekisho.toml", ", line 1:"),
        (config("lisen = 1", ""), "unknown key server.lisen", "sekisho.toml, line 3"),
    ];
    for (nth, (bad, key, place)) in cases.iter().enumerate() {
        deployment.write("sekisho.toml", bad);
        server.hang_up();
        server.wait_for_log(REFUSED, nth + 1).await;
        let log = server.log();
        let line = log.lines().rfind(|line| line.contains(REFUSED)).unwrap();
        assert!(line.contains("ERROR") && line.contains(key) && line.contains(place), "{line}");
        assert_eq!(body(server.public, "/").await, "one");
    }
    deployment.write("sekisho.toml", &good);
    server.hang_up();
    server.wait_for_log(IN_FORCE, 1).await;
    assert_eq!(metric(&server, "sekisho_reloads_total{outcome=\"refused\"}").await, 4.0);
    server.stop().await;
}

#[tokio::test]
async fn restart_keys_are_named_and_the_rest_is_applied() {
    let (one, other) = (named_upstream("one").await, named_upstream("other").await);
    let deployment = new_deployment(&config("", &open_route("/", &one.url()))).await;
    let server = deployment.serve().await;
    let rest = "[tokens]\nissuer = 'else'\n[session]\ngrace = '50s'\n[login]\nbcrypt_cost = 11\n";
    deployment
        .write("sekisho.toml", &config("threads = 1", &format!("{rest}{}", open_route("/", &other.url()))));
    server.hang_up();
    server.wait_for_log(IN_FORCE, 1).await;
    let log = server.log();
    let line = log.lines().find(|line| line.contains("need a restart")).unwrap();
    assert!(line.contains("WARN"), "{line}");
    assert!(line.contains("server.threads, tokens.issuer, session.grace, login.bcrypt_cost"), "{line}");
    assert_eq!(body(server.public, "/").await, "other");
    server.stop().await;
}

/// D14: the log said that the route was in force, but the built-in path hid it.
#[tokio::test]
async fn route_below_a_built_in_path_in_force_is_rejected() {
    let upstream = named_upstream("one").await;
    // Without routes all groups of built-in paths are enabled, and stay so until a restart.
    let deployment = new_deployment(&config("", "")).await;
    let server = deployment.serve().await;
    let url = upstream.url();
    for (nth, path) in ["/movies", "/movies/x", "/token", "/docs/", "/openapi.json"].iter().enumerate() {
        let routes = format!("{}{}", open_route("/", &url), open_route(path, &url));
        deployment.write("sekisho.toml", &config("", &routes));
        server.hang_up();
        server.wait_for_log(REFUSED, nth + 1).await;
        let log = server.log();
        let line = log.lines().rfind(|line| line.contains(REFUSED)).unwrap();
        assert!(line.contains("hides it: the built-in paths change only with a restart"), "{line}");
        assert_eq!(get(server.public, "/none").await.status, 404, "nothing is in force");
    }
    // Nor with another prefix, or without the group, which need a restart too.
    let moved = config("auth_prefix = '/sign'", &open_route("/auth", &url));
    let disabled = config("builtin = ['auth']", &open_route("/movies", &url));
    for (nth, text) in [moved, disabled].iter().enumerate() {
        deployment.write("sekisho.toml", text);
        server.hang_up();
        server.wait_for_log(REFUSED, 6 + nth).await;
    }
    deployment.write("sekisho.toml", &config("", &open_route("/", &url)));
    server.hang_up();
    server.wait_for_log(IN_FORCE, 1).await;
    assert_eq!(body(server.public, "/none").await, "one");
    server.stop().await;
}

/// D14: all errors of a file are logged at once.
#[tokio::test]
async fn all_errors_of_a_reload_are_logged() {
    let deployment = new_deployment(&config("", "")).await;
    let server = deployment.serve().await;
    let routes = "[[routes]]\npath = '/a'\n[[routes]]\npath = '/b/*'\nupstreams = ['http://h']\n";
    deployment.write("sekisho.toml", &config("lisen = 1\nmax_uri = 'long'", routes));
    server.hang_up();
    server.wait_for_log(REFUSED, 1).await;
    let log = server.log();
    let line = log.lines().find(|line| line.contains(REFUSED)).unwrap();
    for part in ["server.lisen", "server.max_uri", "routes.upstreams is required", "write /b"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    server.stop().await;
}

/// Such upstream tokens would pass as access tokens of the gateway.
#[tokio::test]
async fn bearer_for_the_gateway_audience_is_rejected() {
    let upstream = named_upstream("one").await;
    let keys = "[tokens]\nalgorithm = 'EdDSA'\n";
    let deployment =
        new_deployment(&config("", &format!("{keys}{}", open_route("/", &upstream.url())))).await;
    let server = deployment.serve().await;
    let route = "[[routes]]\npath = '/'\nupstreams = ['http://127.0.0.1:1']\nbearer = 'sekisho'\n";
    deployment.write("sekisho.toml", &config("", &format!("{keys}audience = 'else'\n{route}")));
    server.hang_up();
    server.wait_for_log(REFUSED, 1).await;
    assert!(server.log().contains("which is tokens.audience until the next restart"), "{}", server.log());
    server.stop().await;
}

/// Trusted proxies and limits of the forward-auth listener.
#[tokio::test]
async fn verify_listener_is_reloaded() {
    let text = |proxy: &str, limit: &str| {
        let verify = "[verify]\nlisten = '127.0.0.1:0'\nsource = 'x-original'\n";
        config(&format!("trusted_proxies = ['{proxy}']\nmax_uri = '{limit}'"), verify)
    };
    let deployment = new_deployment(&text("192.0.2.1", "8KiB")).await;
    let server = deployment.serve().await;
    let log = server.log();
    let (_, address) = log.split_once(" verify=").expect("the listener's address");
    let verify: SocketAddr = address.split_whitespace().next().unwrap().parse().unwrap();
    let auth_request = || {
        let auth_request = with(crate::support::http::get("/auth/verify"), "x-original-method", "GET");
        with(auth_request, "x-original-uri", "/")
    };
    assert_eq!(SocketBrowser::default().send(verify, auth_request()).await.unwrap().status, 403);
    deployment.write("sekisho.toml", &text("127.0.0.1", "300B"));
    server.hang_up();
    server.wait_for_log(IN_FORCE, 1).await;
    assert_eq!(SocketBrowser::default().send(verify, auth_request()).await.unwrap().status, 401);
    assert_eq!(get(verify, &format!("/auth/verify?{}", "x".repeat(300))).await.status, 414);
    server.stop().await;
}

/// Kubernetes updates a mounted file by replacing a symlink to its directory; no signal is sent.
#[tokio::test]
async fn file_change_triggers_reload() {
    let (one, other) = (named_upstream("one").await, named_upstream("other").await);
    let deployment = new_deployment("").await;
    for (folder, upstream) in [("first", &one), ("second", &other)] {
        std::fs::create_dir(deployment.path(folder)).unwrap();
        deployment.write(&format!("{folder}/sekisho.toml"), &config("", &open_route("/", &upstream.url())));
    }
    std::fs::remove_file(deployment.path("sekisho.toml")).unwrap();
    symlink("first", deployment.path("data-link")).unwrap();
    symlink("data-link/sekisho.toml", deployment.path("sekisho.toml")).unwrap();
    let server = deployment.serve().await;
    assert_eq!(body(server.public, "/").await, "one");
    let start = Instant::now();
    symlink("second", deployment.path("next")).unwrap();
    std::fs::rename(deployment.path("next"), deployment.path("data-link")).unwrap();
    until("the other upstream", async || (body(server.public, "/").await == "other").then_some(())).await;
    assert!(start.elapsed() < PROCESS_TIMEOUT);
    assert!(server.log().contains("reloading configuration trigger=file"), "{}", server.log());
    server.stop().await;
}

#[tokio::test]
async fn certificate_files_may_change() {
    let (before, after) = (Files::good(), Files::good());
    let text = |files: &Files| {
        let (certificate, key) = (files.certificate(), files.key());
        let tls = format!("tls_certificate = '{}'\ntls_key = '{}'", certificate.display(), key.display());
        config(&tls, "")
    };
    let deployment = new_deployment(&text(&before)).await;
    let server = deployment.serve().await;
    let mut connection = before.connect(server.public, &[], &[&TLS13]).await.unwrap();
    assert!(after.connect(server.public, &[], &[&TLS13]).await.is_err());
    // First an invalid file.
    let bad = text(&after).replace("cert.pem", "none.pem");
    deployment.write("sekisho.toml", &bad);
    server.hang_up();
    server.wait_for_log(REFUSED, 1).await;
    assert!(server.log().contains("server.tls_certificate = "), "{}", server.log());
    assert!(before.connect(server.public, &[], &[&TLS13]).await.is_ok());

    deployment.write("sekisho.toml", &text(&after));
    server.hang_up();
    server.wait_for_log(IN_FORCE, 1).await;
    assert!(before.connect(server.public, &[], &[&TLS13]).await.is_err());
    assert!(after.connect(server.public, &[], &[&TLS13]).await.is_ok());
    assert!(send_and_read(&mut connection, &get1("/none")).await.starts_with("HTTP/1.1 404"));
    server.stop().await;
}

/// Unchanged upstreams keep their connections, and removed ones are no longer checked.
#[tokio::test]
async fn remaining_upstreams_keep_their_state() {
    let (stays, mut goes, mut comes) =
        (named_upstream("stays").await, named_upstream("goes").await, named_upstream("comes").await);
    let checked = |path: &str, upstream: &Upstream| {
        format!("{}health_path = '/well'\nhealth_interval = '20ms'\n", open_route(path, &upstream.url()))
    };
    let fixed = open_route("/", &stays.url());
    // A single worker thread uses a single upstream connection.
    let deployment =
        new_deployment(&config("threads = 1", &format!("{fixed}{}", checked("/x", &goes)))).await;
    let server = deployment.serve().await;
    assert_eq!(body(server.public, "/").await, "stays");
    goes.seen().await;
    deployment.write("sekisho.toml", &config("threads = 1", &format!("{fixed}{}", checked("/x", &comes))));
    server.hang_up();
    server.wait_for_log(IN_FORCE, 1).await;
    assert_eq!(body(server.public, "/").await, "stays");
    assert_eq!(stays.connections(), 1);
    // Checks already in flight have arrived after a few checks of the other upstream.
    comes.seen().await;
    while goes.try_next_request().is_some() {}
    for _ in 0..20 {
        comes.seen().await;
    }
    assert!(goes.has_no_more_requests());
    server.stop().await;
}

/// The request in flight keeps its timeout, which is longer than the new one.
#[tokio::test]
async fn requests_in_flight_keep_the_old_configuration() {
    let mut gated = crate::support::upstream::GatedUpstream::start().await;
    let deployment = new_deployment(&config("", &open_route("/", &gated.url()))).await;
    let server = deployment.serve().await;
    let public = server.public;
    let in_flight = tokio::spawn(async move { SocketBrowser::default().status(public, "/").await });
    gated.arrived(1).await;
    let short_timeout = format!("{}first_byte_timeout = '100ms'\n", open_route("/", &gated.url()));
    deployment.write("sekisho.toml", &config("", &short_timeout));
    server.hang_up();
    server.wait_for_log(IN_FORCE, 1).await;
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = SocketBrowser::default().send(public, request).await.unwrap();
    response.problem(504, "upstream_timeout");
    gated.release(2);
    assert_eq!(in_flight.await.unwrap(), 200);
    server.stop().await;
}
