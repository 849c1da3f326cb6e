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

const INSERT: &str = concat!(
    "INSERT INTO {namespace}audit (",
    audit_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
);

const LIST_BY_SESSION: &str = concat!(
    "SELECT ",
    audit_columns!(),
    " FROM {namespace}audit WHERE session_id = $1 ORDER BY at DESC, id DESC LIMIT $2"
);

const PURGE: &str = "DELETE FROM {namespace}audit WHERE id IN (SELECT id FROM {namespace}audit WHERE at < $1 ORDER BY at LIMIT $2)";
