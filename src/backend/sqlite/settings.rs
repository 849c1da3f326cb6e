//! Settings in SQLite.

use async_trait::async_trait;

use super::{Durability, SqliteStore};
use crate::services::store::{SettingStore, StoreError};

#[async_trait]
impl SettingStore for SqliteStore {
    async fn get_or_insert_setting(&self, name: &str, value: &str) -> Result<String, StoreError> {
        let insert = sqlx::query(&self.sql.settings.insert).bind(name).bind(value);
        let find = sqlx::query_scalar(&self.sql.settings.find).bind(name.to_owned());
        self.write(Durability::Flushed, |tx| {
            Box::pin(async move {
                insert.execute(&mut *tx).await?;
                Ok(find.fetch_one(tx).await?)
            })
        })
        .await
    }

    async fn replace_setting(&self, name: &str, old: &str, new: &str) -> Result<bool, StoreError> {
        let query = sqlx::query(&self.sql.settings.replace)
            .bind(name.to_owned())
            .bind(old.to_owned())
            .bind(new.to_owned());
        Ok(self.execute(Durability::Relaxed, query).await? > 0)
    }

    async fn set_setting(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let query = sqlx::query(&self.sql.settings.set).bind(name.to_owned()).bind(value.to_owned());
        self.execute(Durability::Flushed, query).await.map(drop)
    }

    async fn list_settings(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        Ok(sqlx::query_as(&self.sql.settings.list).bind(prefix.to_owned()).fetch_all(&self.readers).await?)
    }

    async fn delete_setting(&self, name: &str) -> Result<bool, StoreError> {
        let query = sqlx::query(&self.sql.settings.delete).bind(name.to_owned());
        Ok(self.execute(Durability::Flushed, query).await? > 0)
    }
}
