//! A wire to PostgreSQL that can be cut, with and without a word.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes on what the program and the server say, until it is told otherwise. It is gone with this.
pub(crate) struct TcpChaosProxy {
    /// What `database.url` says for this way to the database.
    pub(crate) url: String,
    state: Arc<watch::Sender<State>>,
    accepting: tokio::task::JoinHandle<()>,
}

/// Connections are numbered from 1 on, as they come.
#[derive(Clone, Debug, Default)]
struct State {
    made: u64,
    /// Whether new connections are reset.
    refuses: bool,
    /// Whether nothing gets through. What was lost stays lost: a connection that was in use then
    /// says nothing for ever.
    silent: bool,
    /// Those up to this one say nothing for ever.
    silent_to: u64,
    /// Those up to this one are reset.
    reset_to: u64,
    /// Whether LISTEN is for something that nobody tells, as with a pooler that drops it.
    drops_listen: bool,
}

impl TcpChaosProxy {
    /// A wire to the database at `url`.
    pub(crate) async fn to(url: &str) -> Self {
        let server: PgConnectOptions = url.parse().unwrap();
        let target = (server.get_host().to_owned(), server.get_port());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // In the clear, so that LISTEN can be seen.
        let server = server.host("127.0.0.1").port(port).ssl_mode(PgSslMode::Disable);
        let state = Arc::new(watch::Sender::new(State::default()));
        let accepting = tokio::spawn(accept(listener, target, Arc::clone(&state)));
        Self { url: server.to_url_lossy().to_string(), state, accepting }
    }

    /// From now on nothing gets through, and nobody is told.
    pub(crate) fn silence(&self) {
        self.state.send_modify(|state| state.silent = true);
    }

    /// Nothing gets through the connections that there are, and nobody is told. New ones work.
    pub(crate) fn silence_existing(&self) {
        self.state.send_modify(|state| state.silent_to = state.made);
    }

    /// Resets the connections that there are. New ones work.
    pub(crate) fn reset_existing(&self) {
        self.state.send_modify(|state| state.reset_to = state.made);
    }

    /// Resets the connections that there are and all that come.
    pub(crate) fn refuse(&self) {
        self.state.send_modify(|state| (state.refuses, state.reset_to) = (true, state.made));
    }

    /// New connections work again.
    pub(crate) fn heal(&self) {
        self.state.send_modify(|state| (state.silent, state.refuses) = (false, false));
    }

    /// Whoever listens hears nothing from now on.
    pub(crate) fn drop_listen(&self) {
        self.state.send_modify(|state| state.drops_listen = true);
    }
}

impl Drop for TcpChaosProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.state.send_modify(|state| state.reset_to = u64::MAX);
    }
}

async fn accept(listener: TcpListener, target: (String, u16), state: Arc<watch::Sender<State>>) {
    while let Ok((program, _)) = listener.accept().await {
        let number = state.borrow().made + 1;
        state.send_modify(|state| state.made = number);
        if state.borrow().refuses {
            let _ = program.set_zero_linger();
            continue;
        }
        let (target, mut state) = (target.clone(), state.subscribe());
        tokio::spawn(async move {
            if state.borrow().silent {
                // Whoever knocks now is never answered.
                let _ = state.wait_for(|state| number <= state.reset_to).await;
                return;
            }
            let server = TcpStream::connect((target.0.as_str(), target.1)).await.unwrap();
            connect(program, server, number, state).await;
        });
    }
}

/// Passes on both ways, until one side ends or the connection is reset.
async fn connect(mut program: TcpStream, mut server: TcpStream, number: u64, state: watch::Receiver<State>) {
    let link = ProxiedConnection { number, state, is_lost: AtomicBool::new(false) };
    let (from_program, to_program) = program.split();
    let (from_server, to_server) = server.split();
    let was_reset = tokio::select! {
        () = link.pass_on(from_program, to_server) => false,
        () = link.pass_back(from_server, to_program) => false,
        () = link.reset() => true,
    };
    if was_reset {
        for socket in [program, server] {
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
    /// As long as the program is there: what it hasn't been told by then, it never is.
    async fn pass_back(&self, from: ReadHalf<'_>, to: WriteHalf<'_>) {
        self.pass_on(from, to).await;
        if self.look().0 {
            std::future::pending().await
        }
    }

    async fn pass_on(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer).await.unwrap_or(0);
            let (is_lost, drops_listen) = self.look();
            match (is_lost, read) {
                (_, 0) => return,
                (true, _) => continue,
                (false, _) => {}
            }
            let said = &mut buffer[..read];
            if drops_listen {
                misdirect_listen(said);
            }
            if to.write_all(said).await.is_err() {
                return;
            }
        }
    }

    /// Whether the connection says nothing any more, and whether LISTEN is dropped.
    fn look(&self) -> (bool, bool) {
        let state = self.state.borrow();
        if state.silent || self.number <= state.silent_to {
            self.is_lost.store(true, Ordering::Relaxed);
        }
        (self.is_lost.load(Ordering::Relaxed), state.drops_listen)
    }

    async fn reset(&self) {
        // An error means that the wire is gone.
        let _ = self.state.clone().wait_for(|state| self.number <= state.reset_to).await;
    }
}

/// Listening on another channel gets the same answer.
fn misdirect_listen(said: &mut [u8]) {
    const LISTEN: &[u8] = b"LISTEN \"";
    if let Some(at) = said.windows(LISTEN.len()).position(|window| window == LISTEN) {
        said[at + LISTEN.len()] = b'_';
    }
}
