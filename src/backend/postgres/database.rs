//! The database of the gateway in PostgreSQL.

use async_trait::async_trait;
use sqlx::Executor;

use super::{PostgresStore, with_write_timeout};
use crate::backend::database::Database;
use crate::services::store::StoreError;

#[async_trait]
impl Database for PostgresStore {
    fn is_embedded(&self) -> bool {
        false
    }

    async fn check_write(&self) -> Result<(), StoreError> {
        with_write_timeout(async {
            let mut tx = self.pool.begin().await?;
            tx.execute(CHECK_WRITE).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    async fn close(&self) {
        PostgresStore::close(self).await;
    }
}

/// Returns `true` if PostgreSQL can store `text`, which must not contain NUL.
pub(super) fn is_valid_text(text: &str) -> bool {
    !text.contains('\0')
}

/// Changes no row of the tables of sessions, but waits for their locks as a sign-in does. The setting is random, so
/// that it takes up its size of 64 KiB also compressed.
const CHECK_WRITE: &str = "UPDATE myapi.sessions SET end_reason = end_reason WHERE FALSE; \
    INSERT INTO myapi.audit (at, event) SELECT now(), '' WHERE FALSE; \
    INSERT INTO myapi.settings (name, value) \
    SELECT 'write_check', string_agg(md5(random()::text), '') FROM generate_series(1, 2048) \
    ON CONFLICT (name) DO UPDATE SET value = excluded.value; \
    DELETE FROM myapi.settings WHERE name = 'write_check'";
