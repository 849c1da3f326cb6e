//! A browser with cookies that connects over TCP, for servers in other processes.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::body::{Body, to_bytes};
use axum::http::header::{COOKIE, HOST, SET_COOKIE};
use axum::http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::http::TestResponse;
use super::process::PASSWORD;

/// A client that stores cookies and sends them with every request, each on a new connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct SocketBrowser {
    pub(crate) cookies: BTreeMap<String, String>,
}

impl SocketBrowser {
    /// Returns a browser that has signed in.
    pub(crate) async fn signed_in(server: SocketAddr, email: &str) -> Self {
        let mut browser = Self::default();
        let response = browser.sign_in(server, email, PASSWORD).await;
        assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
        browser
    }

    pub(crate) async fn sign_in(&mut self, server: SocketAddr, email: &str, password: &str) -> TestResponse {
        let body = serde_json::json!({ "email": email, "password": password }).to_string();
        let request = Request::post("/auth/login").header("content-type", "application/json");
        self.send(server, request.body(Body::from(body)).unwrap()).await.unwrap()
    }

    pub(crate) async fn get(&mut self, server: SocketAddr, path: &str) -> TestResponse {
        self.send(server, Request::get(path).body(Body::empty()).unwrap()).await.unwrap()
    }

    pub(crate) async fn status(&mut self, server: SocketAddr, path: &str) -> StatusCode {
        self.get(server, path).await.status
    }

    /// Returns the `Cookie` header of the next request.
    pub(crate) fn cookie_header(&self) -> String {
        let pairs: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }

    /// Sends a request on a new connection.
    ///
    /// # Errors
    ///
    /// The server cannot be reached or closes before the response is complete.
    pub(crate) async fn send(
        &mut self,
        server: SocketAddr,
        request: Request<Body>,
    ) -> Result<TestResponse, Box<dyn std::error::Error + Send + Sync>> {
        let socket = TcpStream::connect(server).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        self.send_on(&mut sender, server, request).await
    }

    /// Sends a request on an open connection.
    pub(crate) async fn send_on(
        &mut self,
        sender: &mut http1::SendRequest<Body>,
        server: SocketAddr,
        mut request: Request<Body>,
    ) -> Result<TestResponse, Box<dyn std::error::Error + Send + Sync>> {
        request.headers_mut().insert(HOST, server.to_string().parse()?);
        if !self.cookies.is_empty() {
            request.headers_mut().insert(COOKIE, self.cookie_header().parse()?);
        }
        let (head, body) = sender.send_request(request).await?.into_parts();
        // Browsers store cookies once the head has arrived, even if the body fails.
        for cookie in head.headers.get_all(SET_COOKIE) {
            self.keep(cookie.to_str()?);
        }
        let body = to_bytes(Body::new(body), usize::MAX).await?.to_vec();
        Ok(TestResponse { status: head.status, headers: head.headers, body })
    }

    fn keep(&mut self, cookie: &str) {
        let (pair, attributes) = cookie.split_once("; ").unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        if attributes.contains("Max-Age=0") {
            self.cookies.remove(name);
        } else {
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
    }
}
