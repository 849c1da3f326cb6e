//! Sign-in and sign-out for handlers: [`Sessions`], and the responses [`SignIn`] and [`SignOut`].

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use axum_core::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use http::HeaderMap;
use http::header::HeaderValue;
use http::request::Parts;

use crate::client_info::ClientInfo;
use crate::http_headers::SESSION_EVENT_HEADER;
use crate::identity::{Identity, SessionId};
use crate::layer::{CookiePolicy, SessionCookies, SilentRefreshLayer};
use crate::models::session::{EndReason, Session, SessionKind};
use crate::services::store::StoreError;
use crate::services::token::{SessionRequest, SignInError, Tokens};
use crate::session_event::SessionEvent;

/// The sessions of an application: [`Tokens`], and the cookies that carry them. Cheap to clone, for use as axum's state.
///
/// The layer, sign-in and sign-out share it, so that none of them uses cookies of other names.
///
/// ```
/// use axum::extract::{Form, State};
/// use axum::http::{StatusCode, request::Parts};
/// use axum::response::Redirect;
/// use axum::{Router, routing::{get, post}};
/// use sekisho::{CookiePolicy, CurrentUser, SessionRequest, Sessions, SignIn, SignOut, Tokens};
///
/// #[derive(serde::Deserialize)]
/// struct Credentials {
///     email: String,
///     password: String,
/// }
///
/// async fn sign_in(
///     State(sessions): State<Sessions>,
///     request: Parts,
///     Form(form): Form<Credentials>,
/// ) -> Result<(SignIn, Redirect), StatusCode> {
///     // Check `form.password` here, and find the user.
/// #   let _ = form.password;
///     let user_id = 42;
///     let new = SessionRequest::new(user_id, &form.email);
///     let signed_in = sessions.sign_in(&request, new).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
///     Ok((signed_in, Redirect::to("/account")))
/// }
///
/// async fn sign_out(
///     State(sessions): State<Sessions>,
///     request: Parts,
/// ) -> Result<(SignOut, Redirect), StatusCode> {
///     let signed_out = sessions.sign_out(&request).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
///     Ok((signed_out, Redirect::to("/")))
/// }
///
/// fn app(sessions: Sessions) -> Router {
///     Router::new()
///         .route("/account", get(|user: CurrentUser| async move { user.email.to_string() }))
///         .route("/sign-in", post(sign_in))
///         .route("/sign-out", post(sign_out))
///         .layer(sessions.layer())
///         .with_state(sessions)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use axum::{body::Body, http::{Request, header::SET_COOKIE}};
/// # use tower::ServiceExt;
/// let app = app(Sessions::new(Tokens::in_memory()?, CookiePolicy::default()));
/// # let form = Request::post("/sign-in").header("content-type", "application/x-www-form-urlencoded");
/// # let form = form.body(Body::from("email=ann%40example.org&password=x"))?;
/// # let response = app.clone().oneshot(form).await?;
/// # assert_eq!(response.status(), StatusCode::SEE_OTHER);
/// # let cookies: Vec<_> = response.headers().get_all(SET_COOKIE).iter().collect();
/// # let pair = |at: usize| cookies[at].to_str().map(|cookie| cookie.split(';').next().unwrap_or_default());
/// # let cookie = format!("{}; {}", pair(0)?, pair(1)?);
/// # let request = Request::get("/account").header("cookie", &cookie).body(Body::empty())?;
/// # assert_eq!(app.clone().oneshot(request).await?.status(), StatusCode::OK);
/// # let request = Request::post("/sign-out").header("cookie", &cookie).body(Body::empty())?;
/// # assert_eq!(app.clone().oneshot(request).await?.headers()["x-session-event"], "logged_out");
/// # let request = Request::get("/account").header("cookie", &cookie).body(Body::empty())?;
/// # assert_eq!(app.oneshot(request).await?.status(), StatusCode::UNAUTHORIZED);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Sessions {
    tokens: Tokens,
    cookies: Arc<CookiePolicy>,
}

impl Sessions {
    /// Combines tokens and cookies.
    #[must_use]
    pub fn new(tokens: Tokens, cookies: impl Into<Arc<CookiePolicy>>) -> Self {
        Self { tokens, cookies: cookies.into() }
    }

    /// Returns the tokens.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Returns the cookie policy.
    #[must_use]
    pub fn cookies(&self) -> &Arc<CookiePolicy> {
        &self.cookies
    }

    /// Returns a layer for these sessions, which lets anonymous requests continue.
    /// [`with_on_reject`](SilentRefreshLayer::with_on_reject) rejects or redirects them.
    pub fn layer(&self) -> SilentRefreshLayer<Tokens> {
        SilentRefreshLayer::new(Arc::new(self.tokens.clone()), Arc::clone(&self.cookies))
    }

