//! An axum application with users, pages and an API of its own. Users and sessions are in one SQLite file.
//!
//! ```text
//! export SESSION_SECRET=$(openssl rand -base64 32)
//! cargo run --no-default-features --features sqlite --example axum_app [PORT]
//! ```
//!
//! Sign in at the address that it prints, as ann@example.org or bob@example.org, with the password
//! `correct horse battery`. Ann is an administrator.

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::extract::{Form, Query, State};
use axum::http::{StatusCode, request::Parts};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use sekisho::SqliteStore;
use sekisho::identity::Roles;
use sekisho::layer::{RedirectToSignIn, RequireRole};
use sekisho::next::Next;
use sekisho::services::token::TokensBuilder;
use sekisho::{CookiePolicy, CurrentUser, SessionRequest, Sessions, SignOut, Tokens};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tower_http::csrf::CsrfLayer;

#[derive(Clone)]
struct App {
    users: SqlitePool,
    sessions: Sessions,
}

#[derive(sqlx::FromRow)]
struct User {
    id: i64,
    email: String,
    hashed_password: String,
    role: String,
}

/// Claims of this application: what its pages need without a query.
#[derive(Serialize, Deserialize)]
struct Profile {
    name: String,
}

#[derive(Deserialize)]
struct Credentials {
    email: String,
    password: String,
}

#[derive(Deserialize)]
struct WayBack {
    #[serde(default)]
    next: String,
}

async fn sign_in_page() -> Html<&'static str> {
    Html(SIGN_IN)
}

async fn sign_in(
    State(App { users, sessions }): State<App>,
    Query(way_back): Query<WayBack>,
    request: Parts,
    Form(credentials): Form<Credentials>,
) -> Result<Response, Failure> {
    let Some(user) = find_user(&users, credentials).await? else {
        return Ok((StatusCode::UNAUTHORIZED, Html(SIGN_IN)).into_response());
    };
    let name = user.email.split('@').next().unwrap_or_default().to_owned();
    let new = SessionRequest { roles: Roles::new([user.role])?, ..SessionRequest::new(user.id, &user.email) };
    let signed_in = sessions.sign_in(&request, new.with_claims(&Profile { name })?).await?;
    // Checked, since the value comes from the browser: `None` unless it is a path of this site.
    let next = Next::parse(&way_back.next);
    Ok((signed_in, Redirect::to(next.as_ref().map_or("/", Next::as_str))).into_response())
}

async fn sign_out(
    State(App { sessions, .. }): State<App>,
    request: Parts,
) -> Result<(SignOut, Redirect), Failure> {
    Ok((sessions.sign_out(&request).await?, Redirect::to("/sign-in")))
}

async fn home(user: CurrentUser<Profile>) -> Html<String> {
    // Names of this application have letters and digits alone. Others must be escaped.
    Html(format!("<p>Hello, {}.</p>{SIGN_OUT}", user.claims.name))
}

async fn whoami(user: CurrentUser) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "id": &*user.subject, "email": &*user.email }))
}

async fn list_users(State(App { users, .. }): State<App>) -> Result<Json<Vec<String>>, Failure> {
    Ok(Json(sqlx::query_scalar("SELECT email FROM users ORDER BY email").fetch_all(&users).await?))
}

/// Returns the user with these credentials.
async fn find_user(users: &SqlitePool, given: Credentials) -> Result<Option<User>, Failure> {
    let query = sqlx::query_as("SELECT * FROM users WHERE email = $1").bind(&given.email);
    let user: Option<User> = query.fetch_optional(users).await?;
    // An unknown user costs as much time as a wrong password.
    let hash = user.as_ref().map_or(HASH.to_owned(), |user| user.hashed_password.clone());
    let matches = tokio::task::spawn_blocking(move || bcrypt::verify(given.password, &hash)).await??;
    Ok(user.filter(|_| matches))
}

