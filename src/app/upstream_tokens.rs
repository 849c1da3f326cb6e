//! Tokens in the user's name for upstreams that check them.

use std::sync::Arc;

use http::HeaderValue;

use crate::identity::Identity;
use crate::proxy::BearerTokenSource;
use crate::services::token::Tokens;

/// Mints tokens, each for one audience.
pub(super) struct UpstreamTokenIssuer {
    pub(super) tokens: Tokens,
}

impl UpstreamTokenIssuer {
    pub(super) fn for_audience(&self, audience: &str) -> Arc<dyn BearerTokenSource> {
        Arc::new(AudienceTokenIssuer { tokens: self.tokens.clone(), audience: audience.to_owned() })
    }
}

struct AudienceTokenIssuer {
    tokens: Tokens,
    audience: String,
}

impl BearerTokenSource for AudienceTokenIssuer {
    fn mint(&self, identity: &Identity) -> Option<HeaderValue> {
        let Some(bearer) = self.tokens.bearer_for_upstream(identity, &self.audience) else {
            let audience = self.audience.as_str();
            tracing::error!(audience, "no token for the upstream: is the key that signs a shared one?");
            return None;
        };
        let mut value = HeaderValue::from_maybe_shared(bearer).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}
