//! User administration, for registration and the command line.

use std::sync::Arc;

use email_address::{EmailAddress, Options};
use secrecy::SecretString;

use super::crypto;
use super::password::{PasswordError, PasswordHasher};
use super::store::{PasswordChange, SessionTermination, StoreError, UserStore};
use crate::client_info::ClientInfo;
use crate::clock::Clock;
use crate::models::session::{EndReason, SessionId};
use crate::models::user::{PasswordOrigin, Role, User, UserId};

/// Number of existing users that the error of an import names.
const MAX_TAKEN: usize = 20;

/// Maximum length of a name in characters.
pub const MAX_NAME_CHARS: usize = 64;

/// Context word for the password policy, in addition to the user's address and name.
const PRODUCT: &str = "sekisho";

/// Creates, changes and deletes the users of a store.
///
/// Changes terminate sessions in the store. Processes that run a revocation poller then refuse the access
/// tokens of these sessions ([`Revocations::run_poller`](super::revocations::Revocations::run_poller)).
#[derive(Clone)]
pub struct Users {
    store: Arc<dyn UserStore>,
    passwords: Arc<PasswordHasher>,
    clock: Arc<dyn Clock>,
}

/// Data of a new user.
#[derive(Debug)]
pub struct NewUser {
    /// Email address.
    pub email: String,
    /// Display name.
    pub name: Option<String>,
    /// Role.
    pub role: Role,
    /// Password.
    pub password: SecretString,
}

/// Data of an imported user, with a password hash.
#[derive(Debug)]
pub struct HashedUser {
    /// Email address, in lower case.
    pub email: String,
    /// Display name.
    pub name: Option<String>,
    /// Role.
    pub role: Role,
    /// Hash in a format that [`PasswordHasher`] verifies.
    pub hashed_password: SecretString,
    /// True if the user may not sign in.
    pub disabled: bool,
}

/// Error of creating or changing a user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// The text is not an email address.
    #[error("{0:?} is not an email address")]
    Email(String),
    /// The name is empty, too long, or contains control characters.
    #[error("a name has 1 to {MAX_NAME_CHARS} characters and no control characters")]
    Name,
    /// The password is refused or cannot be hashed.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The operating system's random number generator failed.
    #[error("no random bytes")]
    Random,
    /// The store is unavailable, or the address is taken.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Imported addresses belong to existing users. If there are many, the list contains only the first ones.
    #[error("these users exist already, and nothing was imported: {}", .0.join(", "))]
    Taken(Vec<String>),
    /// There is no user with this address.
    #[error("there is no user {0}")]
    Unknown(String),
}

