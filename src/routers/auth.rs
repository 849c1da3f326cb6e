//! `/auth/…`: sign-in and sign-out with cookies, the user's password and sessions.
//!
//! The [`public`] routes are outside the session layer and read the cookies themselves. The [`signed_in`]
//! routes are behind it.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::VARY;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use secrecy::SecretString;
use tower_cookies::{CookieManagerLayer, Cookies};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::form::{Form, is_form};
use super::{ApiError, AuthState, JsonBody};
use crate::client_info::ClientInfo;
use crate::http_headers::list_contains;
use crate::layer::{
    CurrentUser, RefreshError, RefreshRequest, RefreshedSession, SESSION_EVENT_HEADER, TokenService,
};
use crate::models::session::{Session, SessionId, SessionKind};
use crate::models::user::Role;
use crate::problem::Problem;
use crate::schemas::auth::{
    ChangePasswordRequest, LoginRequest, RegisterRequest, SessionListItem, SessionResponse, UserResponse,
};
use crate::schemas::problem::{ReadErrorResponses, WriteErrorResponses};
use crate::services::auth::{AuthError, Credentials};
use crate::services::users::NewUser;
use crate::session_event::SessionEvent;
use crate::sessions::SignOut;

/// Maximum size of request bodies, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 16 * 1024;

/// Creates the routes that work without a session, or read the cookies themselves.
#[must_use]
pub fn public() -> OpenApiRouter<AuthState> {
    let router = OpenApiRouter::default()
        .routes(routes!(login))
        .routes(routes!(logout))
        .routes(routes!(refresh))
        .routes(routes!(register));
    with_cookies(router)
}

/// Creates the routes that need a signed-in user, to be wrapped in the session layer.
#[must_use]
pub fn signed_in() -> OpenApiRouter<AuthState> {
    let router = OpenApiRouter::default()
        .routes(routes!(session))
        .routes(routes!(sessions))
        .routes(routes!(end_session))
        .routes(routes!(password))
        .routes(routes!(logout_all));
    with_cookies(router)
}

/// Adds the body limit and the cookie manager.
///
/// The cookie manager is inside the session layer, which adds no cookies of its own to a response that
/// already sets or clears them.
fn with_cookies(router: OpenApiRouter<AuthState>) -> OpenApiRouter<AuthState> {
    router
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CookieManagerLayer::new())
        .layer(vary_by_cookie())
}

/// Returns a layer that adds `Vary: Cookie`, unless the handler has.
pub(super) fn vary_by_cookie() -> SetResponseHeaderLayer<fn(&Response) -> Option<HeaderValue>> {
    SetResponseHeaderLayer::appending(VARY, missing_vary)
}

fn missing_vary(response: &Response) -> Option<HeaderValue> {
    (!list_contains(response.headers(), &VARY, "cookie")).then(|| HeaderValue::from_static("Cookie"))
}

/// Sign in and set both cookies.
#[utoipa::path(
    post, path = "/login", tag = "auth",
    request_body(content(
        (LoginRequest = "application/json"),
        (LoginRequest = "application/x-www-form-urlencoded"),
    )),
    responses(
        (status = 200, description = "Signed in. The tokens are only in the cookies.", body = SessionResponse),
        WriteErrorResponses,
    ),
)]
async fn login(
    State(state): State<AuthState>,
    cookies: Cookies,
    headers: HeaderMap,
    client: ClientInfo,
    LoginBody(login): LoginBody,
) -> Result<Json<SessionResponse>, ApiError> {
    let credentials = Credentials { password: SecretString::from(login.password), email: login.email };
    let replaced = state.sessions.sessions_in(&headers).next();
    let (user, issued) = state.auth.sign_in(&credentials, SessionKind::Browser, client, replaced).await?;
    state.set_cookies(&cookies, &issued.tokens);
    Ok(Json(SessionResponse::new(&user, &issued.session, issued.tokens.identity.expires_at)))
}

