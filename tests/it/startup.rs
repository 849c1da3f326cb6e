//! Failures at startup and their messages.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::support::db::{self, DatabaseLocation};
use crate::support::http::{post, with};
use crate::support::process::on_both;
use crate::support::process::{CommandOutput, PASSWORD, TestDeployment, replace_refresh_key};
use crate::support::socket_browser::SocketBrowser;

on_both! {
    changed_issuer_and_audience_are_rejected;
    server_rejects_a_newer_schema;
    two_servers_may_start_at_once;
    invalid_key_file_is_named;
    replaced_key_is_rejected;
}

async fn failed_start(deployment: &TestDeployment) -> CommandOutput {
    match deployment.start().await {
        Ok(server) => panic!("the server started: {}", server.log()),
        Err(ran) => ran,
    }
}

async fn sqlite_deployment() -> TestDeployment {
    TestDeployment::new(db::sqlite_location().await.unwrap()).await
}

#[tokio::test]
async fn port_in_use_exits_with_1_and_names_the_key() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for key in ["server.listen", "admin.listen", "verify.listen"] {
        let mut deployment = sqlite_deployment().await;
        enable_verify_listener(&mut deployment);
        deployment.set(key, &address);
        let flag = if key == "server.listen" { " (--listen)" } else { "" };
        let expected = format!(
            "{key} = {address} is in use: stop the program that has it, or choose another port{flag}"
        );
        assert_eq!(failed_start(&deployment).await.fails(1), expected);
    }
}

#[tokio::test]
async fn verify_has_its_own_listener() {
    let mut deployment = sqlite_deployment().await;
    enable_verify_listener(&mut deployment);
    deployment.user("ann@example.com", "user").await;
    let server = deployment.serve().await;
    let log = server.log();
    let (_, verify) = log.split_once("verify=").unwrap();
    let verify = verify.split_whitespace().next().unwrap().parse().unwrap();
    assert!(!log.contains("only the gateway's own paths answer"), "{log}");

    let mut ann = SocketBrowser::signed_in(server.public, "ann@example.com").await;
    let response = ann.get(verify, "/auth/verify/app").await;
    assert_eq!(
        (response.status.as_u16(), response.header("x-forwarded-email")),
        (200, Some("ann@example.com"))
    );
    SocketBrowser::default().get(verify, "/auth/verify/app").await.problem(401, "missing");
    for elsewhere in [server.public, server.admin] {
        assert_eq!(ann.status(elsewhere, "/auth/verify/app").await, 404);
    }
    server.stop().await;
}

fn enable_verify_listener(deployment: &mut TestDeployment) {
    deployment.set("server.trusted_proxies", "[\"127.0.0.1\"]");
    deployment.set("verify.listen", "127.0.0.1:0");
    deployment.set("verify.source", "envoy");
}

async fn invalid_key_file_is_named(location: DatabaseLocation) {
    let deployment = TestDeployment::new(location).await;
    if deployment.is_embedded() {
        deployment.serve().await.stop().await;
    }
    let file = deployment.path("data/keys/1.toml");
    let valid = fs::read_to_string(&file).unwrap();

    fs::write(&file, &valid[..valid.len() / 2]).unwrap();
    let ran = failed_start(&deployment).await;
    let garbled = ran.fails(78);
    assert!(garbled.contains("1.toml") && garbled.contains("`sekisho key init`"), "{garbled}");

    fs::write(&file, &valid).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    let ran = failed_start(&deployment).await;
    let writable = ran.fails(78);
    assert!(writable.contains("1.toml") && writable.contains("chmod"), "{writable}");

    // A file that even root cannot read.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o700)).unwrap();
    let ran = failed_start(&deployment).await;
    let unreadable = ran.fails(78);
    assert!(unreadable.contains("1.toml"), "{unreadable}");
}

/// B12: a key that everyone can read is reported, and one whose directory others can write is refused.
#[tokio::test]
async fn key_files_of_everyone_are_reported_or_refused() {
    let deployment = sqlite_deployment().await;
    deployment.serve().await.stop().await;
    let dir = deployment.path("data/keys");
    fs::set_permissions(dir.join("1.toml"), Permissions::from_mode(0o644)).unwrap();
    let server = deployment.serve().await;
    assert!(server.log().contains("1.toml has mode 0644, so other users can read it"), "{}", server.log());
    server.stop().await;

    fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
    let ran = failed_start(&deployment).await;
    let writable = ran.fails(78);
    assert!(writable.contains("keys has mode 0777") && writable.contains("chmod go-w"), "{writable}");
}

/// B3: a replica with another key under a number that the database knows.
async fn replaced_key_is_rejected(location: DatabaseLocation) {
    let deployment = TestDeployment::new(location).await;
    deployment.user("ann@example.com", "user").await;
    let server = deployment.serve().await;
    let mut ann = SocketBrowser::signed_in(server.public, "ann@example.com").await;
    server.stop().await;
    let file = deployment.path("data/keys/1.toml");
    let former = fs::read_to_string(&file).unwrap();

    replace_refresh_key(&file);
    let ran = failed_start(&deployment).await;
    let line = ran.fails(78);
    assert!(line.contains("key 1 differs") && line.contains("`sekisho key init`"), "{line}");
    fs::write(&file, &former).unwrap();
    let server = deployment.serve().await;
    assert_eq!(ann.status(server.public, "/auth/session").await, 200);
    server.stop().await;

    fs::remove_dir_all(deployment.path("data/keys")).unwrap();
    if !deployment.is_embedded() {
        assert!(deployment.run(&["key", "init"]).await.done().starts_with("created key 2 (HS256)"));
    }
    let server = deployment.serve().await;
    assert!(deployment.path("data/keys/2.toml").exists() && !file.exists());
    ann.get(server.public, "/auth/session").await.problem(401, "unknown_key");
    server.stop().await;
}

