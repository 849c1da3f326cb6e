//! Statements about sessions.

use crate::backend::sql::{session_columns, statements};

/// The audit columns of a termination.
macro_rules! audit_end_columns {
    () => {
        "at, event, user_id, session_id, presented, held, address, user_agent, request_id, holder_address, \
         holder_user_agent"
    };
}

/// A table of one row, for the FROM clause of a write that a crash may undo.
///
/// It turns `synchronous_commit` off until the end of the transaction, in the round trip of the write. The
/// planner keeps it, since `set_config` is volatile.
macro_rules! relaxed {
    () => {
        "(SELECT set_config('synchronous_commit', 'off', true)) AS relaxed"
    };
}
pub(super) use relaxed;

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
        record_uses: RECORD_USES,
        set_claims: SET_CLAIMS,
        select_doomed: SELECT_DOOMED,
        update_doomed: UPDATE_DOOMED,
        insert_end_entries: INSERT_END_ENTRIES,
        terminate: TERMINATE,
        touch: TOUCH,
        terminate_expired: TERMINATE_EXPIRED,
        purge: PURGE,
        list_live: LIST_LIVE,
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
             idle_expires_at = least($9, absolute_expires_at), address = $10, user_agent = $11 FROM ",
            relaxed!(),
            " WHERE id = $1 AND kind = $2 AND ended_at IS NULL \
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
            ", end_recorded_at) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
             $18, $19, $20, $21, $17",
            $condition
        )
    };
}

/// Inserts without a check of the user.
const INSERT: &str = insert_sql!("");

/// Checks the user and inserts in one statement, which locks the user's row until the commit.
///
/// A change of password, role or the right to sign in updates the user's row first and then terminates
/// the sessions. If it commits first, this statement sees the new row and inserts nothing. If it waits
/// for this transaction, it terminates the new session too. The lock also serializes the sign-ins of
/// one user, so that each counts all earlier sessions. The role is compared so that a concurrent sign-in
/// cannot keep a role that was just removed.
const INSERT_CHECKED: &str = insert_sql!(
    " WHERE EXISTS (SELECT 1 FROM {namespace}users \
     WHERE id = $23 AND hashed_password = $22 AND role = $5 AND disabled_at IS NULL FOR UPDATE)"
);

const LIST_BEYOND_LIMIT: &str = "SELECT id FROM {namespace}sessions \
    WHERE user_id = $1 AND ended_at IS NULL AND idle_expires_at > $2 AND absolute_expires_at > $2 \
    AND id <> $3 AND ($4 IS NULL OR id <> $4) AND kind = $6 \
    ORDER BY created_at DESC, id DESC OFFSET $5";

const ROTATE: &str = advance_sql!("generation = $3 AND rotated_at <= $12");

const CATCH_UP: &str = advance_sql!("generation < $3");

const FIND: &str = concat!("SELECT ", session_columns!(), " FROM {namespace}sessions WHERE id = $1");

const CONFIRM: &str = concat!(
    "WITH unsettled AS (\
    SELECT session.id, used.token \
    FROM unnest($1::uuid[], $2::bigint[], $3::uuid[]) AS used (session, generation, token) \
    JOIN {namespace}sessions AS session ON session.id = used.session AND session.generation = used.generation \
    WHERE session.settled_by IS NULL AND session.ended_at IS NULL \
    ORDER BY session.id FOR UPDATE OF session) \
    UPDATE {namespace}sessions AS session SET settled_by = unsettled.token FROM ",
    relaxed!(),
    ", unsettled WHERE session.id = unsettled.id"
);

const CONFIRMED_BY_OTHER: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM {namespace}sessions AS session WHERE id = ANY($1) AND ended_at IS NULL AND EXISTS (\
     SELECT 1 FROM unnest($1::uuid[], $2::bigint[], $3::uuid[]) AS used (session, generation, token) \
     WHERE used.session = session.id AND used.generation = session.generation \
     AND used.token <> session.settled_by) ORDER BY id"
);

