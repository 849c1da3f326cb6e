//! Where an upstream is: scheme, host and port.

use http::Uri;
use http::uri::{Authority, Scheme};

use crate::proxy::routes::RouteError;

/// An upstream's URL, which is an origin: nothing in it but where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) scheme: Scheme,
    /// As configured; what is asked for where the client named no host.
    pub(super) authority: Authority,
}

impl Origin {
    /// The origin of this URL, for the route at `path`.
    pub(super) fn parse(path: &str, url: &str) -> Result<Self, RouteError> {
        let path = path.to_owned();
        // Whatever stands before an `@` may be a password, and is not to be repeated.
        let upstream = url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned();
        let parts = match Uri::try_from(url) {
            Ok(uri) => uri.into_parts(),
            Err(source) => return Err(RouteError::UpstreamUrl { path, upstream, source }),
        };
        match (parts.scheme, parts.authority) {
            (_, Some(authority)) if authority.as_str().contains('@') => {
                Err(RouteError::UpstreamUserInfo { path })
            }
            (Some(scheme), Some(authority)) if [Scheme::HTTP, Scheme::HTTPS].contains(&scheme) => {
                match parts.path_and_query {
                    Some(rest) if rest != "/" => Err(RouteError::NotAnOrigin { path, upstream }),
                    _ => Ok(Self { scheme, authority }),
                }
            }
            _ => Err(RouteError::UpstreamScheme { path, upstream }),
        }
    }

    pub(super) fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The host, an IPv6 address without its brackets.
    pub(super) fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    pub(super) fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }
}
