//! Settings in PostgreSQL.

use async_trait::async_trait;

use super::PostgresStore;
use crate::services::store::{SettingStore, StoreError};

#[async_trait]
impl SettingStore for PostgresStore {
    async fn get_or_insert_setting(&self, name: &str, value: &str) -> Result<String, StoreError> {
        let insert = sqlx::query(INSERT).bind(name).bind(value);
        insert.execute(&self.pool).await.map_err(StoreError::unavailable)?;
        // A second statement, because the first cannot see a row that another transaction has inserted
        // since it began.
        let find = sqlx::query_scalar(FIND).bind(name);
        find.fetch_one(&self.pool).await.map_err(StoreError::unavailable)
    }
}

const INSERT: &str = "INSERT INTO myapi.settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

const FIND: &str = "SELECT value FROM myapi.settings WHERE name = $1";
