//! Protocol upgrades (RFC 9110, section 7.8).
//!
//! A request keeps its `Upgrade` header if the route allows the protocol. A `101` response is accepted only
//! for a protocol that the request offered.

use std::future::Future;
use std::time::Duration;

use axum_core::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::request::Parts;
use http::{Method, Response, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use ring::digest;

use super::error::ProxyError;
use super::settings::ProxySettings;
use super::tunnel::{CloseReason, Tunnel};
use super::upstream::UpgradedConnection;
use crate::http_headers;
use crate::identity::SessionId;
use crate::long_lived_streams::{LongLivedStreams, StreamGauge, StreamKind};
use crate::request_context::with_current_context;

/// Returns `true` for a request with a protocol upgrade.
///
/// `Connection` is a list over any number of lines (RFC 9110, section 7.6.1).
#[must_use]
pub fn is_upgrade_request(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && http_headers::list_contains(headers, &CONNECTION, "upgrade")
}

/// An upgrade that the client offers and the route allows.
pub(super) struct Upgrade {
    client: OnUpgrade,
    /// Offered protocols that the route allows, in the client's order.
    protocols: Vec<String>,
    /// `Sec-WebSocket-Key` of a WebSocket handshake.
    key: Option<HeaderValue>,
}

impl Upgrade {
    /// Returns the upgrade of a request, or `None` if there is none that `allowed` contains.
    ///
    /// A server may ignore `Upgrade`, so such a request is forwarded without the header. A request with a body can be
    /// upgraded once it has been sent (RFC 9110, section 7.8), but not to WebSocket.
    pub(super) fn from_request(parts: &mut Parts, has_body: bool, allowed: &[String]) -> Option<Self> {
        if parts.version != Version::HTTP_11 || !is_upgrade_request(&parts.headers) {
            return None;
        }
        let key = handshake_key(parts).filter(|_| !has_body);
        let offered = http_headers::list_elements(&parts.headers, &UPGRADE)
            .filter_map(|protocol| str::from_utf8(protocol).ok());
        let is_allowed = |protocol: &&str| {
            allowed.iter().any(|name| name.eq_ignore_ascii_case(protocol))
                && (key.is_some() || !is_websocket(protocol))
        };
        let protocols: Vec<_> = offered.filter(is_allowed).map(str::to_owned).collect();
        if protocols.is_empty() {
            return None;
        }
        Some(Self { client: parts.extensions.remove()?, protocols, key })
    }

    /// Returns the `Upgrade` header for the upstream.
    pub(super) fn header_value(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(self.protocols.join(", ")).ok()
    }

    /// Checks the headers of the upstream's `101` response.
    pub(super) fn accept(self, headers: &HeaderMap) -> Result<AcceptedUpgrade, ProxyError> {
        let reject = |problem: &str| Err(ProxyError::UpstreamError(problem.into()));
        let mut lines = headers.get_all(UPGRADE).iter();
        let (Some(protocol), None) = (lines.next(), lines.next()) else {
            return reject("expected one Upgrade header in the 101 response");
        };
        let name = protocol.to_str().unwrap_or_default();
        if !self.protocols.iter().any(|offered| offered.eq_ignore_ascii_case(name)) {
            return reject("the upstream switched to a protocol that was not offered");
        }
        let kind = if is_websocket(name) { StreamKind::WebSocket } else { StreamKind::Upgrade };
        // An intermediary may relay a 101 without having processed the handshake (RFC 6455, section 4.1).
        if kind == StreamKind::WebSocket
            && headers.get(SEC_WEBSOCKET_ACCEPT) != self.key.as_ref().and_then(accept_key).as_ref()
        {
            return reject("the upstream did not process the WebSocket handshake");
        }
        Ok(AcceptedUpgrade { client: self.client, protocol: protocol.clone(), kind })
    }
}

/// An upgrade that the upstream has accepted.
pub(super) struct AcceptedUpgrade {
    client: OnUpgrade,
    protocol: HeaderValue,
    kind: StreamKind,
}

impl AcceptedUpgrade {
    /// Completes the `101` response and spawns the tunnel, which starts once the response has been sent.
    pub(super) fn start(
        self,
        mut response: Response<Body>,
        upstream: UpgradedConnection,
        idle_timeout: Duration,
        session: Option<SessionId>,
        settings: &ProxySettings,
    ) -> Response<Body> {
        let headers = response.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocol);
        let kind = self.kind;
        let signal = close_signal(kind, session, &settings.streams);
        let reporter = settings.session_uses.reporter(session);
        let gauge = StreamGauge::new(kind);
        let tunnel = async move {
            let _gauge = gauge;
            match self.client.await {
                Ok(client) => {
                    let client = TokioIo::new(client);
                    let tunnel = Tunnel { kind, idle_timeout, reporter };
                    record_close(tunnel.run(client, upstream.io, &upstream.unread, signal).await, kind);
                }
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "upgrade failed");
                }
            }
        };
        tokio::spawn(with_current_context(tunnel));
        response
    }
}

