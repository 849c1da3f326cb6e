//! Sign-out.

use super::{ANN, get_in_japanese, location, page, signed_in, start};
use crate::support::http::{form, get};

#[tokio::test]
async fn sign_out_ends_the_session_and_clears_cookies_and_cache() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    let session = browser.get("/auth/session").await.json()["session_id"].as_str().unwrap().parse().unwrap();
    let html = page(&browser.get("/auth/sign-out").await, 200);
    assert!(html.contains("<form method=\"post\" action=\"/auth/sign-out\">"), "{html}");
    assert!(html.contains(ANN) && html.matches("<button").count() == 1, "{html}");
    assert_eq!(app.row(session).await.end, None, "a page ends no session");

    let response = browser.send(form("/auth/sign-out", &[])).await;
    assert_eq!(location(&response), "/auth/sign-in?signed_out");
    assert_eq!(response.header("clear-site-data"), Some("\"cache\""));
    assert_eq!(response.header("vary"), Some("Cookie"));
    assert_eq!(response.event(), Some("logged_out"));
    assert!(response.set_cookies().iter().all(|cookie| cookie.clears()) && response.set_cookies().len() == 2);
    assert_eq!(app.row(session).await.end.map(|end| end.reason.as_str()), Some("logged_out"));
    assert!(browser.jar.is_empty());

    let html = page(&browser.get("/auth/sign-in?signed_out").await, 200);
    assert!(html.contains("role=\"status\">You are signed out.</p>"), "{html}");
    let html = page(&get_in_japanese(&mut browser, "/auth/sign-in?signed_out").await, 200);
    assert!(html.contains("サインアウトしました。"), "{html}");
    // Sent again, without cookies.
    assert_eq!(location(&browser.send(form("/auth/sign-out", &[])).await), "/auth/sign-in?signed_out");
}

#[tokio::test]
async fn page_after_sign_out_never_goes_on_by_itself() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    let html = page(&browser.get("/auth/sign-in?signed_out&next=/a").await, 200);
    assert!(!html.contains("signed-in.js"), "{html}");
    assert!(html.contains(ANN) && html.contains("<a class=\"button\" href=\"/a\">Continue</a>"), "{html}");
    let html = page(&app.send(get("/auth/sign-in")).await, 200);
    assert!(html.contains("signed-in.js"), "{html}");
}

#[tokio::test]
async fn unavailable_database_keeps_the_cookies() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    app.break_store().await;
    let response = browser.send(form("/auth/sign-out", &[])).await;
    let html = page(&response, 503);
    assert!(html.contains("role=\"alert\"") && html.contains("<button"), "{html}");
    assert!(response.set_cookies().is_empty() && response.header("clear-site-data").is_none());
    app.repair_store().await;
    assert_eq!(location(&browser.send(form("/auth/sign-out", &[])).await), "/auth/sign-in?signed_out");
}
