//! WSGI servers with one worker, which serves one request at a time, on a Unix socket.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::process::{program, until};

/// A server whose application responds with the request that it received, in JSON. Killed when dropped.
pub(crate) struct WsgiServer {
    dir: TempDir,
    _child: Child,
}

impl WsgiServer {
    /// Starts gunicorn with a sync worker. Without it, reports a skipped test and returns `None`.
    pub(crate) async fn gunicorn() -> Option<Self> {
        let program = program("SEKISHO_TEST_GUNICORN", "/usr/bin/gunicorn")?;
        let args = ["--workers", "1", "--umask", "007", "--bind", "unix:app.sock", "app"];
        Some(Self::start(program, &args).await)
    }

    /// Starts uWSGI, which closes each connection after its response. Without it, as [`gunicorn`](Self::gunicorn).
    pub(crate) async fn uwsgi() -> Option<Self> {
        let program = program("SEKISHO_TEST_UWSGI", "/usr/bin/uwsgi-core")?;
        let args = ["--plugin", "python3", "--processes", "1", "--http-socket", "app.sock"];
        let args = [&args[..], &["--add-header", "Connection: close", "--wsgi-file", "app.py"]].concat();
        Some(Self::start(program, &args).await)
    }

    async fn start(program: PathBuf, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("app.py"), APPLICATION).unwrap();
        let mut command = Command::new(program);
        command.args(args).current_dir(dir.path()).env_clear().env("HOME", dir.path()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { _child: command.spawn().unwrap(), dir };
        let is_ready = async || UnixStream::connect(socket(server.dir.path())).await.ok();
        until("the WSGI server", is_ready).await;
        server
    }

    /// Returns the URL for `routes.upstreams`.
    pub(crate) fn url(&self) -> String {
        format!("unix:{}", socket(self.dir.path()).display())
    }
}

fn socket(dir: &Path) -> PathBuf {
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
