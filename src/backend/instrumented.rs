//! Stores that record the duration and outcome of each call.
//!
//! The wrapper instruments all databases, the in-memory store included, in one place.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use metrics::histogram;
use secrecy::SecretString;
use time::OffsetDateTime;

use crate::models::audit::AuditEntry;
use crate::models::movie::{Movie, MovieDetails, MovieId};
use crate::models::session::{Session, SessionEnd, SessionId};
use crate::models::user::{Role, User, UserId};
use crate::services::store::{
    AuditStore, InsertOutcome, MovieQuery, MovieStore, NewSession, PasswordChange, Rotation, SessionFilter,
    SessionStore, SessionTermination, StoreError, TokenUse, UserStore,
};

/// Records the calls of the inner store in `sekisho_store_duration_seconds`.
pub(super) struct InstrumentedStore<T: ?Sized>(pub(super) Arc<T>);

/// Implements a store trait by delegation. The name of the method is the label `operation`.
macro_rules! instrumented {
    ($trait:ident for $inner:ident { $(fn $name:ident($($arg:ident: $kind:ty),*) -> $output:ty;)* }) => {
        #[async_trait]
        impl $trait for InstrumentedStore<dyn $inner> {
            $(async fn $name(&self, $($arg: $kind),*) -> Result<$output, StoreError> {
                measure(stringify!($name), self.0.$name($($arg),*)).await
            })*
        }
    };
}

instrumented!(SessionStore for SessionStore {
    fn insert_session(new: &NewSession<'_>) -> InsertOutcome;
    fn rotate(rotation: &Rotation<'_>) -> Option<Session>;
    fn catch_up(rotation: &Rotation<'_>) -> Option<Session>;
    fn find_session(id: SessionId) -> Option<Session>;
    fn confirm_generation(tokens: &[TokenUse]) -> Vec<Session>;
    fn count_replays(counts: &[(SessionId, u64)]) -> ();
    fn end_session(id: SessionId, termination: &SessionTermination) -> bool;
    fn end_sessions(filter: &SessionFilter, termination: &SessionTermination) -> Vec<SessionId>;
    fn live_sessions(user: UserId, now: OffsetDateTime) -> Vec<Session>;
    fn list_sessions(filter: &SessionFilter, live_at: Option<OffsetDateTime>, limit: u32) -> Vec<Session>;
    fn ended_since(since: OffsetDateTime) -> Vec<(SessionId, SessionEnd)>;
    fn end_expired(after: SessionId, limit: u32, now: OffsetDateTime) -> Option<SessionId>;
    fn purge_sessions(before: OffsetDateTime, limit: u32) -> u64;
    fn database_time() -> OffsetDateTime;
});

instrumented!(AuditStore for SessionStore {
    fn record(entries: &[AuditEntry]) -> ();
    fn session_audit(session: SessionId, limit: u32) -> Vec<AuditEntry>;
    fn purge_audit(before: OffsetDateTime, limit: u32) -> u64;
});

instrumented!(UserStore for UserStore {
    fn insert_users(users: &[User]) -> ();
    fn find_user_by_email(email: &str) -> Option<User>;
    fn find_user(id: UserId) -> Option<User>;
    fn has_users() -> bool;
    fn list_users() -> Vec<User>;
    fn rehash(id: UserId, old: &SecretString, new: &SecretString) -> bool;
    fn change_password(change: &PasswordChange<'_>) -> Option<Vec<SessionId>>;
    fn set_role(id: UserId, role: Role, termination: &SessionTermination) -> Option<Vec<SessionId>>;
    fn disable_user(id: UserId, termination: &SessionTermination) -> Option<Vec<SessionId>>;
    fn enable_user(id: UserId) -> bool;
    fn delete_user(id: UserId, termination: &SessionTermination) -> Option<Vec<SessionId>>;
});

instrumented!(MovieStore for MovieStore {
    fn list_movies(query: &MovieQuery) -> (Vec<Movie>, u64);
    fn find_movie(id: MovieId) -> Option<Movie>;
    fn insert_movies(movies: &[MovieDetails]) -> Vec<Movie>;
    fn update_movie(movie: &Movie) -> bool;
    fn delete_movie(id: MovieId) -> bool;
});

/// Records a call that completes. A call that is dropped before is not recorded.
async fn measure<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let started = Instant::now();
    let result = call.await;
    histogram!("sekisho_store_duration_seconds", "operation" => operation, "outcome" => outcome(&result))
        .record(started.elapsed());
    result
}

fn outcome<T>(result: &Result<T, StoreError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(StoreError::Conflict(_)) => "conflict",
        Err(StoreError::Corrupt { .. }) => "corrupt",
        Err(StoreError::Unavailable(_)) => "unavailable",
    }
}
