//! Signing in and out, as the article's `AuthService`.

use std::sync::Arc;

use secrecy::SecretString;

use super::password::{PasswordError, PasswordHasher};
use super::store::{PasswordChange, SessionFilter, StoreError, UserStore};
use super::token::{IssuedSession, SessionRequest, SignInError, Tokens};
use super::users::{NewUser, UserError, Users};
use crate::client_info::ClientInfo;
use crate::identity::Identity;
use crate::models::audit::AuditEvent;
use crate::models::session::{EndReason, Session, SessionId, SessionKind};
use crate::models::user::{User, UserId};

/// Signs users in and out.
#[derive(Clone)]
pub struct Auth {
    store: Arc<dyn UserStore>,
    passwords: Arc<PasswordHasher>,
    users: Users,
    tokens: Tokens,
    registration: Registration,
}

/// Who may make an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Registration {
    /// Only the command line does.
    #[default]
    Closed,
    /// Anyone.
    Open,
}

/// What a user signs in with.
#[derive(Debug)]
pub struct Credentials {
    /// The address, in any case.
    pub email: String,
    /// The password.
    pub password: SecretString,
}

/// Why nobody was signed in or out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// Unknown user, wrong password or disabled account: nobody is told which.
    #[error("wrong address or password")]
    Credentials,
    /// The session of a token that is still good is not in the database.
    #[error("the session is gone")]
    SessionGone,
    /// The password is not acceptable, or can't be checked now.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Accounts are made by the operator.
    #[error("registration is closed")]
    RegistrationClosed,
    /// No session could be made.
    #[error(transparent)]
    SignIn(SignInError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such session, or it is another user's.
    #[error("there is no such session")]
    UnknownSession,
    /// No user could be made.
    #[error(transparent)]
    User(#[from] UserError),
    /// The user of a token that is still good has been deleted.
    #[error("the user is gone")]
    UserGone,
}

impl Auth {
    /// Signs the users of `store` in, with sessions of `tokens`.
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

    /// Signs a user in, and ends the session `replaces`, whose tokens came with the request.
    ///
    /// # Errors
    ///
    /// [`AuthError::Credentials`] for unknown users, wrong passwords and disabled accounts alike,
    /// after the same work.
    pub async fn sign_in(
        &self,
        credentials: &Credentials,
        kind: SessionKind,
        client: ClientInfo,
        replaces: Option<SessionId>,
    ) -> Result<(User, IssuedSession), AuthError> {
        let by = client.clone();
        let user = self.authenticate(credentials, &by).await.inspect_err(|error| {
            tracing::info!(address = ?by.address, %error, session_event = "login_failed", "a sign-in failed");
        })?;
        let sign_in = SessionRequest {
            user: user.id,
            email: &user.email,
            roles: user.role.roles(),
            kind,
            client,
            hashed_password: Some(&user.hashed_password),
            replaces,
        };
        let issued = self.tokens.sign_in(sign_in).await.inspect_err(|error| {
            if matches!(error, SignInError::Refused) {
                self.tokens.audit().record_failed_login(Some(user.id), &by);
            }
        })?;
        tracing::info!(user = %user.id, session = %issued.session.id, address = ?by.address, session_event = "login", "signed in");
        Ok((user, issued))
    }

    /// Makes an account.
    ///
    /// # Errors
    ///
    /// [`AuthError::RegistrationClosed`], or what is wrong with the new user.
    pub async fn register(&self, new: NewUser, client: &ClientInfo) -> Result<User, AuthError> {
        if self.registration == Registration::Closed {
            return Err(AuthError::RegistrationClosed);
        }
        let user = self.users.create(new).await?;
        tracing::info!(user = %user.id, session_event = "registered", "registered");
        if let Err(error) = self.tokens.audit().record(AuditEvent::Registered, user.id, client).await {
            // The account is there all the same.
            tracing::error!(error = &error as &dyn std::error::Error, user = %user.id, "the audit lacks a registration");
        }
        Ok(user)
    }

    /// Sets a new password. The user's other sessions end, this one goes on.
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
        let user = self.user_of(identity).await?;
        let verified = self.passwords.verify(current, Some(&user.hashed_password)).await?;
        if !verified.ok {
            return Err(AuthError::Credentials);
        }
        self.users.check_password(new, &user.email, user.name.as_deref()).await?;
        let new = self.passwords.hash(new).await?;
        // Not before: the hash may have had to wait for its turn.
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

    /// Ends these sessions, as far as there are such.
    ///
    /// # Errors
    ///
    /// If the store does not answer: then no cookie may be cleared.
    pub async fn sign_out(&self, sessions: &[SessionId], client: &ClientInfo) -> Result<(), AuthError> {
        for &session in sessions {
            if self.tokens.terminate(session, EndReason::LoggedOut, client).await? {
                tracing::info!(%session, session_event = "logged_out", "signed out");
            }
        }
        Ok(())
    }

    /// Ends all sessions of a user.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn sign_out_everywhere(
        &self,
        identity: &Identity,
        client: &ClientInfo,
    ) -> Result<(), AuthError> {
        let which = SessionFilter::User(user_id(identity)?);
        let ended = self.tokens.terminate_matching(&which, EndReason::LoggedOut, client).await?;
        tracing::info!(user = %identity.subject, ended = ended.len(), session_event = "logged_out", "signed out everywhere");
        Ok(())
    }

    /// The user's sessions that live.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn sessions(&self, identity: &Identity) -> Result<Vec<Session>, AuthError> {
        Ok(self.tokens.live_sessions(user_id(identity)?).await?)
    }

    /// Ends one of the user's sessions.
    ///
    /// # Errors
    ///
    /// [`AuthError::UnknownSession`] if it isn't one of the user's that live.
    pub async fn end_session(
        &self,
        identity: &Identity,
        session: SessionId,
        client: &ClientInfo,
    ) -> Result<(), AuthError> {
        let own = self.sessions(identity).await?.into_iter().any(|own| own.id == session);
        if own && self.tokens.terminate(session, EndReason::LoggedOut, client).await? {
            return Ok(());
        }
        Err(AuthError::UnknownSession)
    }

    /// The user and the session of a signed-in request.
    ///
    /// # Errors
    ///
    /// [`AuthError::UserGone`] or [`AuthError::SessionGone`] if that is so by now.
    pub async fn current_session(&self, identity: &Identity) -> Result<(User, Session), AuthError> {
        let user = self.user_of(identity).await?;
        let session = self.tokens.find(identity.session).await?.ok_or(AuthError::SessionGone)?;
        Ok((user, session))
    }

    /// The tokens of the sessions.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The work is the same whoever asks: the password is verified before anything else is looked
    /// at, for unknown users too.
    async fn authenticate(&self, credentials: &Credentials, client: &ClientInfo) -> Result<User, AuthError> {
        let found = self.store.find_user_by_email(&credentials.email.to_lowercase()).await?;
        let stored = found.as_ref().map(|user| &user.hashed_password);
        let verified = self.passwords.verify(&credentials.password, stored).await?;
        let known = found.as_ref().map(|user| user.id);
        let Some(user) = found.filter(|user| verified.ok && user.disabled_at.is_none()) else {
            self.tokens.audit().record_failed_login(known, client);
            return Err(AuthError::Credentials);
        };
        if verified.needs_rehash { self.rehash(user, &credentials.password).await } else { Ok(user) }
    }

    /// Stores the password's hash anew, before the session is made: it is made on the condition that
    /// the user has that hash.
    async fn rehash(&self, user: User, password: &SecretString) -> Result<User, AuthError> {
        let new = self.passwords.hash(password).await?;
        if self.store.rehash(user.id, &user.hashed_password, &new).await? {
            return Ok(User { hashed_password: new, ..user });
        }
        // Another sign-in was faster, or the password was changed: the condition will tell.
        let found = self.store.find_user(user.id).await?.ok_or(AuthError::Credentials)?;
        let verified = self.passwords.verify(password, Some(&found.hashed_password)).await?;
        if verified.ok { Ok(found) } else { Err(AuthError::Credentials) }
    }

    async fn user_of(&self, identity: &Identity) -> Result<User, AuthError> {
        let found = self.store.find_user(user_id(identity)?).await?;
        found.ok_or(AuthError::UserGone)
    }
}

fn user_id(identity: &Identity) -> Result<UserId, AuthError> {
    identity.subject.parse().map_err(|_| AuthError::UserGone)
}

impl From<SignInError> for AuthError {
    /// A user who was disabled, or whose password was changed, while it was being checked is told
    /// what one is told who comes a moment later.
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Refused => Self::Credentials,
            SignInError::Store(error) => Self::Store(error),
            other => Self::SignIn(other),
        }
    }
}
