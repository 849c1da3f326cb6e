//! Identity headers: the signed-in user, for upstreams.

use http::HeaderName;

use super::error::ProxyError;
use super::header_writer::HeaderWriter;
use crate::identity::Identity;

/// Names of the headers that carry the user's identity to an upstream. `None` omits that header.
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
    /// Header for the user's id.
    pub user: Option<HeaderName>,
    /// Header for the user's e-mail address.
    pub email: Option<HeaderName>,
    /// Header for the user's roles, separated by commas.
    pub groups: Option<HeaderName>,
}

impl IdentityHeaders {
    /// `X-Forwarded-User`, `X-Forwarded-Email` and `X-Forwarded-Groups`.
    pub const X_FORWARDED: Self =
        Self::from_static("x-forwarded-user", "x-forwarded-email", "x-forwarded-groups");

    /// `X-Auth-Request-User`, `X-Auth-Request-Email` and `X-Auth-Request-Groups`, as oauth2-proxy sends
    /// them.
    pub const X_AUTH_REQUEST: Self =
        Self::from_static("x-auth-request-user", "x-auth-request-email", "x-auth-request-groups");

    /// `Remote-User`, `Remote-Email` and `Remote-Groups`, as Authelia sends
    /// them.
    pub const REMOTE: Self = Self::from_static("remote-user", "remote-email", "remote-groups");

    /// No identity headers.
    pub const NONE: Self = Self { user: None, email: None, groups: None };

    const fn from_static(user: &'static str, email: &'static str, groups: &'static str) -> Self {
        Self {
            user: Some(HeaderName::from_static(user)),
            email: Some(HeaderName::from_static(email)),
            groups: Some(HeaderName::from_static(groups)),
        }
    }

    /// Returns the configured names.
    pub(super) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        [&self.user, &self.email, &self.groups].into_iter().flatten()
    }

    /// Checks that the identity can be written into headers.
    ///
    /// An illegal value is an error. If the header were left out, the upstream would treat the request as
    /// anonymous.
    pub(super) fn check(&self, identity: &Identity) -> Result<(), ProxyError> {
        // RFC 9110, section 5.5. The fold has no early exit, so that the compiler vectorizes it.
        let is_legal = |byte: u8| (byte >= b' ' && byte != 0x7f) || byte == b'\t';
        let is_legal_value = |value: &str| value.bytes().fold(true, |legal, byte| legal & is_legal(byte));
        if self.values(identity).all(|(_, value)| is_legal_value(value)) {
            Ok(())
        } else {
            Err(ProxyError::IdentityUnusable)
        }
    }

    /// Writes the headers of an identity that passed [`check`](Self::check). Empty values are omitted.
    pub(super) fn write_to(&self, identity: &Identity, writer: &mut impl HeaderWriter) {
        for (name, value) in self.values(identity).filter(|(_, value)| !value.is_empty()) {
            writer.add(name, value.as_bytes());
        }
    }

    fn values<'a>(&'a self, identity: &'a Identity) -> impl Iterator<Item = (&'a HeaderName, &'a str)> {
        let values = [
            (&self.user, &*identity.subject),
            (&self.email, &*identity.email),
            (&self.groups, identity.roles.as_str()),
        ];
        values.into_iter().filter_map(|(name, value)| Some((name.as_ref()?, value)))
    }
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self::X_FORWARDED
    }
}
