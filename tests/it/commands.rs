//! Commands beside a running server.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::join_all;

use crate::support::db::DatabaseLocation;
use crate::support::process::on_both;
use crate::support::process::{FAKETIME, PASSWORD, ServerProcess, TestDeployment, program, until};
use crate::support::socket_browser::SocketBrowser;

on_both! {
    users_can_be_created_listed_and_deleted;
    passwd_terminates_sessions;
    role_change_requires_new_sign_in;
    disabled_user_cannot_sign_in;
    imported_users_can_sign_in;
    sessions_can_be_listed_and_revoked;
    commands_with_a_slow_clock_end_sessions;
    key_rotation_under_load_causes_no_sign_out;
    healthcheck_reports_readiness;
}

const ANN: &str = "ann@example.com";
const BOB: &str = "bob@example.com";

async fn running(location: DatabaseLocation) -> (TestDeployment, ServerProcess) {
    let deployment = TestDeployment::new(location).await;
    deployment.user(ANN, "user").await;
    let server = deployment.serve().await;
    (deployment, server)
}

/// Waits until the server rejects this browser, and returns the session event.
async fn signed_out(browser: &mut SocketBrowser, server: SocketAddr) -> String {
    until("the session to end", async || {
        let response = browser.get(server, "/auth/session").await;
        let ended = response.status == StatusCode::UNAUTHORIZED;
        ended.then(|| response.header("x-session-event").unwrap().to_owned())
    })
    .await
}

async fn users_can_be_created_listed_and_deleted(location: DatabaseLocation) {
    let (deployment, server) = running(location).await;
    let create = ["user", "create", "--email", "Bob@Example.com", "--name", "Bob", "--password-stdin"];
    assert!(
        deployment
            .run_with(&create, PASSWORD)
            .await
            .done()
            .starts_with("created bob@example.com (user), id ")
    );
    let again = deployment.run_with(&create, PASSWORD).await;
    assert_eq!(again.fails(1), "a user with this e-mail address exists already; nothing was changed");
    let short = ["user", "create", "--email", "cid@example.com", "--password-stdin"];
    assert!(deployment.run_with(&short, "hunter2\n").await.fails(1).contains("15 characters"));

    let mut bob = SocketBrowser::signed_in(server.public, BOB).await;
    let users = deployment.run(&["user", "list", "--json"]).await.rows();
    let listed: Vec<_> = users.iter().map(|user| [&user["email"], &user["name"], &user["role"]]).collect();
    assert_eq!(listed.len(), 2, "{users:?}");
    assert!(listed.contains(&[&BOB.into(), &"Bob".into(), &"user".into()]), "{users:?}");

    assert_eq!(
        deployment.run(&["user", "delete", BOB]).await.done(),
        "deleted bob@example.com; 1 session ended\n"
    );
    assert_eq!(signed_out(&mut bob, server.public).await, "user_deleted");
    assert_eq!(bob.sign_in(server.public, BOB, PASSWORD).await.status, 401);
    assert_eq!(deployment.run(&["user", "delete", BOB]).await.fails(1), "there is no user bob@example.com");
    server.stop().await;
}

async fn passwd_terminates_sessions(location: DatabaseLocation) {
    let (deployment, server) = running(location).await;
    let mut ann = SocketBrowser::signed_in(server.public, ANN).await;
    let new = "lantern-over-the-mountain-pass";
    let output = deployment.run_with(&["user", "passwd", ANN, "--password-stdin"], new).await.done();
    assert_eq!(output, "set the password of ann@example.com; 1 session ended\n");
    assert_eq!(signed_out(&mut ann, server.public).await, "password_changed");
    assert_eq!(ann.sign_in(server.public, ANN, PASSWORD).await.status, 401);
    assert_eq!(ann.sign_in(server.public, ANN, new).await.status, 200);
    server.stop().await;
}

