//! The settings that all routes of a proxy share.

use std::fmt;
use std::sync::Arc;

use super::cookies::ReservedCookies;
use super::long_lived::LongLivedStreams;
use super::upstream_tokens::UpstreamTokens;
use super::via::Via;

/// Settings of a [`Proxy`](super::Proxy) that apply to every route.
#[derive(Clone)]
pub(super) struct ProxySettings {
    pub(super) reserved_cookies: ReservedCookies,
    pub(super) streams: LongLivedStreams,
    pub(super) upstream_tokens: Option<Arc<dyn UpstreamTokens>>,
    pub(super) via: Via,
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxySettings")
            .field("reserved_cookies", &self.reserved_cookies)
            .field("streams", &self.streams)
            .field("issues_tokens", &self.upstream_tokens.is_some())
            .field("via", &self.via)
            .finish()
    }
}
