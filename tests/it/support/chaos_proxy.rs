//! A TCP proxy in front of PostgreSQL that drops traffic or resets connections on demand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Forwards traffic between the gateway and PostgreSQL until a fault is injected. Stops when dropped.
pub(crate) struct TcpChaosProxy {
    /// The `database.url` of the proxied database.
    pub(crate) url: String,
    target: Arc<Mutex<Address>>,
    state: Arc<watch::Sender<State>>,
    accept_task: tokio::task::JoinHandle<()>,
}

/// The injected faults. Connections are numbered from 1.
#[derive(Clone, Debug, Default)]
struct State {
    accepted: u64,
    /// True if new connections are reset.
    resets_new: bool,
    /// True if no traffic is forwarded. A connection that lost bytes stays silent after [`TcpChaosProxy::heal`].
    silent: bool,
    /// Connections up to this number are silent.
    silent_up_to: u64,
    /// Connections up to this number are reset.
    reset_up_to: u64,
    /// True if LISTEN has no effect, as with a connection pooler that drops it.
    drops_listen: bool,
}

impl TcpChaosProxy {
    /// Starts a proxy in front of the database at `url`.
    pub(crate) async fn to(url: &str) -> Self {
        let server: PgConnectOptions = url.parse().unwrap();
        let target = Arc::new(Mutex::new(address_of(url)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Without TLS, so that the proxy can find LISTEN.
        let server = server.host("127.0.0.1").port(port).ssl_mode(PgSslMode::Disable);
        let state = Arc::new(watch::Sender::new(State::default()));
        let accept_task = tokio::spawn(accept(listener, Arc::clone(&target), Arc::clone(&state)));
        Self { url: server.to_url_lossy().to_string(), target, state, accept_task }
    }

    /// Leads new connections to the server at `url`, as a host name that has moved does.
    pub(crate) fn move_to(&self, url: &str) {
        *self.target.lock().unwrap() = address_of(url);
    }

    /// Drops all traffic and keeps connections open, as a network partition does.
    pub(crate) fn silence(&self) {
        self.state.send_modify(|state| state.silent = true);
    }

    /// Drops the traffic of existing connections and keeps them open. New connections work.
    pub(crate) fn silence_existing(&self) {
        self.state.send_modify(|state| state.silent_up_to = state.accepted);
    }

    /// Resets existing connections. New connections work.
    pub(crate) fn reset_existing(&self) {
        self.state.send_modify(|state| state.reset_up_to = state.accepted);
    }

    /// Resets existing and new connections.
    pub(crate) fn refuse(&self) {
        self.state.send_modify(|state| {
            state.resets_new = true;
            state.reset_up_to = state.accepted;
        });
    }

    /// Lets new connections work again.
    pub(crate) fn heal(&self) {
        self.state.send_modify(|state| {
            state.silent = false;
            state.resets_new = false;
        });
    }

    /// Makes LISTEN on connections from now on have no effect.
    pub(crate) fn drop_listen(&self) {
        self.state.send_modify(|state| state.drops_listen = true);
    }
}

impl Drop for TcpChaosProxy {
    fn drop(&mut self) {
        self.accept_task.abort();
        self.state.send_modify(|state| state.reset_up_to = u64::MAX);
    }
}

/// Host and port.
type Address = (String, u16);

fn address_of(url: &str) -> Address {
    let server: PgConnectOptions = url.parse().unwrap();
    (server.get_host().to_owned(), server.get_port())
}

async fn accept(listener: TcpListener, target: Arc<Mutex<Address>>, state: Arc<watch::Sender<State>>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = state.borrow().accepted + 1;
        state.send_modify(|state| state.accepted = number);
        if state.borrow().resets_new {
            let _ = client.set_zero_linger();
            continue;
        }
        let target = target.lock().unwrap().clone();
        let mut state = state.subscribe();
        tokio::spawn(async move {
            if state.borrow().silent {
                // The connection is accepted and never served.
                let _ = state.wait_for(|state| number <= state.reset_up_to).await;
                return;
            }
            // A server that was stopped refuses.
            if let Ok(server) = TcpStream::connect((target.0.as_str(), target.1)).await {
                forward(client, server, number, state).await;
            }
        });
    }
}

/// Forwards both directions until one side closes or the connection is reset.
async fn forward(mut client: TcpStream, mut server: TcpStream, number: u64, state: watch::Receiver<State>) {
    let connection = ProxiedConnection { number, state, is_lost: AtomicBool::new(false) };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let was_reset = tokio::select! {
        () = connection.copy(from_client, to_server) => false,
        () = connection.copy_responses(from_server, to_client) => false,
        () = connection.wait_for_reset() => true,
    };
    if was_reset {
        for socket in [client, server] {
            let _ = socket.set_zero_linger();
        }
    }
}

struct ProxiedConnection {
    number: u64,
    state: watch::Receiver<State>,
    is_lost: AtomicBool,
}

impl ProxiedConnection {
    /// Copies the server's bytes. On a silent connection it then waits until the client closes, so that the
    /// client does not see the server close.
    async fn copy_responses(&self, from: ReadHalf<'_>, to: WriteHalf<'_>) {
        self.copy(from, to).await;
        if self.faults().0 {
            std::future::pending().await
        }
    }

    async fn copy(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer).await.unwrap_or(0);
            let (is_lost, drops_listen) = self.faults();
            if read == 0 {
                return;
            }
            if is_lost {
                continue;
            }
            let bytes = &mut buffer[..read];
            if drops_listen {
                misdirect_listen(bytes);
            }
            if to.write_all(bytes).await.is_err() {
                return;
            }
        }
    }

    /// Returns whether the connection is silent, and whether LISTEN is dropped.
    fn faults(&self) -> (bool, bool) {
        let state = self.state.borrow();
        if state.silent || self.number <= state.silent_up_to {
            self.is_lost.store(true, Ordering::Relaxed);
        }
        (self.is_lost.load(Ordering::Relaxed), state.drops_listen)
    }

    async fn wait_for_reset(&self) {
        // An error means that the proxy was dropped.
        let _ = self.state.clone().wait_for(|state| self.number <= state.reset_up_to).await;
    }
}

/// Changes the channel of a LISTEN statement. The server's response stays the same.
fn misdirect_listen(statement: &mut [u8]) {
    const LISTEN: &[u8] = b"LISTEN \"";
    if let Some(at) = statement.windows(LISTEN.len()).position(|window| window == LISTEN) {
        statement[at + LISTEN.len()] = b'_';
    }
}
