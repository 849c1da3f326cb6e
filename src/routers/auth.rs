//! `/auth/…`: signing in and out with cookies, the user's password and sessions.
//!
//! Sign-in, sign-out, registration and `/auth/refresh` stand outside the session layer and look at
//! the cookies themselves; [`signed_in`] has what stands behind it.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::VARY;
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
use crate::layer::{
    CurrentUser, RefreshError, RefreshRequest, RefreshedSession, SESSION_EVENT_HEADER, TokenService,
};
use crate::models::session::{Session, SessionId, SessionKind};
use crate::models::user::Role;
use crate::problem::Problem;
use crate::schemas::auth::{LoginRequest, PasswordIn, RegisterIn, SessionListItem, SessionResponse, UserOut};
use crate::schemas::problem::{ReadErrorResponses, WriteErrorResponses};
use crate::services::auth::{AuthError, Credentials};
use crate::services::users::NewUser;
use crate::session_event::SessionEvent;

/// How large the bodies of these routes may be, in bytes.
pub(super) const BODY_LIMIT: usize = 16 * 1024;

/// The routes that look at no session, or at the cookies themselves.
#[must_use]
pub fn public() -> OpenApiRouter<AuthState> {
    let router = OpenApiRouter::default()
        .routes(routes!(login))
        .routes(routes!(logout))
        .routes(routes!(refresh))
        .routes(routes!(register));
    with_cookies(router)
}

/// The routes that need a signed-in user: put the session layer around them.
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

/// The jar is inside the session layer, which so sees what a handler sets or clears, and adds no
/// cookies of its own to that.
fn with_cookies(router: OpenApiRouter<AuthState>) -> OpenApiRouter<AuthState> {
    router
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(CookieManagerLayer::new())
        .layer(SetResponseHeaderLayer::appending(VARY, HeaderValue::from_static("Cookie")))
}

/// Signs in and sets both cookies.
#[utoipa::path(
    post, path = "/login", tag = "auth",
    request_body(content(
        (LoginRequest = "application/json"),
        (LoginRequest = "application/x-www-form-urlencoded"),
    )),
    responses(
        (status = 200, description = "Signed in. Never a token: those are in the cookies.", body = SessionResponse),
        (status = 401, description = "Wrong address or password.", body = Problem,
            content_type = Problem::CONTENT_TYPE),
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
    let credentials = Credentials { password: login.password(), email: login.email };
    let replaces = state.sessions_of(&headers).first().copied();
    let signed_in = state.auth.sign_in(&credentials, SessionKind::Browser, client, replaces).await;
    let (user, issued) = signed_in?;
    state.set(&cookies, &issued.tokens);
    Ok(Json(SessionResponse::new(&user, &issued.session, issued.tokens.identity.expires_at)))
}

/// Signs out: ends this session and clears both cookies, whatever state they are in.
#[utoipa::path(
    post, path = "/logout", tag = "auth",
    responses(
        (status = 204, description = "Signed out."),
        (status = 503, description = "The database can't be reached; nothing was cleared.", body = Problem,
            content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn logout(
    State(state): State<AuthState>,
    cookies: Cookies,
    headers: HeaderMap,
    client: ClientInfo,
) -> Result<impl IntoResponse, ApiError> {
    state.auth.sign_out(&state.sessions_of(&headers), &client).await?;
    state.clear(&cookies);
    Ok((StatusCode::NO_CONTENT, event(SessionEvent::LoggedOut)))
}

/// Renews now. The gateway does so by itself: this is for tests, and for pages left idle for long.
#[utoipa::path(
    post, path = "/refresh", tag = "auth", security(("session" = [])),
    responses(
        (status = 200, description = "Renewed.", body = SessionResponse,
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
    let presented =
        state.cookies.read(&headers).map_err(|_| ApiError::Unauthenticated(SessionEvent::Malformed))?;
    if !presented.any() {
        return Err(ApiError::Unauthenticated(SessionEvent::Missing));
    }
    let tokens = state.auth.tokens();
    let valid =
        presented.access.token().and_then(|token| tokens.verify_with_client(token, &|| client.clone()).ok());
    let request = RefreshRequest {
        // What is absent or unusable is no token of ours either.
        refresh_token: presented.refresh.token().unwrap_or_default().to_owned(),
        access_token: presented.access.token().map(str::to_owned),
        // A valid access token decides whose session it is.
        of: valid.map(|verified| verified.identity.session),
        client,
    };
    let issued = match tokens.refresh_session(request, SessionKind::Browser).await {
        Ok(issued) => issued,
        Err(RefreshError::Over { event, clear }) => {
            if clear {
                state.clear(&cookies);
            }
            return Err(ApiError::Unauthenticated(event));
        }
        Err(error) => {
            let unavailable = ApiError::StoreUnavailable(Box::new(error));
            return Ok((event(SessionEvent::StoreUnavailable), unavailable).into_response());
        }
    };
    let (user, session) = state.auth.current_session(&issued.tokens.identity).await?;
    // A sign-out, of just now: these cookies would undo it in the browser.
    if let Some((event, _)) = session.termination(state.clock.now()) {
        return Err(ApiError::Unauthenticated(event));
    }
    state.set(&cookies, &issued.tokens);
    let body = Json(SessionResponse::new(&user, &session, issued.tokens.identity.expires_at));
    Ok((event(issued.tokens.event), body).into_response())
}

/// Makes an account, where registration is open.
#[utoipa::path(
    post, path = "/register", tag = "auth", request_body = RegisterIn,
    responses(
        (status = 201, description = "The account is there; sign in with it.", body = UserOut),
        (status = 409, description = "The address is taken.", body = Problem,
            content_type = Problem::CONTENT_TYPE),
        WriteErrorResponses,
    ),
)]
async fn register(
    State(state): State<AuthState>,
    client: ClientInfo,
    JsonBody(new): JsonBody<RegisterIn>,
) -> Result<(StatusCode, Json<UserOut>), ApiError> {
    let new = NewUser {
        password: SecretString::from(new.password),
        email: new.email,
        name: new.name,
        role: Role::User,
    };
    let user = state.auth.register(new, &client).await?;
    Ok((StatusCode::CREATED, Json(UserOut::from(&user))))
}

/// Who is signed in, and until when.
#[utoipa::path(
    get, path = "/session", tag = "auth", security(("session" = []), ("bearer" = [])),
    responses((status = 200, description = "The session.", body = SessionResponse), ReadErrorResponses),
)]
async fn session(
    CurrentUser(identity): CurrentUser,
    State(state): State<AuthState>,
) -> Result<Json<SessionResponse>, ApiError> {
    let (user, session) = state.auth.current_session(&identity).await?;
    Ok(Json(SessionResponse::new(&user, &session, identity.expires_at)))
}

