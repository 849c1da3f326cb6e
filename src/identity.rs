//! Who is asking: the only words that layer, proxy and handlers share.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Part of an [`Identity`], so the layer can name it without knowing the rows.
pub use crate::models::session::SessionId;

/// The user and session that a valid access token speaks for.
///
/// The layer puts it into a request's extensions; handlers take it with
/// [`CurrentUser`](crate::layer::CurrentUser), the proxy turns it into identity headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user's id, immutable and never used again (`sub`).
    pub subject: Arc<str>,
    /// The session the token belongs to (`sid`).
    pub session: SessionId,
    /// The user's address, in lower case.
    pub email: Arc<str>,
    /// What the user may do.
    pub roles: Roles,
    /// When the access token expires (`exp`). The session goes on after it.
    pub expires_at: OffsetDateTime,
}

/// A set of role names, kept as the comma-separated list in which proxies hand them on.
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
    /// The roles of these names; `None` if a name is empty or holds anything but visible ASCII, a
    /// comma, a quote or a backslash (which JSON would escape).
    #[must_use]
    pub fn new<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Option<Self> {
        let mut list = String::new();
        for name in names {
            push_role(&mut list, name.as_ref())?;
        }
        Some(Self(list.into()))
    }

    /// The roles in a comma-separated list, as [`as_str`](Self::as_str) gives it.
    #[must_use]
    pub fn from_list(list: &str) -> Option<Self> {
        if list.is_empty() {
            return Some(Self::default());
        }
        Self::new(list.split(','))
    }

    /// Whether `role` is among them.
    #[must_use]
    pub fn contains(&self, role: &str) -> bool {
        self.iter().any(|name| name == role)
    }

    /// The names, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').filter(|name| !name.is_empty())
    }

    /// The comma-separated list.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn push_role(list: &mut String, name: &str) -> Option<()> {
    let legal = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !br#",\""#.contains(&b));
    if !legal {
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
                let mut list = String::with_capacity(ORDINARY);
                while let Some(name) = names.next_element::<&str>()? {
                    push_role(&mut list, name).ok_or_else(|| serde::de::Error::custom("not a role name"))?;
                }
                Ok(Roles(list.into()))
            }
        }

        /// Room for a few names.
        const ORDINARY: usize = 64;

        deserializer.deserialize_seq(Names)
    }
}
