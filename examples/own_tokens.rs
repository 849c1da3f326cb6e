//! The layer with tokens of another kind: random ones, of which a table in memory knows the sessions.
//!
//! ```text
//! cargo run --no-default-features --example own_tokens [PORT]
//! curl -i -c jar -X POST http://127.0.0.1:3000/sign-in
//! curl -i -b jar -c jar http://127.0.0.1:3000/account
//! ```
//!
//! The refresh token stays the same for the whole session here, so that a copy of it is not detected. `Tokens`, the
//! crate's own `TokenService`, replaces it at each refresh.

use std::collections::HashMap;
use std::error::Error;
use std::future::{Ready, ready};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use sekisho::clock::{Clock, SystemClock};
use sekisho::identity::{Claims, Roles, SessionId, Subject};
use sekisho::layer::{
    RefreshError, RefreshRequest, RefreshedSession, Reject401, SessionCookies, SilentRefreshLayer, Verified,
    VerifyError,
};
use sekisho::session_event::SessionEvent;
use sekisho::{CookiePolicy, CurrentUser, Identity, TokenService};

const ACCESS_TTL: Duration = Duration::from_secs(5 * 60);
const SESSION_TTL: Duration = Duration::from_secs(24 * 60 * 60);

struct OwnTokens {
    clock: Arc<dyn Clock>,
    /// The sessions by their refresh tokens.
    sessions: Mutex<HashMap<String, Session>>,
}

struct Session {
    access_token: String,
    identity: Identity,
}

impl OwnTokens {
    fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, sessions: Mutex::default() }
    }

    fn sign_in(&self, subject: Subject, email: &str) -> Result<RefreshedSession, RefreshError> {
        let identity = Identity {
            subject,
            session: SessionId(uuid::Uuid::from_bytes(random()?)),
            email: email.into(),
            roles: Roles::default(),
            claims: Claims::default(),
            expires_at: self.clock.now(),
        };
        let refresh_token = URL_SAFE_NO_PAD.encode(random::<32>()?);
        let session = Session { access_token: String::new(), identity };
        self.sessions().insert(refresh_token.clone(), session);
        self.reissue(&refresh_token)
    }

    fn sign_out(&self, refresh_token: &str) {
        self.sessions().remove(refresh_token);
    }

    /// Gives a session a new access token.
    fn reissue(&self, refresh_token: &str) -> Result<RefreshedSession, RefreshError> {
        let access_token = URL_SAFE_NO_PAD.encode(random::<32>()?);
        let mut sessions = self.sessions();
        let session = sessions.get_mut(refresh_token).ok_or(UNKNOWN)?;
        session.access_token.clone_from(&access_token);
        session.identity.expires_at = self.clock.now() + ACCESS_TTL;
        Ok(RefreshedSession {
            identity: session.identity.clone(),
            access_token,
            refresh_token: refresh_token.to_owned(),
            max_age: SESSION_TTL,
            delivery_timeout: Duration::from_secs(10),
            event: SessionEvent::Rotated,
        })
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenService for OwnTokens {
    type Refresh = Ready<Result<RefreshedSession, RefreshError>>;

    fn verify(&self, access_token: &str) -> Result<Verified, VerifyError> {
        let sessions = self.sessions();
        let found = sessions.values().find(|session| session.access_token == access_token);
        let identity = found.ok_or(VerifyError::Malformed)?.identity.clone();
        if identity.expires_at <= self.clock.now() {
            return Err(VerifyError::Expired);
        }
        Ok(Verified { identity, refresh_due: false })
    }

    fn refresh(&self, request: RefreshRequest) -> Self::Refresh {
        ready(self.reissue(&request.refresh_token))
    }
}

/// A session that is not in the table, as after a restart. The cookies stay, in case of a mistake.
const UNKNOWN: RefreshError =
    RefreshError::SessionEnded { event: SessionEvent::UnknownSession, clear_cookies: false };

fn random<const N: usize>() -> Result<[u8; N], RefreshError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| RefreshError::Unavailable)?;
    Ok(bytes)
}

/// For plain HTTP on the local machine. Use `CookiePolicy::default()` elsewhere.
fn cookies() -> CookiePolicy {
    CookiePolicy::insecure_for_loopback()
}

async fn sign_in(State(tokens): State<Arc<OwnTokens>>) -> Result<SessionCookies, StatusCode> {
    // A real application verifies a password here.
    let issued = tokens.sign_in(Subject::from(1), "ann@example.org");
    let issued = issued.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    SessionCookies::set(&cookies(), &issued).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn sign_out(State(tokens): State<Arc<OwnTokens>>, headers: HeaderMap) -> SessionCookies {
    cookies().tokens_in(&headers).for_each(|token| tokens.sign_out(token));
    SessionCookies::clear(&cookies())
}

async fn account(user: CurrentUser) -> String {
    format!("You are {}.\n", user.email)
}

fn app(tokens: Arc<OwnTokens>) -> Router {
    let session = SilentRefreshLayer::new(Arc::clone(&tokens), cookies());
    Router::new()
        .route("/account", get(account))
        .route_layer(session.with_on_reject(Reject401))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(sign_out))
        .with_state(tokens)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).map_or(Ok(3000), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app(Arc::new(OwnTokens::new(Arc::new(SystemClock))))).await?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use axum::body::Body;
    use axum::http::Request;
    use axum::http::header::SET_COOKIE;
    use axum::response::Response;
    use sekisho::clock::ManualClock;
    use tower::ServiceExt;

    use super::*;

    async fn send(app: &Router, method: &str, path: &str, cookie: &str) -> Response {
        let request = Request::builder().method(method).uri(path).header("cookie", cookie);
        app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    fn cookie_of(response: &Response) -> String {
        let set = response.headers().get_all(SET_COOKIE).iter().map(|line| line.to_str().unwrap());
        set.map(|line| line.split(';').next().unwrap()).collect::<Vec<_>>().join("; ")
    }

    #[tokio::test]
    async fn layer_refreshes_and_rejects_tokens_of_another_kind() {
        let clock = Arc::new(ManualClock::default());
        let app = app(Arc::new(OwnTokens::new(clock.clone())));
        let cookie = cookie_of(&send(&app, "POST", "/sign-in", "").await);
        let response = send(&app, "GET", "/account", &cookie).await;
        assert_eq!((response.status(), cookie_of(&response)), (StatusCode::OK, String::new()));

        clock.advance(ACCESS_TTL);
        let response = send(&app, "GET", "/account", &cookie).await;
        assert_eq!(response.headers()["x-session-event"], "rotated");
        let cookie = cookie_of(&response);

        let response = send(&app, "POST", "/sign-out", &cookie).await;
        assert_eq!(cookie_of(&response), "access_token=; refresh_token=");
        assert_eq!(send(&app, "GET", "/account", &cookie).await.status(), StatusCode::UNAUTHORIZED);
    }
}