/// The user's own sessions.
#[utoipa::path(
    get, path = "/sessions", tag = "auth", security(("session" = []), ("bearer" = [])),
    responses((status = 200, description = "Those that live, the latest renewed first.",
        body = Vec<SessionListItem>), ReadErrorResponses),
)]
async fn sessions(
    CurrentUser(identity): CurrentUser,
    State(state): State<AuthState>,
) -> Result<Json<Vec<SessionListItem>>, ApiError> {
    let sessions = state.auth.sessions(&identity).await?;
    let item = |session: &Session| SessionListItem::new(session, session.id == identity.session);
    Ok(Json(sessions.iter().map(item).collect()))
}

/// Ends one of the user's own sessions.
#[utoipa::path(
    delete, path = "/sessions/{id}", tag = "auth", security(("session" = []), ("bearer" = [])),
    params(("id" = Uuid, Path, description = "The session.")),
    responses(
        (status = 204, description = "It has ended."),
        (status = 404, description = "The user has no such session.", body = Problem,
            content_type = Problem::CONTENT_TYPE),
        ReadErrorResponses,
    ),
)]
async fn end_session(
    CurrentUser(identity): CurrentUser,
    State(state): State<AuthState>,
    client: ClientInfo,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let Ok(Path(id)) = id else { return Err(ApiError::NotFound("There is no such session.")) };
    state.auth.end_session(&identity, SessionId(id), &client).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the password. The user's other sessions end; this one goes on.
#[utoipa::path(
    post, path = "/password", tag = "auth", request_body = PasswordIn,
    security(("session" = []), ("bearer" = [])),
    responses(
        (status = 200, description = "Changed.", body = SessionResponse),
        (status = 403, description = "The current password is wrong.", body = Problem,
            content_type = Problem::CONTENT_TYPE),
        WriteErrorResponses,
    ),
)]
async fn password(
    CurrentUser(identity): CurrentUser,
    State(state): State<AuthState>,
    client: ClientInfo,
    JsonBody(change): JsonBody<PasswordIn>,
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

/// Signs out everywhere: ends all of the user's sessions and clears both cookies.
#[utoipa::path(
    post, path = "/logout-all", tag = "auth", security(("session" = []), ("bearer" = [])),
    responses((status = 204, description = "Signed out everywhere."), ReadErrorResponses),
)]
async fn logout_all(
    CurrentUser(identity): CurrentUser,
    State(state): State<AuthState>,
    cookies: Cookies,
    client: ClientInfo,
) -> Result<impl IntoResponse, ApiError> {
    state.auth.sign_out_everywhere(&identity, &client).await?;
    state.clear(&cookies);
    Ok((StatusCode::NO_CONTENT, event(SessionEvent::LoggedOut)))
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
    /// The sessions that the request's cookies name, all that came.
    fn sessions_of(&self, headers: &HeaderMap) -> Vec<SessionId> {
        let tokens = self.auth.tokens();
        let mut sessions: Vec<_> = self
            .cookies
            .tokens_in(headers)
            .filter_map(|token| tokens.identify_session(Some(token), Some(token)))
            .collect();
        sessions.dedup();
        sessions
    }

    fn set(&self, cookies: &Cookies, renewal: &RefreshedSession) {
        let fresh = self.cookies.build(&renewal.access_token, &renewal.refresh_token, renewal.max_age);
        for cookie in fresh {
            cookies.add(cookie);
        }
    }

    fn clear(&self, cookies: &Cookies) {
        for cookie in self.cookies.build_removal() {
            cookies.add(cookie);
        }
    }
}

fn event(event: SessionEvent) -> [(HeaderName, HeaderValue); 1] {
    [(SESSION_EVENT_HEADER, HeaderValue::from_static(event.as_str()))]
}