    /// Creates a session of a user whose credentials have been checked. The former session of this browser ends.
    ///
    /// The new session is a browser session of the client that sent `request`. It replaces that of
    /// [`SessionRequest::replaces`], or else the one whose cookies came with the request. If they name several, all of
    /// them end. After an error none has ended.
    ///
    /// # Errors
    ///
    /// As [`Tokens::sign_in`].
    pub async fn sign_in(&self, request: &Parts, new: SessionRequest<'_>) -> Result<SignIn, SignInError> {
        let client = ClientInfo::from_request_parts(&request.extensions, &request.headers);
        let mut named = self.sessions_in(&request.headers).collect::<BTreeSet<_>>();
        let replaces = new.replaces.or_else(|| named.first().copied());
        if let Some(replaced) = replaces {
            named.remove(&replaced);
        }
        let new = SessionRequest { kind: SessionKind::Browser, client: client.clone(), replaces, ..new };
        let issued = self.tokens.sign_in(new).await?;
        let cookies = SessionCookies::set(&self.cookies, &issued.tokens)?;
        self.end_others(named, &client).await;
        Ok(SignIn { session: issued.session, identity: issued.tokens.identity, cookies })
    }

    /// Ends further sessions that the cookies of a sign-in name. The sign-in has succeeded, whether or not this does.
    async fn end_others(&self, sessions: BTreeSet<SessionId>, client: &ClientInfo) {
        if sessions.is_empty() {
            return;
        }
        let ended = self.tokens.end_list(sessions.into_iter().collect(), EndReason::LoggedOut, client).await;
        if let Err(error) = ended {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "sessions of duplicate cookies were not ended at a sign-in");
        }
    }

    /// Ends every session that the cookies of a request name, valid or not, and clears the cookies.
    ///
    /// Sessions are named by expired access tokens too, and by duplicate cookies. A request without session cookies is no
    /// error.
    ///
    /// # Errors
    ///
    /// If the store fails. No cookie is cleared then, because the sessions may continue.
    pub async fn sign_out(&self, request: &Parts) -> Result<SignOut, StoreError> {
        let client = ClientInfo::from_request_parts(&request.extensions, &request.headers);
        let sessions: BTreeSet<_> = self.sessions_in(&request.headers).collect();
        self.sign_out_of(sessions.into_iter().collect(), &client).await
    }

    /// Ends these sessions on behalf of `client`, and clears the cookies.
    pub(crate) async fn sign_out_of(
        &self,
        sessions: Vec<SessionId>,
        client: &ClientInfo,
    ) -> Result<SignOut, StoreError> {
        let ended = self.tokens.end_list(sessions, EndReason::LoggedOut, client).await?;
        for session in &ended {
            tracing::info!(%session, session_event = "logged_out", "signed out");
        }
        Ok(SignOut { sessions: ended, cookies: SessionCookies::clear(&self.cookies) })
    }

    /// Returns the sessions identified by the session cookies of a request, including repeated cookies. Equal
    /// cookies are verified once.
    pub(crate) fn sessions_in(&self, headers: &HeaderMap) -> impl Iterator<Item = SessionId> {
        let mut seen = HashSet::new();
        self.cookies
            .tokens_in(headers)
            .filter(move |token| seen.insert(*token))
            .filter_map(|token| self.tokens.identify_session(Some(token), Some(token)))
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("tokens", &self.tokens).field("cookies", &self.cookies).finish()
    }
}

/// A sign-in: as a part of the response, it sets both session cookies.
///
/// Handlers return it before their own response, as in `(sign_in, Redirect::to("/"))`, or alone.
#[must_use = "the user is signed in by the response that this is part of"]
pub struct SignIn {
    session: Session,
    identity: Identity,
    cookies: SessionCookies,
}

impl SignIn {
    /// Returns the row of the new session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Returns the identity that handlers get for the new session.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl IntoResponseParts for SignIn {
    type Error = Infallible;

    fn into_response_parts(self, response: ResponseParts) -> Result<ResponseParts, Infallible> {
        self.cookies.into_response_parts(response)
    }
}

impl IntoResponse for SignIn {
    fn into_response(self) -> Response {
        self.cookies.into_response()
    }
}

/// Shows no token.
impl fmt::Debug for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIn").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// A sign-out: as a part of the response, it clears both session cookies and sets `X-Session-Event: logged_out`.
#[derive(Debug)]
#[must_use = "the cookies are cleared by the response that this is part of"]
pub struct SignOut {
    sessions: Vec<SessionId>,
    cookies: SessionCookies,
}

impl SignOut {
    /// Returns the sessions that this sign-out has ended. Those that had ended before are not among them.
    #[must_use]
    pub fn sessions(&self) -> &[SessionId] {
        &self.sessions
    }
}

impl IntoResponseParts for SignOut {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        let event = HeaderValue::from_static(SessionEvent::LoggedOut.as_str());
        response.headers_mut().insert(SESSION_EVENT_HEADER, event);
        self.cookies.into_response_parts(response)
    }
}

impl IntoResponse for SignOut {
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}
