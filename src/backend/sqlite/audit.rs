//! Audit log in SQLite.

use async_trait::async_trait;
use sqlx::FromRow;
use sqlx::sqlite::SqliteConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Durability, SqliteStore, from_micros, micros};
use crate::backend::sql::audit_columns;
use crate::client_info::ClientInfo;
use crate::models::audit::{AuditEntry, AuditEvent};
use crate::models::session::SessionId;
use crate::models::user::UserId;
use crate::services::store::{AuditStore, StoreError};

#[async_trait]
impl AuditStore for SqliteStore {
    async fn record(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        let entries = entries.to_vec();
        self.write(Durability::Flushed, |tx| {
            Box::pin(async move {
                for entry in &entries {
                    insert(tx, entry).await?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn session_audit(&self, session: SessionId, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let query = sqlx::query_as::<_, Row>(LIST_BY_SESSION).bind(session.0).bind(limit);
        let rows = query.fetch_all(&self.readers).await.map_err(StoreError::unavailable)?;
        rows.into_iter().map(AuditEntry::try_from).collect()
    }

    async fn purge_audit(&self, before: OffsetDateTime, limit: u32) -> Result<u64, StoreError> {
        // A purge undone by a crash is repeated.
        self.execute(Durability::Relaxed, sqlx::query(PURGE).bind(micros(before)).bind(limit)).await
    }
}

/// Adds an entry in the transaction of the change that it records.
pub(super) async fn insert(tx: &mut SqliteConnection, entry: &AuditEntry) -> Result<(), StoreError> {
    let query = sqlx::query(INSERT)
        .bind(micros(entry.at))
        .bind(entry.event.as_str())
        .bind(entry.user.map(|user| user.0))
        .bind(entry.session.map(|session| session.0))
        .bind(entry.presented)
        .bind(entry.held)
        .bind(entry.key_number)
        .bind(entry.by.address.map(|address| address.to_string()))
        .bind(&entry.by.user_agent)
        .bind(&entry.by.request_id)
        .bind(entry.holder.address.map(|address| address.to_string()))
        .bind(&entry.holder.user_agent);
    query.execute(tx).await.map(drop).map_err(StoreError::unavailable)
}

/// A row of the table.
#[derive(FromRow)]
struct Row {
    at: i64,
    event: String,
    user_id: Option<Uuid>,
    session_id: Option<Uuid>,
    presented: Option<i64>,
    held: Option<i64>,
    key_number: Option<i64>,
    address: Option<String>,
    user_agent: Option<String>,
    request_id: Option<String>,
    holder_address: Option<String>,
    holder_user_agent: Option<String>,
}

impl TryFrom<Row> for AuditEntry {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let generation =
            |number: Option<i64>, column| number.map(u32::try_from).transpose().map_err(|_| corrupt(column));
        let address = |text: Option<String>, column| {
            text.map(|text| text.parse()).transpose().map_err(|_| corrupt(column))
        };
        Ok(Self {
            at: from_micros(row.at).ok_or(corrupt("at"))?,
            event: AuditEvent::from_word(&row.event).ok_or(corrupt("event"))?,
            user: row.user_id.map(UserId),
            session: row.session_id.map(SessionId),
            presented: generation(row.presented, "presented")?,
            held: generation(row.held, "held")?,
            key_number: row.key_number.map(u8::try_from).transpose().map_err(|_| corrupt("key_number"))?,
            by: ClientInfo {
                address: address(row.address, "address")?,
                user_agent: row.user_agent,
                request_id: row.request_id,
            },
            holder: ClientInfo {
                address: address(row.holder_address, "holder_address")?,
                user_agent: row.holder_user_agent,
                request_id: None,
            },
        })
    }
}

fn corrupt(column: &'static str) -> StoreError {
    StoreError::Corrupt { table: "audit", column }
}

const INSERT: &str = concat!(
    "INSERT INTO audit (",
    audit_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
);

const LIST_BY_SESSION: &str = concat!(
    "SELECT ",
    audit_columns!(),
    " FROM audit WHERE session_id = $1 ORDER BY at DESC, id DESC LIMIT $2"
);

const PURGE: &str = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < $1 ORDER BY at LIMIT $2)";
