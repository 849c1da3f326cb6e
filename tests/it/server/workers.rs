//! Worker threads that share a listener.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use axum::body::Body;
use http::{Request, Response};
use sekisho::server::{ServerLimits, WorkerThreads};
use tokio::net::TcpStream;
use tower::service_fn;

use crate::support::test_server::{GET, TestServer, get1, send_and_read};

async fn thread_of(socket: &mut TcpStream) -> String {
    let response = send_and_read(socket, &get1("/thread")).await;
    response.rsplit("\r\n").next().unwrap().to_owned()
}

#[tokio::test]
async fn each_worker_thread_builds_its_own_service() {
    let made = Arc::new(AtomicUsize::new(0));
    let threads = WorkerThreads::start(3, ServerLimits::default()).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::clone(&made);
    let factory = move || {
        count.fetch_add(1, Ordering::SeqCst);
        service_fn(|_: Request<Body>| async { Ok(Response::new(Body::empty())) })
    };
    threads.serve(listener, None, factory).unwrap();
    for _ in 0..10 {
        let mut socket = TcpStream::connect(address).await.unwrap();
        assert!(send_and_read(&mut socket, GET).await.starts_with("HTTP/1.1 200"));
    }
    threads.drain().await;
    assert!(TcpStream::connect(address).await.is_err());
    threads.join().await;
    assert_eq!(made.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn limits_change_at_run_time() {
    let (server, _seen) = TestServer::start(2, ServerLimits::default());
    let mut before = server.connect().await;
    assert!(send_and_read(&mut before, GET).await.starts_with("HTTP/1.1 200"));
    let limits = ServerLimits { connections: 2, uri_bytes: 256, ..ServerLimits::default() };
    server.threads.set_limits(limits);
    let long = get1(&"/x".repeat(200));
    assert!(send_and_read(&mut before, &long).await.starts_with("HTTP/1.1 200"));
    let mut after = server.connect().await;
    assert!(send_and_read(&mut after, &long).await.starts_with("HTTP/1.1 414"));
    assert!(send_and_read(&mut server.connect().await, GET).await.starts_with("HTTP/1.1 503"));
    assert!(send_and_read(&mut before, GET).await.starts_with("HTTP/1.1 200"));
}

/// A blocked thread accepts no connections, so the other one accepts them all and transfers a share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overloaded_worker_transfers_connections() {
    let (busy, resume) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (server, _seen) = TestServer::start(2, ServerLimits::default());
    let blocking = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let blocked_at = blocking.local_addr().unwrap();
    let (reached, released) = (Arc::clone(&busy), Arc::clone(&resume));
    let block = move || {
        let (reached, released) = (Arc::clone(&reached), Arc::clone(&released));
        service_fn(move |_: Request<Body>| {
            reached.wait();
            released.wait();
            async { Ok(Response::new(Body::empty())) }
        })
    };
    server.threads.serve(blocking, None, block).unwrap();
    let blocked = tokio::spawn(async move {
        send_and_read(&mut TcpStream::connect(blocked_at).await.unwrap(), GET).await;
    });
    tokio::task::spawn_blocking(move || busy.wait()).await.unwrap();

    // Only the other thread can accept these connections.
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(server.connect().await);
    }
    let mut tasks = Vec::new();
    for mut socket in sockets {
        tasks.push(tokio::spawn(async move { (thread_of(&mut socket).await, socket) }));
    }
    tokio::task::spawn_blocking(move || resume.wait()).await.unwrap();
    blocked.await.unwrap();
    let mut threads = BTreeMap::<String, usize>::new();
    let mut open = Vec::new();
    for task in tasks {
        let (thread, socket) = task.await.unwrap();
        *threads.entry(thread).or_default() += 1;
        open.push(socket);
    }
    let (most, fewest) = (*threads.values().max().unwrap(), *threads.values().min().unwrap());
    assert_eq!(threads.len(), 2, "{threads:?}");
    assert!(most <= 2 * (fewest + 1) + 2, "{threads:?}");
}
