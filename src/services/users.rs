//! Users: made, changed and deleted, by registration and from the command line.

use std::sync::Arc;

use email_address::{EmailAddress, Options};
use secrecy::SecretString;

use super::crypto;
use super::password::{PasswordError, PasswordHasher};
use super::store::{PasswordChange, SessionTermination, StoreError, UserStore};
use crate::client_info::ClientInfo;
use crate::clock::Clock;
use crate::models::session::{EndReason, SessionId};
use crate::models::user::{Role, User, UserId};

/// The most characters a name may have.
pub const NAME_MAX: usize = 64;

/// What a password must not be made of, besides the user's own address and name.
const PRODUCT: &str = "sekisho";

/// The users of one store.
///
/// What is changed here ends sessions in the store. Their access tokens are refused by processes that
/// follow it ([`Revocations::run_poller`](super::revocations::Revocations::run_poller)), this one too.
#[derive(Clone)]
pub struct Users {
    store: Arc<dyn UserStore>,
    passwords: Arc<PasswordHasher>,
    clock: Arc<dyn Clock>,
}

/// A user to be made.
#[derive(Debug)]
pub struct NewUser {
    /// The address.
    pub email: String,
    /// What to call the user.
    pub name: Option<String>,
    /// What the user may do.
    pub role: Role,
    /// The password.
    pub password: SecretString,
}

/// A user whose password was hashed elsewhere.
#[derive(Debug)]
pub struct HashedUser {
    /// The address, in lower case.
    pub email: String,
    /// What to call the user.
    pub name: Option<String>,
    /// What the user may do.
    pub role: Role,
    /// The hash, in a format that [`PasswordHasher`] verifies.
    pub hashed_password: SecretString,
    /// Whether the user may not sign in.
    pub disabled: bool,
}

/// Why a user was not made or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// Not an address.
    #[error("{0:?} is not an email address")]
    Email(String),
    /// A name that is empty, too long, or holds control characters.
    #[error("a name has 1 to {NAME_MAX} characters and no control characters")]
    Name,
    /// The password is not acceptable, or could not be hashed.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The operating system gave no random bytes.
    #[error("no random bytes")]
    Random,
    /// The store did not answer, or holds that address already.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address to import is another user's already.
    #[error("there is a user {0} already; nothing was imported")]
    Taken(String),
    /// There is no such user.
    #[error("there is no user {0}")]
    Unknown(String),
}

