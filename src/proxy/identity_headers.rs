//! How an upstream is told who the user is.

use http::HeaderName;

use super::error::ProxyError;
use super::header_writer::HeaderWriter;
use crate::identity::Identity;

/// The headers by which an upstream learns who the user is. What is `None` it isn't told.
///
/// ```
/// use http::HeaderName;
/// use sekisho::proxy::{IdentityHeaders, RouteSpec};
///
/// let user = Some(HeaderName::from_static("x-shop-user"));
/// let identity = IdentityHeaders { user, ..IdentityHeaders::NONE };
/// let route = RouteSpec { identity, ..RouteSpec::new("/shop", ["http://127.0.0.1:3000"]) };
/// assert_eq!(route.identity.email, None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeaders {
    /// For the user's id.
    pub user: Option<HeaderName>,
    /// For the user's address.
    pub email: Option<HeaderName>,
    /// For the user's roles, separated by commas.
    pub groups: Option<HeaderName>,
}

impl IdentityHeaders {
    /// `X-Forwarded-User`, `X-Forwarded-Email` and `X-Forwarded-Groups`.
    pub const X_FORWARDED: Self = Self::of("x-forwarded-user", "x-forwarded-email", "x-forwarded-groups");

    /// `X-Auth-Request-User`, `X-Auth-Request-Email` and `X-Auth-Request-Groups`, as behind
    /// oauth2-proxy.
    pub const X_AUTH_REQUEST: Self =
        Self::of("x-auth-request-user", "x-auth-request-email", "x-auth-request-groups");

    /// `Remote-User`, `Remote-Email` and `Remote-Groups`, as behind Authelia.
    pub const REMOTE: Self = Self::of("remote-user", "remote-email", "remote-groups");

    /// None at all.
    pub const NONE: Self = Self { user: None, email: None, groups: None };

    const fn of(user: &'static str, email: &'static str, groups: &'static str) -> Self {
        Self {
            user: Some(HeaderName::from_static(user)),
            email: Some(HeaderName::from_static(email)),
            groups: Some(HeaderName::from_static(groups)),
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        [&self.user, &self.email, &self.groups].into_iter().flatten()
    }

    /// An upstream that sees no user takes the request for anonymous, so one that can't be written is an
    /// error, not left out.
    pub(super) fn check(&self, identity: &Identity) -> Result<(), ProxyError> {
        // RFC 9110, section 5.5. All of it, without an early end: so many bytes are looked at at once.
        let is_legal = |byte: u8| (byte >= b' ' && byte != 0x7f) || byte == b'\t';
        let all_legal = |value: &str| value.bytes().fold(true, |all, byte| all & is_legal(byte));
        let legal = self.values(identity).all(|(_, value)| all_legal(value));
        if legal { Ok(()) } else { Err(ProxyError::IdentityUnusable) }
    }

    /// Tells who the user is, who has been [checked](Self::check).
    pub(super) fn write_to(&self, identity: &Identity, to: &mut impl HeaderWriter) {
        for (name, value) in self.values(identity).filter(|(_, value)| !value.is_empty()) {
            to.add(name, value.as_bytes());
        }
    }

    fn values<'a>(&'a self, identity: &'a Identity) -> impl Iterator<Item = (&'a HeaderName, &'a str)> {
        let all = [
            (&self.user, &*identity.subject),
            (&self.email, &*identity.email),
            (&self.groups, identity.roles.as_str()),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.as_ref()?, value)))
    }
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self::X_FORWARDED
    }
}