fn router(app: App) -> Result<Router, Box<dyn Error>> {
    let for_users = Router::new().route("/", get(home)).route("/api/whoami", get(whoami));
    let for_admins =
        Router::new().route("/api/users", get(list_users)).route_layer(RequireRole::any(["admin"])?);
    let redirect = RedirectToSignIn::new("/sign-in")?;
    Ok(for_users
        .merge(for_admins)
        .route_layer(app.sessions.layer().with_on_reject(redirect))
        // Added after the layer: sign-in and sign-out need no session.
        .route("/sign-in", get(sign_in_page).post(sign_in))
        .route("/sign-out", post(sign_out))
        .with_state(app)
        // Outside, so that sign-in is protected against other sites too.
        .layer(CsrfLayer::new()))
}

/// Opens the database. `tokens` has the key.
async fn open(
    users: SqlitePool,
    cookies: CookiePolicy,
    tokens: TokensBuilder,
) -> Result<App, Box<dyn Error>> {
    sqlx::query(TABLE).execute(&users).await?;
    sqlx::query(INSERT).bind(HASH).execute(&users).await?;
    let store = SqliteStore::open(&users).await?;
    store.migrate().await?;
    let tokens = tokens.open(Arc::new(store)).await?;
    Ok(App { users, sessions: Sessions::new(tokens, cookies) })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).map_or(Ok(3000), |port| port.parse())?;
    let options = SqliteConnectOptions::new().filename("axum_app.db").create_if_missing(true);
    let users = SqlitePool::connect_with(options).await?;
    let secret = std::env::var("SESSION_SECRET").map_err(|_| "SESSION_SECRET: `openssl rand -base64 32`")?;
    // For plain HTTP on the local machine. Use `CookiePolicy::default()` elsewhere.
    let cookies = CookiePolicy::insecure_for_loopback();
    let app = open(users, cookies, Tokens::builder().secret(secret)).await?;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("http://{}", listener.local_addr()?);
    let tokens = app.sessions.tokens().clone();
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, router(app)?).with_graceful_shutdown(stop).await?;
    Ok(tokens.stop().await?)
}

/// Any error: a 500, and the cause in the log.
struct Failure(Box<dyn Error>);

impl<E: Into<Box<dyn Error>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        eprintln!("{}", self.0);
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

const SIGN_IN: &str = r#"<!doctype html><title>Sign in</title><form method="post">
<label>Email <input name="email" type="email" autocomplete="username" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Sign in</button></form>"#;

const SIGN_OUT: &str = r#"<form method="post" action="/sign-out"><button>Sign out</button></form>"#;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS users \
    (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, hashed_password TEXT NOT NULL, role TEXT NOT NULL)";

const INSERT: &str = "INSERT OR IGNORE INTO users VALUES \
    (1, 'ann@example.org', $1, 'admin'), (2, 'bob@example.org', $1, 'reader')";

