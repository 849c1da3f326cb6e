//! User accounts.

use std::fmt;
use std::str::FromStr;

use secrecy::SecretString;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::identity::Roles;

/// Id of a user: random, immutable and never reused.
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

/// Role of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// May do everything, including changes of movies.
    Admin,
    /// May read.
    #[default]
    User,
}

impl Role {
    /// Returns the stored name: `admin` or `user`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::User => "user",
        }
    }

    /// Returns the role with a stored name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Admin, Self::User].into_iter().find(|role| role.as_str() == word)
    }

    /// Returns the set of roles for tokens and identity headers.
    #[must_use]
    pub fn roles(self) -> Roles {
        Roles::from_list(self.as_str()).unwrap_or_default()
    }
}

/// Origin of a password hash. It decides how a plain bcrypt hash is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PasswordOrigin {
    /// Imported from another program, which may have hashed the beginning of a longer password.
    Imported,
    /// Computed here, over the whole password.
    #[default]
    Own,
}

impl PasswordOrigin {
    /// Returns the stored name: `imported` or `own`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Imported => "imported",
            Self::Own => "own",
        }
    }

    /// Returns the origin with a stored name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Imported, Self::Own].into_iter().find(|origin| origin.as_str() == word)
    }
}

/// A user.
#[derive(Clone, Debug)]
pub struct User {
    /// Id.
    pub id: UserId,
    /// Email address, in lower case and unique.
    pub email: String,
    /// Display name.
    pub name: Option<String>,
    /// Password hash: bcrypt (`$2b$`, `$2a$`, `$2y$`) or passlib's `$bcrypt-sha256$`.
    pub hashed_password: SecretString,
    /// Origin of the hash.
    pub password_origin: PasswordOrigin,
    /// Role.
    pub role: Role,
    /// Time at which the user was disabled.
    pub disabled_at: Option<OffsetDateTime>,
    /// Creation time.
    pub created_at: OffsetDateTime,
}
