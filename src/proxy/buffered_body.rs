//! Buffering of small request bodies before an upstream is taken.
//!
//! A server with one request per worker, such as gunicorn's default, is not held by a slow client then, and a body
//! that was sent in chunks arrives with its length, which WSGI requires.

use std::time::Duration;

use axum_core::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame};

use super::error::ProxyError;
use super::prefixed_body::{PrefixedBody, next_frame};

/// Sizes of the bodies of a route, in bytes.
pub(super) struct BufferLimits {
    /// Maximum size of a buffered body.
    pub(super) buffer: u64,
    /// Maximum size of any body; `None` for no limit.
    pub(super) body: Option<u64>,
}

/// Reads a body and returns it with its length.
///
/// A body above the limit is streamed, with what was read before. So is one with trailers, which need chunks.
///
/// Copies the parts, because frames of a few bytes would keep the buffers that they were received in.
pub(super) async fn buffer(
    mut body: Body,
    limits: &BufferLimits,
    idle_timeout: Duration,
) -> Result<Body, ProxyError> {
    if body.size_hint().lower() > limits.buffer {
        return Ok(body);
    }
    let mut data = BytesMut::new();
    while let Some(frame) = next_frame(&mut body, idle_timeout).await? {
        match frame.into_data() {
            Ok(part) => data.extend_from_slice(&part),
            Err(trailers) => return Ok(prefixed(vec![Frame::data(data.freeze()), trailers], None)),
        }
        let size = data.len() as u64;
        if limits.body.is_some_and(|limit| size > limit) {
            return Err(ProxyError::BodyTooLarge);
        }
        if size > limits.buffer {
            return Ok(prefixed(vec![Frame::data(data.freeze())], Some(body)));
        }
    }
    Ok(Body::from(data.freeze()))
}

fn prefixed(frames: Vec<Frame<Bytes>>, rest: Option<Body>) -> Body {
    Body::new(PrefixedBody::new(frames, rest))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{HeaderMap, HeaderValue};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    const LIMITS: BufferLimits = BufferLimits { buffer: 6, body: Some(9) };

    fn chunks(chunks: &[&'static str], trailers: Option<HeaderMap>) -> Body {
        let data = chunks.iter().map(|chunk| Frame::data(Bytes::from_static(chunk.as_bytes())));
        let frames: Vec<_> = data.chain(trailers.map(Frame::trailers)).map(Ok::<_, Infallible>).collect();
        Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    }

    async fn buffered(body: Body) -> Result<Body, ProxyError> {
        buffer(body, &LIMITS, Duration::from_secs(1)).await
    }

    #[tokio::test]
    async fn small_body_has_a_length_and_a_large_one_is_streamed() {
        for (parts, length) in [
            (&[][..], Some(0)),
            (&["a", "", "bcdef"], Some(6)),
            (&["abc", "defg", "hi", "jk"], None),
            (&["abcdefgh", "i"], None),
        ] {
            let body = buffered(chunks(parts, None)).await.expect("a body");
            assert_eq!(body.size_hint().exact(), length, "{parts:?}");
            assert_eq!(body.is_end_stream(), length == Some(0), "{parts:?}");
            let bytes = body.collect().await.expect("the whole body").to_bytes();
            assert_eq!(bytes, parts.concat(), "{parts:?}");
        }
        // Larger than all limits, and known to be: not read.
        let body = buffered(Body::from("0123456789")).await.expect("a body");
        assert_eq!(body.size_hint().exact(), Some(10));
    }

    #[tokio::test]
    async fn body_above_the_limit_of_the_route_is_too_large() {
        let result = buffered(chunks(&["abcdefghij"], None)).await;
        assert!(matches!(result, Err(ProxyError::BodyTooLarge)));
    }

    #[tokio::test]
    async fn trailers_are_kept() {
        let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("7"))]);
        let body = buffered(chunks(&["abc"], Some(trailers.clone()))).await.expect("a body");
        assert_eq!(body.size_hint().exact(), None);
        let collected = body.collect().await.expect("the whole body");
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), "abc");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_client_times_out() {
        let pending = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>());
        assert!(matches!(buffered(Body::new(pending)).await, Err(ProxyError::BodyTimeout)));
    }
}
