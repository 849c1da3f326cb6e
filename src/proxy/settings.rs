//! The settings that all routes of a proxy share.

use std::sync::Arc;

use super::cookies::ReservedCookies;
use super::session_use::SessionUses;
use super::upstream_tokens::UpstreamTokens;
use super::via::Via;
use crate::long_lived_streams::LongLivedStreams;

/// Settings of a [`Proxy`](super::Proxy) that apply to every route.
#[derive(Clone)]
pub(super) struct ProxySettings {
    pub(super) reserved_cookies: ReservedCookies,
    pub(super) streams: LongLivedStreams,
    pub(super) session_uses: SessionUses,
    pub(super) upstream_tokens: Option<Arc<dyn UpstreamTokens>>,
    pub(super) via: Via,
}
