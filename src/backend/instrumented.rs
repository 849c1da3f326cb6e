//! Stores that measure how long each call takes.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// A store, measured.
pub(super) struct InstrumentedStore<T: ?Sized>(pub(super) Arc<T>);

/// Calls the store within, by the name of the operation.
macro_rules! instrumented {
    ($store:ident of $within:ident { $(fn $name:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)* }) => {
        #[async_trait]
        impl $store for InstrumentedStore<dyn $within> {
            $(async fn $name(&self, $($arg: $kind),*) -> Result<$answer, StoreError> {
                measure(stringify!($name), self.0.$name($($arg),*)).await
            })*
        }
    };
}

instrumented!(SessionStore of SessionStore {
    fn insert_session(new: &NewSession<'_>) -> InsertOutcome;
    fn rotate(rotation: &Rotation<'_>) -> Option<Session>;
    fn catch_up(rotation: &Rotation<'_>) -> Option<Session>;
    fn find_session(id: SessionId) -> Option<Session>;
    fn confirm_generation(tokens: &[TokenUse]) -> Vec<Session>;
    fn count_replays(counts: &[(SessionId, u64)]) -> ();
    fn end_session(id: SessionId, ending: &SessionTermination) -> bool;
    fn end_sessions(which: &SessionFilter, ending: &SessionTermination) -> Vec<SessionId>;
    fn live_sessions(user: UserId, now: OffsetDateTime) -> Vec<Session>;
    fn list_sessions(which: &SessionFilter, live_at: Option<OffsetDateTime>, limit: u32) -> Vec<Session>;
    fn ended_since(since: OffsetDateTime) -> Vec<(SessionId, SessionEnd)>;
    fn end_expired(from: SessionId, most: u32, expired_by: OffsetDateTime) -> Option<SessionId>;
    fn purge_sessions(before: OffsetDateTime, most: u32) -> u64;
    fn database_time() -> OffsetDateTime;
});

instrumented!(AuditStore of SessionStore {
    fn record(entries: &[AuditEntry]) -> ();
    fn session_audit(session: SessionId, limit: u32) -> Vec<AuditEntry>;
    fn purge_audit(before: OffsetDateTime, most: u32) -> u64;
});

instrumented!(UserStore of UserStore {
    fn insert_users(users: &[User]) -> ();
    fn find_user_by_email(email: &str) -> Option<User>;
    fn find_user(id: UserId) -> Option<User>;
    fn has_users() -> bool;
    fn list_users() -> Vec<User>;
    fn rehash(id: UserId, old: &SecretString, new: &SecretString) -> bool;
    fn change_password(change: &PasswordChange<'_>) -> Option<Vec<SessionId>>;
    fn set_role(id: UserId, role: Role, ending: &SessionTermination) -> Option<Vec<SessionId>>;
    fn disable_user(id: UserId, ending: &SessionTermination) -> Option<Vec<SessionId>>;
    fn enable_user(id: UserId) -> bool;
    fn delete_user(id: UserId, ending: &SessionTermination) -> Option<Vec<SessionId>>;
});

instrumented!(MovieStore of MovieStore {
    fn list_movies(query: &MovieQuery) -> (Vec<Movie>, u64);
    fn find_movie(id: MovieId) -> Option<Movie>;
    fn insert_movies(movies: &[MovieDetails]) -> Vec<Movie>;
    fn update_movie(movie: &Movie) -> bool;
    fn delete_movie(id: MovieId) -> bool;
});

/// A call that nobody waits for any more is none that the store has answered: it isn't counted.
async fn measure<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let began = Instant::now();
    let answer = call.await;
    record(operation, outcome(&answer), began.elapsed());
    answer
}

fn record(operation: &'static str, outcome: &'static str, took: Duration) {
    histogram!("sekisho_store_duration_seconds", "operation" => operation, "outcome" => outcome).record(took);
}

fn outcome<T>(answer: &Result<T, StoreError>) -> &'static str {
    match answer {
        Ok(_) => "ok",
        Err(StoreError::Conflict(_)) => "conflict",
        Err(StoreError::Corrupt { .. }) => "corrupt",
        Err(StoreError::Unavailable(_)) => "unavailable",
    }
}
