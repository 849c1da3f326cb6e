//! Sign-in, sign-out, registration and password changes.

use std::sync::Arc;

use secrecy::SecretString;

use super::password::{Caller, PasswordError, PasswordHasher};
use super::store::{PasswordChange, StoreError, UserStore};
use super::token::{IssuedSession, SessionRequest, SignInError, Tokens};
use super::users::{NewUser, UserError, Users};
use crate::client_info::ClientInfo;
use crate::identity::Identity;
use crate::models::audit::AuditEvent;
use crate::models::session::{EndReason, Session, SessionId, SessionKind};
use crate::models::user::{PasswordOrigin, User, UserId};

/// Authenticates users and manages their sessions.
#[derive(Clone)]
pub struct Auth {
    store: Arc<dyn UserStore>,
    passwords: Arc<PasswordHasher>,
    users: Users,
    tokens: Tokens,
    registration: Registration,
}

/// Policy for the creation of accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Registration {
    /// Only the command line creates accounts.
    #[default]
    Closed,
    /// Anyone may register.
    Open,
}

/// Credentials of a sign-in.
#[derive(Debug)]
pub struct Credentials {
    /// Email address, compared without regard to case.
    pub email: String,
    /// Password.
    pub password: SecretString,
}

/// Error of [`Auth`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// Unknown user, wrong password or disabled account. The error does not distinguish them.
    #[error("wrong address or password")]
    Credentials,
    /// The session of a valid access token is not in the database.
    #[error("the session does not exist")]
    SessionGone,
    /// The password is refused or cannot be checked.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Registration is closed.
    #[error("registration is closed")]
    RegistrationClosed,
    /// The session cannot be created.
    #[error(transparent)]
    SignIn(SignInError),
    /// The store is unavailable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The session does not exist or belongs to another user.
    #[error("there is no such session")]
    UnknownSession,
    /// The user cannot be created.
    #[error(transparent)]
    User(#[from] UserError),
    /// The user of a valid access token has been deleted.
    #[error("the user does not exist")]
    UserGone,
}

impl Auth {
    /// Creates a service for the users of `store` and the sessions of `tokens`.
    #[must_use]
    pub fn new(
        store: Arc<dyn UserStore>,
        passwords: Arc<PasswordHasher>,
        users: Users,
        tokens: Tokens,
        registration: Registration,
    ) -> Self {
        Self { store, passwords, users, tokens, registration }
    }

    /// Signs a user in and terminates the session `replaces`, whose tokens came with the request.
    ///
    /// A client with such a session comes before others in the queue of the password threads.
    ///
    /// # Errors
    ///
    /// [`AuthError::Credentials`] for unknown users, wrong passwords and disabled accounts, always after the
    /// same work.
    pub async fn sign_in(
        &self,
        credentials: &Credentials,
        kind: SessionKind,
        client: ClientInfo,
        replaces: Option<SessionId>,
    ) -> Result<(User, IssuedSession), AuthError> {
        let by = client.clone();
        let caller = replaces.map_or_else(Caller::current, Caller::Session);
        let user = self.authenticate(credentials, &by, caller).await.inspect_err(|error| {
            tracing::info!(address = by.address.map(tracing::field::display), %error, session_event = "login_failed", "sign-in failed");
        })?;
        let sign_in = SessionRequest {
            roles: user.role.roles(),
            kind,
            client,
            hashed_password: Some(&user.hashed_password),
            replaces,
            ..SessionRequest::new(user.id, &user.email)
        };
        let issued = self.tokens.sign_in(sign_in).await.inspect_err(|error| {
            if matches!(error, SignInError::Refused) {
                self.tokens.audit().record_failed_login(Some(user.id), &by);
            }
        })?;
        tracing::info!(user = %user.id, session = %issued.session.id, address = by.address.map(tracing::field::display), session_event = "login", "signed in");
        Ok((user, issued))
    }

    /// Creates an account.
    ///
    /// # Errors
    ///
    /// [`AuthError::RegistrationClosed`], or [`AuthError::User`] if the data are invalid.
    pub async fn register(&self, new: NewUser, client: &ClientInfo) -> Result<User, AuthError> {
        if self.registration == Registration::Closed {
            return Err(AuthError::RegistrationClosed);
        }
        let user = self.users.create(new).await?;
        tracing::info!(user = %user.id, session_event = "registered", "registered");
        if let Err(error) = self.tokens.audit().record(AuditEvent::Registered, user.id, client).await {
            // The account has been created nevertheless.
            tracing::error!(error = &error as &dyn std::error::Error, user = %user.id, "cannot record a registration in the audit log");
        }
        Ok(user)
    }

    /// Sets a new password and terminates the user's other sessions.
    ///
    /// # Errors
    ///
    /// [`AuthError::Credentials`] if the current password is wrong.
    pub async fn change_password(
        &self,
        identity: &Identity,
        current: &SecretString,
        new: &SecretString,
        client: &ClientInfo,
    ) -> Result<User, AuthError> {
        let user = self.find_user(identity).await?;
        let check = self.passwords.verify_user(current, Some(&user)).await?;
        if !check.ok {
            return Err(AuthError::Credentials);
        }
        self.users.check_password(new, &user.email, user.name.as_deref()).await?;
        let new = self.passwords.hash(new).await?;
        // Taken after hashing, which may have waited in the queue, so that the time is current.
        let ending = self.tokens.termination(EndReason::PasswordChanged, client);
        let change = PasswordChange {
            user: user.id,
            old: Some(&user.hashed_password),
            new: &new,
            keep: Some(identity.session),
            termination: &ending,
        };
        let ended = self.store.change_password(&change).await?.ok_or(AuthError::Credentials)?;
        self.tokens.revocations().mark_terminated(&ended, ending.end());
        tracing::info!(user = %user.id, ended = ended.len(), session_event = "password_changed", "password changed");
        Ok(user)
    }

