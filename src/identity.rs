//! User, session, roles and claims of a request.

mod claims;
mod subject;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

pub use self::claims::{Claims, InvalidClaims, NoClaims};
pub use self::subject::{InvalidSubject, Subject};

/// The user and session of a valid access token.
///
/// The layer adds it to a request's extensions. Handlers take it with
/// [`CurrentUser`](crate::layer::CurrentUser), and the proxy converts it into identity headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user's id (`sub`). It never changes and is never reused.
    pub subject: Subject,
    /// The session of the token (`sid`).
    pub session: SessionId,
    /// The user's email address, in lower case.
    pub email: Arc<str>,
    /// The user's roles.
    pub roles: Roles,
    /// The application's own claims (`claims`).
    pub claims: Claims,
    /// The expiry of the access token (`exp`). The session continues after it.
    pub expires_at: OffsetDateTime,
}

/// A session id: 16 random bytes, written as a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub Uuid);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SessionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A list of role names, stored as the comma-separated text that the proxy sends to upstreams.
///
/// ```
/// use sekisho::identity::Roles;
///
/// let roles = Roles::new(["user", "editor"])?;
/// assert!(roles.contains("editor"));
/// assert_eq!(roles.as_str(), "user,editor");
/// assert!(Roles::new(["a,b"]).is_err());
/// # Ok::<(), sekisho::identity::InvalidRole>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles(Arc<str>);

impl Roles {
    /// Creates roles from their names.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidRole::Name`] if a name is empty or contains a comma, a quote, a backslash (which JSON
    /// would escape), or anything but visible ASCII.
    pub fn new<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Result<Self, InvalidRole> {
        let mut list = String::new();
        for name in names {
            push_role(&mut list, name.as_ref())?;
        }
        Ok(Self(list.into()))
    }

    /// Parses a comma-separated list, as returned by [`as_str`](Self::as_str).
    ///
    /// The empty list has no roles.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn from_list(list: &str) -> Result<Self, InvalidRole> {
        if list.is_empty() {
            return Ok(Self::default());
        }
        Self::new(list.split(','))
    }

    /// Returns `true` if `role` is one of the roles.
    #[must_use]
    pub fn contains(&self, role: &str) -> bool {
        self.iter().any(|name| name == role)
    }

    /// Returns `true` if there is no role.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').filter(|name| !name.is_empty())
    }

    /// Returns the comma-separated list.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Reason why a list of role names is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRole {
    /// A guard has an empty list, which could not restrict access.
    #[error("no role is named: name at least one")]
    Empty,
    /// The name cannot be part of a comma-separated list in a header.
    #[error("{0:?} is not a role name: use visible ASCII without commas, quotes and backslashes")]
    Name(String),
}

fn push_role(list: &mut String, name: &str) -> Result<(), InvalidRole> {
    let is_legal = |byte: u8| byte.is_ascii_graphic() && !br#",\""#.contains(&byte);
    if name.is_empty() || !name.bytes().all(is_legal) {
        return Err(InvalidRole::Name(name.to_owned()));
    }
    if !list.is_empty() {
        list.push(',');
    }
    list.push_str(name);
    Ok(())
}

impl Serialize for Roles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Roles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Roles;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of role names")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Roles, A::Error> {
                let mut list = String::with_capacity(TYPICAL_LEN);
                while let Some(name) = names.next_element::<&str>()? {
                    push_role(&mut list, name).map_err(serde::de::Error::custom)?;
                }
                Ok(Roles(list.into()))
            }
        }

        /// Length of a list of a few names, in bytes.
        const TYPICAL_LEN: usize = 64;

        deserializer.deserialize_seq(Names)
    }
}
