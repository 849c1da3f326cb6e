//! What the rules need of a database, as traits, and the contract that every store keeps.
//!
//! Three stores implement them: [`MemoryStore`](super::memory::MemoryStore), `backend::sqlite` and
//! `backend::postgres`. `tests/it/store_contract.rs` runs the same suite over all three.
//!
//! # The contract
//!
//! 1. Not found is `Ok(None)`, `Ok(false)` or an empty list, never an error.
//! 2. A conditional write decides by its own condition, in one statement: of any number of racing
//!    callers at most one wins.
//! 3. What grants or ends access is on disk when the call returns. Rotations, settlements and
//!    replay counts may be lost in a crash, which [`SessionStore::catch_up`] and later tokens heal; so may
//!    purges and the ends of sessions that had expired, which the next purge does again.
//! 4. Ending an ended session changes nothing: the first reason stays.
//! 5. What begins or ends a session writes the audit in the same transaction: [`Login`] for a session
//!    that began, exactly one [`Ended`] for each that ended. A change to a user that ends the user's
//!    sessions writes one of its own, which names no session.
//! 6. A session stays until purged, also when its user is deleted.
//! 7. Times are kept to the microsecond.
//! 8. [`StoreError::Unavailable`] says nothing about what happened; the caller decides nothing by it.
//!
//! To add an operation: state it here, add it to the suite, then to the three stores.
//!
//! [`Ended`]: crate::models::audit::AuditEvent::Ended
//! [`Login`]: crate::models::audit::AuditEvent::Login

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use time::OffsetDateTime;

use crate::client_info::ClientInfo;
use crate::models::audit::{AuditEntry, AuditEvent};
use crate::models::movie::{Movie, MovieDetails, MovieId};
use crate::models::session::{
    AccessTokenRef, EndReason, Session, SessionEnd, SessionId, SessionKind, TokenId,
};
use crate::models::user::{Role, User, UserId};

