//! Errors of PostgreSQL at startup, and databases that start late or change their passwords.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::support::db::{DatabaseLocation, run};
use crate::support::postgres::{Server, Stop};
use crate::support::process::{PASSWORD, PROCESS_TIMEOUT, TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;

/// Starts a server, on a thread that may block.
async fn start() -> Option<Server> {
    spawn_blocking(Server::start).await.unwrap()
}

/// Returns the URL of `server` for this user, password and database.
fn url_for(server: &Server, user: &str, database: &str) -> String {
    server.url.replace("//sekisho@", &format!("//{user}@")).replace("/postgres", &format!("/{database}"))
}

/// Replaces the rules of authentication. The user of the tests may always connect.
async fn set_rules(server: &Server, rules: &str) {
    let rules = format!("host all sekisho all trust\n{rules}");
    let copy = format!(
        "DO $$ BEGIN EXECUTE format('COPY (SELECT unnest(string_to_array(%L, E''\\n''))) TO %L', '{rules}', \
         current_setting('hba_file')); END $$"
    );
    run(&server.url, &copy).await;
    run(&server.url, "SELECT pg_reload_conf()").await;
}

/// D7: the messages had a line number of PostgreSQL's source code, and no remedy.
#[tokio::test]
async fn postgres_errors_name_the_remedy() {
    let Some(server) = start().await else { return };
    let sql = "CREATE ROLE weak LOGIN; CREATE ROLE full_role LOGIN CONNECTION LIMIT 0; CREATE ROLE plain LOGIN; \
               CREATE ROLE guest LOGIN PASSWORD 'right'";
    for statement in sql.split("; ") {
        run(&server.url, statement).await;
    }
    for database in ["foreign_tables", "schema_only"] {
        run(&server.url, &format!("CREATE DATABASE {database}")).await;
        run(&url_for(&server, "sekisho", database), "CREATE SCHEMA myapi").await;
    }
    run(&url_for(&server, "sekisho", "foreign_tables"), "CREATE TABLE myapi.users (id INT)").await;
    set_rules(&server, "hostssl all plain all trust\nhost all plain all reject\nhost all guest all scram-sha-256\nhost all all all trust").await;
    // Until the rules are in force.
    let deployment = TestDeployment::new(DatabaseLocation::at(&url_for(&server, "plain", "postgres"))).await;
    let line = until("the rules", async || {
        let ran = deployment.run(&["migrate"]).await;
        let line = ran.fails(1).to_owned();
        line.contains("pg_hba.conf").then_some(line)
    })
    .await;
    assert!(line.contains("the server requires TLS: add sslmode=verify-full"), "{line}");
    for (user, database, parts) in [
        (
            "weak",
            "postgres",
            [
                "permission denied for database postgres: ",
                "GRANT CREATE ON DATABASE \"postgres\" TO \"weak\"",
            ],
        ),
        (
            "weak",
            "schema_only",
            ["permission denied for schema myapi: ", "GRANT USAGE, CREATE ON SCHEMA myapi TO \"weak\""],
        ),
        ("sekisho", "foreign_tables", ["relation \"users\" already exists: ", "use a database of its own"]),
        (
            "full_role",
            "postgres",
            ["too many connections for role \"full_role\": ", "lower database.max_connections"],
        ),
        (
            "guest:wrong",
            "postgres",
            ["password authentication failed for user \"guest\": ", "check user and password"],
        ),
        ("sekisho", "nowhere", ["database \"nowhere\" does not exist: ", "CREATE DATABASE \"nowhere\""]),
        ("missing", "postgres", ["role \"missing\" does not exist: ", "CREATE ROLE \"missing\" LOGIN"]),
    ] {
        let deployment = TestDeployment::new(DatabaseLocation::at(&url_for(&server, user, database))).await;
        for command in ["migrate", "serve"] {
            let ran = deployment.run(&[command]).await;
            let line = ran.fails(1);
            assert!(parts.iter().all(|part| line.contains(part)), "{user} {command}: {line}");
            assert!(!line.contains("at line") && !ran.err.contains("wrong"), "{}", ran.err);
        }
    }
    let tls = format!("{}?sslmode=require", url_for(&server, "sekisho", "postgres"));
    let deployment = TestDeployment::new(DatabaseLocation::at(&tls)).await;
    let ran = deployment.run(&["migrate"]).await;
    assert!(ran.fails(1).contains("turn on ssl on the server"), "{}", ran.err);
}

/// D7: the driver logs parameters that it does not know, with their values.
#[tokio::test]
async fn parameters_of_the_url_are_never_logged() {
    let Some(server) = start().await else { return };
    let url = format!("{}?sslpassword=hunter2&connect_timeout=hunter2", server.url);
    let mut deployment = TestDeployment::new(DatabaseLocation::at(&url)).await;
    deployment.set_env("RUST_LOG", "trace");
    let serving = deployment.serve().await;
    assert!(serving.log().contains("the parameter sslpassword has no effect"), "{}", serving.log());
    serving.terminate();
    let (_, log) = serving.wait_with_log().await;
    assert!(!log.contains("hunter2"), "{log}");
}

/// The database starts after the gateway.
#[tokio::test]
async fn startup_waits_for_the_database() {
    let Some(server) = start().await else { return };
    let mut deployment = TestDeployment::new(DatabaseLocation::at(&server.url)).await;
    let server = spawn_blocking(move || {
        server.stop(Stop::Fast);
        server
    })
    .await
    .unwrap();
    let ran = deployment.run(&["serve"]).await;
    assert!(ran.fails(1).contains("database.wait waits for a server that is starting"), "{}", ran.err);

    deployment.set("database.wait", "10m");
    let mut serving = deployment.command(&["serve"]).spawn().unwrap();
    let mut lines = BufReader::new(serving.stderr.take().unwrap()).lines();
    let mut wait_for = async |words: &str| {
        let found = async { while !lines.next_line().await.unwrap().expect(words).contains(words) {} };
        timeout(PROCESS_TIMEOUT, found).await.unwrap_or_else(|_| panic!("no line with {words:?}"));
    };
    wait_for("waiting for the database").await;
    let server = spawn_blocking(move || {
        server.start_again();
        server
    })
    .await
    .unwrap();
    wait_for(" serving ").await;
    serving.kill().await.unwrap();

    // Not for what waiting cannot mend.
    let url = url_for(&server, "sekisho", "nowhere");
    let mut deployment = TestDeployment::new(DatabaseLocation::at(&url)).await;
    deployment.set("database.wait", "10m");
    assert!(deployment.run(&["migrate"]).await.fails(1).contains("does not exist"));
}

/// A password that changes while the gateway runs, as those of cloud providers do.
#[tokio::test]
async fn refused_password_is_read_anew_from_its_file() {
    let Some(server) = start().await else { return };
    run(&server.url, "CREATE ROLE guest LOGIN SUPERUSER PASSWORD 'blue-heron'").await;
    set_rules(&server, "host all all all scram-sha-256").await;
    let mut deployment = TestDeployment::new(DatabaseLocation::at(&server.url)).await;
    let url = |password: &str| url_for(&server, &format!("guest:{password}"), "postgres");
    let file = deployment.write("url", &format!("{}\n", url("blue-heron")));
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    deployment.unset("database.url");
    deployment.set("database.url_file", file.to_str().unwrap());
    deployment.user("ann@example.com", "user").await;
    let serving = deployment.serve().await;
    let mut ann = SocketBrowser::signed_in(serving.public, "ann@example.com").await;

    run(&server.url, "ALTER ROLE guest PASSWORD 'grey-heron'").await;
    deployment.write("url", &url("grey-heron"));
    run(&server.url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'guest'").await;
    until("a sign-in with the new password", async || {
        let response = ann.sign_in(serving.public, "ann@example.com", PASSWORD).await;
        (response.status == 200).then_some(())
    })
    .await;
    assert_eq!(ann.status(serving.public, "/auth/session").await, 200);
    let log = serving.log();
    assert!(log.contains("another one was read from its source"), "{log}");
    assert!(!log.contains("heron"), "{log}");
    // A reload reports no change that needs a restart.
    serving.hang_up();
    serving.wait_for_log("configuration reloaded", 1).await;
    assert!(!serving.log().contains("need a restart"), "{}", serving.log());
    serving.stop().await;
}
