//! The origin of an upstream: scheme, host and port, or a Unix socket.

use std::sync::Arc;

use http::Uri;
use http::uri::{Authority, Scheme};

use super::error::UpstreamConfigError;
use crate::unix_socket::UnixSocketAddr;

/// An upstream's URL, restricted to its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) scheme: Scheme,
    /// The authority as configured, `localhost` for a Unix socket. It is sent as `Host` when the client's request has
    /// none.
    pub(super) authority: Authority,
    /// The Unix socket, if it is one.
    pub(super) socket: Option<UnixSocketAddr>,
    /// The name in the access log: the authority or the socket.
    pub(super) name: Arc<str>,
}

impl Origin {
    pub(super) fn parse(url: &str) -> Result<Self, UpstreamConfigError> {
        if UnixSocketAddr::is_meant_by(url) {
            return Self::parse_unix(url);
        }
        // The part before `@` may be a password, so errors do not repeat it.
        let upstream = url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned();
        let parts = match Uri::try_from(url) {
            Ok(uri) => uri.into_parts(),
            Err(source) => return Err(UpstreamConfigError::Url { upstream, source }),
        };
        match (parts.scheme, parts.authority) {
            (_, Some(authority)) if authority.as_str().contains('@') => Err(UpstreamConfigError::UserInfo),
            (Some(scheme), Some(authority)) if [Scheme::HTTP, Scheme::HTTPS].contains(&scheme) => {
                match parts.path_and_query {
                    Some(rest) if rest != "/" => Err(UpstreamConfigError::NotAnOrigin { upstream }),
                    _ => Ok(Self { scheme, name: authority.as_str().into(), authority, socket: None }),
                }
            }
            _ => Err(UpstreamConfigError::Scheme { upstream }),
        }
    }

    fn parse_unix(url: &str) -> Result<Self, UpstreamConfigError> {
        let socket: UnixSocketAddr = url
            .parse()
            .map_err(|source| UpstreamConfigError::UnixSocket { upstream: url.to_owned(), source })?;
        Ok(Self {
            scheme: Scheme::HTTP,
            authority: Authority::from_static("localhost"),
            name: socket.as_str().into(),
            socket: Some(socket),
        })
    }

    pub(super) fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The host, without the brackets of an IPv6 address.
    pub(super) fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    pub(super) fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }
}
