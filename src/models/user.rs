//! A user who may sign in.

use std::fmt;
use std::str::FromStr;

use secrecy::SecretString;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::identity::Roles;

/// A user's id: random, immutable, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub Uuid);

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for UserId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What a user may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything, writing movies included.
    Admin,
    /// Reading.
    #[default]
    User,
}

impl Role {
    /// The word: `admin` or `user`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::User => "user",
        }
    }

    /// The role of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Admin, Self::User].into_iter().find(|role| role.as_str() == word)
    }

    /// As the set of roles that tokens and identity headers carry.
    #[must_use]
    pub fn roles(self) -> Roles {
        Roles::from_list(self.as_str()).unwrap_or_default()
    }
}

/// One user.
#[derive(Clone, Debug)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// The address, in lower case; no two users share one.
    pub email: String,
    /// What to call the user.
    pub name: Option<String>,
    /// The bcrypt hash: `$2b$`, `$2a$`, `$2y$` or passlib's `$bcrypt-sha256$`.
    pub hashed_password: SecretString,
    /// What the user may do.
    pub role: Role,
    /// Since when the user may not sign in.
    pub disabled_at: Option<OffsetDateTime>,
    /// When the user was created.
    pub created_at: OffsetDateTime,
}