async fn role_change_requires_new_sign_in(location: DatabaseLocation) {
    let (deployment, server) = running(location).await;
    let mut ann = SocketBrowser::signed_in(server.public, ANN).await;
    let output = deployment.run(&["user", "role", ANN, "admin"]).await.done();
    assert_eq!(output, "ann@example.com is admin now; 1 session ended\n");
    assert_eq!(signed_out(&mut ann, server.public).await, "role_changed");
    let response = ann.sign_in(server.public, ANN, PASSWORD).await;
    assert_eq!(response.json()["user"]["roles"], serde_json::json!(["admin"]));
    server.stop().await;
}

async fn disabled_user_cannot_sign_in(location: DatabaseLocation) {
    let (deployment, server) = running(location).await;
    let mut ann = SocketBrowser::signed_in(server.public, ANN).await;
    assert_eq!(
        deployment.run(&["user", "disable", ANN]).await.done(),
        "disabled ann@example.com; 1 session ended\n"
    );
    assert_eq!(signed_out(&mut ann, server.public).await, "user_disabled");
    assert_eq!(ann.sign_in(server.public, ANN, PASSWORD).await.status, 401);
    assert_eq!(deployment.run(&["user", "list", "--json"]).await.rows()[0]["disabled"], true);

    assert_eq!(deployment.run(&["user", "enable", ANN]).await.done(), "enabled ann@example.com\n");
    assert_eq!(ann.sign_in(server.public, ANN, PASSWORD).await.status, 200);
    assert_eq!(deployment.run(&["user", "list", "--json"]).await.rows()[0]["disabled"], false);
    server.stop().await;
}

/// Password hashes in passlib's format.
async fn imported_users_can_sign_in(location: DatabaseLocation) {
    let (deployment, server) = running(location).await;
    let csv = format!("email,hashed_password,name,role\n{BOB},{BCRYPT},Bob,admin\n");
    let file = deployment.write("users.csv", &csv);
    assert_eq!(deployment.run(&["user", "import", file.to_str().unwrap()]).await.done(), "imported 1 user\n");
    let cid = serde_json::json!({"email": "cid@example.com", "hashed_password": BCRYPT_SHA256});
    let file = deployment.write("users.jsonl", &format!("{cid}\n"));
    assert_eq!(deployment.run(&["user", "import", file.to_str().unwrap()]).await.done(), "imported 1 user\n");
    for email in [BOB, "cid@example.com"] {
        let mut browser = SocketBrowser::default();
        assert_eq!(browser.sign_in(server.public, email, IMPORTED_PASSWORD).await.status, 200, "{email}");
        assert_eq!(browser.sign_in(server.public, email, "another password").await.status, 401, "{email}");
    }

    let file = deployment
        .write("bad.csv", &format!("email,hashed_password\ndan@example.com,{BCRYPT}\neve,x\nfay,x\n"));
    let ran = deployment.run(&["user", "import", file.to_str().unwrap()]).await;
    assert!(ran.fails(1).contains("2 invalid lines, nothing was imported"), "{}", ran.err);
    assert!(ran.err.contains("line 3") && ran.err.contains("line 4"), "{}", ran.err);
    assert_eq!(deployment.run(&["user", "list", "--json"]).await.rows().len(), 3);
    server.stop().await;
}

