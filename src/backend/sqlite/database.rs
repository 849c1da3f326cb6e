//! The database of the gateway in SQLite.

use async_trait::async_trait;

use super::SqliteStore;
use crate::backend::database::Database;
use crate::services::store::{SettingStore, StoreError};

#[async_trait]
impl Database for SqliteStore {
    fn is_embedded(&self) -> bool {
        true
    }

    fn check_identity(&self) -> Result<(), StoreError> {
        self.files.check().map_err(StoreError::unavailable)
    }

    async fn check_write(&self) -> Result<(), StoreError> {
        // Two transactions: pages that are allocated and freed within one are not written.
        self.set_setting(WRITE_CHECK, &"-".repeat(WRITE_CHECK_BYTES)).await?;
        self.delete_setting(WRITE_CHECK).await.map(drop)
    }

    async fn close(&self) {
        SqliteStore::close(self).await;
    }
}

/// Name of the setting that [`Database::check_write`] writes and deletes.
const WRITE_CHECK: &str = "write_check";

/// Size of that setting: more than the pages that a sign-in changes.
const WRITE_CHECK_BYTES: usize = 64 * 1024;
