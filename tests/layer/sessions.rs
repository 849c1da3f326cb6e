//! Sign-in and sign-out with [`Sessions`], through an axum application.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{AppendHeaders, IntoResponse, Redirect};
use axum::routing::{get, post};
use http::header::{SET_COOKIE, VARY};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use sekisho::client_info::{ClientAddress, ClientInfo};
use sekisho::clock::ManualClock;
use sekisho::identity::{Roles, SessionId};
use sekisho::layer::{CookiePolicy, CurrentUser, IllegalToken, RefreshedSession, Reject401, SessionCookies};
use sekisho::models::session::EndReason;
use sekisho::models::user::UserId;
use sekisho::services::token::SignInError;
use sekisho::session_event::SessionEvent;
use sekisho::{SessionRequest, Sessions, SignIn, SignOut, Tokens};
use uuid::Uuid;

use super::{CLEARED, all, event, refreshed_session, send, set_cookies};

const ANN: UserId = UserId(Uuid::from_u128(7));

struct App {
    sessions: Sessions,
    clock: Arc<ManualClock>,
    router: Router,
}

impl App {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let tokens = Tokens::builder().clock(clock.clone()).build().unwrap();
        let sessions = Sessions::new(tokens, CookiePolicy::insecure_for_loopback());
        let router = Router::new()
            .route("/account", get(async |user: CurrentUser| user.email.to_string()))
            .route_layer(sessions.layer().with_on_reject(Reject401))
            .route("/sign-in", post(sign_in).layer(sessions.layer()))
            .route("/sign-out", post(sign_out).layer(sessions.layer()))
            .with_state(sessions.clone());
        Self { sessions, clock, router }
    }

    async fn send(&self, method: &str, path: &str, cookies: &str) -> Response<String> {
        let request = Request::builder().method(method).uri(path).header("cookie", cookies);
        let request =
            request.header("user-agent", "Browser/1").extension(ClientAddress([192, 0, 2, 1].into()));
        send(self.router.clone(), request.body(Body::empty()).unwrap()).await
    }

    async fn sign_in(&self, cookies: &str) -> String {
        cookies_of(&self.send("POST", "/sign-in", cookies).await)
    }

    async fn live(&self) -> Vec<SessionId> {
        self.sessions.tokens().sessions_of(ANN).await.unwrap().iter().map(|session| session.id).collect()
    }

    fn expire_access_token(&self) {
        self.clock.advance(Duration::from_secs(16 * 60));
    }
}

