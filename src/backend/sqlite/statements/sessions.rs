//! Statements about sessions.

use crate::backend::sql::{session_columns, statements};

statements! {
    /// The statements about sessions.
    struct SessionSql {
        insert: INSERT,
        insert_checked: INSERT_CHECKED,
        list_beyond_limit: LIST_BEYOND_LIMIT,
        rotate: ROTATE,
        catch_up: CATCH_UP,
        find: FIND,
        confirm: CONFIRM,
        confirmed_by_other: CONFIRMED_BY_OTHER,
        record_use: RECORD_USE,
        set_claims: SET_CLAIMS,
        end_chosen: END_CHOSEN,
        select_chosen: SELECT_CHOSEN,
        terminate: TERMINATE,
        scan_expired: SCAN_EXPIRED,
        purge: PURGE,
        list_live: LIST_LIVE,
        list_ended_since: LIST_ENDED_SINCE,
        last_audit_id: LAST_AUDIT_ID,
        max_key_number: MAX_KEY_NUMBER,
        list: LIST,
    }
}

/// The statement of `rotate` and `catch_up`, which differ in the condition on the generation.
macro_rules! advance_sql {
    ($condition:literal) => {
        concat!(
            "UPDATE {namespace}sessions SET generation = $5, settled_by = NULL, rotated_at = $4, asked_by = $6, \
             asked_by_issued_at = $7, key_number = $8, rotations = rotations + 1, \
             idle_expires_at = min($9, absolute_expires_at), address = $10, user_agent = $11 \
             WHERE id = $1 AND kind = $2 AND ended_at IS NULL \
             AND idle_expires_at > $4 AND absolute_expires_at > $4 AND ",
            $condition,
            " RETURNING ",
            session_columns!()
        )
    };
}

macro_rules! insert_sql {
    ($condition:literal) => {
        concat!(
            "INSERT INTO {namespace}sessions (",
            session_columns!(),
            ") SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21",
            $condition
        )
    };
}

/// Inserts without a check of the user.
const INSERT: &str = insert_sql!("");

/// Checks the user and inserts in one statement.
///
/// The write lock delays a change of password until the commit; that change then terminates the new
/// session too. The role is compared so that a concurrent sign-in cannot keep a role that was just
/// removed.
const INSERT_CHECKED: &str = insert_sql!(
    " WHERE EXISTS (SELECT 1 FROM {namespace}users \
     WHERE id = $23 AND hashed_password = $22 AND role = $5 AND disabled_at IS NULL)"
);

const LIST_BEYOND_LIMIT: &str = "SELECT id FROM {namespace}sessions \
    WHERE user_id = $1 AND ended_at IS NULL AND idle_expires_at > $2 AND absolute_expires_at > $2 \
    AND id <> $3 AND ($4 IS NULL OR id <> $4) AND kind = $6 \
    ORDER BY created_at DESC, id DESC LIMIT -1 OFFSET $5";

const ROTATE: &str = advance_sql!("generation = $3 AND rotated_at <= $12");

const CATCH_UP: &str = advance_sql!("generation < $3");

const FIND: &str = concat!("SELECT ", session_columns!(), " FROM {namespace}sessions WHERE id = $1");

const CONFIRM: &str = "UPDATE {namespace}sessions SET settled_by = $3 \
    WHERE id = $1 AND generation = $2 AND settled_by IS NULL AND ended_at IS NULL";

const CONFIRMED_BY_OTHER: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM {namespace}sessions WHERE id = $1 AND generation = $2 AND settled_by <> $3 AND ended_at IS NULL"
);

const RECORD_USE: &str = "UPDATE {namespace}sessions SET replays = replays + $2, \
    idle_expires_at = CASE WHEN ended_at IS NULL AND idle_expires_at > $4 AND absolute_expires_at > $4 \
    THEN max(idle_expires_at, min($3, absolute_expires_at)) ELSE idle_expires_at END WHERE id = $1";

const SET_CLAIMS: &str = "UPDATE {namespace}sessions SET claims = $2 \
    WHERE id = $1 AND ended_at IS NULL AND idle_expires_at > $3 AND absolute_expires_at > $3";

/// The parts of the statement of `terminate_where` that name tables.
const END_CHOSEN: &str = "UPDATE {namespace}sessions SET ended_at = ";

const SELECT_CHOSEN: &str = " WHERE id IN (SELECT id FROM {namespace}sessions WHERE ended_at IS NULL";

const TERMINATE: &str = "UPDATE {namespace}sessions SET ended_at = $2, end_reason = $3 WHERE id = $1 AND ended_at IS NULL \
    RETURNING id, user_id, generation, address, user_agent";

const SCAN_EXPIRED: &str = "SELECT id, ended_at IS NULL AND min(idle_expires_at, absolute_expires_at) <= $3 \
    FROM {namespace}sessions WHERE id > $1 ORDER BY id LIMIT $2";

const PURGE: &str = "DELETE FROM {namespace}sessions WHERE id IN (SELECT id FROM {namespace}sessions WHERE ended_at < $1 ORDER BY ended_at LIMIT $2)";

const LIST_LIVE: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM {namespace}sessions WHERE user_id = $1 AND ended_at IS NULL \
     AND idle_expires_at > $2 AND absolute_expires_at > $2 ORDER BY rotated_at DESC, id DESC"
);

/// Terminations at a time or later, and those with an audit entry after a position.
///
/// SQLite has one writer at a time, so the ids of audit entries are in the order of the commits. They hold
/// whatever the clocks of the processes show that write to the file.
const LIST_ENDED_SINCE: &str = "SELECT id, ended_at, end_reason FROM {namespace}sessions WHERE ended_at >= $1 \
    UNION SELECT session.id, session.ended_at, session.end_reason \
    FROM {namespace}audit AS audit JOIN {namespace}sessions AS session ON session.id = audit.session_id \
    WHERE audit.id > $2 AND session.ended_at IS NOT NULL";

const LAST_AUDIT_ID: &str = "SELECT coalesce(max(id), 0) FROM {namespace}audit";

const MAX_KEY_NUMBER: &str = "SELECT max(key_number) FROM {namespace}sessions";

const LIST: &str = concat!("SELECT ", session_columns!(), " FROM {namespace}sessions WHERE TRUE");
