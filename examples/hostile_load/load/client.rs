//! An HTTP client that connects from a given address and stores cookies.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http::header::{CONTENT_TYPE, COOKIE, HOST, SET_COOKIE};
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// A client with at most one connection.
pub(super) struct Client {
    gateway: SocketAddr,
    address: Ipv4Addr,
    protocol: Protocol,
    cookies: BTreeMap<String, String>,
    connection: Option<Connection>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

enum Connection {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// The reason for which an honest request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error("{}", with_source(.0))]
    Http(#[from] hyper::Error),
    #[error("invalid request: {0}")]
    Invalid(#[from] http::Error),
    #[error("status {status} {code}")]
    Status { status: u16, code: String },
    #[error("no response within {0:?}")]
    Timeout(Duration),
    #[error("unexpected response: {0:?}")]
    Unexpected(String),
}

impl Client {
    pub(super) fn new(gateway: SocketAddr, address: Ipv4Addr, protocol: Protocol) -> Self {
        Self { gateway, address, protocol, cookies: BTreeMap::new(), connection: None }
    }

    /// Returns `true` if it holds session cookies.
    pub(super) fn has_cookies(&self) -> bool {
        !self.cookies.is_empty()
    }

    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Signs in and stores the cookies.
    pub(super) async fn sign_in(
        &mut self,
        email: &str,
        password: &str,
        limit: Duration,
    ) -> Result<(), RequestError> {
        let body = json!({ "email": email, "password": password }).to_string();
        let request = Request::post("/auth/login").header(CONTENT_TYPE, "application/json");
        let request = request.body(Body::from(body))?;
        self.text(request, limit).await.map(drop)
    }

    /// Sends a request and returns the body of a successful response.
    pub(super) async fn text(
        &mut self,
        request: Request<Body>,
        limit: Duration,
    ) -> Result<String, RequestError> {
        let exchange = async {
            let response = successful(self.send(request).await?).await?;
            text(response.into_body()).await
        };
        let result = timeout(limit, exchange).await.unwrap_or(Err(RequestError::Timeout(limit)));
        // After an error, the connection may be in use by the failed exchange.
        if result.is_err() {
            self.disconnect();
        }
        result
    }

    /// Sends a request, on a new connection if there is none. Returns the response once its head has arrived.
    pub(super) async fn send(
        &mut self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, RequestError> {
        let headers = request.headers_mut();
        headers.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
        if self.has_cookies() {
            headers.insert(COOKIE, header_value(&self.cookie_header())?);
        }
        if !self.is_connected().await {
            self.connection = Some(self.connect().await?);
        }
        let host = self.gateway.to_string();
        let response = match &mut self.connection {
            Some(Connection::Http1(sender)) => {
                request.headers_mut().insert(HOST, header_value(&host)?);
                sender.send_request(request).await?
            }
            Some(Connection::Http2(sender)) => {
                let uri = format!("http://{host}{}", request.uri());
                *request.uri_mut() = uri.parse().map_err(http::Error::from)?;
                sender.send_request(request).await?
            }
            None => return Err(io::Error::from(io::ErrorKind::NotConnected).into()),
        };
        for cookie in response.headers().get_all(SET_COOKIE) {
            self.store_cookie(cookie);
        }
        Ok(response)
    }

    async fn is_connected(&mut self) -> bool {
        match &mut self.connection {
            None => false,
            Some(Connection::Http1(sender)) => sender.ready().await.is_ok(),
            Some(Connection::Http2(sender)) => sender.ready().await.is_ok(),
        }
    }

    async fn connect(&self) -> Result<Connection, RequestError> {
        let socket = TokioIo::new(connect_from(self.address, self.gateway).await?);
        Ok(match self.protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(socket).await?;
                tokio::spawn(connection);
                Connection::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), socket).await?;
                tokio::spawn(connection);
                Connection::Http2(sender)
            }
        })
    }

    fn cookie_header(&self) -> String {
        let pairs: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }

    fn store_cookie(&mut self, cookie: &HeaderValue) {
        let cookie = String::from_utf8_lossy(cookie.as_bytes());
        let (pair, attributes) = cookie.split_once("; ").unwrap_or((&cookie, ""));
        let Some((name, value)) = pair.split_once('=') else { return };
        if attributes.contains("Max-Age=0") {
            self.cookies.remove(name);
        } else {
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
    }
}

/// Connects to a server from an address of this machine.
pub(super) async fn connect_from(address: Ipv4Addr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // A port of a closed connection can be used again.
    socket.set_reuseaddr(true)?;
    socket.bind((address, 0).into())?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Returns the response, or an error with its body if it is not successful.
pub(super) async fn successful(response: Response<Incoming>) -> Result<Response<Incoming>, RequestError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = text(response.into_body()).await?;
    Err(RequestError::Status { status: status.as_u16(), code: problem_code(&body) })
}

/// Returns the `code` of a problem, or the whole body if it is none.
fn problem_code(body: &str) -> String {
    let problem: Result<serde_json::Value, _> = serde_json::from_str(body);
    let code = problem.as_ref().ok().and_then(|problem| problem["code"].as_str());
    code.unwrap_or(body).to_owned()
}

async fn text(body: Incoming) -> Result<String, RequestError> {
    let bytes: Bytes = body.collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn header_value(text: &str) -> Result<HeaderValue, http::Error> {
    HeaderValue::from_str(text).map_err(Into::into)
}

fn with_source(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
