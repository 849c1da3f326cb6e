//! The client that a request counts for.

use std::fmt;
use std::net::IpAddr;

use crate::identity::{SessionId, Subject};

/// The client that a request counts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// An address; for IPv6 its /64 network counts.
    Address(IpAddr),
    /// All clients that are unknown, because the client of the request is a front proxy.
    FrontProxies,
    /// The session of a request whose user is not known yet.
    Session(SessionId),
    /// The user of a valid session, by id.
    User(Subject),
}

/// Formats the client as in the access log.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::FrontProxies => f.write_str("trusted_proxies"),
            Self::Session(session) => write!(f, "session={session}"),
            Self::User(user) => write!(f, "user={user}"),
        }
    }
}
