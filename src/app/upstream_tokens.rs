//! Access tokens in the user's name for upstreams that verify them.

use http::HeaderValue;

use crate::identity::Identity;
use crate::proxy::UpstreamTokens;
use crate::services::token::Tokens;

impl UpstreamTokens for Tokens {
    fn authorization(&self, identity: &Identity, audience: &str) -> Option<HeaderValue> {
        let Some(bearer) = self.upstream().bearer(identity, audience) else {
            tracing::error!(audience, "cannot issue upstream token: signing key is symmetric (HS256)");
            return None;
        };
        let mut value = HeaderValue::from_maybe_shared(bearer).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    fn is_own_token(&self, token: &str) -> bool {
        self.has_issued(token)
    }
}
