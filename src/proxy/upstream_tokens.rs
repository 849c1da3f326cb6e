//! The tokens that the gateway issues to its own upstreams.

use http::HeaderValue;

use crate::identity::Identity;

/// Issues the tokens that upstreams receive in the user's name.
///
/// A route selects its token by [`token_audience`](super::RouteSpec::token_audience).
pub trait UpstreamTokens: Send + Sync + 'static {
    /// Returns the `Authorization` value, `Bearer …`, of `identity` for the upstreams of `audience`.
    ///
    /// The value must be marked [sensitive](HeaderValue::set_sensitive). With `None` the request is
    /// forwarded without an `Authorization` header.
    fn authorization(&self, identity: &Identity, audience: &str) -> Option<HeaderValue>;

    /// Returns `true` for a token that this gateway has issued, expired or not.
    ///
    /// A route with [`pass_authorization`](super::RouteSpec::pass_authorization) does not forward such a token. The
    /// default implementation recognizes none.
    fn is_own_token(&self, _token: &str) -> bool {
        false
    }
}
