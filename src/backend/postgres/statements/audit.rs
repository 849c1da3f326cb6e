//! Statements about the audit log.

use crate::backend::sql::{audit_columns, statements};

statements! {
    /// The statements about audit entries.
    struct AuditSql {
        insert: INSERT,
        list_by_session: LIST_BY_SESSION,
        purge: PURGE,
    }
}

const INSERT: &str = concat!("INSERT INTO {namespace}audit (", audit_columns!(), ") ");

const LIST_BY_SESSION: &str = concat!(
    "SELECT ",
    audit_columns!(),
    " FROM {namespace}audit WHERE session_id = $1 ORDER BY at DESC, id LIMIT $2"
);

const PURGE: &str = "DELETE FROM {namespace}audit WHERE id IN (SELECT id FROM {namespace}audit \
    WHERE at < $1 ORDER BY at LIMIT $2)";