/// Sign out: end this session and clear both cookies, valid or not.
#[utoipa::path(
    post, path = "/logout", tag = "auth",
    responses(
        (status = 204, description = "Signed out."),
        (status = 503, description = "The database is unavailable. No cookie was cleared.", body = Problem,
            content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn logout(State(state): State<AuthState>, request: Parts) -> Result<(StatusCode, SignOut), ApiError> {
    Ok((StatusCode::NO_CONTENT, state.sessions.sign_out(&request).await?))
}

/// Refresh the session now.
///
/// The gateway refreshes sessions by itself. This is for tests, and for pages that were idle for long.
#[utoipa::path(
    post, path = "/refresh", tag = "auth", security(("session" = [])),
    responses(
        (status = 200, description = "Refreshed.", body = SessionResponse,
            headers(("X-Session-Event" = String, description = "`rotated`, `replayed` or `caught_up`."))),
        ReadErrorResponses,
    ),
)]
async fn refresh(
    State(state): State<AuthState>,
    cookies: Cookies,
    headers: HeaderMap,
    client: ClientInfo,
) -> Result<Response, ApiError> {
    let presented = state
        .sessions
        .cookies()
        .read(&headers)
        .map_err(|_| ApiError::Unauthenticated(SessionEvent::Malformed))?;
    if !presented.any() {
        return Err(ApiError::Unauthenticated(SessionEvent::Missing));
    }
    let tokens = state.auth.tokens();
    let valid =
        presented.access.token().and_then(|token| tokens.verify_with_client(token, &|| client.clone()).ok());
    let request = RefreshRequest {
        // An absent or malformed cookie is treated as an invalid token.
        refresh_token: presented.refresh.token().unwrap_or_default().to_owned(),
        access_token: presented.access.token().map(str::to_owned),
        // A valid access token determines the session.
        expected_session: valid.map(|verified| verified.identity.session),
        client,
    };
    let issued = match tokens.refresh_session(request, SessionKind::Browser).await {
        Ok(issued) => issued,
        Err(RefreshError::SessionEnded { event, clear_cookies }) => {
            if clear_cookies {
                state.clear_cookies(&cookies);
            }
            return Err(ApiError::Unauthenticated(event));
        }
        Err(error) => {
            let unavailable = ApiError::StoreUnavailable(Box::new(error));
            return Ok((event_header(SessionEvent::StoreUnavailable), unavailable).into_response());
        }
    };
    let (user, session) = state.auth.current_session(&issued.tokens.identity).await?;
    // The session was terminated during the refresh: setting its cookies would undo a sign-out.
    if let Some((event, _)) = session.termination(state.clock.now()) {
        return Err(ApiError::Unauthenticated(event));
    }
    state.set_cookies(&cookies, &issued.tokens);
    let body = Json(SessionResponse::new(&user, &session, issued.tokens.identity.expires_at));
    Ok((event_header(issued.tokens.event), body).into_response())
}

/// Create an account, if registration is open.
#[utoipa::path(
    post, path = "/register", tag = "auth", request_body = RegisterRequest,
    responses(
        (status = 201, description = "The account was created.", body = UserResponse),
        (status = 409, description = "The email address is already in use.", body = Problem,
            content_type = Problem::CONTENT_TYPE),
        WriteErrorResponses,
    ),
)]
async fn register(
    State(state): State<AuthState>,
    client: ClientInfo,
    JsonBody(registration): JsonBody<RegisterRequest>,
) -> Result<(StatusCode, Json<UserResponse>), ApiError> {
    let new = NewUser {
        password: SecretString::from(registration.password),
        email: registration.email,
        name: registration.name,
        role: Role::User,
    };
    let user = state.auth.register(new, &client).await?;
    Ok((StatusCode::CREATED, Json(UserResponse::from(&user))))
}

/// Get the current user and the times at which the session expires.
#[utoipa::path(
    get, path = "/session", tag = "auth", security(("session" = []), ("bearer" = [])),
    responses((status = 200, description = "The session.", body = SessionResponse), ReadErrorResponses),
)]
async fn session(
    CurrentUser { identity, .. }: CurrentUser,
    State(state): State<AuthState>,
) -> Result<Json<SessionResponse>, ApiError> {
    let (user, session) = state.auth.current_session(&identity).await?;
    Ok(Json(SessionResponse::new(&user, &session, identity.expires_at)))
}