async fn sign_in(
    State(sessions): State<Sessions>,
    request: Parts,
) -> Result<(AppendHeaders<[(http::HeaderName, &'static str); 1]>, SignIn, Redirect), StatusCode> {
    let new = SessionRequest::new(ANN, "ann@example.org");
    let signed_in = sessions.sign_in(&request, new).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok((AppendHeaders([(VARY, "Accept")]), signed_in, Redirect::to("/account")))
}

async fn sign_out(State(sessions): State<Sessions>, request: Parts) -> Result<SignOut, StatusCode> {
    sessions.sign_out(&request).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

/// Returns the `Cookie` that a browser sends after this response.
fn cookies_of(response: &Response<String>) -> String {
    let pairs = set_cookies(response).into_iter().map(|cookie| cookie.split(';').next().unwrap().to_owned());
    pairs.collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn sign_in_sets_cookies_that_last_beyond_an_expiry() {
    let app = App::new();
    let response = app.send("POST", "/sign-in", "").await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    assert_eq!(response.headers()["location"], "/account");
    assert_eq!(response.headers()["cache-control"], "private, no-store");
    assert_eq!(all(response.headers(), &VARY), ["Accept", "Cookie"]);
    assert_eq!(set_cookies(&response).len(), 2);

    let cookies = cookies_of(&response);
    let account = app.send("GET", "/account", &cookies).await;
    assert_eq!((account.body().as_str(), event(&account)), ("ann@example.org", None));
    app.expire_access_token();
    let account = app.send("GET", "/account", &cookies).await;
    assert_eq!((account.body().as_str(), event(&account)), ("ann@example.org", Some("rotated")));
    let account = app.send("GET", "/account", &cookies_of(&account)).await;
    assert_eq!(event(&account), None);
}

/// The cookies name two sessions, as after an exchange of one of them.
#[tokio::test]
async fn failed_sign_in_ends_no_session() {
    let app = App::new();
    let (first, second) = (app.sign_in("").await, app.sign_in("").await);
    let cookies = format!("{first}; {second}");
    let request = Request::post("/").header("cookie", cookies).body(()).unwrap().into_parts().0;
    let roles = Roles::new((0..400).map(|number| format!("role-{number}"))).unwrap();
    let new = SessionRequest { roles, ..SessionRequest::new(ANN, "ann@example.org") };
    let error = app.sessions.sign_in(&request, new).await.unwrap_err();
    assert!(matches!(error, SignInError::TokenTooLong(_)), "{error}");
    assert_eq!(app.live().await.len(), 2);
}

#[tokio::test]
async fn session_has_the_client_of_the_request() {
    let app = App::new();
    app.sign_in("").await;
    let sessions = app.sessions.tokens().sessions_of(ANN).await.unwrap();
    assert_eq!(sessions[0].client, ClientInfo::new(Some([192, 0, 2, 1].into()), Some("Browser/1")));
}

#[tokio::test]
async fn sign_in_ends_all_sessions_that_the_request_names() {
    let app = App::new();
    let (first, second) = (app.sign_in("").await, app.sign_in("").await);
    assert_eq!(app.live().await.len(), 2);
    app.expire_access_token();
    let third = app.sign_in(&format!("{first}; {second}")).await;
    assert_eq!(app.live().await.len(), 1);
    for ended in [&first, &second] {
        let response = app.send("GET", "/account", ended).await;
        assert_eq!((response.status().as_u16(), event(&response)), (401, Some("logged_out")));
    }
    assert_eq!(app.send("GET", "/account", &third).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn sign_out_ends_all_sessions_that_the_request_names() {
    let app = App::new();
    let (first, second, other) = (app.sign_in("").await, app.sign_in("").await, app.sign_in("").await);
    app.expire_access_token();
    // Duplicates, one of them an expired access token alone.
    let access_of_second = second.split(';').next().unwrap();
    let response = app.send("POST", "/sign-out", &format!("{first}; {access_of_second}")).await;
    assert_eq!((response.status().as_u16(), set_cookies(&response)), (200, CLEARED.to_vec()));
    assert_eq!(event(&response), Some("logged_out"));
    assert_eq!(app.live().await.len(), 1);
    assert_eq!(app.send("GET", "/account", &other).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn sign_out_clears_cookies_in_any_state() {
    let app = App::new();
    for cookies in ["", "access_token=garbage; refresh_token=\"x\"", "access_token=a; access_token=b"] {
        let response = app.send("POST", "/sign-out", cookies).await;
        assert_eq!(
            (response.status().as_u16(), set_cookies(&response)),
            (200, CLEARED.to_vec()),
            "{cookies}"
        );
        assert_eq!(event(&response), Some("logged_out"));
    }
}

/// The layer refreshes the session before the handler replaces or ends it.
#[tokio::test]
async fn layer_adds_no_cookies_of_its_own() {
    let app = App::new();
    let cookies = app.sign_in("").await;
    app.expire_access_token();
    let response = app.send("POST", "/sign-in", &cookies).await;
    assert_eq!((set_cookies(&response).len(), event(&response)), (2, Some("rotated")));
    let signed_in = cookies_of(&response);
    assert_eq!(event(&app.send("GET", "/account", &signed_in).await), None);

    app.expire_access_token();
    let response = app.send("POST", "/sign-out", &signed_in).await;
    assert_eq!((set_cookies(&response), event(&response)), (CLEARED.to_vec(), Some("logged_out")));
    assert_eq!(app.live().await, []);
}

/// The handler returns both.
#[tokio::test]
async fn last_of_sign_in_and_sign_out_wins() {
    let App { sessions, .. } = App::new();
    let (request, ()) = Request::new(()).into_parts();
    let parts = async || {
        let signed_in = sessions.sign_in(&request, SessionRequest::new(ANN, "ann@example.org")).await;
        let others = ["theme=dark; Path=/", "access_token_of=x", "xrefresh_token=y"];
        let others = AppendHeaders(others.map(|cookie| (SET_COOKIE, cookie)));
        (others, sessions.sign_out(&request).await.unwrap(), signed_in.unwrap())
    };
    let summary = |response: Response<Body>| {
        let (parts, _body) = response.into_parts();
        assert_eq!(all(&parts.headers, &VARY), ["Cookie"]);
        let cookies = all(&parts.headers, &SET_COOKIE).into_iter().map(str::to_owned).collect::<Vec<_>>();
        (cookies, parts.headers.get("x-session-event").cloned())
    };

    let (others, signed_out, signed_in) = parts().await;
    let (cookies, event) = summary((signed_out, others, signed_in, "welcome").into_response());
    assert_eq!((cookies.len(), event), (5, None), "{cookies:?}");
    assert_eq!(cookies[..3], ["theme=dark; Path=/", "access_token_of=x", "xrefresh_token=y"]);
    assert!(cookies[3..].iter().all(|cookie| !cookie.contains("Max-Age=0")), "{cookies:?}");

    let (others, signed_out, signed_in) = parts().await;
    let (cookies, event) = summary((signed_in, others, signed_out, "goodbye").into_response());
    assert_eq!(cookies[..3], ["theme=dark; Path=/", "access_token_of=x", "xrefresh_token=y"]);
    assert_eq!(cookies[3..], CLEARED);
    assert_eq!(event.unwrap(), "logged_out");

    // Another event is kept.
    let (_, _, signed_in) = parts().await;
    let (cookies, event) = summary(([("x-session-event", "revoked")], signed_in, ()).into_response());
    assert_eq!((cookies.len(), event.unwrap()), (2, "revoked".parse().unwrap()));
}

#[tokio::test]
async fn debug_shows_no_token() {
    let app = App::new();
    let (request, ()) = Request::new(()).into_parts();
    let signed_in =
        app.sessions.sign_in(&request, SessionRequest::new(ANN, "ann@example.org")).await.unwrap();
    assert_eq!(signed_in.identity().session, signed_in.session().id);
    let debug = format!("{signed_in:?} {:?}", app.sessions);
    let response = signed_in.into_response();
    let tokens = response.headers().get_all(SET_COOKIE).iter().map(|cookie| cookie.to_str().unwrap());
    let tokens: Vec<_> = tokens.map(|cookie| cookie.split([';', '=']).nth(1).unwrap()).collect();
    assert!(tokens.iter().all(|token| token.len() > 40 && !debug.contains(token)), "{debug}");
}

#[tokio::test]
async fn end_all_spares_the_exception() {
    let app = App::new();
    let (phone, laptop) = (app.sign_in("").await, app.sign_in("").await);
    let tokens = app.sessions.tokens();
    let kept = tokens.sessions_of(ANN).await.unwrap()[0].id;
    let ended = tokens.end_all(ANN, Some(kept), EndReason::LoggedOut, &ClientInfo::default()).await.unwrap();
    assert_eq!((ended.len(), app.live().await), (1, vec![kept]));
    let statuses = [app.send("GET", "/account", &phone).await, app.send("GET", "/account", &laptop).await];
    assert_eq!(statuses.iter().filter(|response| response.status() == StatusCode::OK).count(), 1);
    tokens.end_all(ANN, None, EndReason::LoggedOut, &ClientInfo::default()).await.unwrap();
    assert_eq!(app.live().await, []);
}

#[test]
fn cookies_of_another_token_service_are_checked() {
    let policy = CookiePolicy::insecure_for_loopback();
    let session = refreshed_session(SessionEvent::Rotated);
    let response = SessionCookies::set(&policy, &session).unwrap().into_response();
    assert_eq!(response.headers().get_all(SET_COOKIE).iter().count(), 2);
    assert_eq!(response.headers()["cache-control"], "private, no-store");
    assert_eq!(response.headers()["vary"], "Cookie");
    let illegal = RefreshedSession { access_token: "a; Domain=example.org".to_owned(), ..session };
    assert_eq!(SessionCookies::set(&policy, &illegal).unwrap_err(), IllegalToken);
    let response = SessionCookies::clear(&policy).into_response();
    let cookies: Vec<_> = response.headers().get_all(SET_COOKIE).iter().collect();
    assert_eq!(cookies, CLEARED);
}
