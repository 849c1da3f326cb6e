//! gunicorn with one sync worker on a Unix socket.

use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::process::{program, until};

/// gunicorn with an application that responds with the request that it received, in JSON. Killed when dropped.
pub(crate) struct Gunicorn {
    dir: TempDir,
    _child: Child,
}

impl Gunicorn {
    /// Starts gunicorn. Without it, reports a skipped test and returns `None`.
    pub(crate) async fn start() -> Option<Self> {
        let program = program("SEKISHO_TEST_GUNICORN", "/usr/bin/gunicorn")?;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("app.py"), APPLICATION).unwrap();
        let mut command = Command::new(program);
        command.args(["--workers", "1", "--bind"]).arg(format!("unix:{}", socket(dir.path()).display()));
        command.args(["--umask", "007", "app"]).current_dir(dir.path()).env_clear().env("HOME", dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let gunicorn = Self { _child: command.spawn().unwrap(), dir };
        let is_ready = async || UnixStream::connect(socket(gunicorn.dir.path())).await.ok();
        until("gunicorn", is_ready).await;
        Some(gunicorn)
    }

    /// Returns the URL for `routes.upstreams`.
    pub(crate) fn url(&self) -> String {
        format!("unix:{}", socket(self.dir.path()).display())
    }
}

fn socket(dir: &Path) -> std::path::PathBuf {
    dir.join("app.sock")
}

/// `read` is the number of bytes that it could read of the body.
const APPLICATION: &str = r#"
import json

def application(environ, start_response):
    length = environ.get("CONTENT_LENGTH")
    body = environ["wsgi.input"].read(int(length or 0))
    names = {"host": "HTTP_HOST", "client": "HTTP_X_FORWARDED_FOR", "coding": "HTTP_TRANSFER_ENCODING"}
    report = {name: environ.get(key) for name, key in names.items()}
    report |= {"path": environ["PATH_INFO"], "length": length, "read": len(body)}
    text = json.dumps(report).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]
"#;
