//! The Django application of `application.py`.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::support::db::skip_test;
use crate::support::process::program;

/// The application as a process, killed when dropped.
pub(crate) struct Django {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Django {
    /// Starts the application. Without Django, reports a skipped test and returns `None`.
    pub(crate) fn start() -> Option<Self> {
        let python = program("SEKISHO_TEST_PYTHON", "/usr/bin/python3")?;
        let mut command = Command::new(python);
        command.arg("-u").arg(APPLICATION).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Ok(port) = line.trim().parse::<u16>() else {
            let _ = child.wait();
            skip_test("Django (python3-django)");
            return None;
        };
        Some(Self { address: SocketAddr::from(([127, 0, 0, 1], port)), child })
    }

    /// Returns the URL of the upstream.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Django {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const APPLICATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/application.py");
