//! `POST /token`: OAuth 2.0's password and refresh grants, as FastAPI's `OAuth2PasswordRequestForm`
//! knows the first.
//!
//! For first-party clients that hold their tokens themselves. One error body serves both worlds:
//! FastAPI's clients read `detail`, OAuth's read `error` (RFC 6749, section 5.2), and a wrong password
//! is 401 as the former expect.

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
use super::auth::BODY_LIMIT;
use super::error::log_cause;
use super::form::{Form, FormError};
use crate::client_info::ClientInfo;
use crate::layer::{RefreshError, RefreshRequest, SESSION_EVENT_HEADER};
use crate::models::session::SessionKind;
use crate::schemas::auth::{TokenErrorResponse, TokenOut};
use crate::services::auth::{AuthError, Credentials};
use crate::services::password::PasswordError;
use crate::services::store::StoreError;
use crate::services::token::IssuedSession;
use crate::session_event::SessionEvent;

/// The route `/token`, and its description.
#[must_use]
pub fn router() -> OpenApiRouter<AuthState> {
    OpenApiRouter::default().routes(routes!(token)).layer(DefaultBodyLimit::max(BODY_LIMIT))
}

/// The form, for the description alone: it is read field by field.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the form")]
struct TokenForm {
    /// `password` (also if absent or empty) or `refresh_token`.
    #[schema(example = "password")]
    grant_type: Option<String>,
    /// The address, for `password`.
    username: Option<String>,
    /// The password, for `password`.
    #[schema(format = Password)]
    password: Option<String>,
    /// The refresh token, for `refresh_token`.
    refresh_token: Option<String>,
    /// No scopes are defined: absent or empty.
    scope: Option<String>,
}

/// Signs a client in, or renews its tokens.
#[utoipa::path(
    post, path = "/token", tag = "token",
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The tokens.", body = TokenOut),
        (status = 400, description = "A field is missing, repeated or not supported.", body = TokenErrorResponse),
        (status = 401, description = "Wrong credentials or refresh token.", body = TokenErrorResponse),
        (status = 503, description = "Too busy, or the database can't be reached.", body = TokenErrorResponse),
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
    Ok(answer(issued, state.clock.now()))
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
    let request = RefreshRequest { refresh_token, access_token: None, of: None, client };
    Ok(state.auth.tokens().refresh_session(request, SessionKind::Client).await?)
}

fn answer(issued: IssuedSession, now: OffsetDateTime) -> Response {
    let renewal = issued.tokens;
    let expires_at = renewal.identity.expires_at;
    let body = TokenOut {
        access_token: renewal.access_token,
        token_type: "bearer",
        expires_in: (expires_at - now).whole_seconds().try_into().unwrap_or(0),
        expires_at: expires_at.unix_timestamp(),
        refresh_token: renewal.refresh_token,
        scope: "",
    };
    ([(CACHE_CONTROL, "no-store"), (PRAGMA, "no-cache")], Json(body)).into_response()
}

/// Why no token was given.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("Too many sign-ins are waiting. Try again in a moment.")]
    Busy,
    #[error("Incorrect username or password")]
    Credentials,
    #[error("{0}")]
    Form(#[from] FormError),
    #[error("Only the grants `password` and `refresh_token` are supported.")]
    GrantType,
    #[error("Something went wrong on the server.")]
    Internal(#[source] AuthError),
    #[error("The password is longer than 1,024 bytes.")]
    PasswordTooLong,
    #[error("The refresh token is not valid any more.")]
    Refresh(SessionEvent),
    #[error("No scopes are defined: leave `scope` out.")]
    Scope,
    #[error("The server can't reach its database at the moment. Try again shortly.")]
    Unavailable(#[source] Option<StoreError>),
}

impl TokenError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Form(_) | Self::GrantType | Self::PasswordTooLong | Self::Scope => StatusCode::BAD_REQUEST,
            Self::Credentials | Self::Refresh(_) => StatusCode::UNAUTHORIZED,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Busy | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// RFC 6749, section 5.2; the last two are those of section 4.1.2.1.
    fn code(&self) -> &'static str {
        match self {
            Self::Form(_) | Self::PasswordTooLong => "invalid_request",
            Self::GrantType => "unsupported_grant_type",
            Self::Credentials | Self::Refresh(_) => "invalid_grant",
            Self::Scope => "invalid_scope",
            Self::Internal(_) => "server_error",
            Self::Busy | Self::Unavailable(_) => "temporarily_unavailable",
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
        log_cause(&self, self.code());
        let status = self.status();
        let detail = self.to_string();
        let body = TokenErrorResponse { error_description: detail.clone(), error: self.code(), detail };
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
            RefreshError::Over { event, .. } => Self::Refresh(event),
            RefreshError::Unavailable => Self::Unavailable(None),
        }
    }
}
