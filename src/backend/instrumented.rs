//! Stores that record the duration and outcome of each call, and report failed writes.
//!
//! The wrapper instruments all databases, the in-memory store included, in one place.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use metrics::histogram;
use secrecy::SecretString;
use time::OffsetDateTime;

use crate::identity::{Claims, Subject};
use crate::models::audit::AuditEntry;
use crate::models::movie::{Movie, MovieDetails, MovieId};
use crate::models::session::{Session, SessionId};
use crate::models::user::{Role, User, UserId};
use crate::services::readiness::{Problem, Readiness};
use crate::services::store::{
    AuditStore, EndedSessions, EndedSince, InsertOutcome, MovieQuery, MovieStore, NewSession, PasswordChange,
    Rotation, SessionFilter, SessionStore, SessionTermination, SessionUse, StoreError, TokenUse, UserStore,
};

/// Records the calls of the inner store in `sekisho_store_duration_seconds`, and reports
/// [`Problem::WritesFail`].
pub(super) struct InstrumentedStore<T: ?Sized> {
    pub(super) inner: Arc<T>,
    pub(super) readiness: Readiness,
}

/// Implements a store trait by delegation. The name of the method is the label `operation`.
///
/// `writes` are the methods that requests depend on. Those of the purge are among the others: the role of
/// the server may lack the privilege to delete.
macro_rules! instrumented {
    (
        $trait:ident for $inner:ident {
            writes { $(fn $write:ident($($write_arg:ident: $write_kind:ty),*) -> $write_output:ty;)* }
            others { $(fn $other:ident($($arg:ident: $kind:ty),*) -> $output:ty;)* }
        }
    ) => {
        #[async_trait]
        impl $trait for InstrumentedStore<dyn $inner> {
            $(async fn $write(&self, $($write_arg: $write_kind),*) -> Result<$write_output, StoreError> {
                let result = measure(stringify!($write), self.inner.$write($($write_arg),*)).await;
                report_failure(&self.readiness, &result);
                result
            })*
            $(async fn $other(&self, $($arg: $kind),*) -> Result<$output, StoreError> {
                measure(stringify!($other), self.inner.$other($($arg),*)).await
            })*
        }
    };
}

instrumented!(SessionStore for SessionStore {
    writes {
        fn insert_session(new: &NewSession<'_>) -> InsertOutcome;
        fn rotate(rotation: &Rotation<'_>) -> Option<Session>;
        fn catch_up(rotation: &Rotation<'_>) -> Option<Session>;
        fn confirm_generation(tokens: &[TokenUse]) -> Vec<Session>;
        fn record_uses(uses: &[SessionUse], now: OffsetDateTime) -> ();
        fn set_claims(id: SessionId, claims: &Claims, now: OffsetDateTime) -> bool;
        fn end_session(id: SessionId, termination: &SessionTermination) -> bool;
        fn end_session_list(ids: &[SessionId], termination: &SessionTermination) -> Vec<SessionId>;
        fn end_sessions(filter: &SessionFilter, termination: &SessionTermination) -> Vec<SessionId>;
    }
    others {
        fn find_session(id: SessionId) -> Option<Session>;
        fn live_sessions(user: &Subject, now: OffsetDateTime) -> Vec<Session>;
        fn list_sessions(filter: &SessionFilter, live_at: Option<OffsetDateTime>, limit: u32) -> Vec<Session>;
        fn ended_since(since: EndedSince) -> EndedSessions;
        fn end_expired(after: SessionId, limit: u32, now: OffsetDateTime) -> Option<SessionId>;
        fn purge_sessions(before: OffsetDateTime, limit: u32) -> u64;
        fn max_key_number() -> Option<u8>;
        fn database_time() -> OffsetDateTime;
    }
});

instrumented!(AuditStore for SessionStore {
    writes {
        fn record(entries: &[AuditEntry]) -> ();
    }
    others {
        fn session_audit(session: SessionId, limit: u32) -> Vec<AuditEntry>;
        fn purge_audit(before: OffsetDateTime, limit: u32) -> u64;
    }
});

instrumented!(UserStore for UserStore {
    writes {
        fn insert_users(users: &[User]) -> ();
        fn rehash(id: UserId, old: &SecretString, new: &SecretString) -> bool;
        fn change_password(change: &PasswordChange<'_>) -> Option<Vec<SessionId>>;
        fn set_role(id: UserId, role: Role, termination: &SessionTermination) -> Option<Vec<SessionId>>;
        fn disable_user(id: UserId, termination: &SessionTermination) -> Option<Vec<SessionId>>;
        fn enable_user(id: UserId) -> bool;
        fn delete_user(id: UserId, termination: &SessionTermination) -> Option<Vec<SessionId>>;
    }
    others {
        fn find_user_by_email(email: &str) -> Option<User>;
        fn find_user(id: UserId) -> Option<User>;
        fn has_users() -> bool;
        fn list_users() -> Vec<User>;
    }
});

instrumented!(MovieStore for MovieStore {
    writes {
        fn insert_movies(movies: &[MovieDetails]) -> Vec<Movie>;
        fn update_movie(movie: &Movie) -> bool;
        fn delete_movie(id: MovieId) -> bool;
    }
    others {
        fn list_movies(query: &MovieQuery) -> (Vec<Movie>, u64);
        fn find_movie(id: MovieId) -> Option<Movie>;
    }
});

/// Reports a write that failed because of the database.
fn report_failure<T>(readiness: &Readiness, result: &Result<T, StoreError>) {
    if let Err(error @ StoreError::Unavailable(_)) = result {
        readiness.report(Problem::WritesFail, error);
    }
}

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
