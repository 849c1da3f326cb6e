//! `/readyz` of a server that has lost its database in part.

use std::path::{Path, PathBuf};

use sekisho::backend::db as backend;

use crate::support::db;
use crate::support::process::{PASSWORD, ServerProcess, TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;

const ANN: &str = "ann@example.com";

/// Waits until `/readyz` has this text.
async fn wait_for_readiness(server: &ServerProcess, text: &str) {
    until(&format!("/readyz to report {text:?}"), async || {
        let response = SocketBrowser::default().get(server.admin, "/readyz").await;
        assert_eq!(response.status == 200, response.body == b"ready\n", "{response:?}");
        (response.body == text.as_bytes()).then_some(())
    })
    .await;
}

/// Moves the file of a database and the files that SQLite keeps beside it.
fn move_database(from: &Path, to: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let name = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        // A database that is closed has only one file.
        if name(from).exists() {
            std::fs::rename(name(from), name(to)).unwrap();
        }
    }
}

/// B8: the server notices that its SQLite file was removed or replaced, and accepts no write that would be
/// lost.
#[tokio::test]
async fn server_without_its_database_file_is_not_ready() {
    let mut deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    deployment.set("tokens.access_ttl", "15m");
    deployment.user(ANN, "user").await;
    let server = deployment.serve().await;
    let mut ann = SocketBrowser::signed_in(server.public, ANN).await;
    let path = backend::sqlite_path(deployment.database()).unwrap();
    let away = path.with_extension("away");
    wait_for_readiness(&server, "ready\n").await;

    move_database(&path, &away);
    wait_for_readiness(&server, "database file was replaced or removed\n").await;
    assert!(server.log().contains(path.to_str().unwrap()), "{}", server.log());
    assert_eq!(ann.status(server.public, "/auth/session").await, 200, "the token is still valid");
    let refused = SocketBrowser::default().sign_in(server.public, ANN, PASSWORD).await;
    refused.problem(503, "store_unavailable");

    // The command creates another file and terminates no session of the server.
    deployment.run(&["session", "revoke", "--all"]).await.done();
    assert!(path.exists());
    wait_for_readiness(&server, "database file was replaced or removed\n").await;

    std::fs::remove_file(&path).unwrap();
    move_database(&away, &path);
    wait_for_readiness(&server, "ready\n").await;
    assert_eq!(server.log().matches("not ready: database file").count(), 1, "{}", server.log());
    assert_eq!(SocketBrowser::default().sign_in(server.public, ANN, PASSWORD).await.status, 200);
    server.stop().await;
}
