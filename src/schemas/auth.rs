//! Signing in, sessions and tokens on the wire.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::models::session::Session;
use crate::models::user::User;

/// What a user signs in with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The address, in any case.
    #[schema(example = "taro@example.jp")]
    pub email: String,
    /// The password.
    #[schema(value_type = String, format = Password)]
    pub password: String,
}

/// A new account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterIn {
    /// The address.
    #[schema(example = "taro@example.jp")]
    pub email: String,
    /// The password.
    #[schema(format = Password)]
    pub password: String,
    /// What to call the user.
    pub name: Option<String>,
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordIn {
    /// The password until now.
    #[schema(format = Password)]
    pub current_password: String,
    /// The new one.
    #[schema(format = Password)]
    pub new_password: String,
}

/// A user.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UserOut {
    /// The id, immutable and never used again.
    pub id: Uuid,
    /// The address.
    pub email: String,
    /// What to call the user.
    pub name: Option<String>,
    /// What the user may do.
    #[schema(example = json!(["user"]))]
    pub roles: Vec<String>,
}

/// Who is signed in, and until when. Never a token.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SessionResponse {
    /// The user.
    pub user: UserOut,
    /// The session.
    pub session_id: Uuid,
    /// When the access token expires; the gateway renews it by itself.
    #[serde(with = "time::serde::rfc3339")]
    pub access_expires_at: OffsetDateTime,
    /// When the session expires unless it is renewed.
    #[serde(with = "time::serde::rfc3339")]
    pub session_expires_at: OffsetDateTime,
}

/// One of the user's sessions.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SessionListItem {
    /// Its id.
    pub id: Uuid,
    /// Whether it is the one that asks.
    pub current: bool,
    /// When the user signed in.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was last renewed.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
    /// Where it was last renewed from.
    pub address: Option<String>,
    /// By which program.
    pub user_agent: Option<String>,
}

/// Tokens for a client of `POST /token` (RFC 6749, section 5.1).
#[derive(Serialize, ToSchema)]
pub struct TokenOut {
    /// The access token.
    pub access_token: String,
    /// Always `bearer`.
    #[schema(example = "bearer")]
    pub token_type: &'static str,
    /// For how many seconds the access token is valid.
    #[schema(example = 900)]
    pub expires_in: u64,
    /// When it expires, in Unix seconds, as its claim `exp`.
    pub expires_at: i64,
    /// The refresh token, for `grant_type=refresh_token`.
    pub refresh_token: String,
    /// No scopes are defined: always empty.
    #[schema(example = "")]
    pub scope: &'static str,
}

/// Why no token was given: for FastAPI's clients (`detail`) and OAuth's (`error`) alike.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenErrorResponse {
    /// What went wrong.
    #[schema(example = "Incorrect username or password")]
    pub detail: String,
    /// The code (RFC 6749, section 5.2).
    #[schema(example = "invalid_grant")]
    pub error: &'static str,
    /// What went wrong, again.
    pub error_description: String,
}

impl From<&User> for UserOut {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.0,
            email: user.email.clone(),
            name: user.name.clone(),
            roles: user.role.roles().iter().map(str::to_owned).collect(),
        }
    }
}

impl SessionResponse {
    /// Who is signed in with this session.
    #[must_use]
    pub fn new(user: &User, session: &Session, access_expires_at: OffsetDateTime) -> Self {
        Self {
            user: user.into(),
            session_id: session.id.0,
            access_expires_at,
            session_expires_at: session.expires_at(),
        }
    }
}

impl SessionListItem {
    /// A session as its owner sees it.
    #[must_use]
    pub fn new(session: &Session, current: bool) -> Self {
        Self {
            id: session.id.0,
            current,
            created_at: session.created_at,
            last_seen_at: session.rotated_at,
            address: session.client.address.map(|address| address.to_string()),
            user_agent: session.client.user_agent.clone(),
        }
    }
}

impl LoginRequest {
    /// The password, kept secret from here on.
    #[must_use]
    pub fn password(&self) -> SecretString {
        SecretString::from(self.password.as_str())
    }
}
