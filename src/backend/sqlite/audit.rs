//! Audit log in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use time::OffsetDateTime;

use super::statements::AuditSql;
use super::{Durability, Micros, SqliteStore, micros};
use crate::backend::sql::rows::AuditRow;
use crate::models::audit::AuditEntry;
use crate::models::session::SessionId;
use crate::services::store::{AuditStore, StoreError};

#[async_trait]
impl AuditStore for SqliteStore {
    async fn record(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        let entries = entries.to_vec();
        let sql = Arc::clone(&self.sql);
        self.write(Durability::Flushed, move |tx| {
            Box::pin(async move {
                for entry in &entries {
                    insert(tx, &sql.audit, entry).await?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn session_audit(&self, session: SessionId, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let query = sqlx::query_as(&self.sql.audit.list_by_session).bind(session.0).bind(limit);
        let rows: Vec<AuditRow<Micros, i64>> = query.fetch_all(&self.readers).await?;
        rows.into_iter().map(AuditEntry::try_from).collect()
    }

    async fn purge_audit(&self, before: OffsetDateTime, limit: u32) -> Result<u64, StoreError> {
        // A purge undone by a crash is repeated.
        self.execute(Durability::Relaxed, sqlx::query(&self.sql.audit.purge).bind(micros(before)).bind(limit))
            .await
    }
}

/// Adds an entry in the transaction of the change that it records.
pub(super) async fn insert(
    tx: &mut SqliteConnection,
    sql: &AuditSql,
    entry: &AuditEntry,
) -> Result<(), StoreError> {
    let query = sqlx::query(&sql.insert)
        .bind(micros(entry.at))
        .bind(entry.event.as_str())
        .bind(entry.user.as_deref())
        .bind(entry.session.map(|session| session.0))
        .bind(entry.presented)
        .bind(entry.held)
        .bind(entry.key_number)
        .bind(entry.by.address.map(|address| address.to_string()))
        .bind(&entry.by.user_agent)
        .bind(&entry.by.request_id)
        .bind(entry.holder.address.map(|address| address.to_string()))
        .bind(&entry.holder.user_agent);
    query.execute(tx).await?;
    Ok(())
}