/// Sessions.
#[async_trait]
pub trait SessionStore: AuditStore {
    /// Inserts a session, if its user may still sign in, and then ends those that give way to it.
    /// All of it is one transaction.
    async fn insert_session(&self, new: &NewSession<'_>) -> Result<InsertOutcome, StoreError>;

    /// Moves a session from one generation to the next, if it lives, is of [`Rotation::kind`], is at
    /// [`Rotation::from_generation`], and was last rotated no later than [`Rotation::max_rotated_at`].
    /// Returns the row as it is afterwards, or `None` if the condition did not hold.
    async fn rotate(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError>;

    /// Moves a session that is *behind* [`Rotation::from_generation`] (the database has lost its last writes)
    /// to the generation after it, if it lives and is of that kind. `max_rotated_at` is not looked at. Returns the row
    /// as it is afterwards, or `None` if the condition did not hold.
    async fn catch_up(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError>;

    /// The session of this id, ended ones and those of deleted users included.
    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError>;

    /// Notes that these tokens are in lasting use: a live session at the token's generation that
    /// nothing has settled yet is settled by it. Returns the live sessions at the token's generation
    /// that *another* token had settled already.
    async fn confirm_generation(&self, tokens: &[TokenUse]) -> Result<Vec<Session>, StoreError>;

    /// Adds to the sessions' counts of replays.
    async fn count_replays(&self, counts: &[(SessionId, u64)]) -> Result<(), StoreError>;

    /// Ends a session. `true` if this call did it: it was there and had not been ended (whether or
    /// not it had expired).
    async fn end_session(&self, id: SessionId, ending: &SessionTermination) -> Result<bool, StoreError>;

    /// Ends all sessions that `which` names and that have not been ended. Returns their ids.
    async fn end_sessions(
        &self,
        which: &SessionFilter,
        ending: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError>;

    /// The user's sessions that live at `now`, the latest rotated first.
    async fn live_sessions(&self, user: UserId, now: OffsetDateTime) -> Result<Vec<Session>, StoreError>;

    /// The sessions that `which` names, the latest created first, at most `limit`: those that live at
    /// `live_at`, or without it ended and expired ones too.
    async fn list_sessions(
        &self,
        which: &SessionFilter,
        live_at: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<Session>, StoreError>;

    /// The sessions that ended at `since` or later, with their ends.
    async fn ended_since(&self, since: OffsetDateTime) -> Result<Vec<(SessionId, SessionEnd)>, StoreError>;

    /// Looks at the sessions after `from`, in the order of their ids, at most `most` of them. Those
    /// that had expired by `expired_by` and were not ended yet are ended, at the time at which they
    /// expired. Returns the last one looked at, `None` if there was none.
    async fn end_expired(
        &self,
        from: SessionId,
        most: u32,
        expired_by: OffsetDateTime,
    ) -> Result<Option<SessionId>, StoreError>;

    /// Forgets sessions that ended before `before`, at most `most` of them. Returns how many.
    async fn purge_sessions(&self, before: OffsetDateTime, most: u32) -> Result<u64, StoreError>;

    /// The database's own clock.
    async fn database_time(&self) -> Result<OffsetDateTime, StoreError>;
}

/// What happened to whose access. Entries are added and, one day, purged; none is ever changed.
#[async_trait]
pub trait AuditStore: Send + Sync + 'static {
    /// Adds entries of what neither begins nor ends a session.
    async fn record(&self, entries: &[AuditEntry]) -> Result<(), StoreError>;

    /// What happened to a session, the latest first, at most `limit` entries.
    async fn session_audit(&self, session: SessionId, limit: u32) -> Result<Vec<AuditEntry>, StoreError>;

    /// Forgets entries from before `before`, at most `most` of them. Returns how many.
    async fn purge_audit(&self, before: OffsetDateTime, most: u32) -> Result<u64, StoreError>;
}

/// Users.
#[async_trait]
pub trait UserStore: Send + Sync + 'static {
    /// Inserts these users, all or none. [`StoreError::Conflict`] if an address is taken already
    /// or comes twice.
    async fn insert_users(&self, users: &[User]) -> Result<(), StoreError>;

    /// The user with this address (in lower case).
    async fn find_user_by_email(&self, email: &str) -> Result<Option<User>, StoreError>;

    /// The user of this id.
    async fn find_user(&self, id: UserId) -> Result<Option<User>, StoreError>;

    /// Whether there are users at all.
    async fn has_users(&self) -> Result<bool, StoreError>;

    /// All users, by address.
    async fn list_users(&self) -> Result<Vec<User>, StoreError>;

    /// Replaces a hash by another one of the same password: no session ends. `false` if the user is
    /// gone or the hash is no longer `old`.
    async fn rehash(&self, id: UserId, old: &SecretString, new: &SecretString) -> Result<bool, StoreError>;

    /// Sets a new password and ends the user's sessions but [`PasswordChange::keep`], in one
    /// transaction. `None` if the user is gone or the hash is no longer [`PasswordChange::old`];
    /// else the sessions ended.
    async fn change_password(
        &self,
        change: &PasswordChange<'_>,
    ) -> Result<Option<Vec<SessionId>>, StoreError>;

    /// Sets the role and ends the user's sessions, in one transaction. `None` if the user is gone;
    /// else the sessions ended (none if the user had that role already).
    async fn set_role(
        &self,
        id: UserId,
        role: Role,
        ending: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError>;

    /// Forbids the user to sign in and ends the user's sessions, in one transaction. `None` if the
    /// user is gone.
    async fn disable_user(
        &self,
        id: UserId,
        ending: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError>;

    /// Lets the user sign in again. `false` if the user is gone.
    async fn enable_user(&self, id: UserId) -> Result<bool, StoreError>;

    /// Deletes the user and ends the user's sessions, in one transaction. `None` if the user is gone.
    async fn delete_user(
        &self,
        id: UserId,
        ending: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError>;
}

/// Movies of the reference application.
#[async_trait]
pub trait MovieStore: Send + Sync + 'static {
    /// One page of the movies that match, and how many match in all.
    async fn list_movies(&self, query: &MovieQuery) -> Result<(Vec<Movie>, u64), StoreError>;

    /// The movie of this id.
    async fn find_movie(&self, id: MovieId) -> Result<Option<Movie>, StoreError>;

    /// Inserts movies, all or none, and returns them with their ids.
    async fn insert_movies(&self, movies: &[MovieDetails]) -> Result<Vec<Movie>, StoreError>;

    /// Replaces what is known of a movie. `false` if there is none of this id.
    async fn update_movie(&self, movie: &Movie) -> Result<bool, StoreError>;

    /// Deletes a movie. `false` if there is none of this id.
    async fn delete_movie(&self, id: MovieId) -> Result<bool, StoreError>;
}

/// Settings that every replica must agree on.
#[async_trait]
pub trait SettingStore: Send + Sync + 'static {
    /// Keeps `value` under `name` unless a value is there already, and returns the one that is there
    /// afterwards.
    async fn get_or_insert_setting(&self, name: &str, value: &str) -> Result<String, StoreError>;
}

/// A session to insert, and on which conditions.
#[derive(Debug)]
pub struct NewSession<'a> {
    /// The row.
    pub session: &'a Session,
    /// If given, the user must exist, be enabled, and still have this hash and the role that the
    /// session's roles name. (Without it, as in an application that brings its own users, nothing
    /// is asked of the user.)
    pub hashed_password: Option<&'a SecretString>,
    /// A session that this one takes the place of: it ends as [`logged_out`].
    ///
    /// [`logged_out`]: crate::session_event::SessionEvent::LoggedOut
    pub replaces: Option<SessionId>,
    /// How many live sessions the user may have, this one included; the oldest beyond end as
    /// [`displaced`](crate::session_event::SessionEvent::Displaced).
    pub max_per_user: u32,
}

/// What became of [`SessionStore::insert_session`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsertOutcome {
    /// The session is there; these gave way to it.
    Inserted {
        /// The sessions ended by this call, replaced and displaced ones.
        terminated: Vec<SessionId>,
    },
    /// The user is gone, disabled, or has another password or role by now. Nothing was changed.
    Refused,
}

/// How sessions are ended, and by whom.
#[derive(Clone, Debug)]
pub struct SessionTermination {
    /// When.
    pub at: OffsetDateTime,
    /// Why.
    pub reason: EndReason,
    /// By whom, and in which request.
    pub client: ClientInfo,
    /// The generation of the token that was presented, if that was the cause.
    pub presented: Option<u32>,
}

impl SessionTermination {
    /// An end that no token caused.
    #[must_use]
    pub fn new(at: OffsetDateTime, reason: EndReason, client: ClientInfo) -> Self {
        Self { at, reason, client, presented: None }
    }

    /// What the session's row keeps of it.
    #[must_use]
    pub fn end(&self) -> SessionEnd {
        SessionEnd { at: self.at, reason: self.reason }
    }

    /// What the audit keeps of a change to a user that ends the user's sessions, whether or not there
    /// are any.
    #[must_use]
    pub fn user_audit_entry(&self, user: UserId) -> AuditEntry {
        AuditEntry {
            user: Some(user),
            ..AuditEntry::new(self.at, AuditEvent::Ended(self.reason), self.client.clone())
        }
    }

    /// What the audit keeps of it, for a session at the generation `held` that `holder` had asked for.
    #[must_use]
    pub fn audit_entry(&self, session: SessionId, user: UserId, held: u32, holder: ClientInfo) -> AuditEntry {
        AuditEntry {
            user: Some(user),
            session: Some(session),
            presented: self.presented,
            held: Some(held),
            holder,
            ..AuditEntry::new(self.at, AuditEvent::Ended(self.reason), self.client.clone())
        }
    }
}

/// A step to the next generation.
#[derive(Clone, Debug)]
pub struct Rotation<'a> {
    /// The session.
    pub id: SessionId,
    /// What it must have been made for.
    pub kind: SessionKind,
    /// The generation that was presented; the next one is `from + 1`.
    pub from_generation: u32,
    /// The time.
    pub now: OffsetDateTime,
    /// The latest time of the last rotation at which this one is due.
    pub max_rotated_at: OffsetDateTime,
    /// The access token that was presented too.
    pub asked_by: Option<AccessTokenRef>,
    /// The key that signs the next refresh token.
    pub key_number: u8,
    /// When the session expires unless it is renewed again.
    pub idle_expires_at: OffsetDateTime,
    /// Who asks.
    pub client: &'a ClientInfo,
}

/// An access token that was seen in use long after its issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenUse {
    /// Its session.
    pub session: SessionId,
    /// Its generation.
    pub generation: u32,
    /// Its id.
    pub token: TokenId,
}

