//! User accounts.

use std::fmt;
use std::str::FromStr;

use secrecy::SecretString;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::identity::{Roles, Subject};

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

impl From<UserId> for Subject {
    fn from(id: UserId) -> Self {
        id.0.into()
    }
}

impl TryFrom<&Subject> for UserId {
    type Error = NotAUserId;

    /// Reads the id of a user of this server, exactly as it was written: one user has one subject.
    fn try_from(subject: &Subject) -> Result<Self, NotAUserId> {
        let id = subject.parse().map_err(|_| NotAUserId)?;
        if Subject::from(id) == *subject { Ok(id) } else { Err(NotAUserId) }
    }
}

/// Error of a subject that is not the id of a user of this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subject is not the id of a user of this server")]
pub struct NotAUserId;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_id_has_one_subject() {
        let id = UserId(Uuid::from_u128(0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8));
        let subject = Subject::from(id);
        assert_eq!(subject.as_str(), id.to_string());
        assert_eq!(UserId::try_from(&subject), Ok(id));
        let others = [
            "67E55044-10B1-426F-9247-BB680E5FE0C8",
            "67e5504410b1426f9247bb680e5fe0c8",
            "{67e55044-10b1-426f-9247-bb680e5fe0c8}",
            "42",
        ];
        for text in others {
            let subject = Subject::new(text).expect("a subject");
            assert_eq!(UserId::try_from(&subject), Err(NotAUserId), "{text}");
        }
    }
}
