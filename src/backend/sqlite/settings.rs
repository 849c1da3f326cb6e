//! Settings in SQLite.

use async_trait::async_trait;

use super::{Durability, SqliteStore, commit};
use crate::services::store::{SettingStore, StoreError};

#[async_trait]
impl SettingStore for SqliteStore {
    async fn settle_setting(&self, name: &str, value: &str) -> Result<String, StoreError> {
        let mut tx = self.write(Durability::Flushed).await?;
        let insert = sqlx::query(INSERT).bind(name).bind(value);
        insert.execute(&mut *tx).await.map_err(StoreError::unavailable)?;
        let find = sqlx::query_scalar(FIND).bind(name);
        let settled = find.fetch_one(&mut *tx).await.map_err(StoreError::unavailable)?;
        commit(tx).await?;
        Ok(settled)
    }
}

const INSERT: &str = "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

const FIND: &str = "SELECT value FROM settings WHERE name = $1";
