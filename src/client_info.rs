//! Address and `User-Agent` of the client that sent a request.

use std::fmt;
use std::net::IpAddr;

use http::header::USER_AGENT;
use http::{Extensions, HeaderMap};

use crate::http_headers::X_REQUEST_ID;
use crate::request_context::RequestContext;

/// The address of the client that sent a request.
///
/// An outer layer that evaluates the headers of trusted proxies adds it to the request's extensions. Without it the address
/// of the [`RequestContext`] is used. Without that one sessions have no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// The client of a request, for the list of a user's sessions and the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The `User-Agent` header, cut to [`ClientInfo::MAX_USER_AGENT_LEN`] bytes.
    pub user_agent: Option<String>,
    /// The `X-Request-Id` of the request, for the audit log. It is not stored with the session.
    pub request_id: Option<String>,
}

impl ClientInfo {
    /// Maximum length of a stored `User-Agent`, in bytes.
    pub const MAX_USER_AGENT_LEN: usize = 256;

    /// Creates the client at `address` with this `User-Agent`, which is truncated.
    #[must_use]
    pub fn new(address: Option<IpAddr>, user_agent: Option<&str>) -> Self {
        let user_agent = user_agent.map(|agent| {
            let end = agent.floor_char_boundary(Self::MAX_USER_AGENT_LEN);
            agent[..end].to_owned()
        });
        Self { address, user_agent, request_id: None }
    }

    /// Returns the client that stands for an operator who runs `command`.
    #[must_use]
    pub fn command_line(command: &str) -> Self {
        Self::new(None, Some(&format!("command line: sekisho {command}")))
    }

    /// Returns the client of a request with these extensions and headers.
    #[must_use]
    pub fn from_request_parts(extensions: &Extensions, headers: &HeaderMap) -> Self {
        let address = extensions.get::<ClientAddress>().map(|address| address.0);
        let address = address.or_else(|| RequestContext::with_current(RequestContext::client).flatten());
        let user_agent = headers.get(USER_AGENT).and_then(|agent| str::from_utf8(agent.as_bytes()).ok());
        let request_id = headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok());
        let request_id = request_id.filter(|id| id.len() <= MAX_REQUEST_ID_LEN).map(str::to_owned);
        Self { request_id, ..Self::new(address, user_agent) }
    }
}

/// Shows the address with the user agent in parentheses, as far as they are known.
impl fmt::Display for ClientInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, &self.user_agent) {
            (Some(address), Some(agent)) => write!(f, "{address} ({agent})"),
            (Some(address), None) => write!(f, "{address}"),
            (None, Some(agent)) => write!(f, "({agent})"),
            (None, None) => f.write_str("an unknown place"),
        }
    }
}

/// Returns the address by which a client is counted: IPv6 clients by their /64 network.
#[cfg(feature = "server")]
pub(crate) fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => std::net::Ipv6Addr::from(u128::from(address) & IPV6_NETWORK).into(),
    }
}

#[cfg(feature = "server")]
const IPV6_NETWORK: u128 = !(u64::MAX as u128);

/// Maximum length of a stored request id, in bytes.
const MAX_REQUEST_ID_LEN: usize = 64;

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    #[test]
    fn ipv6_clients_count_by_network() {
        let network = |text: &str| client_network(text.parse().expect("an address"));
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:2"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), IpAddr::from([192, 0, 2, 1]));
    }
}
