//! SQL fragments and conversions shared by the SQLite and PostgreSQL stores.

#[cfg(feature = "server")]
pub(super) mod movies;
pub(super) mod rows;
#[cfg(feature = "server")]
pub(super) mod users;

use std::sync::Arc;
use std::time::Instant;

use sqlx::{AssertSqlSafe, Database, Encode, QueryBuilder, SqlSafeStr, SqlStr, Type};
use uuid::Uuid;

use crate::models::session::SessionId;
use crate::services::store::{SessionFilter, SessionTermination, StoreError};

// Columns are listed by name, because a prepared `SELECT *` fails once a newer program adds a column.

macro_rules! audit_columns {
    () => {
        "at, event, user_id, session_id, presented, held, key_number, address, user_agent, request_id, \
         holder_address, holder_user_agent"
    };
}

macro_rules! session_columns {
    () => {
        "id, user_id, kind, email, roles, generation, key_number, created_at, rotated_at, asked_by, \
         asked_by_issued_at, settled_by, rotations, replays, idle_expires_at, absolute_expires_at, \
         ended_at, end_reason, address, user_agent, claims"
    };
}

pub(super) use {audit_columns, session_columns};

/// A statement with the names of the tables of one store. It is rendered when the store is opened.
#[derive(Clone, Debug)]
pub(crate) struct Sql(Arc<str>);

impl Sql {
    /// Replaces the placeholder `{namespace}` by `prefix`, which precedes the names of tables.
    pub(super) fn new(template: &'static str, prefix: &str) -> Self {
        Self(template.replace("{namespace}", prefix).into())
    }

    /// Returns the text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl SqlSafeStr for &Sql {
    fn into_sql_str(self) -> SqlStr {
        // A template is a constant, and a prefix consists of letters, digits and underscores.
        AssertSqlSafe(Arc::clone(&self.0)).into_sql_str()
    }
}

/// Defines a struct of statements from their templates.
macro_rules! statements {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident: $template:expr,)* }) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub(crate) struct $name {
            $(pub(crate) $field: $crate::backend::sql::Sql,)*
        }

        impl $name {
            /// Renders the statements for tables whose names `prefix` precedes.
            pub(crate) fn new(prefix: &str) -> Self {
                Self { $($field: $crate::backend::sql::Sql::new($template, prefix),)* }
            }
        }
    };
}
pub(super) use statements;

/// Adds the conditions of a filter to a query of sessions.
pub(super) fn push_filter<DB: Database>(query: &mut QueryBuilder<DB>, filter: &SessionFilter)
where
    for<'q> String: Encode<'q, DB> + Type<DB>,
    for<'q> Uuid: Encode<'q, DB> + Type<DB>,
    for<'q> i16: Encode<'q, DB> + Type<DB>,
{
    match filter {
        SessionFilter::All => query,
        SessionFilter::User(user) => query.push(" AND user_id = ").push_bind(user.to_string()),
        SessionFilter::UserExcept(user, kept) => {
            query.push(" AND user_id = ").push_bind(user.to_string()).push(" AND id <> ").push_bind(kept.0)
        }
        SessionFilter::SignedBy(key) => query.push(" AND key_number = ").push_bind(i16::from(*key)),
    };
}

/// Calls `terminate_batch`, which terminates up to [`MAX_TERMINATIONS`] sessions, until none is left.
pub(super) async fn terminate_in_batches<F>(
    termination: &SessionTermination,
    terminate_batch: impl Fn(SessionTermination) -> F,
) -> Result<Vec<SessionId>, StoreError>
where
    F: Future<Output = Result<Vec<SessionId>, StoreError>>,
{
    let started = Instant::now();
    let mut all = Vec::new();
    loop {
        // Each batch gets the time of its own transaction, because other replicas poll for recent
        // terminations only.
        let at = if all.is_empty() { termination.at } else { termination.at + started.elapsed() };
        let ended = terminate_batch(SessionTermination { at, ..termination.clone() }).await?;
        let is_last = ended.len() < MAX_TERMINATIONS as usize;
        all.extend(ended);
        if is_last {
            return Ok(all);
        }
    }
}

/// Converts a counter to the type of its column.
pub(super) fn count_to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => Self::unavailable(DatabaseError::new(&*error)),
            error => Self::unavailable(error),
        }
    }
}

/// Error that a database returned: its message and code.
///
/// The driver's text for PostgreSQL has a line number of the server's source code instead of the code.
#[derive(Debug, thiserror::Error)]
#[error("{message} ({code})")]
struct DatabaseError {
    message: String,
    code: String,
}

impl DatabaseError {
    fn new(error: &dyn sqlx::error::DatabaseError) -> Self {
        let code = error.code().map_or_else(|| "no code".to_owned(), |code| format!("code {code}"));
        Self { message: error.message().to_owned(), code }
    }
}

/// Maximum number of sessions that one transaction terminates.
pub(super) const MAX_TERMINATIONS: u32 = 1_000;
