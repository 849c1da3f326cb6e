//! Settings in SQLite.

use async_trait::async_trait;

use super::{Durability, SqliteStore};
use crate::services::store::{SettingStore, StoreError};

#[async_trait]
impl SettingStore for SqliteStore {
    async fn get_or_insert_setting(&self, name: &str, value: &str) -> Result<String, StoreError> {
        let insert = sqlx::query(INSERT).bind(name).bind(value);
        let find = sqlx::query_scalar(FIND).bind(name.to_owned());
        self.write(Durability::Flushed, |tx| {
            Box::pin(async move {
                insert.execute(&mut *tx).await?;
                Ok(find.fetch_one(tx).await?)
            })
        })
        .await
    }
}

const INSERT: &str = "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

const FIND: &str = "SELECT value FROM settings WHERE name = $1";
