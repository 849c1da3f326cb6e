//! Users in PostgreSQL.

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;
use sqlx::{FromRow, Postgres};
use time::OffsetDateTime;
use uuid::Uuid;

use super::notify::notify_replicas;
use super::sessions::terminate_matching;
use super::{PostgresStore, audit, commit, conflict, is_valid_text, with_write_timeout};
use crate::backend::sql::{sessions_to_terminate, user_columns};
use crate::models::session::SessionId;
use crate::models::user::{Role, User, UserId};
use crate::services::store::{PasswordChange, SessionFilter, SessionTermination, StoreError, UserStore};

#[async_trait]
impl UserStore for PostgresStore {
    async fn insert_users(&self, users: &[User]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        // Sorted, so that concurrent imports lock rows in one order and cannot deadlock.
        let mut users: Vec<_> = users.iter().collect();
        users.sort_by_key(|user| &user.email);
        for user in users {
            insert(&mut tx, user).await?;
        }
        commit(tx).await
    }

    async fn find_user_by_email(&self, email: &str) -> Result<Option<User>, StoreError> {
        if !is_valid_text(email) {
            return Ok(None);
        }
        let query = sqlx::query_as::<_, Row>(FIND_BY_EMAIL).bind(email);
        let row = query.fetch_optional(&self.pool).await.map_err(StoreError::unavailable)?;
        row.map(User::try_from).transpose()
    }

    async fn find_user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        let query = sqlx::query_as::<_, Row>(FIND).bind(id.0);
        let row = query.fetch_optional(&self.pool).await.map_err(StoreError::unavailable)?;
        row.map(User::try_from).transpose()
    }

    async fn has_users(&self) -> Result<bool, StoreError> {
        sqlx::query_scalar(HAS_USERS).fetch_one(&self.pool).await.map_err(StoreError::unavailable)
    }

    async fn list_users(&self) -> Result<Vec<User>, StoreError> {
        let rows = sqlx::query_as::<_, Row>(LIST).fetch_all(&self.pool).await;
        rows.map_err(StoreError::unavailable)?.into_iter().map(User::try_from).collect()
    }

    async fn rehash(&self, id: UserId, old: &SecretString, new: &SecretString) -> Result<bool, StoreError> {
        let done = set_password(id, Some(old), new).execute(&self.pool).await;
        Ok(done.map_err(StoreError::unavailable)?.rows_affected() == 1)
    }

    async fn change_password(
        &self,
        change: &PasswordChange<'_>,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let update = set_password(change.user, change.old, change.new);
        let filter = sessions_to_terminate(change);
        self.update_and_terminate(update, change.user, filter, change.termination).await
    }

    async fn set_role(
        &self,
        id: UserId,
        role: Role,
        termination: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        with_write_timeout(async {
            let mut tx = self.begin().await?;
            let query = sqlx::query(SET_ROLE).bind(id.0).bind(role.as_str());
            let done = query.execute(&mut *tx).await.map_err(StoreError::unavailable)?;
            if done.rows_affected() == 0 {
                return Ok(exists(&mut tx, id).await?.then(Vec::new));
            }
            let ended = terminate_by_update(&mut tx, id, &SessionFilter::User(id), termination).await?;
            commit(tx).await?;
            notify_replicas(&self.pool, !ended.is_empty()).await;
            Ok(Some(ended))
        })
        .await
    }

    async fn disable_user(
        &self,
        id: UserId,
        termination: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let query = sqlx::query(DISABLE).bind(id.0).bind(termination.at);
        self.update_and_terminate(query, id, SessionFilter::User(id), termination).await
    }

    async fn enable_user(&self, id: UserId) -> Result<bool, StoreError> {
        let query = sqlx::query(ENABLE).bind(id.0);
        let done = query.execute(&self.pool).await;
        Ok(done.map_err(StoreError::unavailable)?.rows_affected() == 1)
    }

    async fn delete_user(
        &self,
        id: UserId,
        termination: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        self.update_and_terminate(sqlx::query(DELETE).bind(id.0), id, SessionFilter::User(id), termination)
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
            let mut tx = self.begin().await?;
            let done = update.execute(&mut *tx).await.map_err(StoreError::unavailable)?;
            if done.rows_affected() == 0 {
                return Ok(None);
            }
            let ended = terminate_by_update(&mut tx, user, &filter, termination).await?;
            commit(tx).await?;
            notify_replicas(&self.pool, !ended.is_empty()).await;
            Ok(Some(ended))
        })
        .await
    }
}

