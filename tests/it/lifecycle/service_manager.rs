//! Notifications to systemd.

use tokio::net::UnixDatagram;
use tokio::time::timeout;

use super::config;
use crate::support::db;
use crate::support::process::{PROCESS_TIMEOUT, TestDeployment};

/// Returns the next notification, without those of the watchdog.
async fn next_notification(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    loop {
        let read = timeout(PROCESS_TIMEOUT, socket.recv(&mut buffer))
            .await
            .expect("no notification arrived")
            .unwrap();
        let text = String::from_utf8(buffer[..read].to_vec()).unwrap();
        if text != "WATCHDOG=1\n" {
            return text;
        }
    }
}

#[tokio::test]
async fn service_manager_is_notified() {
    let mut deployment = TestDeployment::without_keys(db::sqlite_location().await.unwrap());
    let path = deployment.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    deployment.set_env("NOTIFY_SOCKET", path.to_str().unwrap());
    deployment.set_env("WATCHDOG_USEC", "200000");
    deployment.write("sekisho.toml", &config("", ""));
    let server = deployment.serve().await;
    assert_eq!(next_notification(&socket).await, "READY=1\nSTATUS=serving\n");

    let mut buffer = [0; 100];
    let read = timeout(PROCESS_TIMEOUT, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..read], b"WATCHDOG=1\n");

    server.hang_up();
    let reloading = next_notification(&socket).await;
    let since =
        reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
    assert!(since.trim_end().parse::<u64>().unwrap() > 0);
    assert_eq!(next_notification(&socket).await, "READY=1\nSTATUS=serving\n");

    deployment.write("sekisho.toml", &config("lisen = 1", ""));
    server.hang_up();
    assert!(next_notification(&socket).await.starts_with("RELOADING=1\n"));
    let outcome = next_notification(&socket).await;
    assert!(outcome.starts_with("READY=1\nSTATUS=serving, but the configuration was refused: "), "{outcome}");
    assert!(outcome.contains("server.lisen"), "{outcome}");

    server.terminate();
    assert_eq!(next_notification(&socket).await, "STOPPING=1\n");
    assert_eq!(server.ended().await.code(), Some(0));
}

/// D13: verifies the unit with `systemd-analyze`, if installed. `Type=notify-reload` is unknown before systemd 253.
#[tokio::test]
async fn systemd_unit_is_well_formed() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd/sekisho.service");
    let text = std::fs::read_to_string(unit).unwrap();
    for line in [
        "Type=notify",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "LimitNOFILE=65536",
        "RestartPreventExitStatus=78",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    let analyze = tokio::process::Command::new("systemd-analyze").args(["verify", unit]).output().await;
    let Ok(analyzed) = analyze else { return };
    let output = String::from_utf8(analyzed.stderr).unwrap();
    let problems = output.lines().filter(|line| line.contains("sekisho.service"));
    let problems: Vec<_> = problems.filter(|line| !line.contains("is not executable")).collect();
    assert!(problems.is_empty(), "{problems:?}");
}
