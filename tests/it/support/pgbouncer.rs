//! PgBouncer in front of a PostgreSQL server.

use std::path::Path;
use std::process::Stdio;

use secrecy::SecretString;
use sekisho::backend::db::{self, DatabaseOptions, DbError, Stores};
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::db::{TestDatabase, postgres_location};
use super::front_proxy::free_address;
use super::postgres::unprivileged_owner;
use super::process::{program, until};

/// A running PgBouncer, killed when dropped.
pub(crate) struct PgBouncer {
    /// The `database.url`.
    pub(crate) url: String,
    _dir: TempDir,
    _child: Child,
}

impl PgBouncer {
    /// Starts PgBouncer in front of the database at `url`, with this `pool_mode` and at most
    /// `connections` to it. Without PgBouncer, reports a skipped test and returns `None`.
    ///
    /// # Panics
    ///
    /// In CI, where a skipped test would go unnoticed.
    pub(crate) async fn start(url: &str, pool_mode: &str, connections: usize) -> Option<Self> {
        let program = program("SEKISHO_TEST_PGBOUNCER", "/usr/sbin/pgbouncer")?;
        for _ in 0..10 {
            if let Some(bouncer) = Self::try_start(&program, url, pool_mode, connections).await {
                return Some(bouncer);
            }
        }
        panic!("{} does not start", program.display());
    }

    /// Returns `None` if another program took the port.
    async fn try_start(program: &Path, url: &str, pool_mode: &str, connections: usize) -> Option<Self> {
        let server: PgConnectOptions = url.parse().unwrap();
        let port = free_address().port();
        let dir = tempfile::tempdir().unwrap();
        let config = config(url, port, pool_mode, connections);
        std::fs::write(dir.path().join("pgbouncer.ini"), config).unwrap();
        let mut command = Command::new(program);
        command.arg("pgbouncer.ini").current_dir(dir.path()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It refuses to run as root.
        if let Some((user, group)) = unprivileged_owner(dir.path()) {
            command.uid(user).gid(group);
        }
        let mut child = command.spawn().unwrap();
        let is_ready = async || {
            let has_exited = child.try_wait().unwrap().is_some();
            let is_listening = TcpStream::connect(("127.0.0.1", port)).await.is_ok();
            (has_exited || is_listening).then_some(!has_exited)
        };
        let has_started = until("PgBouncer", is_ready).await;
        let url = server.host("127.0.0.1").port(port).to_url_lossy().to_string();
        has_started.then_some(Self { url, _dir: dir, _child: child })
    }
}

/// Returns a PostgreSQL database behind PgBouncer, which pools transactions, or `None` without either.
pub(crate) async fn transaction_pool() -> Option<TestDatabase> {
    let location = postgres_location().await?;
    let pooler = PgBouncer::start(&location.url, "transaction", 4).await?;
    let url = pooler.url.clone();
    let stores = open_in_transaction_pool(&url, None).await.unwrap();
    stores.migrate().await.unwrap();
    Some(TestDatabase::new(stores, location.behind(&url, pooler)))
}

/// Opens the stores behind a pooler that pools transactions.
pub(crate) async fn open_in_transaction_pool(url: &str, listen_url: Option<&str>) -> Result<Stores, DbError> {
    let mut options = DatabaseOptions::default();
    options.transaction_pooling = true;
    options.listen_url = listen_url.map(SecretString::from);
    db::open(url, &options).await
}

/// Returns a configuration. Clients need no password, and share the user of `url`.
fn config(url: &str, port: u16, pool_mode: &str, connections: usize) -> String {
    let url = url::Url::parse(url).unwrap();
    let host = url.host_str().unwrap();
    let server_port = url.port().unwrap_or(5432);
    let user = url.username();
    let password = url.password().map(|password| format!(" password={password}")).unwrap_or_default();
    format!(
        "[databases]\n* = host={host} port={server_port} user={user}{password}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = {pool_mode}\ndefault_pool_size = {connections}\nmax_client_conn = 500\n\
         logfile = pgbouncer.log\n"
    )
}
