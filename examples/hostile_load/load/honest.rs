//! Honest clients: browsers, uploads and event streams.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Load;
use super::client::{Client, Protocol, RequestError, successful};
use super::settings::{PASSWORD, Settings, client_user};
use super::sign_ins;
use super::stats::Kind;
use super::upstream::{ANONYMOUS, EVENTS, monotonic_micros};

/// Honest clients that have signed in before the attack.
pub(super) struct HonestClients {
    browsers: Vec<Client>,
    uploads: Vec<Client>,
    event_streams: Vec<Client>,
    /// Known clients, each with its user.
    known: Vec<(Client, String)>,
}

impl HonestClients {
    /// Signs all clients in, a few at a time.
    pub(super) async fn sign_in(settings: &Settings, gateway: SocketAddr) -> Result<Self, RequestError> {
        let count = settings.browsers + settings.uploads + settings.event_streams + settings.known_clients;
        let signing_in = (0..count).map(async |number| {
            let protocol = if number.is_multiple_of(2) { Protocol::Http1 } else { Protocol::Http2 };
            let mut client = Client::new(gateway, address(number), protocol);
            client.sign_in(&client_user(number), PASSWORD, SIGN_IN_TIMEOUT).await?;
            Ok((client, client_user(number)))
        });
        let signed_in: Vec<Result<_, RequestError>> =
            stream::iter(signing_in).buffered(CONCURRENT_SIGN_INS).collect().await;
        let mut signed_in = signed_in.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter();
        let mut take = |count| signed_in.by_ref().take(count).map(|(client, _)| client).collect();
        Ok(Self {
            browsers: take(settings.browsers),
            uploads: take(settings.uploads),
            event_streams: take(settings.event_streams),
            known: signed_in.collect(),
        })
    }

    /// Runs all clients until the end of the load. Each finishes its last request.
    pub(super) async fn run(self, load: &Arc<Load>) {
        let mut tasks = JoinSet::new();
        for client in self.browsers {
            tasks.spawn(browse(Arc::clone(load), client));
        }
        for (number, client) in self.uploads.into_iter().enumerate() {
            let pace = if number.is_multiple_of(4) { SLOW_UPLOAD } else { UPLOAD };
            tasks.spawn(upload_repeatedly(Arc::clone(load), client, pace));
        }
        for client in self.event_streams {
            tasks.spawn(read_event_streams(Arc::clone(load), client));
        }
        for (client, user) in self.known {
            tasks.spawn(sign_ins::sign_in_repeatedly(Arc::clone(load), client, user));
        }
        tasks.spawn(sign_ins::sign_in_from_new_addresses(Arc::clone(load)));
        tasks.join_all().await;
    }
}

/// Requests pages, on a new connection after every few of them.
async fn browse(load: Arc<Load>, mut client: Client) {
    let mut sent: usize = 0;
    while load.is_running() {
        request_page(&load, &mut client).await;
        sent += 1;
        if sent.is_multiple_of(PAGES_PER_CONNECTION) {
            client.disconnect();
        }
        sleep(PAGE_INTERVAL).await;
    }
}

async fn request_page(load: &Load, client: &mut Client) {
    let sent = Instant::now();
    let limit = load.settings.request_timeout;
    let page = timeout(limit, page(client)).await.unwrap_or(Err(RequestError::Timeout(limit)));
    if page.is_err() {
        client.disconnect();
    }
    let kind = if matches!(page, Ok(true)) { Kind::Refresh } else { Kind::Page };
    load.stats.record(kind, load.elapsed(), sent.elapsed(), &page);
}

/// Returns `true` if the session was refreshed.
async fn page(client: &mut Client) -> Result<bool, RequestError> {
    let response = successful(client.send(Request::get("/app/page").body(Body::empty())?).await?).await?;
    let is_refreshed = response.headers().contains_key("x-session-event");
    let user = response.into_body().collect().await?.to_bytes();
    if user == ANONYMOUS {
        return Err(RequestError::Unexpected(ANONYMOUS.to_owned()));
    }
    Ok(is_refreshed)
}

