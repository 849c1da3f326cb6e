//! The layer alone, on plain axum: no database, no gateway.
//!
//! ```text
//! cargo run --no-default-features --example layer_only [PORT]
//! curl -i -c jar -X POST http://127.0.0.1:3000/sign-in
//! curl -i -b jar -c jar http://127.0.0.1:3000/account
//! ```
//!
//! To see a refresh, delete the line with `access_token` from `jar`: the next response has new cookies and
//! `X-Session-Event: rotated`. The only protection against cross-site requests in this example is
//! `SameSite=Lax`: an application should add tower-http's `csrf` layer outside.

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, SET_COOKIE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::AppendHeaders;
use axum::routing::{get, post};
use sekisho::client_info::ClientInfo;
use sekisho::identity::Roles;
use sekisho::layer::{CookiePolicy, CurrentUser, Reject401, SilentRefreshLayer};
use sekisho::models::session::EndReason;
use sekisho::services::token::{SessionRequest, Tokens};

/// For plain HTTP on the local machine. Use `CookiePolicy::default()` elsewhere.
fn cookies() -> CookiePolicy {
    CookiePolicy::insecure_for_loopback()
}

/// A real application verifies a password here, or an identity provider's token.
async fn sign_in(State(tokens): State<Tokens>) -> Result<Cookies, StatusCode> {
    let ann = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().map_err(failed)?;
    let roles = Roles::new(["reader"]).unwrap_or_default();
    let ann = SessionRequest { roles, ..SessionRequest::new(ann, "ann@example.org") };
    let fresh = tokens.sign_in(ann).await.map_err(failed)?.tokens;
    let [access, refresh] =
        cookies().set(&fresh.access_token, &fresh.refresh_token, fresh.max_age).map_err(failed)?;
    Ok(with_cookies(access, refresh))
}

async fn sign_out(
    State(tokens): State<Tokens>,
    user: CurrentUser,
    request: Request,
) -> Result<Cookies, StatusCode> {
    let client = ClientInfo::from_request_parts(request.extensions(), request.headers());
    tokens.end(user.session, EndReason::LoggedOut, &client).await.map_err(failed)?;
    let [access, refresh] = cookies().clear();
    Ok(with_cookies(access, refresh))
}

async fn account(user: CurrentUser) -> String {
    format!("Signed in as {}, with these roles: {}.\n", user.email, user.roles.as_str())
}

async fn home(user: Option<CurrentUser>) -> String {
    user.map_or("Welcome.\n".to_owned(), |user| format!("Welcome, {}.\n", user.email))
}

type Cookies = AppendHeaders<[(HeaderName, HeaderValue); 3]>;

fn with_cookies(access: HeaderValue, refresh: HeaderValue) -> Cookies {
    let cache_control = HeaderValue::from_static("no-store");
    AppendHeaders([(SET_COOKIE, access), (SET_COOKIE, refresh), (CACHE_CONTROL, cache_control)])
}

fn failed(error: impl Error) -> StatusCode {
    eprintln!("{error}");
    StatusCode::SERVICE_UNAVAILABLE
}

fn app(tokens: Tokens) -> Router {
    let session = SilentRefreshLayer::new(Arc::new(tokens.clone()), cookies());
    let for_users = Router::new()
        .route("/account", get(account))
        .route("/sign-out", post(sign_out))
        .layer(session.clone().with_on_reject(Reject401));
    Router::new()
        .route("/", get(home))
        .layer(session)
        .merge(for_users)
        // Added after the layer: sign-in needs no session.
        .route("/sign-in", post(sign_in))
        .with_state(tokens)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).map_or(Ok(3000), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app(Tokens::in_memory()?)).await?;
    Ok(())
}