/// List the user's active sessions.
#[utoipa::path(
    get, path = "/sessions", tag = "auth", security(("session" = []), ("bearer" = [])),
    responses((status = 200, description = "The active sessions, most recently refreshed first.",
        body = Vec<SessionListItem>), ReadErrorResponses),
)]
async fn sessions(
    CurrentUser { identity, .. }: CurrentUser,
    State(state): State<AuthState>,
) -> Result<Json<Vec<SessionListItem>>, ApiError> {
    let sessions = state.auth.sessions(&identity).await?;
    let item = |session: &Session| SessionListItem::new(session, session.id == identity.session);
    Ok(Json(sessions.iter().map(item).collect()))
}

/// End one of the user's sessions.
#[utoipa::path(
    delete, path = "/sessions/{id}", tag = "auth", security(("session" = []), ("bearer" = [])),
    params(("id" = Uuid, Path, description = "Id of the session.")),
    responses(
        (status = 204, description = "The session has ended."),
        (status = 404, description = "The user has no such session.", body = Problem,
            content_type = Problem::CONTENT_TYPE),
        ReadErrorResponses,
    ),
)]
async fn end_session(
    CurrentUser { identity, .. }: CurrentUser,
    State(state): State<AuthState>,
    client: ClientInfo,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let Ok(Path(id)) = id else { return Err(ApiError::NotFound("There is no such session.")) };
    state.auth.end_session(&identity, SessionId(id), &client).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Change the password and end the user's other sessions.
#[utoipa::path(
    post, path = "/password", tag = "auth", request_body = ChangePasswordRequest,
    security(("session" = []), ("bearer" = [])),
    responses(
        (status = 200, description = "The password was changed.", body = SessionResponse),
        WriteErrorResponses,
    ),
)]
async fn password(
    CurrentUser { identity, .. }: CurrentUser,
    State(state): State<AuthState>,
    client: ClientInfo,
    JsonBody(change): JsonBody<ChangePasswordRequest>,
) -> Result<Json<SessionResponse>, ApiError> {
    let current = SecretString::from(change.current_password);
    let new = SecretString::from(change.new_password);
    state.auth.change_password(&identity, &current, &new, &client).await.map_err(|error| match error {
        AuthError::Credentials => ApiError::WrongPassword,
        other => other.into(),
    })?;
    let (user, session) = state.auth.current_session(&identity).await?;
    Ok(Json(SessionResponse::new(&user, &session, identity.expires_at)))
}

/// Sign out everywhere: end all of the user's sessions and clear both cookies.
#[utoipa::path(
    post, path = "/logout-all", tag = "auth", security(("session" = []), ("bearer" = [])),
    responses((status = 204, description = "Signed out everywhere."), ReadErrorResponses),
)]
async fn logout_all(
    CurrentUser { identity, .. }: CurrentUser,
    State(state): State<AuthState>,
    cookies: Cookies,
    client: ClientInfo,
) -> Result<impl IntoResponse, ApiError> {
    state.auth.sign_out_everywhere(&identity, &client).await?;
    state.clear_cookies(&cookies);
    Ok((StatusCode::NO_CONTENT, event_header(SessionEvent::LoggedOut)))
}

/// Credentials as JSON or as a form.
struct LoginBody(LoginRequest);

impl<S: Send + Sync> FromRequest<S> for LoginBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_form(request.headers()) {
            return JsonBody::from_request(request, state).await.map(|JsonBody(login)| Self(login));
        }
        let mut form = Form::read(request).await?;
        Ok(Self(LoginRequest { email: form.require("email")?, password: form.require("password")? }))
    }
}

impl AuthState {
    pub(super) fn set_cookies(&self, cookies: &Cookies, session: &RefreshedSession) {
        for cookie in
            self.sessions.cookies().build(&session.access_token, &session.refresh_token, session.max_age)
        {
            cookies.add(cookie);
        }
    }

    pub(super) fn clear_cookies(&self, cookies: &Cookies) {
        for cookie in self.sessions.cookies().build_removal() {
            cookies.add(cookie);
        }
    }
}

fn event_header(event: SessionEvent) -> [(HeaderName, HeaderValue); 1] {
    [(SESSION_EVENT_HEADER, HeaderValue::from_static(event.as_str()))]
}
