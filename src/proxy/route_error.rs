//! Errors in the settings of a route.

use http::{HeaderName, Method};

use super::path::BadPath;
use super::upstream::UpstreamConfigError;

/// Error in the settings of a route.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// A header that no route may change, or use as an identity header.
    #[error("route `{path}`: {key} cannot contain `{name}`: {reason}")]
    Header {
        /// Path of the route.
        path: String,
        /// The setting that contains the header.
        key: &'static str,
        /// The header.
        name: HeaderName,
        /// Reason for which the header is rejected.
        reason: &'static str,
    },
    /// `CONNECT` or `TRACE`, which no route may allow.
    #[error("route `{path}`: methods cannot contain {method}: it is never forwarded")]
    Method {
        /// Path of the route.
        path: String,
        /// The method.
        method: Method,
    },
    /// A path that matches no request, since such requests are rejected.
    #[error("route `{path}`: invalid path: {reason}")]
    Path {
        /// Path of the route.
        path: String,
        /// Problem of the path.
        reason: BadPath,
    },
    /// A path with `;`, `?` or `#`.
    #[error("route `{path}`: the path cannot contain `;` parameters, a query or a fragment")]
    PathExtras {
        /// Path of the route.
        path: String,
    },
    /// A path that looks like a pattern.
    #[error(
        "route `{path}`: a path is a prefix, not a pattern: write `{prefix}`, which matches all paths below it too"
    )]
    Pattern {
        /// Path of the route.
        path: String,
        /// The prefix to write instead.
        prefix: String,
    },
    /// Two routes with the same path.
    #[error("route `{path}` is defined twice; list all its upstreams in one route")]
    Duplicate {
        /// Path of the route.
        path: String,
    },
    /// An upgrade to HTTP, whose requests no route would check.
    #[error("route `{path}`: upgrades cannot contain `{upgrade}`: its requests would bypass all checks")]
    Upgrade {
        /// Path of the route.
        path: String,
        /// The protocol.
        upgrade: String,
    },
    /// The upstreams are misconfigured.
    #[error("route `{path}`: {source}")]
    Upstream {
        /// Path of the route.
        path: String,
        /// The error in their configuration.
        source: UpstreamConfigError,
    },
}

impl RouteError {
    /// Returns the configured path of the route.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Header { path, .. }
            | Self::Method { path, .. }
            | Self::Path { path, .. }
            | Self::PathExtras { path }
            | Self::Pattern { path, .. }
            | Self::Duplicate { path }
            | Self::Upgrade { path, .. }
            | Self::Upstream { path, .. } => path,
        }
    }
}