/// A statement with its parameters.
type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Records a change of a user and terminates the sessions of `filter`.
async fn terminate_by_update(
    tx: &mut PgConnection,
    user: UserId,
    filter: &SessionFilter,
    termination: &SessionTermination,
) -> Result<Vec<SessionId>, StoreError> {
    audit::insert(tx, &termination.user_audit_entry(user)).await?;
    terminate_matching(tx, filter, termination, None).await
}

async fn insert(tx: &mut PgConnection, user: &User) -> Result<(), StoreError> {
    let query = sqlx::query(INSERT)
        .bind(user.id.0)
        .bind(&user.email)
        .bind(&user.name)
        .bind(user.hashed_password.expose_secret())
        .bind(user.role.as_str())
        .bind(user.disabled_at)
        .bind(user.created_at);
    query.execute(tx).await.map(drop).map_err(|error| conflict(error, "email"))
}

/// Replaces the hash. If `old` is given, only while the user still has that hash.
fn set_password<'q>(id: UserId, old: Option<&'q SecretString>, new: &'q SecretString) -> Statement<'q> {
    sqlx::query(SET_PASSWORD).bind(id.0).bind(old.map(|hash| hash.expose_secret())).bind(new.expose_secret())
}

async fn exists(tx: &mut PgConnection, id: UserId) -> Result<bool, StoreError> {
    let query = sqlx::query_scalar::<_, bool>(EXISTS).bind(id.0);
    query.fetch_one(tx).await.map_err(StoreError::unavailable)
}

/// A row of the table.
#[derive(FromRow)]
struct Row {
    id: Uuid,
    email: String,
    name: Option<String>,
    hashed_password: String,
    role: String,
    disabled_at: Option<OffsetDateTime>,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for User {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: UserId(row.id),
            email: row.email,
            name: row.name,
            hashed_password: row.hashed_password.into(),
            role: Role::from_word(&row.role).ok_or(corrupt("role"))?,
            disabled_at: row.disabled_at,
            created_at: row.created_at,
        })
    }
}

fn corrupt(column: &'static str) -> StoreError {
    StoreError::Corrupt { table: "users", column }
}

const INSERT: &str =
    concat!("INSERT INTO myapi.users (", user_columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $7)");

const FIND_BY_EMAIL: &str = concat!("SELECT ", user_columns!(), " FROM myapi.users WHERE email = $1");

const FIND: &str = concat!("SELECT ", user_columns!(), " FROM myapi.users WHERE id = $1");

const HAS_USERS: &str = "SELECT EXISTS (SELECT 1 FROM myapi.users)";

const LIST: &str = concat!("SELECT ", user_columns!(), " FROM myapi.users ORDER BY email COLLATE \"C\"");

const SET_PASSWORD: &str = "UPDATE myapi.users SET hashed_password = $3 \
    WHERE id = $1 AND ($2 IS NULL OR hashed_password = $2)";

const SET_ROLE: &str = "UPDATE myapi.users SET role = $2 WHERE id = $1 AND role <> $2";

const EXISTS: &str = "SELECT EXISTS (SELECT 1 FROM myapi.users WHERE id = $1)";

/// Keeps the time of the first call.
const DISABLE: &str = "UPDATE myapi.users SET disabled_at = coalesce(disabled_at, $2) WHERE id = $1";

const ENABLE: &str = "UPDATE myapi.users SET disabled_at = NULL WHERE id = $1";

const DELETE: &str = "DELETE FROM myapi.users WHERE id = $1";