/// The pace of an upload: a number of pieces of the same size, with a pause after each of them.
#[derive(Clone, Copy)]
struct Pace {
    pieces: u32,
    bytes: usize,
    pause: Duration,
}

async fn upload_repeatedly(load: Arc<Load>, mut client: Client, pace: Pace) {
    while load.is_running() {
        let planned = pace.pause * pace.pieces;
        let sent = Instant::now();
        let result = upload(&mut client, pace, load.settings.request_timeout + planned).await;
        let took = sent.elapsed().saturating_sub(planned);
        load.stats.record(Kind::Upload, load.elapsed(), took, &result);
        client.disconnect();
        sleep(UPLOAD_INTERVAL).await;
    }
}

async fn upload(client: &mut Client, pace: Pace, limit: Duration) -> Result<(), RequestError> {
    let began = Instant::now();
    let pieces = stream::iter(1..=pace.pieces).then(move |number| async move {
        sleep_until(began + pace.pause * number).await;
        Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'u'; pace.bytes]))
    });
    let request = Request::post("/app/upload").body(Body::from_stream(pieces))?;
    let received = client.text(request, limit).await?;
    if received != (pace.pieces as usize * pace.bytes).to_string() {
        return Err(RequestError::Unexpected(received));
    }
    Ok(())
}

/// Reads one event stream after the other.
async fn read_event_streams(load: Arc<Load>, mut client: Client) {
    while load.is_running() {
        let sent = Instant::now();
        let limit = load.settings.request_timeout;
        let response = timeout(limit, event_stream(&mut client)).await;
        let response = response.unwrap_or(Err(RequestError::Timeout(limit)));
        let took = sent.elapsed();
        let read = match response {
            Ok(response) => read_events(&load, response).await,
            Err(error) => Err(error),
        };
        load.stats.record(Kind::EventStream, load.elapsed(), took, &read);
        client.disconnect();
    }
}

async fn event_stream(client: &mut Client) -> Result<Response<Incoming>, RequestError> {
    successful(client.send(Request::get("/app/events").body(Body::empty())?).await?).await
}

/// Reads all events of a response and records the time that each of them took.
async fn read_events(load: &Load, response: Response<Incoming>) -> Result<(), RequestError> {
    let mut body = response.into_body();
    let mut text = String::new();
    let mut received = 0;
    let limit = load.settings.request_timeout;
    while let Some(frame) = timeout(limit, body.frame()).await.map_err(|_| RequestError::Timeout(limit))? {
        text.push_str(&String::from_utf8_lossy(frame?.data_ref().map_or(&[], |data| data)));
        while let Some((event, rest)) = text.split_once("\n\n") {
            record_event(load, event);
            text = rest.to_owned();
            received += 1;
        }
    }
    if received == EVENTS { Ok(()) } else { Err(RequestError::Unexpected(format!("{received} events"))) }
}

fn record_event(load: &Load, event: &str) {
    let sent: Option<u64> = event.strip_prefix("data: ").and_then(|micros| micros.parse().ok());
    let result = sent.ok_or_else(|| RequestError::Unexpected(event.to_owned()));
    let took = Duration::from_micros(monotonic_micros().saturating_sub(sent.unwrap_or_default()));
    load.stats.record(Kind::Event, load.elapsed(), took, &result);
}

/// Returns the address of an honest client.
fn address(client: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, (client / 250) as u8, 1 + (client % 250) as u8)
}

/// Timeout of a sign-in before the attack, long enough for a loaded machine.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(60);
const CONCURRENT_SIGN_INS: usize = 8;

const PAGES_PER_CONNECTION: usize = 10;
const PAGE_INTERVAL: Duration = Duration::from_millis(250);

const UPLOAD: Pace = Pace { pieces: 16, bytes: 16 * 1024, pause: Duration::from_millis(10) };
/// Eight seconds, at ten times `server.min_body_rate`.
const SLOW_UPLOAD: Pace = Pace { pieces: 80, bytes: 256, pause: Duration::from_millis(100) };
const UPLOAD_INTERVAL: Duration = Duration::from_millis(500);
