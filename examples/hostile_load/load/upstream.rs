//! The upstreams: an application, and one that does not respond.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::error::LoadError;
use super::threads::RuntimeThread;

/// The upstreams, on a thread of their own.
pub(super) struct Upstream {
    pub(super) application: SocketAddr,
    pub(super) hung: [SocketAddr; 2],
    _thread: RuntimeThread,
}

impl Upstream {
    pub(super) fn start() -> Result<Self, LoadError> {
        let [(application, listener), (first, first_hung), (second, second_hung)] =
            [bind()?, bind()?, bind()?];
        let serve = async move {
            tokio::join!(run(serve_application(listener)), run(hang(first_hung)), run(hang(second_hung)));
        };
        let thread = RuntimeThread::start_parallel("upstream", THREADS, serve);
        let thread = thread.map_err(LoadError::io("start a thread"))?;
        Ok(Self { application, hung: [first, second], _thread: thread })
    }
}

fn bind() -> Result<(SocketAddr, TcpListener), LoadError> {
    let bind = || {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(BACKLOG)?.into_std()?;
        Ok((listener.local_addr()?, listener))
    };
    bind().map_err(LoadError::io("listen"))
}

async fn run(server: impl Future<Output = io::Result<()>>) {
    if let Err(error) = server.await {
        eprintln!("hostile_load: the upstream failed: {error}");
    }
}

async fn serve_application(listener: TcpListener) -> io::Result<()> {
    let app = Router::new()
        .route("/app/page", get(page))
        .route("/app/upload", post(upload))
        .route("/app/events", get(async || Body::from_stream(events())))
        .route("/app/large", get(async |State(large): State<Bytes>| large))
        .layer(DefaultBodyLimit::disable())
        .with_state(Bytes::from(vec![b'x'; LARGE_BYTES]));
    axum::serve(tokio::net::TcpListener::from_std(listener)?, app).await
}

/// Responds with the user that the gateway has identified.
async fn page(headers: HeaderMap) -> String {
    let user = headers.get("x-forwarded-email").and_then(|user| user.to_str().ok());
    user.unwrap_or(ANONYMOUS).to_owned()
}

/// Responds with the length of the body.
async fn upload(body: Body) -> String {
    let mut received = 0;
    let mut pieces = body.into_data_stream();
    while let Some(Ok(piece)) = pieces.next().await {
        received += piece.len();
    }
    received.to_string()
}

/// Sends [`EVENTS`] events, each with its time.
fn events() -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::iter(0..EVENTS).then(|_| async {
        sleep(EVENT_INTERVAL).await;
        Ok(Bytes::from(format!("data: {}\n\n", monotonic_micros())))
    })
}

/// Accepts connections and reads requests, without a response.
async fn hang(listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        let (mut connection, _) = listener.accept().await?;
        // The end of the connection is not an error.
        connections
            .spawn(async move { drop(tokio::io::copy(&mut connection, &mut tokio::io::sink()).await) });
        while connections.try_join_next().is_some() {}
    }
}

/// Returns a time that is comparable within this process.
pub(super) fn monotonic_micros() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// As many as servers have on a machine of this size. On a single thread, filling the socket buffers of all unread
/// responses delayed those to honest clients.
const THREADS: usize = 4;

/// Length of the accept queue, as in servers that people run. In a shorter one, the connections of all slow bodies delay
/// those of honest clients by a retransmission, a second.
const BACKLOG: u32 = 4096;

/// Response for a request without a session.
pub(super) const ANONYMOUS: &str = "anonymous";

/// Number of events of an event stream.
pub(super) const EVENTS: usize = 20;
const EVENT_INTERVAL: Duration = Duration::from_millis(250);

/// More than any buffer of the gateway.
const LARGE_BYTES: usize = 8 * 1024 * 1024;
