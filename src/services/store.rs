//! The contract of a database: traits for sessions, audit entries, users, movies and settings.
//!
//! Three stores implement them: [`MemoryStore`](super::memory::MemoryStore), `backend::sqlite` and
//! `backend::postgres`. `tests/it/store_contract.rs` runs one suite over all three.
//!
//! # The contract
//!
//! 1. **Not found** is `Ok(None)`, `Ok(false)` or an empty list, never an error.
//! 2. **Conditional writes** check their condition and write in one atomic statement. Of concurrent
//!    callers at most one succeeds.
//! 3. **Durability.** Changes that give or revoke access are on disk when the call returns. A crash may
//!    lose rotations, which [`SessionStore::catch_up`] restores, and confirmed and other
//!    [uses](SessionStore::record_uses), which later uses repeat. It may also lose replay counts, replaced
//!    settings, and deletions and terminations by the purge, which the next purge repeats.
//! 4. **Terminations are final.** Terminating a session again changes nothing: the first reason stays.
//! 5. **Audit.** Creating a session writes [`Login`], and terminating it writes exactly one [`Ended`],
//!    in the same transaction. A change of a user that terminates the user's sessions also writes one
//!    entry without a session.
//! 6. **Retention.** A session stays until it is purged, even if its user is deleted.
//! 7. **Precision.** Times are kept to the microsecond.
//! 8. **Failures.** After [`StoreError::Unavailable`], a write may or may not have happened. Callers
//!    must not conclude anything from it.
//!
//! To add an operation, document it here, add it to the suite, and implement it in the three stores.
//!
//! [`Ended`]: crate::models::audit::AuditEvent::Ended
//! [`Login`]: crate::models::audit::AuditEvent::Login

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use time::OffsetDateTime;

use crate::client_info::ClientInfo;
use crate::identity::{Claims, Subject};
use crate::models::audit::{AuditEntry, AuditEvent};
use crate::models::movie::{Movie, MovieDetails, MovieId};
use crate::models::session::{
    AccessTokenRef, EndReason, Session, SessionEnd, SessionId, SessionKind, TokenId,
};
use crate::models::user::{Role, User, UserId};

