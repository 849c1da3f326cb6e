//! Users in PostgreSQL.

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use super::database::is_valid_text;
use super::notify::notify_replicas;
use super::pool::Transaction;
use super::sessions::terminate_matching;
use super::{PostgresStore, Statement, audit, conflict, with_write_timeout};
use crate::backend::sql::users::{UserRow, user_columns};
use crate::models::session::SessionId;
use crate::models::user::{Role, User, UserId};
use crate::services::store::{PasswordChange, SessionFilter, SessionTermination, StoreError, UserStore};

#[async_trait]
impl UserStore for PostgresStore {
    async fn insert_users(&self, users: &[User]) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        // Sorted, so that concurrent imports lock rows in one order and cannot deadlock.
        let mut users: Vec<_> = users.iter().collect();
        users.sort_by_key(|user| &user.email);
        for user in users {
            insert(&mut tx, user).await?;
        }
        Ok(tx.commit().await?)
    }

    async fn find_user_by_email(&self, email: &str) -> Result<Option<User>, StoreError> {
        if !is_valid_text(email) {
            return Ok(None);
        }
        let row: Option<Row> = sqlx::query_as(FIND_BY_EMAIL).bind(email).fetch_optional(&self.pool).await?;
        row.map(User::try_from).transpose()
    }

    async fn find_user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        let row: Option<Row> = sqlx::query_as(FIND).bind(id.0).fetch_optional(&self.pool).await?;
        row.map(User::try_from).transpose()
    }

    async fn has_users(&self) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(HAS_USERS).fetch_one(&self.pool).await?)
    }

    async fn list_users(&self) -> Result<Vec<User>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(LIST).fetch_all(&self.pool).await?;
        rows.into_iter().map(User::try_from).collect()
    }

    async fn rehash(&self, id: UserId, old: &SecretString, new: &SecretString) -> Result<bool, StoreError> {
        Ok(self.execute(set_password(id, Some(old), new)).await? == 1)
    }

    async fn change_password(
        &self,
        change: &PasswordChange<'_>,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let update = set_password(change.user, change.old, change.new);
        self.update_and_terminate(update, change.user, change.sessions(), change.termination).await
    }

    async fn set_role(
        &self,
        id: UserId,
        role: Role,
        termination: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let query = sqlx::query(SET_ROLE).bind(id.0).bind(role.as_str());
        let ended = self.update_and_terminate(query, id, SessionFilter::User(id.into()), termination).await?;
        if ended.is_none() && self.find_user(id).await?.is_some() {
            // The user has that role.
            return Ok(Some(Vec::new()));
        }
        Ok(ended)
    }

    async fn disable_user(
        &self,
        id: UserId,
        termination: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let query = sqlx::query(DISABLE).bind(id.0).bind(termination.at);
        self.update_and_terminate(query, id, SessionFilter::User(id.into()), termination).await
    }

    async fn enable_user(&self, id: UserId) -> Result<bool, StoreError> {
        Ok(self.execute(sqlx::query(ENABLE).bind(id.0)).await? == 1)
    }

    async fn delete_user(
        &self,
        id: UserId,
        termination: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        self.update_and_terminate(
            sqlx::query(DELETE).bind(id.0),
            id,
            SessionFilter::User(id.into()),
            termination,
        )
        .await
    }
}

impl PostgresStore {
    /// Updates the row of a user and terminates sessions. Returns `None` if there is no such row.
    async fn update_and_terminate(
        &self,
        update: Statement<'_>,
        user: UserId,
        filter: SessionFilter,
        termination: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        with_write_timeout(async {
            let mut tx = self.pool.begin().await?;
            let done = update.execute(&mut tx).await?;
            if done.rows_affected() == 0 {
                return Ok(None);
            }
            audit::insert(&mut tx, &self.sql.audit, &termination.user_audit_entry(user)).await?;
            let ended = terminate_matching(&mut tx, &self.sql.sessions, &filter, termination, None).await?;
            tx.commit().await?;
            notify_replicas(&self.pool, &self.channel, !ended.is_empty()).await;
            Ok(Some(ended))
        })
        .await
    }
}

async fn insert(tx: &mut Transaction, user: &User) -> Result<(), StoreError> {
    let query = sqlx::query(INSERT)
        .bind(user.id.0)
        .bind(&user.email)
        .bind(&user.name)
        .bind(user.hashed_password.expose_secret())
        .bind(user.role.as_str())
        .bind(user.disabled_at)
        .bind(user.created_at)
        .bind(user.password_origin.as_str());
    query.execute(tx).await.map(drop).map_err(|error| conflict(error, "email"))
}

/// Replaces the hash by one of this program. If `old` is given, only while the user still has that hash.
fn set_password<'q>(id: UserId, old: Option<&'q SecretString>, new: &'q SecretString) -> Statement<'q> {
    sqlx::query(SET_PASSWORD).bind(id.0).bind(old.map(|hash| hash.expose_secret())).bind(new.expose_secret())
}

type Row = UserRow<OffsetDateTime>;

const INSERT: &str =
    concat!("INSERT INTO myapi.users (", user_columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8)");

const FIND_BY_EMAIL: &str = concat!("SELECT ", user_columns!(), " FROM myapi.users WHERE email = $1");

const FIND: &str = concat!("SELECT ", user_columns!(), " FROM myapi.users WHERE id = $1");

const HAS_USERS: &str = "SELECT EXISTS (SELECT 1 FROM myapi.users)";

const LIST: &str = concat!("SELECT ", user_columns!(), " FROM myapi.users ORDER BY email COLLATE \"C\"");

const SET_PASSWORD: &str = "UPDATE myapi.users SET hashed_password = $3, password_origin = 'own' \
    WHERE id = $1 AND ($2 IS NULL OR hashed_password = $2)";

const SET_ROLE: &str = "UPDATE myapi.users SET role = $2 WHERE id = $1 AND role <> $2";

/// Keeps the time of the first call.
const DISABLE: &str = "UPDATE myapi.users SET disabled_at = coalesce(disabled_at, $2) WHERE id = $1";

const ENABLE: &str = "UPDATE myapi.users SET disabled_at = NULL WHERE id = $1";

const DELETE: &str = "DELETE FROM myapi.users WHERE id = $1";