impl Users {
    /// The users in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn UserStore>, passwords: Arc<PasswordHasher>, clock: Arc<dyn Clock>) -> Self {
        Self { store, passwords, clock }
    }

    /// Makes a user.
    ///
    /// # Errors
    ///
    /// [`UserError`] says what is wrong; [`StoreError::Conflict`] if the address is taken.
    pub async fn create(&self, new: NewUser) -> Result<User, UserError> {
        let email = email(&new.email)?;
        let name = new.name.map(|name| checked_name(&name)).transpose()?;
        self.check_password(&new.password, &email, name.as_deref()).await?;
        let user = User {
            id: random_id()?,
            hashed_password: self.passwords.hash(&new.password).await?,
            role: new.role,
            disabled_at: None,
            created_at: self.clock.now(),
            email,
            name,
        };
        self.store.insert_users(std::slice::from_ref(&user)).await?;
        Ok(user)
    }

    /// Takes over users with their hashes, all or none, and returns how many.
    ///
    /// # Errors
    ///
    /// [`UserError::Taken`] names an address that is taken.
    pub async fn import(&self, users: Vec<HashedUser>) -> Result<usize, UserError> {
        let now = self.clock.now();
        let users = users
            .into_iter()
            .map(|user| {
                Ok(User {
                    id: random_id()?,
                    email: email(&user.email)?,
                    name: user.name,
                    hashed_password: user.hashed_password,
                    role: user.role,
                    disabled_at: user.disabled.then_some(now),
                    created_at: now,
                })
            })
            .collect::<Result<Vec<_>, UserError>>()?;
        match self.store.insert_users(&users).await {
            Ok(()) => Ok(users.len()),
            Err(error @ StoreError::Conflict(_)) => {
                Err(self.first_taken(&users).await?.unwrap_or(error.into()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Which of these addresses a user has already.
    async fn first_taken(&self, users: &[User]) -> Result<Option<UserError>, UserError> {
        for user in users {
            if self.store.find_user_by_email(&user.email).await?.is_some() {
                return Ok(Some(UserError::Taken(user.email.clone())));
            }
        }
        Ok(None)
    }

    /// All users, by address.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn list(&self) -> Result<Vec<User>, UserError> {
        Ok(self.store.list_users().await?)
    }

    /// The user with this address, in any case.
    ///
    /// # Errors
    ///
    /// [`UserError::Unknown`], or a store that does not answer.
    pub async fn by_email(&self, address: &str) -> Result<User, UserError> {
        let found = self.store.find_user_by_email(&address.to_lowercase()).await?;
        found.ok_or_else(|| UserError::Unknown(address.to_owned()))
    }

    /// The user of this id.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn find(&self, id: UserId) -> Result<Option<User>, UserError> {
        Ok(self.store.find_user(id).await?)
    }

    /// Sets a password; the user's sessions end. Returns how many.
    ///
    /// # Errors
    ///
    /// [`UserError`] says what is wrong.
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
            termination: &self.ending(EndReason::PasswordChanged, by),
        };
        known(user, self.store.change_password(&change).await?)
    }

    /// Sets the role; unless it is the same, the user's sessions end. Returns how many.
    ///
    /// # Errors
    ///
    /// If the user is gone, or the store does not answer.
    pub async fn set_role(&self, user: &User, role: Role, by: &ClientInfo) -> Result<usize, UserError> {
        known(user, self.store.set_role(user.id, role, &self.ending(EndReason::RoleChanged, by)).await?)
    }

    /// Forbids the user to sign in; the user's sessions end. Returns how many.
    ///
    /// # Errors
    ///
    /// If the user is gone, or the store does not answer.
    pub async fn disable(&self, user: &User, by: &ClientInfo) -> Result<usize, UserError> {
        known(user, self.store.disable_user(user.id, &self.ending(EndReason::UserDisabled, by)).await?)
    }

    /// Lets the user sign in again.
    ///
    /// # Errors
    ///
    /// If the user is gone, or the store does not answer.
    pub async fn enable(&self, user: &User) -> Result<(), UserError> {
        let found = self.store.enable_user(user.id).await?;
        if found { Ok(()) } else { Err(UserError::Unknown(user.email.clone())) }
    }

    /// Deletes the user; the user's sessions end. Returns how many.
    ///
    /// # Errors
    ///
    /// If the user is gone, or the store does not answer.
    pub async fn delete(&self, user: &User, by: &ClientInfo) -> Result<usize, UserError> {
        known(user, self.store.delete_user(user.id, &self.ending(EndReason::UserDeleted, by)).await?)
    }

    /// Judges a new password for a user.
    pub(super) async fn check_password(
        &self,
        password: &SecretString,
        email: &str,
        name: Option<&str>,
    ) -> Result<(), PasswordError> {
        self.passwords.check_new(password, &[email, name.unwrap_or_default(), PRODUCT]).await
    }

    fn ending(&self, reason: EndReason, by: &ClientInfo) -> SessionTermination {
        SessionTermination::new(self.clock.now(), reason, by.clone())
    }
}

/// An address in the form in which users have it: lower case.
///
/// # Errors
///
/// [`UserError::Email`] if it isn't one.
pub fn email(text: &str) -> Result<String, UserError> {
    let address = text.to_lowercase();
    // RFC 5321, section 4.5.3.1.3: a path has at most 256 octets, two of them angle brackets.
    let legal = address.len() <= 254
        && !address.contains(char::is_control)
        && EmailAddress::parse_with_options(
            &address,
            Options::default().without_display_text().without_domain_literal(),
        )
        .is_ok();
    if legal { Ok(address) } else { Err(UserError::Email(text.chars().take(64).collect())) }
}

fn checked_name(name: &str) -> Result<String, UserError> {
    let name = name.trim();
    let legal = (1..=NAME_MAX).contains(&name.chars().count()) && !name.contains(char::is_control);
    if legal { Ok(name.to_owned()) } else { Err(UserError::Name) }
}

fn known(user: &User, ended: Option<Vec<SessionId>>) -> Result<usize, UserError> {
    ended.map(|sessions| sessions.len()).ok_or_else(|| UserError::Unknown(user.email.clone()))
}

fn random_id() -> Result<UserId, UserError> {
    crypto::random_id().map(UserId).map_err(|_| UserError::Random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_in_lower_case() {
        assert_eq!(email("Taro.Yamada@Example.JP").ok().as_deref(), Some("taro.yamada@example.jp"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let too_long = format!("{}@example.jp", "a".repeat(64 * 4));
        for text in
            ["", "taro", "taro@", "@example.jp", "a b@example.jp", "taro@exa mple.jp", "a@b\r\nc", &too_long]
        {
            assert!(email(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_trimmed_and_bounded() {
        assert_eq!(checked_name(" 山田 太郎 ").ok().as_deref(), Some("山田 太郎"));
        assert!(checked_name("  ").is_err());
        assert!(checked_name("a\u{1b}[2J").is_err());
        assert!(checked_name(&"山".repeat(NAME_MAX + 1)).is_err());
    }
}
