//! Two replicas over one PostgreSQL database, here in one process: a session that ends at one of them ends at the other.
//!
//! ```text
//! export DATABASE_URL=postgres://user:password@127.0.0.1/app
//! export SESSION_SECRET=$(openssl rand -base64 32)
//! cargo run --no-default-features --features postgres --example replicas [PORT]
//! curl -c jar -X POST http://127.0.0.1:3000/sign-in
//! curl -b jar http://127.0.0.1:3001/account
//! curl -b jar -X POST http://127.0.0.1:3001/sign-out
//! curl -b jar http://127.0.0.1:3000/account
//! ```
//!
//! The sessions are in the schema `auth`, beside the tables of the application. Protection against cross-site requests
//! is left out here: `axum_app` has it.

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, request::Parts};
use axum::routing::{get, post};
use sekisho::backend::Namespace;
use sekisho::backend::postgres::{PostgresOptions, PostgresStore};
use sekisho::{CookiePolicy, CurrentUser, SessionRequest, Sessions, SignIn, SignOut, Tokens};

async fn sign_in(State(sessions): State<Sessions>, request: Parts) -> Result<SignIn, StatusCode> {
    // A real application verifies a password here, or an identity provider's token.
    sessions.sign_in(&request, SessionRequest::new(1, "ann@example.org")).await.map_err(unavailable)
}

async fn sign_out(State(sessions): State<Sessions>, request: Parts) -> Result<SignOut, StatusCode> {
    sessions.sign_out(&request).await.map_err(unavailable)
}

async fn account(user: CurrentUser) -> String {
    format!("You are {}.\n", user.email)
}

fn unavailable(error: impl Error) -> StatusCode {
    eprintln!("{error}");
    StatusCode::SERVICE_UNAVAILABLE
}

fn router(sessions: Sessions) -> Router {
    Router::new()
        .route("/account", get(account))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(sign_out))
        .layer(sessions.layer())
        .with_state(sessions)
}

/// Opens the sessions of one replica. All replicas use the same secret.
async fn open(url: &str, secret: &str, cookies: CookiePolicy) -> Result<Sessions, Box<dyn Error>> {
    let options = PostgresOptions::from_url(url)?.with_namespace(Namespace::new("auth")?);
    let store = PostgresStore::open(options).await?;
    // Safe from several replicas at once.
    store.migrate().await?;
    let tokens = Tokens::builder().secret(secret).open(Arc::new(store)).await?;
    Ok(Sessions::new(tokens, cookies))
}

async fn serve(sessions: Sessions, port: u16) -> Result<(), Box<dyn Error>> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("http://{}", listener.local_addr()?);
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, router(sessions.clone())).with_graceful_shutdown(stop).await?;
    Ok(sessions.tokens().stop().await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).map_or(Ok(3000), |port| port.parse())?;
    let (url, secret) = (std::env::var("DATABASE_URL")?, std::env::var("SESSION_SECRET")?);
    // For plain HTTP on the local machine. Use `CookiePolicy::default()` elsewhere.
    let open = || open(&url, &secret, CookiePolicy::insecure_for_loopback());
    let (first, second) = tokio::try_join!(open(), open())?;
    tokio::try_join!(serve(first, port), serve(second, port + 1))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use axum::body::Body;
    use axum::http::Request;
    use axum::http::header::SET_COOKIE;
    use sekisho::TokenService;
    use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
    use tower::ServiceExt;

    use super::*;

    const SECRET: &str = "PF3V1b1zYcXcJ8mS0dWqkN6tRhLxGuEa4o7yKZ2QwTs";

    const DATABASE: &str = "sekisho_replicas_example";

    /// Creates a database on the server of the tests. Returns `None` without a server.
    async fn database() -> Option<(PgConnection, String)> {
        let server = std::env::var("SEKISHO_TEST_POSTGRES").ok()?;
        let mut connection = PgConnection::connect(&server).await.unwrap();
        drop_database(&mut connection).await;
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {DATABASE}"))).await.unwrap();
        let (place, _) = server.rsplit_once('/').unwrap();
        Some((connection, format!("{place}/{DATABASE}")))
    }

    async fn drop_database(connection: &mut PgConnection) {
        let sql = format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)");
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }

    async fn status(router: &Router, method: &str, path: &str, cookie: &str) -> StatusCode {
        let request = Request::builder().method(method).uri(path).header("cookie", cookie);
        router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    }

    #[tokio::test]
    async fn session_that_ends_at_one_replica_ends_at_the_other() {
        let Some((mut server, url)) = database().await else { return };
        let open = || open(&url, SECRET, CookiePolicy::default());
        let (first, second) = tokio::try_join!(open(), open()).unwrap();
        let (at_first, at_second) = (router(first.clone()), router(second.clone()));

        let request = Request::post("/sign-in").body(Body::empty()).unwrap();
        let response = at_first.clone().oneshot(request).await.unwrap();
        let set = response.headers().get_all(SET_COOKIE).iter().map(|line| line.to_str().unwrap());
        let cookie = set.map(|line| line.split(';').next().unwrap()).collect::<Vec<_>>().join("; ");
        assert_eq!(status(&at_second, "GET", "/account", &cookie).await, StatusCode::OK);

        let session = first.tokens().sessions_of(1).await.unwrap()[0].id;
        assert_eq!(status(&at_second, "POST", "/sign-out", &cookie).await, StatusCode::OK);
        // Requests at the first replica learn of it within a second. This waits until they have.
        assert!(!first.tokens().is_session_active(session).await);
        assert_eq!(status(&at_first, "GET", "/account", &cookie).await, StatusCode::UNAUTHORIZED);
        for sessions in [first, second] {
            sessions.tokens().stop().await.unwrap();
        }
        drop_database(&mut server).await;
    }
}
