//! Settings in PostgreSQL.

use async_trait::async_trait;

use super::PostgresStore;
use crate::services::store::{SettingStore, StoreError};

#[async_trait]
impl SettingStore for PostgresStore {
    async fn get_or_insert_setting(&self, name: &str, value: &str) -> Result<String, StoreError> {
        self.execute(sqlx::query(INSERT).bind(name).bind(value)).await?;
        // A second statement, because the first cannot see a row that another transaction has inserted
        // since it began.
        Ok(sqlx::query_scalar(FIND).bind(name).fetch_one(&self.pool).await?)
    }
}

const INSERT: &str = "INSERT INTO myapi.settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

const FIND: &str = "SELECT value FROM myapi.settings WHERE name = $1";