const RECORD_USES: &str = concat!(
    "WITH used AS (\
    SELECT id, sum(replays)::bigint AS replays, max(idle_expires_at) AS idle_expires_at \
    FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) AS uses (id, replays, idle_expires_at) \
    GROUP BY id), locked AS (\
    SELECT session.id FROM {namespace}sessions AS session \
    WHERE session.id = ANY($1) ORDER BY session.id FOR UPDATE) \
    UPDATE {namespace}sessions AS session SET replays = session.replays + used.replays, \
    idle_expires_at = CASE WHEN session.ended_at IS NULL \
    AND session.idle_expires_at > $4 AND session.absolute_expires_at > $4 \
    THEN greatest(session.idle_expires_at, least(used.idle_expires_at, session.absolute_expires_at)) \
    ELSE session.idle_expires_at END FROM ",
    relaxed!(),
    ", used, locked WHERE session.id = locked.id AND used.id = session.id"
);

const SET_CLAIMS: &str = "UPDATE {namespace}sessions SET claims = $2 \
    WHERE id = $1 AND ended_at IS NULL AND idle_expires_at > $3 AND absolute_expires_at > $3";

/// The parts of the statement of `terminate_where` that name tables.
const SELECT_DOOMED: &str = "WITH doomed AS (SELECT id FROM {namespace}sessions WHERE ended_at IS NULL";

const UPDATE_DOOMED: &str = " FOR UPDATE), ended AS (UPDATE {namespace}sessions AS session SET ended_at = ";

const INSERT_END_ENTRIES: &str = concat!("INSERT INTO {namespace}audit (", audit_end_columns!(), ") SELECT ");

const TERMINATE: &str = concat!(
    "WITH ended AS (UPDATE {namespace}sessions SET ended_at = $1, end_reason = $2, end_recorded_at = clock_timestamp() \
     WHERE id = $7 AND ended_at IS NULL RETURNING id, user_id, generation, address, user_agent) \
     INSERT INTO {namespace}audit (",
    audit_end_columns!(),
    ") SELECT $1, $2, user_id, id, $3, generation, $4, $5, $6, address, user_agent FROM ended"
);

/// Writes a row without a change.
const TOUCH: &str = "UPDATE {namespace}sessions SET end_reason = end_reason WHERE id = $1";

/// Locks rows in the order of their ids. Skips rows that another replica has locked.
const TERMINATE_EXPIRED: &str = concat!(
    "WITH seen AS (SELECT id FROM {namespace}sessions WHERE id > $1 ORDER BY id LIMIT $2), \
     due AS (SELECT id FROM {namespace}sessions WHERE id IN (SELECT id FROM seen) AND ended_at IS NULL \
     AND least(idle_expires_at, absolute_expires_at) <= $3 ORDER BY id FOR UPDATE SKIP LOCKED), \
     ended AS (UPDATE {namespace}sessions AS session \
     SET ended_at = least(idle_expires_at, absolute_expires_at), end_reason = CASE \
     WHEN absolute_expires_at <= idle_expires_at THEN 'absolute_expired' ELSE 'idle_expired' END \
     FROM due WHERE session.id = due.id RETURNING session.id, session.user_id, session.generation, \
     session.address, session.user_agent, session.ended_at, session.end_reason), \
     written AS (INSERT INTO {namespace}audit (",
    audit_end_columns!(),
    ") SELECT ended_at, end_reason, user_id, id, NULL, generation, NULL, NULL, NULL, address, user_agent \
     FROM ended) \
     SELECT id FROM seen ORDER BY id DESC LIMIT 1"
);

const PURGE: &str = "DELETE FROM {namespace}sessions WHERE id IN (SELECT id FROM {namespace}sessions \
    WHERE ended_at < $1 ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)";

const LIST_LIVE: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM {namespace}sessions WHERE user_id = $1 AND ended_at IS NULL \
     AND idle_expires_at > $2 AND absolute_expires_at > $2 ORDER BY rotated_at DESC, id DESC"
);

const MAX_KEY_NUMBER: &str = "SELECT max(key_number) FROM {namespace}sessions";

const LIST: &str = concat!("SELECT ", session_columns!(), " FROM {namespace}sessions WHERE TRUE");
