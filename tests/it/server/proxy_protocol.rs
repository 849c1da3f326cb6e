//! The PROXY protocol (`server.proxy_protocol`).

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use http::{Request, Response};
use sekisho::config::{Config, Sources};
use sekisho::server::{Listener, Peer, ServerLimits, WorkerThreads};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tower::util::BoxCloneSyncService;

use crate::support::db;
use crate::support::front_proxy::free_address;
use crate::support::process::{TestDeployment, program, until};
use crate::support::test_server::{Files, GET, read_until_closed, send_and_read, trusting};
use crate::support::upstream::Upstream;

/// Starts a server that responds with the address of the peer. Connections from `127.0.0.1` are trusted.
fn start(limits: ServerLimits, files: Option<&Files>) -> (WorkerThreads, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let threads = WorkerThreads::start(2, limits).unwrap();
    threads.set_exempt_peers(vec!["127.0.0.1/32".parse().unwrap()]);
    let listener = Listener::from(listener).with_proxy_protocol(true);
    let certificate = files.map(|files| files.load().unwrap());
    let service = BoxCloneSyncService::new(tower::service_fn(|request: Request<Body>| async move {
        let Peer(peer) = request.extensions().get().copied().unwrap();
        Ok(Response::new(Body::from(format!("peer {peer}"))))
    }));
    threads.serve(listener, certificate, move || service.clone()).unwrap();
    (threads, address)
}

fn v1(client: &str) -> String {
    format!("PROXY TCP4 {client} 192.0.2.1 4711 443\r\n")
}

/// A header of version 2 for the client 203.0.113.7:4711.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\xc0\0\x02\x01\x12\x67\x01\xbb";

/// The header of a connection of the proxy itself.
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[tokio::test]
async fn proxy_protocol_names_the_client() {
    let (_threads, server) = start(ServerLimits::default(), None);
    for (header, peer) in [
        (v1("203.0.113.7").as_bytes(), Some("203.0.113.7:4711")),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n", Some("[2001:db8::7]:4711")),
        (V2, Some("203.0.113.7:4711")),
        (V2_LOCAL, None),
        (b"PROXY UNKNOWN\r\n", None),
    ] {
        let mut socket = TcpStream::connect(server).await.unwrap();
        let own = socket.local_addr().unwrap().to_string();
        // In pieces: the server waits for the whole header.
        let (start, end) = header.split_at(header.len() / 2);
        socket.write_all(start).await.unwrap();
        tokio::task::yield_now().await;
        socket.write_all(end).await.unwrap();
        for _ in 0..2 {
            let response = send_and_read(&mut socket, GET).await;
            assert!(response.ends_with(&format!("peer {}", peer.unwrap_or(&own))), "{response}");
        }
    }
}

#[tokio::test]
async fn proxy_protocol_precedes_tls() {
    let files = Files::good();
    let (_threads, server) = start(ServerLimits::default(), Some(&files));
    for header in [v1("203.0.113.7").as_bytes(), V2] {
        let mut socket = TcpStream::connect(server).await.unwrap();
        socket.write_all(header).await.unwrap();
        let connector = TlsConnector::from(Arc::new(trusting(&[&files], &[&rustls::version::TLS13])));
        let mut socket = connector.connect("app.example".try_into().unwrap(), socket).await.unwrap();
        assert!(send_and_read(&mut socket, GET).await.ends_with("peer 203.0.113.7:4711"));
    }
}

