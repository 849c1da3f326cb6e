//! Settings in PostgreSQL.

use async_trait::async_trait;

use super::PostgresStore;
use crate::services::store::{SettingStore, StoreError};

#[async_trait]
impl SettingStore for PostgresStore {
    async fn get_or_insert_setting(&self, name: &str, value: &str) -> Result<String, StoreError> {
        let insert = sqlx::query(INSERT).bind(name).bind(value);
        let done = insert.execute(&self.pool).await;
        done.map_err(StoreError::unavailable)?;
        // A statement of its own: it sees what another has inserted since this one began.
        let find = sqlx::query_scalar(FIND).bind(name);
        find.fetch_one(&self.pool).await.map_err(StoreError::unavailable)
    }
}

const INSERT: &str = "INSERT INTO myapi.settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

const FIND: &str = "SELECT value FROM myapi.settings WHERE name = $1";