/// B3: another `tokens.secret`, whose key has the number 1 again.
#[tokio::test]
async fn changed_secret_requires_the_former_to_be_retired() {
    let mut deployment = TestDeployment::without_keys(db::sqlite_location().await.unwrap());
    deployment.set("tokens.secret", "Kf5pvZ6M66agfR3sJbGwh+/ibAf/DSHX2wszd3c4pcY=");
    deployment.user("ann@example.com", "user").await;
    let server = deployment.serve().await;
    SocketBrowser::signed_in(server.public, "ann@example.com").await;
    server.stop().await;
    deployment.set("tokens.secret", "dNN/8TbqwT9VMiOmOEFGDTtqoeaNaCco9hD7HH/ZLV8=");
    let ran = failed_start(&deployment).await;
    let line = ran.fails(78);
    assert!(line.contains("`sekisho key retire 1`"), "{line}");
    assert!(deployment.run(&["key", "retire", "1"]).await.done().starts_with("1 session ended; "));
    deployment.serve().await.stop().await;
}

#[tokio::test]
async fn postgres_requires_existing_keys() {
    let Some(location) = db::postgres_location().await else { return };
    let deployment = TestDeployment::without_keys(location);
    let ran = failed_start(&deployment).await;
    let line = ran.fails(78);
    assert!(line.contains("`sekisho key init`"), "{line}");
    assert!(!deployment.path("data/keys").exists());
    deployment.run(&["key", "init"]).await.done();
    deployment.serve().await.stop().await;
}

async fn changed_issuer_and_audience_are_rejected(location: DatabaseLocation) {
    let mut deployment = TestDeployment::new(location).await;
    deployment.serve().await.stop().await;
    for key in ["tokens.issuer", "tokens.audience"] {
        deployment.set(key, "another");
        let ran = failed_start(&deployment).await;
        let line = ran.fails(78);
        assert!(
            line.starts_with(key) && line.contains("\"another\"") && line.contains("\"sekisho\""),
            "{line}"
        );
        deployment.set(key, "sekisho");
    }
    deployment.serve().await.stop().await;
}

async fn server_rejects_a_newer_schema(location: DatabaseLocation) {
    let newer = "(9999, 'later', '2030-01-01', true, 'x', 0)";
    let deployment = TestDeployment::new(location).await;
    deployment.serve().await.stop().await;
    if deployment.is_embedded() {
        let pool = sqlx::SqlitePool::connect(deployment.database()).await.unwrap();
        let insert = sqlx::AssertSqlSafe(format!("INSERT INTO _sqlx_migrations VALUES {newer}"));
        sqlx::query(insert).execute(&pool).await.unwrap();
        pool.close().await;
    } else {
        db::run(deployment.database(), &format!("INSERT INTO myapi._sqlx_migrations VALUES {newer}")).await;
    }
    for ran in [failed_start(&deployment).await, deployment.run(&["user", "list"]).await] {
        let line = ran.fails(1);
        assert!(
            line.contains("newer sekisho (migration 9999)") && line.ends_with("upgrade the program"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn unopenable_database_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, named) in [
        ("sqlite://sekisho.toml/sekisho.db".to_owned(), "sekisho.toml/sekisho.db".to_owned()),
        ("sqlite://sekisho.toml".to_owned(), "sekisho.toml".to_owned()),
        (format!("postgres://ann:s3cret@{free}/films"), format!("{free}/films")),
    ] {
        let mut deployment = sqlite_deployment().await;
        deployment.set("database.url", &url);
        let ran = failed_start(&deployment).await;
        let line = ran.fails(1);
        assert!(line.starts_with(&format!("cannot open the database {named}: ")), "{line}");
        assert!(!ran.err.contains("s3cret"), "{}", ran.err);
    }
}

/// D8: `address=Some(127.0.0.1)`, `delay=0ns`, and a rejected origin without the expected one.
#[tokio::test]
async fn log_lines_are_written_for_people() {
    let mut deployment = sqlite_deployment().await;
    deployment.set("server.public_origin", "https://app.example.com");
    deployment.set("server.allowed_origins", "[\"https://page.example.com\"]");
    deployment.user("ann@example.com", "user").await;
    let server = deployment.serve().await;
    let mut ann = SocketBrowser::default();
    assert_eq!(ann.sign_in(server.public, "ann@example.com", PASSWORD).await.status, 200);
    assert_eq!(ann.sign_in(server.public, "ann@example.com", "another password").await.status, 401);
    let sign_out = with(post("/auth/logout", &serde_json::Value::Null), "origin", "https://evil.example");
    let response = SocketBrowser::default().send(server.public, sign_out).await.unwrap();
    response.problem(403, "cross_site");
    server.terminate();
    let (_, log) = server.wait_with_log().await;
    for part in [
        "signed in",
        "sign-in failed address=127.0.0.1",
        "address=127.0.0.1 session_event=login",
        "cross-site request rejected origin=https://evil.example",
        "trusted_origins=\"https://page.example.com, https://app.example.com\"",
        "shutting down delay=0s",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("Some(") && !log.contains("0ns"), "{log}");
}

/// On a new database both servers run the migrations, and on SQLite both create keys.
async fn two_servers_may_start_at_once(location: DatabaseLocation) {
    let deployment = TestDeployment::new(location).await;
    let (one, other) = tokio::join!(deployment.serve(), deployment.serve());
    deployment.user("ann@example.com", "user").await;
    let mut browser = SocketBrowser::signed_in(one.public, "ann@example.com").await;
    assert_eq!(browser.status(other.public, "/auth/session").await, 200, "{}", other.log());
    one.stop().await;
    other.stop().await;
}
