//! Audit log in PostgreSQL.

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::query_builder::Separated;
use sqlx::{FromRow, Postgres, QueryBuilder};
use time::OffsetDateTime;
use uuid::Uuid;

use super::PostgresStore;
use crate::backend::sql::audit_columns;
use crate::client_info::ClientInfo;
use crate::models::audit::{AuditEntry, AuditEvent};
use crate::models::session::SessionId;
use crate::models::user::UserId;
use crate::services::store::{AuditStore, StoreError};

#[async_trait]
impl AuditStore for PostgresStore {
    async fn record(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        for chunk in entries.chunks(MAX_ENTRIES) {
            let mut query = QueryBuilder::<Postgres>::new(INSERT);
            query.push_values(chunk, |mut row, entry| push_entry(&mut row, entry));
            query.build().execute(&self.pool).await.map_err(StoreError::unavailable)?;
        }
        Ok(())
    }

    async fn session_audit(&self, session: SessionId, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let query = sqlx::query_as::<_, Row>(LIST_BY_SESSION).bind(session.0).bind(i64::from(limit));
        let rows = query.fetch_all(&self.pool).await.map_err(StoreError::unavailable)?;
        rows.into_iter().map(AuditEntry::try_from).collect()
    }

    async fn purge_audit(&self, before: OffsetDateTime, limit: u32) -> Result<u64, StoreError> {
        let query = sqlx::query(PURGE).bind(before).bind(i64::from(limit));
        let done = query.execute(&self.pool).await;
        Ok(done.map_err(StoreError::unavailable)?.rows_affected())
    }
}

/// Adds an entry in the transaction of the change that it records.
pub(super) async fn insert(tx: &mut PgConnection, entry: &AuditEntry) -> Result<(), StoreError> {
    let mut query = QueryBuilder::<Postgres>::new(INSERT);
    query.push_values([entry], |mut row, entry| push_entry(&mut row, entry));
    query.build().execute(tx).await.map(drop).map_err(StoreError::unavailable)
}

fn push_entry(row: &mut Separated<'_, Postgres, &'static str>, entry: &AuditEntry) {
    row.push_bind(entry.at)
        .push_bind(entry.event.as_str())
        .push_bind(entry.user.map(|user| user.0))
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

/// A row of the table.
#[derive(FromRow)]
struct Row {
    at: OffsetDateTime,
    event: String,
    user_id: Option<Uuid>,
    session_id: Option<Uuid>,
    presented: Option<i64>,
    held: Option<i64>,
    key_number: Option<i16>,
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
            at: row.at,
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

/// Maximum number of entries that one statement adds. A statement has at most 65,535 parameters.
const MAX_ENTRIES: usize = 500;

const INSERT: &str = concat!("INSERT INTO myapi.audit (", audit_columns!(), ") ");

const LIST_BY_SESSION: &str = concat!(
    "SELECT ",
    audit_columns!(),
    " FROM myapi.audit WHERE session_id = $1 ORDER BY at DESC, id LIMIT $2"
);

const PURGE: &str = "DELETE FROM myapi.audit WHERE id IN (SELECT id FROM myapi.audit \
    WHERE at < $1 ORDER BY at LIMIT $2)";
