//! Hostile clients over HTTP/2.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use tokio::time::sleep;

use super::super::Load;
use super::super::client::connect_from;
use super::super::settings::Attack;
use super::slow_http1::slow_body_path;

/// A hostile client that keeps a number of requests open on one HTTP/2 connection.
pub(super) struct HostileHttp2 {
    load: Arc<Load>,
    attack: Attack,
    client: usize,
    method: Method,
    path: fn(usize) -> &'static str,
    streams: usize,
    builder: Builder,
}

impl HostileHttp2 {
    /// Creates a client that sends request bodies slowly.
    pub(super) fn slow_bodies(load: &Arc<Load>, client: usize) -> Self {
        let requests = Self::hung_upstream(load, client);
        Self { attack: Attack::SlowHttp2, method: Method::POST, path: slow_body_path, ..requests }
    }

    /// Creates a client that requests large responses with a window of one byte, and does not read them.
    pub(super) fn unread_responses(load: &Arc<Load>, client: usize) -> Self {
        let mut builder = Builder::new();
        builder.initial_window_size(1);
        let requests = Self::hung_upstream(load, client);
        let streams = load.settings.unread_streams;
        Self { attack: Attack::Unread, path: |_| "/app/large", streams, builder, ..requests }
    }

    /// Creates a client of the upstream that does not respond.
    pub(super) fn hung_upstream(load: &Arc<Load>, client: usize) -> Self {
        Self {
            load: Arc::clone(load),
            attack: Attack::Hung,
            client,
            method: Method::GET,
            path: |_| "/hung/",
            streams: load.settings.streams,
            builder: Builder::new(),
        }
    }

    /// Connects, and connects again after each end of the connection.
    pub(super) async fn run(self) {
        loop {
            let connected = self.connect().await;
            self.load.stats.count(self.attack, |record| match &connected {
                Ok(_) => record.connections += 1,
                Err(_) => record.failed_connections += 1,
            });
            if let Ok(sender) = connected {
                let repeat = |stream| self.repeat(sender.clone(), (self.path)(stream));
                join_all((0..self.streams).map(repeat)).await;
            }
            sleep(self.load.settings.retry_interval).await;
        }
    }

    async fn connect(&self) -> io::Result<SendRequest<Bytes>> {
        let address = self.load.settings.hostile_address(self.client);
        let socket = connect_from(address, self.load.gateway).await?;
        let (sender, connection) = self.builder.handshake(socket).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Repeats a request until the connection ends.
    async fn repeat(&self, sender: SendRequest<Bytes>, path: &str) {
        let uri = format!("http://{}{path}", self.load.gateway);
        loop {
            let request = Request::builder().method(&self.method).uri(&uri);
            let request = request.header(CONTENT_TYPE, "application/json").body(());
            let (Ok(request), Ok(mut ready)) = (request, sender.clone().ready().await) else { return };
            let has_no_body = self.method == Method::GET;
            let Ok((response, body)) = ready.send_request(request, has_no_body) else { return };
            self.load.stats.count(self.attack, |record| record.requests += 1);
            let status = self.exchange(response, body).await;
            self.load.stats.count_end(self.attack, status);
            sleep(self.load.settings.retry_interval).await;
        }
    }

    /// Waits for the end of a request. Returns the status of its response.
    async fn exchange(&self, response: ResponseFuture, mut body: SendStream<Bytes>) -> Option<u16> {
        let response = tokio::select! {
            response = response => response.ok()?,
            () = self.send_slowly(&mut body), if self.attack == Attack::SlowHttp2 => return None,
        };
        let status = response.status().as_u16();
        if self.attack == Attack::Unread {
            wait_for_end(response.into_body()).await;
        }
        Some(status)
    }

    /// Sends a byte at a time until the stream is reset.
    async fn send_slowly(&self, body: &mut SendStream<Bytes>) {
        while body.send_data(Bytes::from_static(b"x"), false).is_ok() {
            sleep(self.load.settings.byte_interval).await;
        }
    }
}

/// Waits until a response ends or is reset, without opening its window.
async fn wait_for_end(mut body: RecvStream) {
    while let Some(Ok(_)) = body.data().await {}
}