/// Some sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionFilter {
    /// All there are.
    All,
    /// A user's.
    User(UserId),
    /// A user's but one.
    UserExcept(UserId, SessionId),
    /// Those whose current refresh token this key signs.
    SignedBy(u8),
}

/// A new password.
#[derive(Debug)]
pub struct PasswordChange<'a> {
    /// Whose.
    pub user: UserId,
    /// If given, the hash that the user must still have.
    pub old: Option<&'a SecretString>,
    /// The new hash.
    pub new: &'a SecretString,
    /// A session that goes on.
    pub keep: Option<SessionId>,
    /// How the others end.
    pub ending: &'a SessionTermination,
}

/// Which movies, in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MovieQuery {
    /// Part of the title, in any case.
    pub title: Option<String>,
    /// Part of the director's name, in any case.
    pub director: Option<String>,
    /// The year.
    pub year: Option<i32>,
    /// The order; ties are broken by id.
    pub sort: MovieSort,
    /// Whether the order is reversed.
    pub descending: bool,
    /// How many at most.
    pub limit: u32,
    /// How many to pass over.
    pub offset: u32,
}

/// What movies are ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MovieSort {
    /// The director.
    Director,
    /// The id.
    #[default]
    Id,
    /// The rating; movies without one come first.
    Rating,
    /// The running time; movies without one come first.
    Runtime,
    /// The title.
    Title,
    /// The year.
    Year,
}

/// Why a store did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A value that must be unique is there already.
    #[error("{0} is taken already")]
    Conflict(&'static str),
    /// The store holds what it can't hold.
    #[error("the database holds an impossible value in {table}.{column}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// The store can't be asked now: it is down, slow or busy.
    #[error("the store did not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// The store can't be asked because of `cause`.
    pub fn unavailable(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable(Box::new(cause))
    }
}

impl fmt::Display for SessionFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all sessions"),
            Self::User(user) => write!(f, "the sessions of {user}"),
            Self::UserExcept(user, kept) => write!(f, "the sessions of {user} but {kept}"),
            Self::SignedBy(key) => write!(f, "the sessions signed by key {key}"),
        }
    }
}

/// How long a store may keep a caller waiting for a connection.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
