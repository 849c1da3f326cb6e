//! Notifications to systemd.

use tokio::net::UnixDatagram;
use tokio::time::timeout;

use super::config;
use crate::support::db;
use crate::support::process::{PATIENCE, TestDeployment};

/// Returns the next notification, without those of the watchdog.
async fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    loop {
        let read = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("a word").unwrap();
        let text = String::from_utf8(buffer[..read].to_vec()).unwrap();
        if text != "WATCHDOG=1\n" {
            return text;
        }
    }
}

#[tokio::test]
async fn service_manager_is_notified() {
    let mut site = TestDeployment::without_keys(db::sqlite_place().await.unwrap());
    let path = site.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    site.set_env("NOTIFY_SOCKET", path.to_str().unwrap());
    site.set_env("WATCHDOG_USEC", "200000");
    site.write("sekisho.toml", &config("", ""));
    let server = site.serve().await;
    assert_eq!(told(&socket).await, "READY=1\nSTATUS=serving\n");

    let mut buffer = [0; 100];
    let read = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..read], b"WATCHDOG=1\n");

    server.hang_up();
    let reloading = told(&socket).await;
    let since =
        reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
    assert!(since.trim_end().parse::<u64>().unwrap() > 0);
    assert_eq!(told(&socket).await, "READY=1\nSTATUS=serving\n");

    site.write("sekisho.toml", &config("lisen = 1", ""));
    server.hang_up();
    assert!(told(&socket).await.starts_with("RELOADING=1\n"));
    let outcome = told(&socket).await;
    assert!(outcome.starts_with("READY=1\nSTATUS=serving, but the configuration was refused: "), "{outcome}");
    assert!(outcome.contains("server.lisen"), "{outcome}");

    server.terminate();
    assert_eq!(told(&socket).await, "STOPPING=1\n");
    assert_eq!(server.ended().await.code(), Some(0));
}

/// Verifies the unit with `systemd-analyze`, if installed. Older versions do not support `notify-reload`.
#[tokio::test]
async fn systemd_unit_is_well_formed() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd/sekisho.service");
    let text = std::fs::read_to_string(unit).unwrap();
    for line in ["Type=notify-reload", "LimitNOFILE=65536", "RestartPreventExitStatus=78"] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    let analyze = tokio::process::Command::new("systemd-analyze").args(["verify", unit]).output().await;
    let Ok(analyzed) = analyze else { return };
    let said = String::from_utf8(analyzed.stderr).unwrap();
    let wrong = said.lines().filter(|line| line.contains("sekisho.service"));
    let wrong: Vec<_> =
        wrong.filter(|line| !line.contains("notify-reload") && !line.contains("is not executable")).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