/// Waits for the end of the session or, for a WebSocket, for the shutdown of the gateway.
///
/// Other protocols have no message for a shutdown, so their tunnels stay open.
fn close_signal(
    kind: StreamKind,
    session: Option<SessionId>,
    streams: &LongLivedStreams,
) -> impl Future<Output = CloseReason> + use<> {
    let session_ended = streams.session_ended(session);
    let streams = streams.clone();
    async move {
        tokio::select! {
            event = session_ended => CloseReason::Session(event),
            () = streams.shutdown(), if kind == StreamKind::WebSocket => CloseReason::Shutdown,
        }
    }
}

fn record_close(reason: Option<CloseReason>, kind: StreamKind) {
    match reason {
        Some(CloseReason::Session(event)) => kind.record_close(event),
        Some(CloseReason::Idle) => tracing::debug!("tunnel idle timeout"),
        Some(CloseReason::Shutdown) | None => {}
    }
}

fn is_websocket(protocol: &str) -> bool {
    protocol.eq_ignore_ascii_case("websocket")
}

/// Returns the `Sec-WebSocket-Key` of a WebSocket handshake (RFC 6455, section 4.1).
fn handshake_key(parts: &Parts) -> Option<HeaderValue> {
    let mut keys = parts.headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if parts.method == Method::GET => Some(key.clone()),
        _ => None,
    }
}

/// Computes `Sec-WebSocket-Accept`, which proves that the handshake was processed (RFC 6455, section 4.2.2).
fn accept_key(key: &HeaderValue) -> Option<HeaderValue> {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes().trim_ascii());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    HeaderValue::try_from(BASE64.encode(hash.finish())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::test_support::headers;

    #[test]
    fn upgrade_option_is_found_anywhere_in_connection() {
        let is_upgrade = |connection: &[&'static str]| {
            let lines = connection.iter().map(|line| ("connection", *line));
            let lines: Vec<_> = lines.chain([("upgrade", "websocket")]).collect();
            is_upgrade_request(&headers(&lines))
        };
        for connection in [
            &["upgrade"][..],
            &["Upgrade"],
            &["keep-alive, Upgrade"],
            &["keep-alive", "x ,\tUPGRADE,"],
            &["upgrade", "close"],
        ] {
            assert!(is_upgrade(connection), "{connection:?}");
        }
        for connection in [&[][..], &["keep-alive"], &["upgrades"], &["up grade"], &["\"upgrade\""]] {
            assert!(!is_upgrade(connection), "{connection:?}");
        }
        assert!(!is_upgrade_request(&headers(&[("connection", "upgrade")])));
    }

    #[test]
    fn accept_key_matches_the_example_of_the_rfc() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept_key(&key).expect("a value"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