/// Stores sessions.
#[async_trait]
pub trait SessionStore: AuditStore {
    /// Inserts a session if its user is still allowed to sign in, and terminates the sessions that it
    /// replaces and displaces.
    ///
    /// One transaction.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if there is a session of this id.
    async fn insert_session(&self, new: &NewSession<'_>) -> Result<InsertOutcome, StoreError>;

    /// Increments a session's generation, if the session is live, of [`Rotation::kind`], at
    /// [`Rotation::from_generation`], and was last rotated no later than [`Rotation::max_rotated_at`].
    ///
    /// One conditional update. Returns the updated row, or `None` if a condition did not hold.
    async fn rotate(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError>;

    /// Sets a session to the generation after [`Rotation::from_generation`], if the session is live, of
    /// [`Rotation::kind`], and *behind* that generation: the database has lost its last writes.
    ///
    /// One conditional update, which ignores [`Rotation::max_rotated_at`]. Returns the updated row, or
    /// `None` if a condition did not hold.
    async fn catch_up(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError>;

    /// Returns a session, including terminated and expired ones and those of deleted users.
    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError>;

    /// Records confirmed uses.
    ///
    /// For each token, if the session is not terminated, is at the token's generation, and no token has
    /// confirmed that generation, the token becomes its [`settled_by`](Session::settled_by). Each is
    /// one conditional update. Returns the sessions that *another* token had confirmed before.
    async fn confirm_generation(&self, tokens: &[TokenUse]) -> Result<Vec<Session>, StoreError>;

    /// Records uses of sessions at `now` or shortly before: adds their replays, and postpones their idle expiry.
    ///
    /// The idle expiry becomes [`SessionUse::idle_expires_at`], limited to the absolute expiry, if the session
    /// is live at `now` and that is later. Each session is one conditional update. A session may occur several
    /// times.
    async fn record_uses(&self, uses: &[SessionUse], now: OffsetDateTime) -> Result<(), StoreError>;

    /// Replaces the claims of a session that is live at `now`. Returns `false` if there is none.
    ///
    /// One conditional update. Rows that [`rotate`](Self::rotate), [`catch_up`](Self::catch_up) and
    /// [`find_session`](Self::find_session) return from here on have the new claims.
    async fn set_claims(
        &self,
        id: SessionId,
        claims: &Claims,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError>;

    /// Terminates a session. Returns `true` if this call did so: the session exists and was not
    /// terminated before. It may have expired.
    ///
    /// One transaction with its audit entry.
    async fn end_session(&self, id: SessionId, termination: &SessionTermination) -> Result<bool, StoreError>;

    /// Terminates the sessions with these ids that exist and were not terminated before. Returns their ids.
    ///
    /// One transaction with their audit entries. The number of statements does not depend on the number of
    /// ids that match no session.
    async fn end_session_list(
        &self,
        ids: &[SessionId],
        termination: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError>;

    /// Terminates all sessions that match `filter` and were not terminated before. Returns their ids.
    ///
    /// One transaction with their audit entries.
    async fn end_sessions(
        &self,
        filter: &SessionFilter,
        termination: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError>;

    /// Returns the user's sessions that are live at `now`, the most recently rotated first.
    async fn live_sessions(&self, user: &Subject, now: OffsetDateTime) -> Result<Vec<Session>, StoreError>;

    /// Returns at most `limit` sessions that match `filter`, the most recently created first: those live
    /// at `live_at`, or all if it is `None`.
    async fn list_sessions(
        &self,
        filter: &SessionFilter,
        live_at: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<Session>, StoreError>;

    /// Returns the sessions terminated since a time or a position, and the store's time. Expired ones are not
    /// included.
    async fn ended_since(&self, since: EndedSince) -> Result<EndedSessions, StoreError>;

    /// Terminates expired sessions among the next `limit` sessions after the id `from`, in the order of
    /// their ids.
    ///
    /// Sessions that had expired at `expired_by` are terminated as of their expiry. Returns the last id
    /// that was examined, or `None` if there was none after `from`.
    async fn end_expired(
        &self,
        from: SessionId,
        limit: u32,
        expired_by: OffsetDateTime,
    ) -> Result<Option<SessionId>, StoreError>;

    /// Deletes at most `limit` sessions that were terminated before `before`. Returns their number.
    async fn purge_sessions(&self, before: OffsetDateTime, limit: u32) -> Result<u64, StoreError>;

    /// Returns the highest key number of all sessions, including ended ones.
    async fn max_key_number(&self) -> Result<Option<u8>, StoreError>;

    /// Returns the time of the database's clock. Commands date their changes by it, since their machine's
    /// clock may be wrong. For an embedded database it is the clock of the process.
    async fn database_time(&self) -> Result<OffsetDateTime, StoreError>;
}

/// Stores the audit log. Entries are added and purged, but never changed.
#[async_trait]
pub trait AuditStore: Send + Sync + 'static {
    /// Adds entries that neither create nor terminate a session.
    ///
    /// One transaction.
    async fn record(&self, entries: &[AuditEntry]) -> Result<(), StoreError>;

    /// Returns at most `limit` entries of a session, the latest first.
    async fn session_audit(&self, session: SessionId, limit: u32) -> Result<Vec<AuditEntry>, StoreError>;

    /// Deletes at most `limit` entries from before `before`. Returns their number.
    async fn purge_audit(&self, before: OffsetDateTime, limit: u32) -> Result<u64, StoreError>;
}

/// Stores users.
#[async_trait]
pub trait UserStore: Send + Sync + 'static {
    /// Inserts these users, all or none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if an id or an email address exists, or occurs twice.
    async fn insert_users(&self, users: &[User]) -> Result<(), StoreError>;

    /// Returns the user with this email address, which must be in lower case.
    async fn find_user_by_email(&self, email: &str) -> Result<Option<User>, StoreError>;

    /// Returns a user.
    async fn find_user(&self, id: UserId) -> Result<Option<User>, StoreError>;

    /// Returns `true` if there is any user.
    async fn has_users(&self) -> Result<bool, StoreError>;

    /// Returns all users, in the order of their email addresses.
    async fn list_users(&self) -> Result<Vec<User>, StoreError>;

    /// Replaces the password hash by another hash of the same password. No session is terminated.
    ///
    /// One conditional update. Returns `false` if the user does not exist, or the hash is not `old`.
    async fn rehash(&self, id: UserId, old: &SecretString, new: &SecretString) -> Result<bool, StoreError>;

    /// Sets a new password hash and terminates the user's sessions except [`PasswordChange::keep`].
    ///
    /// One transaction. Returns the sessions terminated, or `None` if the user does not exist, or the
    /// hash is not [`PasswordChange::old`].
    async fn change_password(
        &self,
        change: &PasswordChange<'_>,
    ) -> Result<Option<Vec<SessionId>>, StoreError>;

    /// Sets the user's role and terminates the user's sessions. Nothing changes if the user has that
    /// role.
    ///
    /// One transaction. Returns the sessions terminated, or `None` if the user does not exist.
    async fn set_role(
        &self,
        id: UserId,
        role: Role,
        termination: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError>;

    /// Disables the user's sign-in and terminates the user's sessions.
    ///
    /// One transaction. Returns the sessions terminated, or `None` if the user does not exist.
    async fn disable_user(
        &self,
        id: UserId,
        termination: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError>;

    /// Enables the user's sign-in. Returns `false` if the user does not exist.
    async fn enable_user(&self, id: UserId) -> Result<bool, StoreError>;

    /// Deletes the user and terminates the user's sessions.
    ///
    /// One transaction. Returns the sessions terminated, or `None` if the user does not exist.
    async fn delete_user(
        &self,
        id: UserId,
        termination: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError>;
}

/// Stores the movies of the reference application.
#[async_trait]
pub trait MovieStore: Send + Sync + 'static {
    /// Returns one page of the movies that match, and the number of all that match.
    async fn list_movies(&self, query: &MovieQuery) -> Result<(Vec<Movie>, u64), StoreError>;

    /// Returns a movie.
    async fn find_movie(&self, id: MovieId) -> Result<Option<Movie>, StoreError>;

    /// Inserts movies, all or none. Returns them with their ids.
    async fn insert_movies(&self, movies: &[MovieDetails]) -> Result<Vec<Movie>, StoreError>;

    /// Replaces a movie's details. Returns `false` if the movie does not exist.
    async fn update_movie(&self, movie: &Movie) -> Result<bool, StoreError>;

    /// Deletes a movie. Returns `false` if it does not exist.
    async fn delete_movie(&self, id: MovieId) -> Result<bool, StoreError>;
}

/// Stores settings that all replicas must share.
#[async_trait]
pub trait SettingStore: Send + Sync + 'static {
    /// Inserts `value` as the setting `name` unless the setting exists. Returns the stored value.
    ///
    /// One atomic statement: concurrent callers get the same value.
    async fn get_or_insert_setting(&self, name: &str, value: &str) -> Result<String, StoreError>;

    /// Replaces the value of a setting. Returns `false` if it is not `old`, or the setting does not exist.
    ///
    /// One conditional update. A crash may lose it.
    async fn replace_setting(&self, name: &str, old: &str, new: &str) -> Result<bool, StoreError>;

    /// Sets a setting, whether or not it exists.
    async fn set_setting(&self, name: &str, value: &str) -> Result<(), StoreError>;

    /// Returns names and values of the settings whose names start with `prefix`.
    async fn list_settings(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError>;

    /// Deletes a setting. Returns `false` if there is none.
    async fn delete_setting(&self, name: &str) -> Result<bool, StoreError>;
}

/// A store that keeps sessions beyond the end of the process, and that other processes may share.
#[async_trait]
pub trait PersistentStore: SessionStore + SettingStore {
    /// Calls `wake` whenever another process may have terminated sessions.
    ///
    /// Never returns if the database notifies its clients; returns at once otherwise, as by default. Notifications
    /// are best effort: callers must also poll.
    async fn listen(&self, _wake: WakeFn) {}
}

/// Callback of [`PersistentStore::listen`].
pub type WakeFn = Box<dyn Fn() + Send + Sync>;

/// A session to insert, and the conditions of the insertion.
#[derive(Debug)]
pub struct NewSession<'a> {
    /// The row.
    pub session: &'a Session,
    /// If given, the session's subject must be the id of a user who exists, is enabled, has this password
    /// hash, and has the role of the session's roles. Applications with a user database of their own give
    /// none, and the user is not checked.
    pub hashed_password: Option<&'a SecretString>,
    /// Session that this one replaces. It is terminated as [`logged_out`].
    ///
    /// [`logged_out`]: crate::session_event::SessionEvent::LoggedOut
    pub replaces: Option<SessionId>,
    /// Maximum number of live sessions of the user and of the session's kind, including this one. The oldest beyond
    /// it are terminated as [`displaced`](crate::session_event::SessionEvent::Displaced).
    pub max_per_user: u32,
}

/// Result of [`SessionStore::insert_session`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsertOutcome {
    /// The session was inserted.
    Inserted {
        /// The sessions terminated by this call: the replaced one and displaced ones.
        terminated: Vec<SessionId>,
    },
    /// The user does not exist, is disabled, or has another password or role. Nothing was changed.
    Refused,
}

/// The start of [`SessionStore::ended_since`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSince {
    /// Earliest time of a termination. A store with a clock of its own goes by the time at which it recorded the
    /// termination, others by the time that the caller gave.
    pub time: OffsetDateTime,
    /// Earliest time of a termination that the caller gave, which is session time. A store with a clock of its own
    /// includes these terminations too, whenever it recorded them: its clock may have been set ahead since.
    pub session_time: Option<OffsetDateTime>,
    /// The position of an earlier result. Terminations that were committed after it are included too,
    /// whatever their times. Without one, or with one of a lost state of the database, the store chooses a
    /// position among its latest terminations.
    pub position: Option<i64>,
}

impl EndedSince {
    /// Starts at a time.
    #[must_use]
    pub fn time(time: OffsetDateTime) -> Self {
        Self { time, session_time: None, position: None }
    }
}

/// The result of [`SessionStore::ended_since`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedSessions {
    /// The store's time at the start of the query.
    pub store_time: OffsetDateTime,
    /// The position after these sessions, if the store orders terminations by their commits.
    pub position: Option<i64>,
    /// Age of the answer at the call. Sessions that ended in this time before it may be missing.
    ///
    /// Zero, unless a store checks only at intervals that it reads from the right database.
    pub age: Duration,
    /// The sessions, in any order.
    pub sessions: Vec<(SessionId, SessionEnd)>,
}

/// The cause of a session's termination, as recorded in its row and in the audit log.
#[derive(Clone, Debug)]
pub struct SessionTermination {
    /// The time.
    pub at: OffsetDateTime,
    /// The reason.
    pub reason: EndReason,
    /// The client that caused it.
    pub client: ClientInfo,
    /// The generation of the refresh token that caused it, if one did.
    pub presented: Option<u32>,
}

impl SessionTermination {
    /// Creates a termination that no refresh token caused.
    #[must_use]
    pub fn new(at: OffsetDateTime, reason: EndReason, client: ClientInfo) -> Self {
        Self { at, reason, client, presented: None }
    }

    /// The part that the session's row stores.
    #[must_use]
    pub fn end(&self) -> SessionEnd {
        SessionEnd { at: self.at, reason: self.reason }
    }

    /// Returns the audit entry of a change of a user that terminates the user's sessions. It is written
    /// even if the user has none.
    #[must_use]
    pub fn user_audit_entry(&self, user: UserId) -> AuditEntry {
        AuditEntry {
            user: Some(user.into()),
            ..AuditEntry::new(self.at, AuditEvent::Ended(self.reason), self.client.clone())
        }
    }

    /// Returns the audit entry of a terminated session. `held` is the row's generation, and `holder` the
    /// client that received it.
    #[must_use]
    pub fn audit_entry(
        &self,
        session: SessionId,
        user: Subject,
        held: u32,
        holder: ClientInfo,
    ) -> AuditEntry {
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

/// A rotation: the parameters of [`SessionStore::rotate`] and [`SessionStore::catch_up`].
#[derive(Clone, Debug)]
pub struct Rotation<'a> {
    /// The session.
    pub id: SessionId,
    /// The kind that the session must have.
    pub kind: SessionKind,
    /// The generation of the presented refresh token. The new one is the next.
    pub from_generation: u32,
    /// The present time, which becomes the time of the rotation.
    pub now: OffsetDateTime,
    /// Latest time of the previous rotation for which this one is due.
    pub max_rotated_at: OffsetDateTime,
    /// The access token that accompanied the refresh token.
    pub asked_by: Option<AccessTokenRef>,
    /// Number of the key that signs the new refresh token.
    pub key_number: u8,
    /// New idle expiry. The store limits it to the absolute expiry.
    pub idle_expires_at: OffsetDateTime,
    /// The client that refreshes.
    pub client: &'a ClientInfo,
}

/// A confirmed use of an access token; see [`rotation`](super::rotation#confirmed-use).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenUse {
    /// The token's session.
    pub session: SessionId,
    /// The token's generation.
    pub generation: u32,
    /// The token's id.
    pub token: TokenId,
}

/// Uses of a session that do not rotate it; see [`SessionStore::record_uses`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionUse {
    /// The session.
    pub session: SessionId,
    /// Number of replays among them.
    pub replays: u64,
    /// Idle expiry after the last of them.
    pub idle_expires_at: OffsetDateTime,
}

/// Selects sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionFilter {
    /// All sessions.
    All,
    /// The sessions of a user.
    User(Subject),
    /// The sessions of a user except one.
    UserExcept(Subject, SessionId),
    /// The sessions whose current refresh token is signed by this key.
    SignedBy(u8),
}

/// A change of a user's password.
#[derive(Debug)]
pub struct PasswordChange<'a> {
    /// The user.
    pub user: UserId,
    /// If given, the hash that the user must have.
    pub old: Option<&'a SecretString>,
    /// The new hash.
    pub new: &'a SecretString,
    /// Session that is not terminated.
    pub keep: Option<SessionId>,
    /// Termination of the user's other sessions.
    pub termination: &'a SessionTermination,
}

