//! Memory use with large bodies (P-19).

use axum_core::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http::Response;
use http_body_util::{BodyDataStream, BodyExt};

use crate::support::db::sqlite_location;
use crate::support::process::TestDeployment;
use crate::support::proxy_server::{connect, request};
use crate::support::upstream::{listen, serve_any};

#[tokio::test]
async fn large_bodies_are_not_buffered() {
    let pieces = || futures_util::stream::iter((0..PIECES).map(|_| Ok::<_, std::io::Error>(PIECE)));
    let upstream = listen(move |socket| {
        serve_any(socket, move |request| async move {
            let mut body = BodyDataStream::new(request.into_body());
            let mut length = 0;
            while let Some(piece) = body.next().await {
                length += piece.unwrap().len();
            }
            let body = if length == 0 { Body::from_stream(pieces()) } else { Body::from(length.to_string()) };
            Response::new(body)
        })
    })
    .await;
    let deployment = TestDeployment::new(sqlite_location().await.unwrap()).await;
    deployment.forward_to_without_auth(format_args!("http://{upstream}"));
    let server = deployment.serve().await;
    let mut client = connect(server.public).await;

    let before = server.memory();
    let up = client.send_request(request("POST", "/up", Body::from_stream(pieces()))).await.unwrap();
    let up = up.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(up, (PIECES * PIECE.len()).to_string());
    let mut down = client.send_request(request("GET", "/down", Body::empty())).await.unwrap().into_body();
    let mut length = 0;
    while let Some(frame) = down.frame().await {
        length += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(length, PIECES * PIECE.len());
    let grown = server.peak_memory().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB");
    server.stop().await;
}

/// 1 GiB in total.
const PIECES: usize = 16_384;
const PIECE: Bytes = Bytes::from_static(&[7; 65_536]);
