//! The client of a request: address, `User-Agent` and request id.

use std::net::IpAddr;

use http::header::USER_AGENT;
use http::{Extensions, HeaderMap};

use crate::http_headers::X_REQUEST_ID;
use crate::request_context::RequestContext;

/// The address that a request really comes from.
///
/// An outer layer that knows which proxies to trust puts it into the request's extensions. Without it the
/// address of the [`RequestContext`] counts, and without that sessions have no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// Where a request comes from, for the list of a user's sessions and the audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The `User-Agent` header, cut to [`ClientInfo::USER_AGENT_MAX`] bytes.
    pub user_agent: Option<String>,
    /// Which of its requests this is, by the `X-Request-Id` that the log names too: for the audit. A
    /// session's row doesn't keep it.
    pub request_id: Option<String>,
}

impl ClientInfo {
    /// How much of a `User-Agent` is kept, in bytes.
    pub const USER_AGENT_MAX: usize = 256;

    /// The client at `address` that sent this `User-Agent`.
    #[must_use]
    pub fn new(address: Option<IpAddr>, user_agent: Option<&str>) -> Self {
        let user_agent = user_agent.map(|agent| {
            let end = agent.floor_char_boundary(Self::USER_AGENT_MAX);
            agent[..end].to_owned()
        });
        Self { address, user_agent, request_id: None }
    }

    /// The operator at the command line, by this command.
    #[must_use]
    pub fn command_line(command: &str) -> Self {
        Self::new(None, Some(&format!("command line: sekisho {command}")))
    }

    /// The client of a request with these extensions and headers.
    #[must_use]
    pub fn from_request_parts(extensions: &Extensions, headers: &HeaderMap) -> Self {
        let address = extensions.get::<ClientAddress>().map(|address| address.0);
        let address = address.or_else(|| RequestContext::with_current(RequestContext::client).flatten());
        let user_agent = headers.get(USER_AGENT).and_then(|agent| str::from_utf8(agent.as_bytes()).ok());
        let request_id = headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok());
        let request_id = request_id.filter(|id| id.len() <= REQUEST_ID_MAX).map(str::to_owned);
        Self { request_id, ..Self::new(address, user_agent) }
    }
}

/// How long an id may be to be kept, in bytes.
const REQUEST_ID_MAX: usize = 64;
