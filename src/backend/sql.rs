//! SQL fragments and conversions shared by the SQLite and PostgreSQL stores.

use time::OffsetDateTime;

use crate::models::session::{EndReason, SessionEnd};
use crate::services::store::{MovieSort, PasswordChange, SessionFilter, StoreError};

// Columns are listed by name, because a prepared `SELECT *` fails once a newer program adds a column.

macro_rules! audit_columns {
    () => {
        "at, event, user_id, session_id, presented, held, key_number, address, user_agent, request_id, \
         holder_address, holder_user_agent"
    };
}

macro_rules! movie_columns {
    () => {
        "id, title, year, director, runtime_minutes, rating"
    };
}

macro_rules! session_columns {
    () => {
        "id, user_id, kind, email, roles, generation, key_number, created_at, rotated_at, asked_by, \
         asked_by_issued_at, settled_by, rotations, replays, idle_expires_at, absolute_expires_at, \
         ended_at, end_reason, address, user_agent"
    };
}

macro_rules! user_columns {
    () => {
        "id, email, name, hashed_password, role, disabled_at, created_at"
    };
}

pub(super) use {audit_columns, movie_columns, session_columns, user_columns};

/// Returns the `ORDER BY` clause of a movie list. The id makes the order total.
pub(super) const fn movie_order(sort: MovieSort, descending: bool) -> &'static str {
    match (sort, descending) {
        (MovieSort::Director, false) => " ORDER BY director_key, id",
        (MovieSort::Director, true) => " ORDER BY director_key DESC, id DESC",
        (MovieSort::Id, false) => " ORDER BY id",
        (MovieSort::Id, true) => " ORDER BY id DESC",
        (MovieSort::Rating, false) => " ORDER BY rating NULLS FIRST, id",
        (MovieSort::Rating, true) => " ORDER BY rating DESC NULLS LAST, id DESC",
        (MovieSort::Runtime, false) => " ORDER BY runtime_minutes NULLS FIRST, id",
        (MovieSort::Runtime, true) => " ORDER BY runtime_minutes DESC NULLS LAST, id DESC",
        (MovieSort::Title, false) => " ORDER BY title_key, id",
        (MovieSort::Title, true) => " ORDER BY title_key DESC, id DESC",
        (MovieSort::Year, false) => " ORDER BY year, id",
        (MovieSort::Year, true) => " ORDER BY year DESC, id DESC",
    }
}

/// Returns the sessions that a password change terminates.
pub(super) const fn sessions_to_terminate(change: &PasswordChange<'_>) -> SessionFilter {
    match change.keep {
        Some(session) => SessionFilter::UserExcept(change.user, session),
        None => SessionFilter::User(change.user),
    }
}

/// Reads the end of a session from its columns `ended_at` and `end_reason`.
pub(super) fn session_end(at: OffsetDateTime, reason: Option<&str>) -> Result<SessionEnd, StoreError> {
    let word = reason.ok_or(StoreError::Corrupt { table: "sessions", column: "end_reason" })?;
    // A newer program on the same database may write reasons unknown here. The session is terminated
    // all the same.
    let reason = EndReason::from_word(word).unwrap_or(EndReason::Revoked);
    Ok(SessionEnd { at, reason })
}

/// Converts a counter to the type of its column.
pub(super) fn count_to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Maximum number of sessions that one transaction terminates.
pub(super) const MAX_TERMINATIONS: u32 = 1_000;
