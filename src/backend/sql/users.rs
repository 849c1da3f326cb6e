//! Users: their columns and rows.

use secrecy::SecretString;
use sqlx::FromRow;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::models::user::{PasswordOrigin, Role, User, UserId};
use crate::services::store::StoreError;

macro_rules! user_columns {
    () => {
        "id, email, name, hashed_password, role, disabled_at, created_at, password_origin"
    };
}

pub(in crate::backend) use user_columns;

/// A row of `users`, with times of the type `T`.
#[derive(FromRow)]
pub(in crate::backend) struct UserRow<T> {
    id: Uuid,
    email: String,
    name: Option<String>,
    hashed_password: String,
    role: String,
    disabled_at: Option<T>,
    created_at: T,
    password_origin: Option<String>,
}

impl<T: TryInto<OffsetDateTime>> TryFrom<UserRow<T>> for User {
    type Error = StoreError;

    fn try_from(row: UserRow<T>) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::Corrupt { table: "users", column };
        let origin =
            row.password_origin.as_deref().map_or(Some(PasswordOrigin::Own), PasswordOrigin::from_word);
        let time = |at: T, column| at.try_into().map_err(|_| corrupt(column));
        Ok(Self {
            id: UserId(row.id),
            email: row.email,
            name: row.name,
            hashed_password: SecretString::from(row.hashed_password),
            password_origin: origin.ok_or(corrupt("password_origin"))?,
            role: Role::from_word(&row.role).ok_or(corrupt("role"))?,
            disabled_at: row.disabled_at.map(|at| time(at, "disabled_at")).transpose()?,
            created_at: time(row.created_at, "created_at")?,
        })
    }
}
