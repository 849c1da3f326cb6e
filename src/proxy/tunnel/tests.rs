use std::sync::Arc;

use tokio::io::{DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::proxy::session_use::SessionUses;
use crate::proxy::test_support::UseCounter;

const INTERVAL: Duration = UseCounter::INTERVAL;

const IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// A running tunnel, its two peers and its close signal.
struct TestTunnel {
    client: DuplexStream,
    upstream: DuplexStream,
    uses: Arc<UseCounter>,
    close: oneshot::Sender<CloseReason>,
    task: JoinHandle<Option<CloseReason>>,
    started_at: Instant,
}

impl TestTunnel {
    fn new(kind: StreamKind) -> Self {
        let counter = Arc::<UseCounter>::default();
        // The buffers are small, so that a peer that does not read soon blocks the tunnel.
        let (client, client_side) = duplex(64);
        let (upstream, upstream_side) = duplex(64);
        let (close, closed) = oneshot::channel();
        let close_signal = async { closed.await.expect("close reason") };
        let uses = SessionUses::new(Arc::clone(&counter) as _);
        let reporter = uses.reporter(Some(UseCounter::SESSION));
        let tunnel = Tunnel { kind, idle_timeout: IDLE_TIMEOUT, reporter };
        let task = tokio::spawn(tunnel.run(client_side, upstream_side, b"", close_signal));
        Self { client, upstream, uses: counter, close, task, started_at: Instant::now() }
    }

    /// Sends from the client, and waits for the interval between two reports.
    async fn send(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.unwrap();
        read(&mut self.upstream, bytes.len()).await;
        sleep(INTERVAL).await;
    }

    /// Returns the number of uses reported since the last call.
    fn take_uses(&self) -> usize {
        self.uses.take()
    }
}

async fn read(side: &mut DuplexStream, length: usize) -> Vec<u8> {
    let mut read = vec![0; length];
    side.read_exact(&mut read).await.expect("enough bytes");
    read
}

async fn read_to_end(side: &mut DuplexStream) -> Vec<u8> {
    let mut read = Vec::new();
    side.read_to_end(&mut read).await.expect("end of stream");
    read
}

/// A short binary frame.
const FRAME: &[u8] = b"\x82\x05hello";

const REVOKED: CloseReason = CloseReason::Session(SessionEvent::Revoked);

#[tokio::test(start_paused = true)]
async fn bytes_are_copied_both_ways_until_both_sides_close() {
    for kind in [StreamKind::Upgrade, StreamKind::WebSocket] {
        let mut tunnel = TestTunnel::new(kind);
        tunnel.client.write_all(FRAME).await.unwrap();
        assert_eq!(read(&mut tunnel.upstream, 7).await, FRAME);
        tunnel.client.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut tunnel.upstream).await, b"", "end of stream");
        tunnel.upstream.write_all(FRAME).await.unwrap();
        assert_eq!(read(&mut tunnel.client, 7).await, FRAME, "the other way is open");
        drop(tunnel.upstream);
        assert_eq!(read_to_end(&mut tunnel.client).await, b"");
        assert_eq!(tunnel.task.await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn half_closed_websocket_ends_after_its_timeout() {
    let mut tunnel = TestTunnel::new(StreamKind::WebSocket);
    tunnel.client.shutdown().await.unwrap();
    assert_eq!(tunnel.task.await.unwrap(), None);
    assert_eq!(tunnel.started_at.elapsed(), HALF_CLOSED_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn idle_timeout_requires_silence_of_both_sides() {
    let mut tunnel = TestTunnel::new(StreamKind::WebSocket);
    for _ in 0..3 {
        tokio::time::sleep(IDLE_TIMEOUT * 3 / 4).await;
        tunnel.upstream.write_all(FRAME).await.unwrap();
        read(&mut tunnel.client, 7).await;
    }
    let last = Instant::now();
    assert_eq!(read_to_end(&mut tunnel.client).await, websocket::close(1001, ""));
    assert!(last.elapsed() >= IDLE_TIMEOUT);
    assert_eq!(tunnel.task.await.unwrap(), Some(CloseReason::Idle));
}

#[tokio::test(start_paused = true)]
async fn session_end_closes_both_sides_of_a_websocket() {
    let mut tunnel = TestTunnel::new(StreamKind::WebSocket);
    tunnel.close.send(REVOKED).unwrap();
    assert_eq!(read(&mut tunnel.client, 11).await, websocket::close(4401, "revoked"));
    let close = read(&mut tunnel.upstream, 8).await;
    assert_eq!(close[..2], [0x88, 0x82]);
    // Frames before the replying Close are discarded.
    for side in [&mut tunnel.client, &mut tunnel.upstream] {
        side.write_all(FRAME).await.unwrap();
        side.write_all(b"\x88\x00").await.unwrap();
    }
    assert_eq!(read_to_end(&mut tunnel.client).await, b"");
    assert_eq!(read_to_end(&mut tunnel.upstream).await, b"");
    assert_eq!(tunnel.task.await.unwrap(), Some(REVOKED));
    assert!(tunnel.started_at.elapsed() < FRAME_END_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn current_frame_is_finished_before_close() {
    let mut tunnel = TestTunnel::new(StreamKind::WebSocket);
    tunnel.upstream.write_all(&FRAME[..3]).await.unwrap();
    read(&mut tunnel.client, 3).await;
    tunnel.close.send(REVOKED).unwrap();
    tokio::time::sleep(FRAME_END_TIMEOUT / 2).await;
    let tail = &FRAME[3..];
    tunnel.upstream.write_all(&[tail, FRAME].concat()).await.unwrap();
    let expected = [tail, &websocket::close(4401, "revoked")].concat();
    assert_eq!(read(&mut tunnel.client, expected.len()).await, expected, "the next frame is discarded");
}

#[tokio::test(start_paused = true)]
async fn unfinished_frame_ends_without_close_after_timeout() {
    let mut tunnel = TestTunnel::new(StreamKind::WebSocket);
    tunnel.upstream.write_all(&FRAME[..3]).await.unwrap();
    tunnel.client.write_all(&FRAME[..3]).await.unwrap();
    for side in [&mut tunnel.client, &mut tunnel.upstream] {
        assert_eq!(read(side, 3).await, FRAME[..3]);
    }
    tunnel.close.send(REVOKED).unwrap();
    assert_eq!(read_to_end(&mut tunnel.client).await, b"", "no Close");
    assert_eq!(read_to_end(&mut tunnel.upstream).await, b"");
    assert!(tunnel.started_at.elapsed() <= FRAME_END_TIMEOUT + Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn peer_that_neither_reads_nor_replies_is_closed_within_two_seconds() {
    let mut tunnel = TestTunnel::new(StreamKind::WebSocket);
    // More than the buffers hold, so that a frame is stuck midway.
    let frames = FRAME.repeat(5_000);
    tokio::spawn(async move { tunnel.upstream.write_all(&frames).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    tunnel.close.send(REVOKED).unwrap();
    assert_eq!(tunnel.task.await.unwrap(), Some(REVOKED));
    assert!(tunnel.started_at.elapsed() < Duration::from_millis(1_600));
}

#[tokio::test(start_paused = true)]
async fn missing_close_reply_ends_the_tunnel_after_timeout() {
    let tunnel = TestTunnel::new(StreamKind::WebSocket);
    tunnel.close.send(REVOKED).unwrap();
    assert_eq!(tunnel.task.await.unwrap(), Some(REVOKED));
    assert_eq!(tunnel.started_at.elapsed(), CLOSE_REPLY_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn no_second_close_follows_a_close_that_has_passed() {
    let mut tunnel = TestTunnel::new(StreamKind::WebSocket);
    tunnel.upstream.write_all(b"\x88\x02\x03\xe8").await.unwrap();
    assert_eq!(read(&mut tunnel.client, 4).await, b"\x88\x02\x03\xe8");
    tunnel.close.send(REVOKED).unwrap();
    tunnel.client.write_all(b"\x88\x00").await.unwrap();
    assert_eq!(read_to_end(&mut tunnel.client).await, b"");
}

#[tokio::test(start_paused = true)]
async fn session_end_closes_other_tunnels_at_once() {
    let mut tunnel = TestTunnel::new(StreamKind::Upgrade);
    tunnel.client.write_all(FRAME).await.unwrap();
    read(&mut tunnel.upstream, 7).await;
    tunnel.close.send(REVOKED).unwrap();
    assert_eq!(read_to_end(&mut tunnel.client).await, b"");
    assert_eq!(read_to_end(&mut tunnel.upstream).await, b"");
    assert_eq!(tunnel.started_at.elapsed(), Duration::ZERO);
}

/// B10: a client that sends data uses its session, and one that only answers pings does not.
#[tokio::test(start_paused = true)]
async fn data_of_the_client_is_reported_as_use() {
    let mut tunnel = TestTunnel::new(StreamKind::WebSocket);
    sleep(INTERVAL).await;
    for (bytes, expected) in [
        (FRAME, 1),
        (b"\x89\x05hello", 0),
        (b"\x8a\x85maskhello", 0),
        (b"\x82", 0),
        (b"\x02he", 1),
        (b"\x89\x00\x01\x00", 1),
        (b"\x80\x03", 1),
        (b"l", 1),
        (b"lo\x8a\x00", 1),
        (b"\x8a\x00", 0),
        (b"\x81\x00", 1),
    ] {
        tunnel.send(bytes).await;
        assert_eq!(tunnel.take_uses(), expected, "{bytes:x?}");
    }
    tunnel.upstream.write_all(FRAME).await.unwrap();
    read(&mut tunnel.client, 7).await;
    sleep(INTERVAL * 2).await;
    assert_eq!(tunnel.take_uses(), 0, "data of the upstream");

    let mut tunnel = TestTunnel::new(StreamKind::Upgrade);
    sleep(INTERVAL).await;
    tunnel.send(b"\x89\x00").await;
    assert_eq!(tunnel.take_uses(), 1, "another protocol has no pings");
}

/// B10: many frames are one report in each interval, and the first after a pause is reported at once.
#[tokio::test(start_paused = true)]
async fn uses_are_reported_once_in_each_interval() {
    let mut tunnel = TestTunnel::new(StreamKind::WebSocket);
    for _ in 0..100 {
        tunnel.client.write_all(FRAME).await.unwrap();
        read(&mut tunnel.upstream, FRAME.len()).await;
        sleep(INTERVAL / 10).await;
    }
    let reports = tunnel.take_uses();
    assert!((9..=10).contains(&reports), "{reports}");
    sleep(INTERVAL * 10).await;
    tunnel.take_uses();
    tunnel.client.write_all(FRAME).await.unwrap();
    read(&mut tunnel.upstream, FRAME.len()).await;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(tunnel.take_uses(), 1);
}