/// The hash of `correct horse battery`.
const HASH: &str = "$2b$12$7EkXk2.vgrd7f0nCKv61ju7nDMo8zqSEac1LuTx0qwaZ4fyBonwWm";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use std::time::Duration;

    use axum::body::Body;
    use axum::http::Request;
    use axum::http::header::SET_COOKIE;
    use sekisho::clock::ManualClock;
    use tower::ServiceExt;

    use super::*;

    const SECRET: &str = "PF3V1b1zYcXcJ8mS0dWqkN6tRhLxGuEa4o7yKZ2QwTs";

    struct Site {
        router: Router,
        clock: Arc<ManualClock>,
        tokens: Tokens,
        _directory: tempfile::TempDir,
    }

    impl Site {
        async fn open() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("app.db");
            let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
            let users = SqlitePool::connect_with(options).await.unwrap();
            let clock = Arc::new(ManualClock::default());
            let tokens = Tokens::builder().secret(SECRET).clock(clock.clone());
            let app = open(users, CookiePolicy::default(), tokens).await.unwrap();
            let tokens = app.sessions.tokens().clone();
            Self { router: router(app).unwrap(), clock, tokens, _directory: directory }
        }

        async fn send(&self, request: Request<Body>) -> Response {
            self.router.clone().oneshot(request).await.unwrap()
        }

        async fn get(&self, path: &str, cookie: &str) -> Response {
            self.send(Request::get(path).header("cookie", cookie).body(Body::empty()).unwrap()).await
        }

        async fn sign_in(&self, email: &str, password: &str) -> Response {
            let form = format!("email={email}&password={password}");
            let request = Request::post("/sign-in?next=%2Fapi%2Fwhoami");
            let request = request.header("content-type", "application/x-www-form-urlencoded");
            self.send(request.body(Body::from(form)).unwrap()).await
        }
    }

    /// Returns the `Cookie` that a browser sends after this response.
    fn cookies(response: &Response) -> String {
        let set = response.headers().get_all(SET_COOKIE).iter().map(|line| line.to_str().unwrap());
        set.map(|line| line.split(';').next().unwrap()).collect::<Vec<_>>().join("; ")
    }

    async fn text(response: Response) -> String {
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn session_outlives_its_access_token_and_ends_with_sign_out() {
        let site = Site::open().await;
        let response = site.sign_in("ann%40example.org", "correct+horse+battery").await;
        assert_eq!(response.headers()["location"], "/api/whoami");
        let cookie = cookies(&response);
        assert_eq!(text(site.get("/", &cookie).await).await, format!("<p>Hello, ann.</p>{SIGN_OUT}"));

        site.clock.advance(Duration::from_secs(16 * 60));
        let refreshed = site.get("/api/whoami", &cookie).await;
        assert_eq!(refreshed.headers()["x-session-event"], "rotated");
        let cookie = cookies(&refreshed);
        assert_eq!(text(refreshed).await, r#"{"email":"ann@example.org","id":"1"}"#);

        let request = Request::post("/sign-out").header("cookie", &cookie);
        let signed_out = site.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(signed_out.headers()["location"], "/sign-in");
        assert_eq!(site.get("/api/whoami", &cookie).await.status(), StatusCode::UNAUTHORIZED);
        site.tokens.stop().await.unwrap();
    }

    #[tokio::test]
    async fn only_administrators_list_users() {
        let site = Site::open().await;
        let ann = cookies(&site.sign_in("ann%40example.org", "correct+horse+battery").await);
        let bob = cookies(&site.sign_in("bob%40example.org", "correct+horse+battery").await);
        let emails = text(site.get("/api/users", &ann).await).await;
        assert_eq!(emails, r#"["ann@example.org","bob@example.org"]"#);
        assert_eq!(site.get("/api/users", &bob).await.status(), StatusCode::FORBIDDEN);
    }

    #[tokio::test]
    async fn people_are_sent_to_sign_in_and_programs_get_401() {
        let site = Site::open().await;
        let person = Request::get("/").header("accept", "text/html").body(Body::empty()).unwrap();
        assert_eq!(site.send(person).await.headers()["location"], "/sign-in?next=%2F");
        assert_eq!(site.get("/api/whoami", "").await.status(), StatusCode::UNAUTHORIZED);
        let wrong = site.sign_in("ann%40example.org", "wrong").await;
        assert_eq!((wrong.status(), cookies(&wrong)), (StatusCode::UNAUTHORIZED, String::new()));
        let unknown = site.sign_in("eve%40example.org", "correct+horse+battery").await;
        assert_eq!(unknown.status(), StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn forms_of_other_sites_are_refused() {
        let site = Site::open().await;
        for path in ["/sign-in", "/sign-out"] {
            let request = Request::post(path).header("sec-fetch-site", "cross-site");
            let request = request.header("origin", "https://other.example");
            let response = site.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
        }
    }
}
