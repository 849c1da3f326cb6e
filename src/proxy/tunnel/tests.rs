use tokio::io::{DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

const IDLE: Duration = Duration::from_secs(3_600);

/// A tunnel and its three ends.
struct Scene {
    client: DuplexStream,
    upstream: DuplexStream,
    end: oneshot::Sender<CloseReason>,
    running: JoinHandle<Option<CloseReason>>,
    began: Instant,
}

impl Scene {
    fn new(kind: StreamKind) -> Self {
        // So small that whoever doesn't read is soon waited for.
        let ((client, outside), (upstream, inside)) = (duplex(64), duplex(64));
        let (end, ended) = oneshot::channel();
        let over = async { ended.await.expect("told") };
        let running = tokio::spawn(run(outside, inside, kind, IDLE, over));
        Self { client, upstream, end, running, began: Instant::now() }
    }
}

async fn read(side: &mut DuplexStream, length: usize) -> Vec<u8> {
    let mut read = vec![0; length];
    side.read_exact(&mut read).await.expect("so many bytes");
    read
}

async fn rest(side: &mut DuplexStream) -> Vec<u8> {
    let mut rest = Vec::new();
    side.read_to_end(&mut rest).await.expect("the end");
    rest
}

/// A short frame.
const FRAME: &[u8] = b"\x82\x05hello";

const REVOKED: CloseReason = CloseReason::Session(SessionEvent::Revoked);

#[tokio::test(start_paused = true)]
async fn bytes_pass_both_ways_until_both_sides_have_closed() {
    for kind in [StreamKind::Upgrade, StreamKind::WebSocket] {
        let mut scene = Scene::new(kind);
        scene.client.write_all(FRAME).await.unwrap();
        assert_eq!(read(&mut scene.upstream, 7).await, FRAME);
        scene.client.shutdown().await.unwrap();
        assert_eq!(rest(&mut scene.upstream).await, b"", "told of the end");
        scene.upstream.write_all(FRAME).await.unwrap();
        assert_eq!(read(&mut scene.client, 7).await, FRAME, "the other way is open");
        drop(scene.upstream);
        assert_eq!(rest(&mut scene.client).await, b"");
        assert_eq!(scene.running.await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_websocket_of_which_one_side_is_gone_is_over_soon() {
    let mut scene = Scene::new(StreamKind::WebSocket);
    scene.client.shutdown().await.unwrap();
    assert_eq!(scene.running.await.unwrap(), None);
    assert_eq!(scene.began.elapsed(), HALF_CLOSED);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_idle_only_if_neither_side_says_anything() {
    let mut scene = Scene::new(StreamKind::WebSocket);
    for _ in 0..3 {
        tokio::time::sleep(IDLE * 3 / 4).await;
        scene.upstream.write_all(FRAME).await.unwrap();
        read(&mut scene.client, 7).await;
    }
    let last = Instant::now();
    assert_eq!(rest(&mut scene.client).await, websocket::close(1001, ""));
    assert!(last.elapsed() >= IDLE);
    assert_eq!(scene.running.await.unwrap(), Some(CloseReason::Idle));
}

#[tokio::test(start_paused = true)]
async fn both_sides_of_a_websocket_are_told_and_nothing_passes_any_more() {
    let mut scene = Scene::new(StreamKind::WebSocket);
    scene.end.send(REVOKED).unwrap();
    assert_eq!(read(&mut scene.client, 11).await, websocket::close(4401, "revoked"));
    let close = read(&mut scene.upstream, 8).await;
    assert_eq!(close[..2], [0x88, 0x82]);
    // Until their own Close, for which they have their time.
    for side in [&mut scene.client, &mut scene.upstream] {
        side.write_all(FRAME).await.unwrap();
        side.write_all(b"\x88\x00").await.unwrap();
    }
    assert_eq!((rest(&mut scene.client).await, rest(&mut scene.upstream).await), (vec![], vec![]));
    assert_eq!(scene.running.await.unwrap(), Some(REVOKED));
    assert!(scene.began.elapsed() < TAIL_WITHIN);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_under_way_comes_first_if_it_comes_soon() {
    let mut scene = Scene::new(StreamKind::WebSocket);
    scene.upstream.write_all(&FRAME[..3]).await.unwrap();
    read(&mut scene.client, 3).await;
    scene.end.send(REVOKED).unwrap();
    tokio::time::sleep(TAIL_WITHIN / 2).await;
    let (tail, next) = (&FRAME[3..], FRAME);
    scene.upstream.write_all(&[tail, next].concat()).await.unwrap();
    let expected = [tail, &websocket::close(4401, "revoked")].concat();
    assert_eq!(read(&mut scene.client, expected.len()).await, expected, "and not the frame after it");
}

#[tokio::test(start_paused = true)]
async fn who_is_stuck_within_a_frame_is_cut_off() {
    let mut scene = Scene::new(StreamKind::WebSocket);
    scene.upstream.write_all(&FRAME[..3]).await.unwrap();
    scene.client.write_all(&FRAME[..3]).await.unwrap();
    for side in [&mut scene.client, &mut scene.upstream] {
        assert_eq!(read(side, 3).await, FRAME[..3]);
    }
    scene.end.send(REVOKED).unwrap();
    assert_eq!(rest(&mut scene.client).await, b"", "no Close");
    assert_eq!(rest(&mut scene.upstream).await, b"");
    assert!(scene.began.elapsed() <= TAIL_WITHIN + Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn who_neither_reads_nor_answers_is_cut_off_within_two_seconds() {
    let mut scene = Scene::new(StreamKind::WebSocket);
    // More than fits on the way, so that a frame is stuck half-way.
    let much = FRAME.repeat(5_000);
    tokio::spawn(async move { scene.upstream.write_all(&much).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    scene.end.send(REVOKED).unwrap();
    assert_eq!(scene.running.await.unwrap(), Some(REVOKED));
    assert!(scene.began.elapsed() < Duration::from_millis(1_600));
}

#[tokio::test(start_paused = true)]
async fn who_is_told_and_does_not_answer_is_cut_off_within_two_seconds() {
    let scene = Scene::new(StreamKind::WebSocket);
    scene.end.send(REVOKED).unwrap();
    assert_eq!(scene.running.await.unwrap(), Some(REVOKED));
    assert_eq!(scene.began.elapsed(), ANSWERED_WITHIN);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_has_passed_is_not_followed_by_ours() {
    let mut scene = Scene::new(StreamKind::WebSocket);
    scene.upstream.write_all(b"\x88\x02\x03\xe8").await.unwrap();
    assert_eq!(read(&mut scene.client, 4).await, b"\x88\x02\x03\xe8");
    scene.end.send(REVOKED).unwrap();
    scene.client.write_all(b"\x88\x00").await.unwrap();
    assert_eq!(rest(&mut scene.client).await, b"");
}

#[tokio::test(start_paused = true)]
async fn another_tunnel_breaks_off_at_once() {
    let mut scene = Scene::new(StreamKind::Upgrade);
    scene.client.write_all(FRAME).await.unwrap();
    read(&mut scene.upstream, 7).await;
    scene.end.send(REVOKED).unwrap();
    assert_eq!(rest(&mut scene.client).await, b"");
    assert_eq!(rest(&mut scene.upstream).await, b"");
    assert_eq!(scene.began.elapsed(), Duration::ZERO);
}
