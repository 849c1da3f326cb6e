//! Checks the `Origin` of WebSocket upgrades.
//!
//! Browsers send no CORS preflight for them and do not enforce the same-origin policy on the connection. An
//! upgrade is a `GET`, which CSRF protection does not cover.

use std::sync::Arc;

use axum::body::Body;
use axum::response::IntoResponse;
use http::Response;
use http::header::{HeaderMap, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};

use crate::config::AllowedOrigin;
use crate::http_headers::list_elements;
use crate::layer::CookiePolicy;
use crate::proxy::is_upgrade_request;
use crate::routers::ApiError;

/// Rejects upgrades that carry session cookies and do not come from a page of a trusted origin.
pub(super) struct WebSocketOriginCheck {
    cookies: Arc<CookiePolicy>,
    trusted_origins: Vec<String>,
}

impl WebSocketOriginCheck {
    pub(super) fn new(cookies: Arc<CookiePolicy>, trusted_origins: &[&AllowedOrigin]) -> Self {
        let trusted_origins = trusted_origins.iter().map(|origin| origin.as_str().to_owned()).collect();
        Self { cookies, trusted_origins }
    }

    /// Returns `true` for an upgrade with session cookies from an untrusted origin.
    pub(super) fn rejects(&self, headers: &HeaderMap) -> bool {
        // A scan is cheaper than a hash of the name: requests have few headers.
        let has_upgrade = headers.keys().any(|name| name == UPGRADE);
        has_upgrade && is_upgrade_request(headers) && self.is_untrusted_origin(headers)
    }

    /// Returns `true` for a WebSocket handshake with session cookies from an untrusted origin.
    ///
    /// Any header of the handshake counts (RFC 6455, section 4.1), because Traefik does not forward
    /// `Upgrade` in forward auth requests.
    pub(super) fn rejects_handshake(&self, headers: &HeaderMap) -> bool {
        is_websocket_handshake(headers) && self.is_untrusted_origin(headers)
    }

    /// Returns `true` if the request carries session cookies without exactly one, trusted `Origin`.
    ///
    /// Every browser sends `Origin` once in an upgrade. `Host` is no substitute: it names the target.
    fn is_untrusted_origin(&self, headers: &HeaderMap) -> bool {
        if !self.cookies.present_in(headers) {
            return false;
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else { return true };
        !self.trusted_origins.iter().any(|trusted| trusted.as_bytes() == origin.as_bytes())
    }
}

fn is_websocket_handshake(headers: &HeaderMap) -> bool {
    let is_websocket = |protocol: &[u8]| protocol.to_ascii_lowercase().starts_with(b"websocket");
    headers.contains_key(SEC_WEBSOCKET_KEY)
        || headers.contains_key(SEC_WEBSOCKET_VERSION)
        || list_elements(headers, &UPGRADE).any(is_websocket)
}

/// Returns the 403 response to a rejected upgrade.
pub(super) fn cross_site_upgrade_response() -> Response<Body> {
    tracing::info!("cross-site upgrade rejected");
    ApiError::CrossSite.into_response()
}