#[tokio::test]
async fn proxy_protocol_refuses_all_other_connections() {
    let (_threads, server) = start(ServerLimits::default(), None);
    for bytes in [
        GET.as_bytes(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 04711 443\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
    ] {
        let mut socket = TcpStream::connect(server).await.unwrap();
        socket.write_all(&[bytes, GET.as_bytes()].concat()).await.unwrap();
        assert_eq!(read_until_closed(&mut socket).await, "", "{}", bytes.escape_ascii());
    }
    // A peer that is not trusted, with a valid header.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut socket = socket.connect(server).await.unwrap();
    let _ = socket.write_all(&[V2, GET.as_bytes()].concat()).await;
    assert_eq!(read_until_closed(&mut socket).await, "");
}

/// The limit of a client applies to the address in the header, not to the proxy.
#[tokio::test]
async fn proxy_protocol_connections_count_for_the_client() {
    let limits = ServerLimits { connections_per_client: 1, ..ServerLimits::default() };
    let (_threads, server) = start(limits, None);
    let connect = async |client: &str| {
        let mut socket = TcpStream::connect(server).await.unwrap();
        socket.write_all(v1(client).as_bytes()).await.unwrap();
        let _ = socket.write_all(GET.as_bytes()).await;
        socket
    };
    let mut first = connect("203.0.113.7").await;
    let mut other = connect("203.0.113.8").await;
    for socket in [&mut first, &mut other] {
        let mut start = [0; 12];
        socket.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
    assert_eq!(read_until_closed(&mut connect("203.0.113.7").await).await, "");
    drop(first);
    // The server notices the close some time later.
    until("the place of the closed connection", async || {
        let mut socket = connect("203.0.113.7").await;
        (socket.read_u8().await.is_ok()).then_some(())
    })
    .await;
}

/// HAProxy in TCP mode with `send-proxy-v2`, as in `deploy/haproxy/tcp.cfg`, in front of the whole gateway.
#[tokio::test]
async fn proxy_protocol_of_haproxy_in_tcp_mode() {
    let Some(haproxy) = program("SEKISHO_TEST_HAPROXY", "/usr/sbin/haproxy") else { return };
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/haproxy");
    let shipped = Config::load(&Sources {
        file: Some(format!("{deploy}/sekisho-tcp.toml").into()),
        ..Sources::default()
    });
    let shipped = shipped.unwrap().config.server;
    assert!(shipped.proxy_protocol && shipped.tls.is_some());

    let mut upstream = Upstream::start().await;
    let mut deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    deployment.forward_to_without_auth(upstream.url());
    deployment.set("server.proxy_protocol", "true");
    deployment.set("server.trusted_proxies", "['127.0.0.1']");
    let server = deployment.serve().await;
    let front = free_address();
    let text = std::fs::read_to_string(format!("{deploy}/tcp.cfg")).unwrap();
    let text = text
        .replace("bind :8000", &format!("bind {front}"))
        .replace("127.0.0.1:8080 send-proxy-v2", &format!("{} send-proxy-v2", server.public))
        .replace("port 9090", &format!("port {}", server.admin.port()));
    let file = deployment.write("tcp.cfg", &text);
    let mut command = Command::new(haproxy);
    let _haproxy = command.arg("-db").arg("-f").arg(file).kill_on_drop(true).spawn().unwrap();
    let client = SocketAddr::from(([127, 0, 0, 2], 0));
    let response = until("a response through HAProxy", async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(client).unwrap();
        let mut socket = socket.connect(front).await.ok()?;
        let head =
            "GET /x HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.66\r\nConnection: close\r\n\r\n";
        socket.write_all(head.as_bytes()).await.ok()?;
        let response = read_until_closed(&mut socket).await;
        (!response.is_empty()).then_some(response)
    })
    .await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let seen = upstream.seen().await;
    assert_eq!((seen.all("x-forwarded-for"), seen.all("x-real-ip")), (vec!["127.0.0.2"], vec!["127.0.0.2"]));
    // Past HAProxy there is no header.
    let mut direct = TcpStream::connect(server.public).await.unwrap();
    direct.write_all(GET.as_bytes()).await.unwrap();
    assert_eq!(read_until_closed(&mut direct).await, "");
    server.wait_for_log("connection refused by server.proxy_protocol", 1).await;
    server.stop().await;
}