impl PasswordChange<'_> {
    /// Returns the sessions that the change terminates.
    #[must_use]
    pub fn sessions(&self) -> SessionFilter {
        match self.keep {
            Some(session) => SessionFilter::UserExcept(self.user.into(), session),
            None => SessionFilter::User(self.user.into()),
        }
    }
}

/// Filter, order and page of a list of movies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MovieQuery {
    /// Substring of the title, ignoring case.
    pub title: Option<String>,
    /// Substring of the director's name, ignoring case.
    pub director: Option<String>,
    /// The year.
    pub year: Option<i32>,
    /// The order. Ties are broken by id.
    pub sort: MovieSort,
    /// Reverses the order.
    pub descending: bool,
    /// Maximum number of movies.
    pub limit: u32,
    /// Number of movies to skip.
    pub offset: u32,
}

/// Sort key of movies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MovieSort {
    /// The director.
    Director,
    /// The id.
    #[default]
    Id,
    /// The rating. Movies without one come first.
    Rating,
    /// The running time. Movies without one come first.
    Runtime,
    /// The title.
    Title,
    /// The year.
    Year,
}

/// Failure of a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A value that must be unique exists.
    #[error("{0} already exists")]
    Conflict(&'static str),
    /// A column contains a value that violates an invariant.
    #[error("invalid value in {table}.{column}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// The store is down, overloaded or too slow.
    #[error("store unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// Returns an [`Unavailable`](Self::Unavailable) with this cause.
    pub fn unavailable(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable(Box::new(cause))
    }
}

impl fmt::Display for SessionFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all sessions"),
            Self::User(user) => write!(f, "the sessions of {user}"),
            Self::UserExcept(user, kept) => write!(f, "the sessions of {user} except {kept}"),
            Self::SignedBy(key) => write!(f, "the sessions signed by key {key}"),
        }
    }
}

/// Timeout for acquiring a database connection.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
