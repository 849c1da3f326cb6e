//! `POST /token`: the password and refresh token grants of OAuth 2.0.
//!
//! It is meant for first-party clients that store their tokens themselves. The password grant has the form
//! of FastAPI's `OAuth2PasswordRequestForm`. The error body serves both kinds of clients: FastAPI's read
//! `detail`, OAuth's read `error` (RFC 6749 section 5.2). A wrong password is 401, as FastAPI's expect.

use axum::Json;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use secrecy::SecretString;
use time::OffsetDateTime;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AuthState;
use super::auth::MAX_BODY_BYTES;
use super::error::log_cause;
use super::form::{Form, FormError};
use crate::client_info::ClientInfo;
use crate::layer::{RefreshError, RefreshRequest, SESSION_EVENT_HEADER};
use crate::models::session::SessionKind;
use crate::schemas::auth::{TokenErrorResponse, TokenResponse};
use crate::services::auth::{AuthError, Credentials};
use crate::services::password::PasswordError;
use crate::services::store::StoreError;
use crate::services::token::IssuedSession;
use crate::session_event::SessionEvent;

/// Creates the route `/token`.
#[must_use]
pub fn router() -> OpenApiRouter<AuthState> {
    OpenApiRouter::default().routes(routes!(token)).layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

/// Schema of the form, only for the OpenAPI document: the handler reads it field by field.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[schema(title = "TokenRequest")]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the form")]
enum TokenRequest {
    /// Sign-in with a password.
    Password(PasswordGrant),
    /// Refresh of the tokens.
    Refresh(RefreshGrant),
}

/// Form of the password grant.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the form")]
struct PasswordGrant {
    /// `password`, or absent.
    #[schema(nullable = false, pattern = "^(password)?$", example = "password")]
    grant_type: Option<String>,
    /// Email address.
    #[schema(min_length = 1)]
    username: String,
    /// Password, at most 1,024 bytes.
    #[schema(format = Password, min_length = 1, max_length = 256)]
    password: String,
    /// Absent or empty: no scopes are defined.
    #[schema(nullable = false, max_length = 0)]
    scope: Option<String>,
}

/// Form of the refresh grant.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the form")]
struct RefreshGrant {
    /// `refresh_token`.
    #[schema(pattern = "^refresh_token$", example = "refresh_token")]
    grant_type: String,
    /// Refresh token.
    #[schema(min_length = 1)]
    refresh_token: String,
    /// Absent or empty: no scopes are defined.
    #[schema(nullable = false, max_length = 0)]
    scope: Option<String>,
}

/// Sign in, or refresh the tokens.
#[utoipa::path(
    post, path = "/token", tag = "token",
    request_body(content = TokenRequest, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The tokens.", body = TokenResponse),
        (status = 400, description = "A field is missing, repeated or unsupported.", body = TokenErrorResponse),
        (status = 401, description = "Wrong credentials or refresh token.", body = TokenErrorResponse),
        (status = 503, description = "The server is busy, or the database is unavailable.", body = TokenErrorResponse),
    ),
)]
async fn token(
    State(state): State<AuthState>,
    client: ClientInfo,
    request: Request,
) -> Result<Response, TokenError> {
    let mut form = Form::read(request).await?;
    let grant = form.take("grant_type").unwrap_or_default();
    if form.take("scope").is_some_and(|scope| !scope.is_empty()) {
        return Err(TokenError::Scope);
    }
    let issued = match grant.as_str() {
        "" | "password" => sign_in(&state, &mut form, client).await?,
        "refresh_token" => refresh(&state, &mut form, client).await?,
        _ => return Err(TokenError::GrantType),
    };
    Ok(token_response(issued, state.clock.now()))
}

async fn sign_in(
    state: &AuthState,
    form: &mut Form,
    client: ClientInfo,
) -> Result<IssuedSession, TokenError> {
    let credentials = Credentials {
        email: form.require("username")?,
        password: SecretString::from(form.require("password")?),
    };
    let (_, issued) = state.auth.sign_in(&credentials, SessionKind::Client, client, None).await?;
    Ok(issued)
}

async fn refresh(
    state: &AuthState,
    form: &mut Form,
    client: ClientInfo,
) -> Result<IssuedSession, TokenError> {
    let refresh_token = form.require("refresh_token")?;
    let request = RefreshRequest { refresh_token, client, ..RefreshRequest::default() };
    Ok(state.auth.tokens().refresh_session(request, SessionKind::Client).await?)
}

fn token_response(issued: IssuedSession, now: OffsetDateTime) -> Response {
    let tokens = issued.tokens;
    let expires_at = tokens.identity.expires_at;
    let body = TokenResponse {
        access_token: tokens.access_token,
        token_type: "bearer",
        expires_in: (expires_at - now).whole_seconds().try_into().unwrap_or(0),
        expires_at: expires_at.unix_timestamp(),
        refresh_token: tokens.refresh_token,
    };
    ([(CACHE_CONTROL, "no-store"), (PRAGMA, "no-cache")], Json(body)).into_response()
}

/// Error of the token endpoint.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("Too many sign-ins are waiting. Try again in a moment.")]
    Busy,
    #[error("Incorrect username or password")]
    Credentials,
    #[error("{0}")]
    Form(#[from] FormError),
    #[error("The supported grant types are `password` and `refresh_token`.")]
    GrantType,
    #[error("Something went wrong on the server.")]
    Internal(#[source] AuthError),
    #[error("The password is longer than 1,024 bytes.")]
    PasswordTooLong,
    #[error("The refresh token is no longer valid.")]
    Refresh(SessionEvent),
    #[error("No scopes are defined. Omit `scope`.")]
    Scope,
    #[error("The database is unavailable. Try again in a moment.")]
    Unavailable(#[source] Option<StoreError>),
}

impl TokenError {
    /// Returns the status, and the error code of RFC 6749 section 5.2, or for the last two that of section
    /// 4.1.2.1.
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Form(FormError::Timeout) => (StatusCode::REQUEST_TIMEOUT, "invalid_request"),
            Self::Form(_) | Self::PasswordTooLong => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::GrantType => (StatusCode::BAD_REQUEST, "unsupported_grant_type"),
            Self::Credentials | Self::Refresh(_) => (StatusCode::UNAUTHORIZED, "invalid_grant"),
            Self::Scope => (StatusCode::BAD_REQUEST, "invalid_scope"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
            Self::Busy | Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable"),
        }
    }

    fn event(&self) -> Option<SessionEvent> {
        match self {
            Self::Refresh(event) => Some(*event),
            Self::Unavailable(_) => Some(SessionEvent::StoreUnavailable),
            _ => None,
        }
    }
}

impl IntoResponse for TokenError {
    fn into_response(self) -> Response {
        let (status, error) = self.status_and_code();
        log_cause(&self, error);
        let detail = self.to_string();
        let body = TokenErrorResponse { error_description: detail.clone(), error, detail };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(event) = self.event() {
            headers.insert(SESSION_EVENT_HEADER, HeaderValue::from_static(event.as_str()));
        }
        response
    }
}

impl From<AuthError> for TokenError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Credentials => Self::Credentials,
            AuthError::Password(PasswordError::Busy) => Self::Busy,
            AuthError::Password(PasswordError::TooLong) => Self::PasswordTooLong,
            AuthError::Store(error @ StoreError::Unavailable(_)) => Self::Unavailable(Some(error)),
            other => Self::Internal(other),
        }
    }
}

impl From<RefreshError> for TokenError {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::SessionEnded { event, .. } => Self::Refresh(event),
            RefreshError::Unavailable => Self::Unavailable(None),
        }
    }
}
