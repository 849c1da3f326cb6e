//! The layer alone, on plain axum: sign-in, sign-out and a page for users, without a database and the gateway.
//!
//! ```text
//! cargo run --no-default-features --example layer_only [PORT]
//! curl -i -c jar -d email=ann@example.org http://127.0.0.1:3000/sign-in
//! curl -i -b jar -c jar http://127.0.0.1:3000/account
//! ```
//!
//! To see a refresh, delete the line with `access_token` from `jar`: the next response has new cookies and
//! `X-Session-Event: rotated`.

use std::error::Error;
use std::net::Ipv4Addr;

use axum::extract::{Form, State};
use axum::http::{StatusCode, request::Parts};
use axum::response::{Html, Redirect};
use axum::{Router, routing::get};
use sekisho::layer::RedirectToSignIn;
use sekisho::{CookiePolicy, CurrentUser, SessionRequest, Sessions, SignIn, SignOut, Tokens};
use tower_http::csrf::CsrfLayer;

const SIGN_IN: &str =
    r#"<form method="post"><input name="email" type="email"><button>Sign in</button></form>"#;
const SIGN_OUT: &str = r#"<form method="post" action="/sign-out"><button>Sign out</button></form>"#;

#[derive(serde::Deserialize)]
struct Credentials {
    email: String,
}

async fn sign_in(
    State(sessions): State<Sessions>,
    request: Parts,
    Form(form): Form<Credentials>,
) -> Result<(SignIn, Redirect), StatusCode> {
    // A real application finds the user here and verifies a password, or an identity provider's token.
    let user_id = 42;
    let new = SessionRequest::new(user_id, &form.email);
    let signed_in = sessions.sign_in(&request, new).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok((signed_in, Redirect::to("/account")))
}

async fn sign_out(
    State(sessions): State<Sessions>,
    request: Parts,
) -> Result<(SignOut, Redirect), StatusCode> {
    let signed_out = sessions.sign_out(&request).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok((signed_out, Redirect::to("/sign-in")))
}

async fn account(user: CurrentUser) -> Html<String> {
    Html(format!("Session {}. {SIGN_OUT}", user.session))
}

fn app(sessions: Sessions) -> Result<Router, Box<dyn Error>> {
    Ok(Router::new()
        .route("/account", get(account))
        .route_layer(sessions.layer().with_on_reject(RedirectToSignIn::new("/sign-in")?))
        // Added after the layer: sign-in and sign-out need no session.
        .route("/sign-in", get(Html(SIGN_IN)).post(sign_in))
        .route("/sign-out", axum::routing::post(sign_out))
        .with_state(sessions)
        // Outside, so that sign-in is protected against other sites too.
        .layer(CsrfLayer::new()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).map_or(Ok(3000), |port| port.parse())?;
    // For plain HTTP on the local machine. Use `CookiePolicy::default()` elsewhere.
    let sessions = Sessions::new(Tokens::in_memory()?, CookiePolicy::insecure_for_loopback());
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("http://{}/account", listener.local_addr()?);
    axum::serve(listener, app(sessions)?).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use std::sync::Arc;
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::Request;
    use axum::http::header::SET_COOKIE;
    use axum::response::Response;
    use sekisho::clock::ManualClock;
    use tower::ServiceExt;

    use super::*;

    fn app_with_clock() -> (Router, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        let tokens = Tokens::builder().clock(clock.clone()).build().unwrap();
        (app(Sessions::new(tokens, CookiePolicy::default())).unwrap(), clock)
    }

    async fn send(app: &Router, method: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        let request = Request::builder().method(method).uri(path);
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        app.clone().oneshot(request.body(Body::from("email=ann%40example.org")).unwrap()).await.unwrap()
    }

    async fn sign_in(app: &Router) -> String {
        let form = ("content-type", "application/x-www-form-urlencoded");
        cookies(&send(app, "POST", "/sign-in", &[form]).await)
    }

    /// Returns the `Cookie` that a browser sends after this response.
    fn cookies(response: &Response) -> String {
        let set = response.headers().get_all(SET_COOKIE).iter().map(|line| line.to_str().unwrap());
        set.map(|line| line.split(';').next().unwrap()).collect::<Vec<_>>().join("; ")
    }

    #[tokio::test]
    async fn session_lasts_from_sign_in_to_sign_out_across_an_expiry() {
        let (app, clock) = app_with_clock();
        let cookie = sign_in(&app).await;
        clock.advance(Duration::from_secs(16 * 60));
        let account = send(&app, "GET", "/account", &[("cookie", &cookie)]).await;
        assert_eq!(account.status(), StatusCode::OK);
        assert_eq!(account.headers()["x-session-event"], "rotated");

        let cookie = cookies(&account);
        let signed_out = send(&app, "POST", "/sign-out", &[("cookie", &cookie)]).await;
        assert_eq!(signed_out.headers()["location"], "/sign-in");
        let account = send(&app, "GET", "/account", &[("cookie", &cookie)]).await;
        assert_eq!(account.status(), StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn browser_without_session_is_sent_to_sign_in() {
        let (app, _) = app_with_clock();
        let account = send(&app, "GET", "/account", &[("accept", "text/html")]).await;
        assert_eq!(account.status(), StatusCode::SEE_OTHER);
        assert_eq!(account.headers()["location"], "/sign-in?next=%2Faccount");
        assert_eq!(send(&app, "GET", "/sign-in", &[]).await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn forms_of_other_sites_are_refused() {
        let (app, _) = app_with_clock();
        let other_site = [("sec-fetch-site", "cross-site"), ("origin", "https://other.example")];
        for path in ["/sign-in", "/sign-out"] {
            assert_eq!(send(&app, "POST", path, &other_site).await.status(), StatusCode::FORBIDDEN);
        }
    }
}
