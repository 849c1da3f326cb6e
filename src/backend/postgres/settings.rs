//! Settings in PostgreSQL.

use async_trait::async_trait;

use super::PostgresStore;
use crate::services::store::{SettingStore, StoreError};

#[async_trait]
impl SettingStore for PostgresStore {
    async fn get_or_insert_setting(&self, name: &str, value: &str) -> Result<String, StoreError> {
        self.execute(sqlx::query(&self.sql.settings.insert).bind(name).bind(value)).await?;
        // A second statement, because the first cannot see a row that another transaction has inserted
        // since it began.
        Ok(sqlx::query_scalar(&self.sql.settings.find).bind(name).fetch_one(&self.pool).await?)
    }

    async fn replace_setting(&self, name: &str, old: &str, new: &str) -> Result<bool, StoreError> {
        let query = sqlx::query(&self.sql.settings.replace).bind(name).bind(old).bind(new);
        Ok(query.execute(&self.relaxed).await?.rows_affected() > 0)
    }

    async fn set_setting(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.execute(sqlx::query(&self.sql.settings.set).bind(name).bind(value)).await.map(drop)
    }

    async fn list_settings(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        Ok(sqlx::query_as(&self.sql.settings.list).bind(prefix).fetch_all(&self.pool).await?)
    }

    async fn delete_setting(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.execute(sqlx::query(&self.sql.settings.delete).bind(name)).await? > 0)
    }
}