    /// Returns `true` if this is the user's password.
    ///
    /// # Errors
    ///
    /// If the user is gone, the password queue is full, or the store is unavailable.
    pub async fn has_password(
        &self,
        identity: &Identity,
        password: &SecretString,
    ) -> Result<bool, AuthError> {
        let user = self.find_user(identity).await?;
        Ok(self.users.has_password(&user, password).await?)
    }

    /// Terminates all sessions of a user.
    ///
    /// # Errors
    ///
    /// If the store is unavailable.
    pub async fn sign_out_everywhere(
        &self,
        identity: &Identity,
        client: &ClientInfo,
    ) -> Result<(), AuthError> {
        let ended = self.tokens.end_all(&identity.subject, None, EndReason::LoggedOut, client).await?;
        tracing::info!(user = %identity.subject, ended = ended.len(), session_event = "logged_out", "signed out everywhere");
        Ok(())
    }

    /// Terminates all sessions of a user but the present one. Returns their number.
    ///
    /// # Errors
    ///
    /// If the store is unavailable.
    pub async fn sign_out_others(
        &self,
        identity: &Identity,
        client: &ClientInfo,
    ) -> Result<usize, AuthError> {
        let kept = Some(identity.session);
        let ended = self.tokens.end_all(&identity.subject, kept, EndReason::LoggedOut, client).await?;
        tracing::info!(user = %identity.subject, ended = ended.len(), session_event = "logged_out", "other sessions signed out");
        Ok(ended.len())
    }

    /// Returns the active sessions of a user.
    ///
    /// # Errors
    ///
    /// If the store is unavailable.
    pub async fn sessions(&self, identity: &Identity) -> Result<Vec<Session>, AuthError> {
        Ok(self.tokens.sessions_of(&identity.subject).await?)
    }

    /// Terminates one session of a user.
    ///
    /// # Errors
    ///
    /// [`AuthError::UnknownSession`] if it is not an active session of the user.
    pub async fn end_session(
        &self,
        identity: &Identity,
        session: SessionId,
        client: &ClientInfo,
    ) -> Result<(), AuthError> {
        let is_own = self.sessions(identity).await?.iter().any(|active| active.id == session);
        if is_own && self.tokens.end(session, EndReason::LoggedOut, client).await? {
            return Ok(());
        }
        Err(AuthError::UnknownSession)
    }

    /// Returns the user and the session of a signed-in request.
    ///
    /// # Errors
    ///
    /// [`AuthError::UserGone`] or [`AuthError::SessionGone`] if they no longer exist.
    pub async fn current_session(&self, identity: &Identity) -> Result<(User, Session), AuthError> {
        let user = self.find_user(identity).await?;
        let session = self.tokens.find(identity.session).await?.ok_or(AuthError::SessionGone)?;
        Ok((user, session))
    }

    /// Returns the token service.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Checks credentials with constant work: the password is verified first, even for unknown users.
    async fn authenticate(
        &self,
        credentials: &Credentials,
        client: &ClientInfo,
        caller: Caller,
    ) -> Result<User, AuthError> {
        let found = self.store.find_user_by_email(&credentials.email.to_lowercase()).await?;
        let check = self.passwords.verify_user_for(caller, &credentials.password, found.as_ref()).await?;
        let known = found.as_ref().map(|user| user.id);
        let Some(user) = found.filter(|user| check.ok && user.disabled_at.is_none()) else {
            self.tokens.audit().record_failed_login(known, client);
            return Err(AuthError::Credentials);
        };
        if check.needs_rehash { self.rehash(user, &credentials.password).await } else { Ok(user) }
    }

    /// Replaces the stored hash. Runs before the session is created, because the store creates it only if
    /// the user still has the given hash.
    async fn rehash(&self, user: User, password: &SecretString) -> Result<User, AuthError> {
        let new = self.passwords.hash(password).await?;
        if self.store.rehash(user.id, &user.hashed_password, &new).await? {
            return Ok(User { hashed_password: new, password_origin: PasswordOrigin::Own, ..user });
        }
        // A concurrent sign-in has replaced the hash, or the password was changed.
        let found = self.store.find_user(user.id).await?.ok_or(AuthError::Credentials)?;
        let check = self.passwords.verify_user(password, Some(&found)).await?;
        if check.ok { Ok(found) } else { Err(AuthError::Credentials) }
    }

    async fn find_user(&self, identity: &Identity) -> Result<User, AuthError> {
        let found = self.store.find_user(user_id(identity)?).await?;
        found.ok_or(AuthError::UserGone)
    }
}

fn user_id(identity: &Identity) -> Result<UserId, AuthError> {
    UserId::try_from(&identity.subject).map_err(|_| AuthError::UserGone)
}

impl From<SignInError> for AuthError {
    /// A user disabled (or given a new password) during the check gets the same error as after it.
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Refused => Self::Credentials,
            SignInError::Store(error) => Self::Store(error),
            other => Self::SignIn(other),
        }
    }
}
