//! Errors in the settings of a route.

use http::{HeaderName, Method};

use super::path::BadPath;
use super::upstream::UpstreamConfigError;

/// A route table that makes no sense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// A header that no route may change, or by which none may tell the user.
    #[error("route `{path}`: {key} can't name `{name}`: {reason}")]
    Header {
        /// The route.
        path: String,
        /// Which of its settings.
        key: &'static str,
        /// The header.
        name: HeaderName,
        /// Why not.
        reason: &'static str,
    },
    /// A method that no route lets through.
    #[error("route `{path}`: methods can't name {method}: it is never forwarded")]
    Method {
        /// The route.
        path: String,
        /// The method.
        method: Method,
    },
    /// A path that no request can have.
    #[error("route `{path}`: not a path that can be matched: {reason}")]
    Path {
        /// The route.
        path: String,
        /// What is wrong.
        reason: BadPath,
    },
    /// A path with `;`, `?` or `#`.
    #[error("route `{path}`: a route's path has no `;` parameters, query or fragment")]
    PathExtras {
        /// The route.
        path: String,
    },
    /// Two routes of one path.
    #[error("route `{path}` is there twice; put all its upstreams in one")]
    Twice {
        /// The route.
        path: String,
    },
    /// An upgrade to a protocol by which a client could ask the upstream for anything.
    #[error(
        "route `{path}`: `{upgrade}` takes requests, which nobody would check: leave it out of `upgrades`"
    )]
    Upgrade {
        /// The route.
        path: String,
        /// The protocol.
        upgrade: String,
    },
    /// The upstreams are misconfigured.
    #[error("route `{path}`: {source}")]
    Upstream {
        /// The route.
        path: String,
        /// The error in their configuration.
        source: UpstreamConfigError,
    },
}

impl RouteError {
    /// The path of the route at fault, as it was given.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Header { path, .. }
            | Self::Method { path, .. }
            | Self::Path { path, .. }
            | Self::PathExtras { path }
            | Self::Twice { path }
            | Self::Upgrade { path, .. }
            | Self::Upstream { path, .. } => path,
        }
    }
}
