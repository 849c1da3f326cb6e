//! Audit log in PostgreSQL.

use async_trait::async_trait;
use sqlx::query_builder::Separated;
use sqlx::{Postgres, QueryBuilder};
use time::OffsetDateTime;

use super::PostgresStore;
use super::pool::Transaction;
use super::statements::AuditSql;
use crate::backend::sql::rows::AuditRow;
use crate::models::audit::AuditEntry;
use crate::models::session::SessionId;
use crate::services::store::{AuditStore, StoreError};

#[async_trait]
impl AuditStore for PostgresStore {
    async fn record(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        for chunk in entries.chunks(MAX_ENTRIES) {
            let mut query = QueryBuilder::<Postgres>::new(self.sql.audit.insert.as_str());
            query.push_values(chunk, |mut row, entry| push_entry(&mut row, entry));
            self.execute(query.build()).await?;
        }
        Ok(())
    }

    async fn session_audit(&self, session: SessionId, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let query = sqlx::query_as(&self.sql.audit.list_by_session).bind(session.0).bind(i64::from(limit));
        let rows: Vec<AuditRow<OffsetDateTime, i16>> = query.fetch_all(&self.pool).await?;
        rows.into_iter().map(AuditEntry::try_from).collect()
    }

    async fn purge_audit(&self, before: OffsetDateTime, limit: u32) -> Result<u64, StoreError> {
        self.execute(sqlx::query(&self.sql.audit.purge).bind(before).bind(i64::from(limit))).await
    }
}

/// Adds an entry in the transaction of the change that it records.
pub(super) async fn insert(
    tx: &mut Transaction,
    sql: &AuditSql,
    entry: &AuditEntry,
) -> Result<(), StoreError> {
    let mut query = QueryBuilder::<Postgres>::new(sql.insert.as_str());
    query.push_values([entry], |mut row, entry| push_entry(&mut row, entry));
    query.build().execute(tx).await?;
    Ok(())
}

fn push_entry(row: &mut Separated<'_, Postgres, &'static str>, entry: &AuditEntry) {
    row.push_bind(entry.at)
        .push_bind(entry.event.as_str())
        .push_bind(entry.user.as_ref().map(ToString::to_string))
        .push_bind(entry.session.map(|session| session.0))
        .push_bind(entry.presented.map(i64::from))
        .push_bind(entry.held.map(i64::from))
        .push_bind(entry.key_number.map(i16::from))
        .push_bind(entry.by.address.map(|address| address.to_string()))
        .push_bind(entry.by.user_agent.clone())
        .push_bind(entry.by.request_id.clone())
        .push_bind(entry.holder.address.map(|address| address.to_string()))
        .push_bind(entry.holder.user_agent.clone());
}

/// Maximum number of entries that one statement adds. A statement has at most 65,535 parameters.
const MAX_ENTRIES: usize = 500;
