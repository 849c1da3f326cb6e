//! gRPC calls that outlive the check of their session.

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use sekisho::proxy::{RouteSpec, UpstreamHttp, UpstreamSettings};
use sekisho::session_event::SessionEvent;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::SessionEndTrigger;
use crate::support::process::PROCESS_TIMEOUT;
use crate::support::upstream::listen;

/// A call as the upstream sees it.
type Call = (RecvStream, SendStream<Bytes>);

/// Starts an upstream that begins a response of this type to each call, and passes the call on.
async fn start_upstream(content_type: &'static str) -> (String, mpsc::UnboundedReceiver<Call>) {
    let (sender, calls) = mpsc::unbounded_channel();
    let address = listen(move |socket| {
        let sender = sender.clone();
        async move {
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let head = Response::builder().header("content-type", content_type).body(()).unwrap();
                let mut response = respond.send_response(head, false).unwrap();
                response.send_data(Bytes::from_static(b"\0\0\0\0\0"), false).unwrap();
                sender.send((request.into_body(), response)).unwrap();
            }
        }
    })
    .await;
    (format!("http://{address}"), calls)
}

/// A call whose request and response are both open.
struct OpenCall {
    request: SendStream<Bytes>,
    response: RecvStream,
    upstream: Call,
    trigger: SessionEndTrigger,
}

impl OpenCall {
    async fn start(content_type: &'static str) -> Self {
        let (upstream, mut calls) = start_upstream(content_type).await;
        let upstream_settings = UpstreamSettings { http: UpstreamHttp::Http2, ..UpstreamSettings::default() };
        let spec = RouteSpec { upstream_settings, ..RouteSpec::new("/", [upstream]) };
        let (proxy, trigger) = SessionEndTrigger::proxy_with_trigger(spec);
        let socket = TcpStream::connect(proxy.start_http2().await).await.unwrap();
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let call = Request::post("http://app.example/echo.Echo/Bidi");
        let call = call.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap();
        let (response, request) = client.send_request(call, false).unwrap();
        let response = timeout(PROCESS_TIMEOUT, response).await.unwrap().unwrap().into_body();
        let upstream = calls.recv().await.unwrap();
        Self { request, response, upstream, trigger }
    }

    /// Reads to the end of the response, and returns its trailers.
    async fn trailers(&mut self) -> HeaderMap {
        let reading = async {
            while let Some(data) = self.response.data().await {
                let _ = self.response.flow_control().release_capacity(data.unwrap().len());
            }
            self.response.trailers().await.unwrap().expect("trailers")
        };
        timeout(PROCESS_TIMEOUT, reading).await.expect("the end of the call")
    }
}

/// A stream went on for as long as its client liked.
#[tokio::test]
async fn grpc_stream_ends_with_its_session() {
    let mut call = OpenCall::start("application/grpc").await;
    call.trigger.fire(SessionEvent::LoggedOut);
    let trailers = call.trailers().await;
    assert_eq!(trailers["grpc-status"], "16");
    assert_eq!(trailers["grpc-message"], "logged_out");
    // The upstream's call is cancelled.
    let (mut request, _response) = call.upstream;
    let end = timeout(PROCESS_TIMEOUT, request.data()).await.expect("the end of the call");
    assert!(end.is_some_and(|end| end.is_err()));
}

#[tokio::test]
async fn grpc_call_keeps_the_trailers_of_its_upstream() {
    let mut call = OpenCall::start("application/grpc+proto").await;
    call.request.send_data(Bytes::new(), true).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "5".parse().unwrap());
    trailers.insert("x-reason", "because".parse().unwrap());
    call.upstream.1.send_trailers(trailers.clone()).unwrap();
    assert_eq!(call.trailers().await, trailers);
}
