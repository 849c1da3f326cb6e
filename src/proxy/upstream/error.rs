//! Errors of the upstreams' configuration.

use crate::unix_socket::InvalidUnixSocketAddr;

/// An error in the configuration of a route's upstreams.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamConfigError {
    /// The URL contains a path or query.
    #[error(
        "upstream `{upstream}` must be `http://host:port` or `https://host:port` alone, without path or query"
    )]
    NotAnOrigin {
        /// The upstream.
        upstream: String,
    },
    /// The list of upstreams is empty.
    #[error("`upstreams` is empty; name at least one, such as `http://127.0.0.1:3000`")]
    NoUpstream,
    /// The system has no trust anchors to verify the certificate of an `https` upstream.
    #[error(
        "this system has no certificate authorities; install them (ca-certificates), or name the upstream's own"
    )]
    NoSystemRoots,
    /// The scheme is neither `http`, `https` nor `unix`.
    #[error("upstream `{upstream}` must begin with `http://`, `https://` or `unix:/`")]
    Scheme {
        /// The upstream.
        upstream: String,
    },
    /// TLS cannot be configured: an invalid server name or CA certificate.
    #[error("an upstream can't be reached by TLS as configured: {0}")]
    Tls(#[from] rustls::Error),
    /// The address of a Unix socket is invalid.
    #[error("upstream `{upstream}`: {source}")]
    UnixSocket {
        /// The upstream.
        upstream: String,
        /// The expected form.
        source: InvalidUnixSocketAddr,
    },
    /// The URL is malformed.
    #[error("upstream `{upstream}` is no URL; write `http://host:port`")]
    Url {
        /// The upstream, without user name and password.
        upstream: String,
        /// The error of the URL parser.
        source: http::uri::InvalidUri,
    },
    /// The URL contains a user name or password.
    #[error("an upstream's URL holds a user name or password; take it out")]
    UserInfo,
}