async fn sessions_can_be_listed_and_revoked(location: DatabaseLocation) {
    let (deployment, server) = running(location).await;
    deployment.user(BOB, "user").await;
    let mut anns = [
        SocketBrowser::signed_in(server.public, ANN).await,
        SocketBrowser::signed_in(server.public, ANN).await,
    ];
    let mut bob = SocketBrowser::signed_in(server.public, BOB).await;
    assert_eq!(deployment.run(&["session", "list", "--json"]).await.rows().len(), 3);
    let bob_sessions = deployment.run(&["session", "list", "--user", BOB, "--json"]).await.rows();
    assert_eq!(bob_sessions.len(), 1);
    let expected = (BOB.into(), "browser".into(), "live".into(), "127.0.0.1".into());
    let row = &bob_sessions[0];
    assert_eq!(
        (&row["email"], &row["kind"], &row["state"], &row["address"]),
        (&expected.0, &expected.1, &expected.2, &expected.3)
    );

    let id = row["id"].as_str().unwrap();
    assert_eq!(deployment.run(&["session", "revoke", id]).await.done(), "1 session ended\n");
    assert_eq!(signed_out(&mut bob, server.public).await, "revoked");
    assert!(deployment.run(&["session", "list", "--user", BOB, "--json"]).await.rows().is_empty());
    let ended = deployment.run(&["session", "list", "--user", BOB, "--ended", "--json"]).await.rows();
    assert_eq!(ended[0]["state"], "revoked");
    let explained = deployment.run(&["session", "explain", id]).await.done();
    let revoked = "It was revoked, from (command line: sekisho session revoke).";
    assert!(explained.contains("user       bob@example.com (browser)\n"), "{explained}");
    assert!(explained.contains(revoked), "{explained}");
    let report: serde_json::Value =
        serde_json::from_str(&deployment.run(&["session", "explain", id, "--json"]).await.done()).unwrap();
    assert_eq!((&report["session"]["state"], &report["explanation"]), (&"revoked".into(), &revoked.into()));
    let [login, ended] = &report["audit"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!((&login["event"], &ended["event"]), (&"login".into(), &"revoked".into()));
    assert!(login["request_id"].is_string() && login["address"] == "127.0.0.1", "{login}");

    assert_eq!(anns[0].status(server.public, "/auth/session").await, 200);
    assert_eq!(deployment.run(&["session", "revoke", "--all"]).await.done(), "2 sessions ended\n");
    for ann in &mut anns {
        assert_eq!(signed_out(ann, server.public).await, "revoked");
    }
    let nothing = deployment.run(&["session", "explain", "0198c0de-0000-4000-8000-000000000000"]).await;
    assert!(nothing.fails(1).starts_with("there is no session 0198c0de-"), "{}", nothing.err);
    server.stop().await;
}

/// B5: the clock of the operator's machine is half an hour slow, and access tokens live for 15 minutes.
async fn commands_with_a_slow_clock_end_sessions(location: DatabaseLocation) {
    let Some(library) = program("SEKISHO_TEST_FAKETIME", FAKETIME) else { return };
    let mut deployment = TestDeployment::new(location).await;
    deployment.set("tokens.access_ttl", "15m");
    deployment.user(ANN, "user").await;
    let server = deployment.serve().await;
    deployment.set_env("LD_PRELOAD", library.to_str().unwrap());
    deployment.set_env("FAKETIME", "-30m");
    deployment.set_env("DONT_FAKE_MONOTONIC", "1");
    for (args, event) in [
        (["session", "revoke", "--all"].as_slice(), "revoked"),
        (["user", "role", ANN, "admin"].as_slice(), "role_changed"),
        (["user", "disable", ANN].as_slice(), "user_disabled"),
    ] {
        let mut ann = SocketBrowser::signed_in(server.public, ANN).await;
        assert_eq!(ann.status(server.public, "/auth/session").await, 200);
        assert!(deployment.run(args).await.done().ends_with("1 session ended\n"), "{args:?}");
        let ended = tokio::time::Instant::now();
        assert_eq!(signed_out(&mut ann, server.public).await, event);
        assert!(ended.elapsed() < Duration::from_secs(10), "not by the full load, which follows every 30 s");
    }
    server.stop().await;
}

/// Two replicas with shared keys. The older one loads the new key when it first receives a token signed by
/// it.
async fn key_rotation_under_load_causes_no_sign_out(location: DatabaseLocation) {
    let mut deployment = TestDeployment::new(location).await;
    deployment.set("tokens.key_activation", "0s");
    // With 2 s, polling pages would refresh within the grace period and only be replayed.
    deployment.set("tokens.access_ttl", "3s");
    deployment.user(ANN, "user").await;
    let old = deployment.serve().await;
    let mut idle = SocketBrowser::signed_in(old.public, ANN).await;
    let mut browsers = Vec::new();
    for _ in 0..4 {
        browsers.push(SocketBrowser::signed_in(old.public, ANN).await);
    }
    let polling = join_all(browsers.into_iter().map(|browser| poll_until_rotated_key(browser, old.public)));
    let (browsers, new) = tokio::join!(polling, rotate_key_and_start_replica(&deployment, &old));

    assert_eq!(idle.key_number(), 1);
    let output = deployment.run(&["key", "retire", "1"]).await.done();
    assert_eq!(output, "retired key 1; 1 session ended\n");
    for mut browser in browsers {
        assert_eq!(browser.status(old.public, "/auth/session").await, 200);
    }
    assert!(["revoked", "unknown_key"].contains(&&*signed_out(&mut idle, new.public).await));
    assert_eq!(deployment.run(&["key", "retire", "2"]).await.code, Some(1), "the last key cannot be retired");
    old.stop().await;
    new.stop().await;
}

/// Rotates the key, and starts a replica whose first token is unknown to the old one.
async fn rotate_key_and_start_replica(deployment: &TestDeployment, old: &ServerProcess) -> ServerProcess {
    let output = deployment.run(&["key", "rotate"]).await.done();
    assert_eq!(output, "added key 2 (HS256); it signs in 0s; no session ends\n");
    let keys = deployment.run(&["key", "list", "--json"]).await.rows();
    assert_eq!((&keys[0]["state"], &keys[1]["state"]), (&"verifies".into(), &"signs".into()));
    let new = deployment.serve().await;
    let mut browser = SocketBrowser::signed_in(new.public, ANN).await;
    assert_eq!(browser.key_number(), 2);
    until("the old replica to load the new key", async || {
        (browser.status(old.public, "/auth/session").await == 200).then_some(())
    })
    .await;
    new
}

/// Polls until the refresh token is signed by the new key. Every request must succeed.
async fn poll_until_rotated_key(mut browser: SocketBrowser, server: SocketAddr) -> SocketBrowser {
    until("a refresh token of the new key", async || {
        let response = browser.get(server, "/auth/session").await;
        assert_eq!(response.status, 200, "{:?}", response.header("x-session-event"));
        (browser.key_number() == 2).then_some(())
    })
    .await;
    browser
}

impl SocketBrowser {
    /// Returns the number of the key that signed the refresh token.
    fn key_number(&self) -> u8 {
        BASE64_URL_SAFE_NO_PAD.decode(&self.cookies["__Host-refresh_token"]).unwrap()[1]
    }
}

async fn healthcheck_reports_readiness(location: DatabaseLocation) {
    let mut deployment = TestDeployment::new(location).await;
    let server = deployment.serve().await;
    let admin = server.admin.to_string();
    deployment.set("admin.listen", &admin);
    assert_eq!(deployment.run(&["healthcheck"]).await.done(), "");
    for (path, text) in [("/healthz", "alive\n"), ("/readyz", "ready\n")] {
        let response = SocketBrowser::default().get(server.admin, path).await;
        assert_eq!((response.status.as_u16(), response.body.as_slice()), (200, text.as_bytes()));
        assert_eq!(
            SocketBrowser::default().status(server.public, path).await,
            404,
            "not on the public listener"
        );
    }
    server.stop().await;
    assert!(
        deployment
            .run(&["healthcheck"])
            .await
            .fails(1)
            .starts_with(&format!("no response from admin.listen = {admin}"))
    );
}

const IMPORTED_PASSWORD: &str = "imported correct horse";
const BCRYPT: &str = "$2b$04$OwlMMR9fHrzgm0PXZrt4EOz043spAu3Ux7spNoqZZNeBcO4Jz8uDK";
const BCRYPT_SHA256: &str =
    "$bcrypt-sha256$v=2,t=2b,r=4$yLS74PNkjXM9Pk064ItCB.$0OELAYpvhG39/JfsXYNnfNaIfLjj5o.";
