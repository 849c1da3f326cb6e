//! Tokens in the user's name for upstreams that verify tokens themselves.

use std::sync::Arc;

use bytes::Bytes;

use super::crypto;
use super::keys::Algorithm;
use super::token_cache::upstream::UpstreamTokenCache;
use super::token_issuer::TokenIssuer;
use crate::identity::Identity;
use crate::models::session::TokenId;

/// Issues tokens for upstreams, and caches them on each thread.
pub struct UpstreamTokens {
    issuer: Arc<TokenIssuer>,
    cache: UpstreamTokenCache,
}

impl UpstreamTokens {
    pub(super) fn new(issuer: Arc<TokenIssuer>) -> Self {
        Self { issuer, cache: UpstreamTokenCache::new() }
    }

    /// Returns an `Authorization` value, `Bearer` and a token for `audience` in the user's name. One
    /// access token of the user yields the same value until it expires.
    ///
    /// Returns `None` if the signing key is for HS256, since an upstream that holds the key could
    /// forge sessions, or if the operating system returns no random bytes.
    #[must_use]
    pub fn bearer(&self, identity: &Identity, audience: &str) -> Option<Bytes> {
        let now = self.issuer.clock.now();
        let keys = self.issuer.keys.load();
        if let Some(bearer) = self.cache.find(identity, audience, &keys, now) {
            return Some(bearer);
        }
        let key = Some(keys.signing(self.issuer.signing_time(now)));
        let key = key.filter(|key| key.algorithm() != Algorithm::Hs256)?;
        let id = TokenId(crypto::random_id().ok()?);
        // Upstreams have wall clocks.
        let wall = self.issuer.clock.wall();
        let times = (wall, wall + (identity.expires_at - now));
        let token = self.issuer.access.mint_for_upstream(key, identity, audience, id, times).ok()?;
        let bearer = Bytes::from(format!("Bearer {token}"));
        self.cache.insert(identity, audience, &keys, now, &bearer);
        Some(bearer)
    }
}

impl std::fmt::Debug for UpstreamTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamTokens").finish_non_exhaustive()
    }
}