impl Users {
    /// Creates an administration of the users in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn UserStore>, passwords: Arc<PasswordHasher>, clock: Arc<dyn Clock>) -> Self {
        Self { store, passwords, clock }
    }

    /// Creates a user.
    ///
    /// # Errors
    ///
    /// [`UserError`] if the data are invalid; [`StoreError::Conflict`] if the address is taken.
    pub async fn create(&self, new: NewUser) -> Result<User, UserError> {
        let email = parse_email(&new.email)?;
        let name = new.name.map(|name| parse_name(&name)).transpose()?;
        self.check_password(&new.password, &email, name.as_deref()).await?;
        let user = User {
            id: random_id()?,
            hashed_password: self.passwords.hash(&new.password).await?,
            password_origin: PasswordOrigin::Own,
            role: new.role,
            disabled_at: None,
            created_at: self.clock.now(),
            email,
            name,
        };
        self.store.insert_users(std::slice::from_ref(&user)).await?;
        Ok(user)
    }

    /// Imports users with their password hashes, all or none. Returns their number.
    ///
    /// # Errors
    ///
    /// [`UserError::Taken`] with the addresses that are taken.
    pub async fn import(&self, users: Vec<HashedUser>) -> Result<usize, UserError> {
        let now = self.clock.now();
        let users = users
            .into_iter()
            .map(|user| {
                Ok(User {
                    id: random_id()?,
                    email: parse_email(&user.email)?,
                    name: user.name,
                    hashed_password: user.hashed_password,
                    password_origin: PasswordOrigin::Imported,
                    role: user.role,
                    disabled_at: user.disabled.then_some(now),
                    created_at: now,
                })
            })
            .collect::<Result<Vec<_>, UserError>>()?;
        match self.store.insert_users(&users).await {
            Ok(()) => Ok(users.len()),
            Err(error @ StoreError::Conflict(_)) => {
                let taken = self.taken(&users).await?;
                Err(if taken.is_empty() { error.into() } else { UserError::Taken(taken) })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the addresses that are taken, at most [`MAX_TAKEN`].
    async fn taken(&self, users: &[User]) -> Result<Vec<String>, UserError> {
        let mut taken = Vec::new();
        for user in users {
            if self.store.find_user_by_email(&user.email).await?.is_some() {
                taken.push(user.email.clone());
            }
            if taken.len() == MAX_TAKEN {
                break;
            }
        }
        Ok(taken)
    }

    /// Returns all users, sorted by address.
    ///
    /// # Errors
    ///
    /// If the store is unavailable.
    pub async fn list(&self) -> Result<Vec<User>, UserError> {
        Ok(self.store.list_users().await?)
    }

    /// Returns the user with an address, compared without regard to case.
    ///
    /// # Errors
    ///
    /// [`UserError::Unknown`], or if the store is unavailable.
    pub async fn find_by_email(&self, address: &str) -> Result<User, UserError> {
        let found = self.store.find_user_by_email(&address.to_lowercase()).await?;
        found.ok_or_else(|| UserError::Unknown(address.to_owned()))
    }

    /// Returns the user with an id.
    ///
    /// # Errors
    ///
    /// If the store is unavailable.
    pub async fn find(&self, id: UserId) -> Result<Option<User>, UserError> {
        Ok(self.store.find_user(id).await?)
    }

    /// Returns `true` if this is the password of the user.
    ///
    /// # Errors
    ///
    /// If the password cannot be hashed.
    pub async fn has_password(&self, user: &User, password: &SecretString) -> Result<bool, UserError> {
        Ok(self.passwords.verify_user(password, Some(user)).await?.ok)
    }

    /// Sets a password and terminates the user's sessions. Returns their number.
    ///
    /// # Errors
    ///
    /// [`UserError`] if the password is refused, the user is deleted or the store is unavailable.
    pub async fn set_password(
        &self,
        user: &User,
        password: &SecretString,
        by: &ClientInfo,
    ) -> Result<usize, UserError> {
        self.check_password(password, &user.email, user.name.as_deref()).await?;
        let new = self.passwords.hash(password).await?;
        let change = PasswordChange {
            user: user.id,
            old: None,
            new: &new,
            keep: None,
            termination: &self.termination(EndReason::PasswordChanged, by),
        };
        count_terminated(user, self.store.change_password(&change).await?)
    }

    /// Sets the role and, if it has changed, terminates the user's sessions. Returns their number.
    ///
    /// # Errors
    ///
    /// If the user has been deleted, or the store is unavailable.
    pub async fn set_role(&self, user: &User, role: Role, by: &ClientInfo) -> Result<usize, UserError> {
        let ended = self.store.set_role(user.id, role, &self.termination(EndReason::RoleChanged, by)).await?;
        count_terminated(user, ended)
    }

    /// Disables the user and terminates the user's sessions. Returns their number.
    ///
    /// # Errors
    ///
    /// If the user has been deleted, or the store is unavailable.
    pub async fn disable(&self, user: &User, by: &ClientInfo) -> Result<usize, UserError> {
        let ended = self.store.disable_user(user.id, &self.termination(EndReason::UserDisabled, by)).await?;
        count_terminated(user, ended)
    }

    /// Enables a disabled user.
    ///
    /// # Errors
    ///
    /// If the user has been deleted, or the store is unavailable.
    pub async fn enable(&self, user: &User) -> Result<(), UserError> {
        let found = self.store.enable_user(user.id).await?;
        if found { Ok(()) } else { Err(UserError::Unknown(user.email.clone())) }
    }

    /// Deletes the user and terminates the user's sessions. Returns their number.
    ///
    /// # Errors
    ///
    /// If the user has been deleted, or the store is unavailable.
    pub async fn delete(&self, user: &User, by: &ClientInfo) -> Result<usize, UserError> {
        let ended = self.store.delete_user(user.id, &self.termination(EndReason::UserDeleted, by)).await?;
        count_terminated(user, ended)
    }

    /// Checks a new password of a user against the policy.
    pub(super) async fn check_password(
        &self,
        password: &SecretString,
        email: &str,
        name: Option<&str>,
    ) -> Result<(), PasswordError> {
        self.passwords.check_new(password, &[email, name.unwrap_or_default(), PRODUCT]).await
    }

    fn termination(&self, reason: EndReason, by: &ClientInfo) -> SessionTermination {
        SessionTermination::new(self.clock.now(), reason, by.clone())
    }
}

/// Parses an email address and converts it to lower case, the form in which users are stored.
///
/// # Errors
///
/// [`UserError::Email`] if the text is not an address.
pub fn parse_email(text: &str) -> Result<String, UserError> {
    let address = text.to_lowercase();
    // RFC 5321, section 4.5.3.1.3: a path has at most 256 octets, including two angle brackets.
    let is_valid = address.len() <= 254
        && !address.contains(char::is_control)
        && EmailAddress::parse_with_options(
            &address,
            Options::default().without_display_text().without_domain_literal(),
        )
        .is_ok();
    if is_valid { Ok(address) } else { Err(UserError::Email(text.chars().take(64).collect())) }
}

fn parse_name(name: &str) -> Result<String, UserError> {
    let name = name.trim();
    let is_valid = (1..=MAX_NAME_CHARS).contains(&name.chars().count()) && !name.contains(char::is_control);
    if is_valid { Ok(name.to_owned()) } else { Err(UserError::Name) }
}

/// Returns the number of terminated sessions, or an error if the user does not exist.
fn count_terminated(user: &User, ended: Option<Vec<SessionId>>) -> Result<usize, UserError> {
    ended.map(|sessions| sessions.len()).ok_or_else(|| UserError::Unknown(user.email.clone()))
}

fn random_id() -> Result<UserId, UserError> {
    crypto::random_id().map(UserId).map_err(|_| UserError::Random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_converted_to_lower_case() {
        assert_eq!(parse_email("Taro.Yamada@Example.JP").ok().as_deref(), Some("taro.yamada@example.jp"));
    }

    #[test]
    fn invalid_addresses_are_refused() {
        let too_long = format!("{}@example.jp", "a".repeat(64 * 4));
        for text in
            ["", "taro", "taro@", "@example.jp", "a b@example.jp", "taro@exa mple.jp", "a@b\r\nc", &too_long]
        {
            assert!(parse_email(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_trimmed_and_bounded() {
        assert_eq!(parse_name(" 山田 太郎 ").ok().as_deref(), Some("山田 太郎"));
        assert!(parse_name("  ").is_err());
        assert!(parse_name("a\u{1b}[2J").is_err());
        assert!(parse_name(&"山".repeat(MAX_NAME_CHARS + 1)).is_err());
    }
}
