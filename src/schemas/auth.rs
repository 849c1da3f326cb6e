//! Bodies of the authentication routes.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::models::session::Session;
use crate::models::user::User;

/// Credentials.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// Email address, compared without regard to case.
    #[schema(min_length = 1, example = "taro@example.jp")]
    pub email: String,
    /// Password, at most 1,024 bytes.
    #[schema(value_type = String, format = Password, min_length = 1, max_length = 256)]
    pub password: String,
}

/// New account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// Email address.
    #[schema(min_length = 3, max_length = 254, example = "taro@example.jp")]
    pub email: String,
    /// Password, at least `login.password_min_length` characters and at most 1,024 bytes.
    #[schema(format = Password, min_length = 8, max_length = 256)]
    pub password: String,
    /// Display name.
    pub name: Option<String>,
}

/// Password change.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePasswordRequest {
    /// Current password, at most 1,024 bytes.
    #[schema(format = Password, min_length = 1, max_length = 256)]
    pub current_password: String,
    /// New password, at least `login.password_min_length` characters and at most 1,024 bytes.
    #[schema(format = Password, min_length = 8, max_length = 256)]
    pub new_password: String,
}

/// User.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UserResponse {
    /// Id of the user, which is immutable and never reused.
    pub id: Uuid,
    /// Email address.
    pub email: String,
    /// Display name.
    pub name: Option<String>,
    /// Roles.
    #[schema(example = json!(["user"]))]
    pub roles: Vec<String>,
}

/// Current user and session. It never contains a token.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SessionResponse {
    /// Current user.
    pub user: UserResponse,
    /// Id of the session.
    pub session_id: Uuid,
    /// Time at which the access token expires. The gateway refreshes it automatically.
    #[serde(with = "time::serde::rfc3339")]
    pub access_expires_at: OffsetDateTime,
    /// Time at which the session expires unless it is refreshed.
    #[serde(with = "time::serde::rfc3339")]
    pub session_expires_at: OffsetDateTime,
}

/// Session in a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SessionListItem {
    /// Id of the session.
    pub id: Uuid,
    /// True for the session that sent the request.
    pub current: bool,
    /// Time of the sign-in.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Time of the last refresh.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
    /// Client address of the last refresh.
    pub address: Option<String>,
    /// User agent of the last refresh.
    pub user_agent: Option<String>,
}

/// Response of `POST /token` (RFC 6749 section 5.1).
#[derive(Serialize, ToSchema)]
pub struct TokenResponse {
    /// Access token.
    pub access_token: String,
    /// Always `bearer`.
    #[schema(example = "bearer")]
    pub token_type: &'static str,
    /// Remaining lifetime of the access token, in seconds.
    #[schema(example = 900)]
    pub expires_in: u64,
    /// Time at which the access token expires (claim `exp`), in Unix seconds.
    pub expires_at: i64,
    /// Refresh token, for `grant_type=refresh_token`.
    pub refresh_token: String,
}

/// Error of `POST /token`, with fields for FastAPI's clients (`detail`) and OAuth's (`error`).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenErrorResponse {
    /// Description of the error.
    #[schema(example = "Incorrect username or password")]
    pub detail: String,
    /// Error code (RFC 6749 section 5.2).
    #[schema(example = "invalid_grant")]
    pub error: &'static str,
    /// Same text as `detail`.
    pub error_description: String,
}

impl From<&User> for UserResponse {
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
    /// Creates the response for a user and session.
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
    /// Creates the list item of a session.
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
