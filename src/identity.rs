//! User, session and roles of a request.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// The user and session of a valid access token.
///
/// The layer adds it to a request's extensions. Handlers take it with
/// [`CurrentUser`](crate::layer::CurrentUser), and the proxy converts it into identity headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user's id (`sub`). It never changes and is never reused.
    pub subject: Arc<str>,
    /// The session of the token (`sid`).
    pub session: SessionId,
    /// The user's email address, in lower case.
    pub email: Arc<str>,
    /// The user's roles.
    pub roles: Roles,
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
/// let roles = Roles::new(["user", "editor"]).expect("legal names");
/// assert!(roles.contains("editor"));
/// assert_eq!(roles.as_str(), "user,editor");
/// assert!(Roles::new(["a,b"]).is_none());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles(Arc<str>);

impl Roles {
    /// Creates roles from their names.
    ///
    /// Returns `None` if a name is empty or contains a comma, a quote, a backslash (which JSON would
    /// escape), or anything but visible ASCII.
    #[must_use]
    pub fn new<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Option<Self> {
        let mut list = String::new();
        for name in names {
            push_role(&mut list, name.as_ref())?;
        }
        Some(Self(list.into()))
    }

    /// Parses a comma-separated list, as returned by [`as_str`](Self::as_str).
    ///
    /// Returns `None` as [`new`](Self::new) does. The empty list has no roles.
    #[must_use]
    pub fn from_list(list: &str) -> Option<Self> {
        if list.is_empty() {
            return Some(Self::default());
        }
        Self::new(list.split(','))
    }

    /// Returns `true` if `role` is one of the roles.
    #[must_use]
    pub fn contains(&self, role: &str) -> bool {
        self.iter().any(|name| name == role)
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

fn push_role(list: &mut String, name: &str) -> Option<()> {
    let is_legal = |byte: u8| byte.is_ascii_graphic() && !br#",\""#.contains(&byte);
    if name.is_empty() || !name.bytes().all(is_legal) {
        return None;
    }
    if !list.is_empty() {
        list.push(',');
    }
    list.push_str(name);
    Some(())
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
                    push_role(&mut list, name).ok_or_else(|| serde::de::Error::custom("not a role name"))?;
                }
                Ok(Roles(list.into()))
            }
        }

        /// Length of a list of a few names, in bytes.
        const TYPICAL_LEN: usize = 64;

        deserializer.deserialize_seq(Names)
    }
}
