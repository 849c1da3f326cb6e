//! Changing the protocol (RFC 9110, section 7.8): `Upgrade` is passed on where the route allows it, and
//! a `101` only for what was asked.

use std::future::Future;

use axum_core::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{Method, Response, Version, request};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use ring::digest;

use super::error::ProxyError;
use super::hop_by_hop;
use super::long_lived::{LongLivedStreams, StreamGauge, StreamKind};
use super::routes::Route;
use super::tunnel::{self, CloseReason};
use super::upstream::UpgradedIo;
use crate::identity::SessionId;
use crate::request_context::with_current_context;

/// Whether a request asks for another protocol, in whatever way: `Connection` is a list (RFC 9110,
/// section 7.6.1), over any number of lines.
#[must_use]
pub fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && hop_by_hop::connection_names(headers, "upgrade")
}

/// An upgrade that was asked for and may be.
pub(super) struct Upgrade {
    client: OnUpgrade,
    /// What the client offers and the route allows, in the client's order.
    protocols: Vec<String>,
    /// What the upstream must prove to have read, for a WebSocket.
    key: Option<HeaderValue>,
}

impl Upgrade {
    /// The upgrade that this request asks for. `None`, also where it may not be: then the request is
    /// one as any other, for nobody need understand `Upgrade`.
    pub(super) fn from_request(parts: &mut request::Parts, has_body: bool, route: &Route) -> Option<Self> {
        if parts.version != Version::HTTP_11 || has_body || !asks_for_upgrade(&parts.headers) {
            return None;
        }
        let key = handshake_key(parts);
        let lines = parts.headers.get_all(UPGRADE).iter().filter_map(|line| line.to_str().ok());
        let offered = lines.flat_map(|line| line.split(',')).map(str::trim);
        let may_be = |protocol: &&str| {
            let allowed = route.spec.upgrades.iter().any(|name| name.eq_ignore_ascii_case(protocol));
            allowed && (key.is_some() || !is_websocket(protocol))
        };
        let protocols: Vec<_> = offered.filter(may_be).map(str::to_owned).collect();
        if protocols.is_empty() {
            return None;
        }
        Some(Self { client: parts.extensions.remove()?, protocols, key })
    }

    /// What the upstream is asked to change to.
    pub(super) fn protocols(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(self.protocols.join(", ")).ok()
    }

    /// What the upstream has changed to, if it may have done so.
    pub(super) fn accept(self, answer: &HeaderMap) -> Result<AcceptedUpgrade, ProxyError> {
        let refuse = |problem: &str| Err(ProxyError::UpstreamError(problem.into()));
        let mut lines = answer.get_all(UPGRADE).iter();
        let (Some(protocol), None) = (lines.next(), lines.next()) else {
            return refuse("the upstream switched to no protocol");
        };
        let named = protocol.to_str().unwrap_or_default();
        if !self.protocols.iter().any(|asked| asked.eq_ignore_ascii_case(named)) {
            return refuse("the upstream switched to a protocol that was not asked for");
        }
        if !is_websocket(named) {
            return Ok(AcceptedUpgrade {
                client: self.client,
                protocol: protocol.clone(),
                kind: StreamKind::Upgrade,
            });
        }
        // One that passes on what others say may answer 101 without knowing what it says.
        if answer.get(SEC_WEBSOCKET_ACCEPT) != self.key.as_ref().and_then(accept).as_ref() {
            return refuse("the upstream did not read the WebSocket handshake");
        }
        Ok(AcceptedUpgrade { client: self.client, protocol: protocol.clone(), kind: StreamKind::WebSocket })
    }
}

/// An upgrade to which the upstream has agreed.
pub(super) struct AcceptedUpgrade {
    client: OnUpgrade,
    protocol: HeaderValue,
    kind: StreamKind,
}

impl AcceptedUpgrade {
    /// Tells the client, and begins to pass bytes once it has been told.
    pub(super) fn begin(
        self,
        mut response: Response<Body>,
        upstream: UpgradedIo,
        route: &Route,
        session: Option<SessionId>,
        streams: &LongLivedStreams,
    ) -> Response<Body> {
        let headers = response.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocol);
        let (idle, kind) = (route.spec.tunnel_idle_timeout, self.kind);
        let (over, open) = (close_signal(kind, session, streams), StreamGauge::new(kind));
        let tunnel = async move {
            match self.client.await {
                Ok(client) => {
                    let over = tunnel::run(TokioIo::new(client), upstream, kind, idle, over).await;
                    ended(over, &open);
                }
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "an upgrade came to nothing");
                }
            }
        };
        tokio::spawn(with_current_context(tunnel));
        response
    }
}

/// Waits until the tunnel must end. A tunnel that can't be told that the program stops is left alone.
fn close_signal(
    kind: StreamKind,
    session: Option<SessionId>,
    streams: &LongLivedStreams,
) -> impl Future<Output = CloseReason> + use<> {
    let (ended, streams) = (streams.ended(session), streams.clone());
    async move {
        let stopping = async {
            match kind {
                StreamKind::WebSocket => streams.shutdown().await,
                StreamKind::Events | StreamKind::Upgrade => std::future::pending().await,
            }
        };
        tokio::select! {
            event = ended => CloseReason::Session(event),
            () = stopping => CloseReason::Stopping,
        }
    }
}

fn ended(over: Option<CloseReason>, open: &StreamGauge) {
    match over {
        Some(CloseReason::Session(event)) => open.closed_by(event),
        Some(CloseReason::Idle) => tracing::debug!("a tunnel was idle for too long"),
        Some(CloseReason::Stopping) | None => {}
    }
}

fn is_websocket(protocol: &str) -> bool {
    protocol.eq_ignore_ascii_case("websocket")
}

/// The key of a WebSocket's handshake, if the request is one (RFC 6455, section 4.1).
fn handshake_key(parts: &request::Parts) -> Option<HeaderValue> {
    let mut keys = parts.headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if parts.method == Method::GET => Some(key.clone()),
        _ => None,
    }
}

/// What proves that a handshake of this key was read (RFC 6455, section 4.2.2).
fn accept(key: &HeaderValue) -> Option<HeaderValue> {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes().trim_ascii());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    HeaderValue::try_from(BASE64.encode(hash.finish())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn an_upgrade_is_asked_for_anywhere_in_the_list() {
        let asks = |connection: &[&'static str]| {
            let lines = connection.iter().map(|line| ("connection", *line));
            let lines: Vec<_> = lines.chain([("upgrade", "websocket")]).collect();
            asks_for_upgrade(&headers(&lines))
        };
        for connection in [
            &["upgrade"][..],
            &["Upgrade"],
            &["keep-alive, Upgrade"],
            &["keep-alive", "x ,\tUPGRADE,"],
            &["upgrade", "close"],
        ] {
            assert!(asks(connection), "{connection:?}");
        }
        for connection in [&[][..], &["keep-alive"], &["upgrades"], &["up grade"], &["\"upgrade\""]] {
            assert!(!asks(connection), "{connection:?}");
        }
        assert!(!asks_for_upgrade(&headers(&[("connection", "upgrade")])));
    }

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key).expect("a value"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
