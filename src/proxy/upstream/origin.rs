//! The origin of an upstream: scheme, host and port.

use http::Uri;
use http::uri::{Authority, Scheme};

use super::error::UpstreamConfigError;

/// An upstream's URL, restricted to its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) scheme: Scheme,
    /// The authority as configured. It is sent as `Host` when the client's request has none.
    pub(super) authority: Authority,
}

impl Origin {
    pub(super) fn parse(url: &str) -> Result<Self, UpstreamConfigError> {
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
                    _ => Ok(Self { scheme, authority }),
                }
            }
            _ => Err(UpstreamConfigError::Scheme { upstream }),
        }
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
