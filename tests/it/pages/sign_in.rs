//! Sign-in, and the way on to the requested page.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ANN, BOB, get_in_japanese, in_japanese, location, page, signed_in, start, submit};
use crate::support::app::{ORIGIN, PASSWORD};
use crate::support::browser::SetCookie;
use crate::support::http::{form, get, with, with_body};

const DEEP: &str = "/movies?page=2&title=%E9%96%A2";
const DEEP_ENCODED: &str = "%2Fmovies%3Fpage%3D2%26title%3D%25E9%2596%25A2";

#[tokio::test]
async fn form_signs_in_and_leads_to_the_requested_page() {
    let app = start(&[]).await;
    app.user(ANN).await;
    let mut browser = app.browser();
    let action = format!("/auth/sign-in?next={DEEP_ENCODED}");
    let response = browser.get(&action).await;
    let html = page(&response, 200);
    assert_eq!(response.event(), Some("missing"));
    for part in [
        "<html lang=\"en\" dir=\"ltr\">",
        &format!("method=\"post\" action=\"{action}\""),
        "name=\"email\" type=\"text\" inputmode=\"email\" autocomplete=\"username\"",
        "name=\"password\" type=\"password\" autocomplete=\"current-password\"",
        "<label for=\"email\">Email address</label>",
        "<title>Sign in – app.example.com</title>",
    ] {
        assert!(html.contains(part), "{part}\n{html}");
    }
    let response = submit(&mut browser, &action, ANN, PASSWORD).await;
    let on = location(&response).to_owned();
    assert!(on.starts_with(&format!("/auth/continue?next={DEEP_ENCODED}&t=")), "{on}");
    assert_eq!(response.set_cookies().len(), 2);
    assert!(response.body.is_empty());
    let response = browser.get(&on).await;
    assert_eq!(location(&response), DEEP);
    assert_eq!(browser.get("/auth/session").await.status, 200);
}

#[tokio::test]
async fn sign_in_page_with_a_session_goes_on_and_renews() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    let path = format!("/auth/sign-in?next={DEEP_ENCODED}");
    assert_eq!(location(&browser.get(&path).await), DEEP);
    app.expire();
    app.clock.advance(Duration::from_secs(120));
    let response = browser.get(&path).await;
    assert_eq!((location(&response), response.event()), (DEEP, Some("rotated")));
    assert_eq!(response.set_cookies().len(), 2);
    assert_eq!(location(&browser.get("/auth/sign-in").await), "/");
}

#[tokio::test]
async fn wrong_credentials_show_the_form_again() {
    let app = start(&[]).await;
    app.user(ANN).await;
    let mut browser = app.browser();
    let path = format!("/auth/sign-in?next={DEEP_ENCODED}");
    for (email, password) in [(ANN, "a wrong password"), (BOB, PASSWORD)] {
        let response = submit(&mut browser, &path, email, password).await;
        let html = page(&response, 401);
        assert!(response.set_cookies().is_empty());
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        assert!(
            html.contains("role=\"alert\" id=\"error\">The email address or the password is wrong."),
            "{html}"
        );
        assert!(html.contains(&format!("value=\"{email}\"")) && !html.contains(password), "{html}");
        assert!(html.contains("aria-describedby=\"error\" autofocus"), "{html}");
        assert!(html.contains(&format!("action=\"{path}\"")), "{html}");
    }
    let request = in_japanese(form(&path, &[("email", ANN), ("password", "a wrong password")]));
    let html = page(&browser.send(request).await, 401);
    assert!(html.contains("<html lang=\"ja\"") && html.contains("パスワードが正しくありません"), "{html}");
}

#[tokio::test]
async fn unusable_forms_are_shown_again() {
    let app = start(&[]).await;
    app.user(ANN).await;
    let form_type = "application/x-www-form-urlencoded";
    let long = format!("email={ANN}&password={}", "x".repeat(20_000));
    for (content_type, body, status, text) in [
        (form_type, "", 401, "Fill in all fields."),
        (form_type, "email=&password=x", 401, "Fill in all fields."),
        (form_type, "email=ann@example.com", 401, "Fill in all fields."),
        (form_type, "email=a&email=b&password=x", 400, "could not be read"),
        (form_type, &long, 400, "could not be read"),
        ("application/json", "{}", 400, "could not be read"),
        ("multipart/form-data; boundary=x", "--x--", 400, "could not be read"),
    ] {
        let response = app.send(with_body("POST", "/auth/sign-in", content_type, body)).await;
        let html = page(&response, status);
        assert!(html.contains(text), "{body}: {html}");
    }
}

#[tokio::test]
async fn every_next_stays_on_the_origin() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    for next in [
        "//evil.example/",
        "/%5Cevil.example",
        "/%09/evil.example",
        "https://evil.example/",
        "javascript:alert(1)",
        "%00",
        "/auth/sign-in?next=/",
        "/auth/sign-out",
    ] {
        for path in ["sign-in", "continue"] {
            let response = browser.get(&format!("/auth/{path}?next={}", next.replace('?', "%3F"))).await;
            assert_eq!(location(&response), "/", "{path} {next}");
        }
        let response = app.send(get(&format!("/auth/sign-in?next={}", next.replace('?', "%3F")))).await;
        assert!(page(&response, 200).contains("action=\"/auth/sign-in\" data-next=\"/\""), "{next}");
    }
}

#[tokio::test]
async fn page_after_sign_in_tells_why_cookies_were_not_kept() {
    let app = start(&[]).await;
    app.user(ANN).await;
    let response = submit(&mut app.browser(), "/auth/sign-in?next=/a", ANN, PASSWORD).await;
    let on = location(&response).to_owned();
    let encrypted = || with(get(&on), "sec-fetch-mode", "navigate");
    // Chromium and Firefox keep Secure cookies of loopback hosts without TLS, Safari does not.
    let on_loopback = |host, agent| {
        let public_origin = with(encrypted(), "host", host);
        with(public_origin, "user-agent", agent)
    };
    for (request, part) in [
        (on_loopback("127.0.0.1:8080", FIREFOX), "another address"),
        (on_loopback("localhost:8080", CHROME), "another address"),
        (on_loopback("localhost:8080", SAFARI), "not encrypted"),
        (on_loopback("[::1]:8080", CHROME_ON_IPHONE), "not encrypted"),
        (with(encrypted(), "host", "app.example.com"), "your browser did not keep them"),
        (with(get(&on), "host", "app.example.com"), "not encrypted"),
        (with(encrypted(), "host", "localhost:8080"), "not encrypted"),
        (with(encrypted(), "host", "other.example.com"), "another address"),
    ] {
        let html = page(&app.send(request).await, 200);
        assert!(html.contains(part), "{part}\n{html}");
        let has_link = html.contains(&format!("<a href=\"{ORIGIN}/auth/sign-in?next=%2Fa\">"));
        assert_eq!(has_link, !part.contains("keep"), "{html}");
    }
    app.clock.advance(Duration::from_secs(61));
    assert_eq!(location(&app.send(get(&on)).await), "/auth/sign-in?next=%2Fa");
    for path in
        ["/auth/continue?next=/a", "/auth/continue?next=/a&t=", "/auth/continue?next=/a&t=AQAAAABqAAAA"]
    {
        assert_eq!(location(&app.send(get(path)).await), "/auth/sign-in?next=%2Fa", "{path}");
    }
}

/// Cookies are off in a browser on the gateway's own machine, where `Secure` cookies need no TLS.
#[tokio::test]
async fn blocked_cookies_on_loopback_are_not_blamed_on_http() {
    for (origin, host) in [
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://localhost:8080", "localhost:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
    ] {
        let app = start(&[("server.public_origin", origin)]).await;
        app.user(ANN).await;
        let response = submit(&mut app.browser(), "/auth/sign-in?next=/a", ANN, PASSWORD).await;
        let on = location(&response).to_owned();
        for (agent, part) in [
            (FIREFOX, "Allow cookies for this site"),
            (CHROME, "Allow cookies for this site"),
            (SAFARI, "not encrypted"),
            (CHROME_ON_IPHONE, "not encrypted"),
            ("curl/8.5", "not encrypted"),
        ] {
            let request = with(with(get(&on), "host", host), "user-agent", agent);
            let html = page(&app.send(request).await, 200);
            assert!(html.contains(part), "{host} {agent}\n{html}");
            assert_eq!(html.contains("cookies.secure = false"), part == "not encrypted", "{html}");
        }
    }
}

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0";
const CHROME: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36";
const SAFARI: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15";
const CHROME_ON_IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/156.0.0.0 Mobile/15E148 Safari/604.1";

#[tokio::test]
async fn strict_cookies_are_awaited_by_a_refresh_instead_of_a_redirect() {
    let app = start(&[("cookies.same_site", "strict")]).await;
    let mut browser = signed_in(&app, ANN).await;
    let html = page(&browser.get("/auth/continue?next=/a%3Fb").await, 200);
    assert_eq!(html.matches("http-equiv=\"refresh\" content=\"0; url=/a?b\"").count(), 1, "{html}");

    // A link on another site: the browser sends no cookies, then all of them.
    let cross_site = with(get("/auth/sign-in?next=/a"), "sec-fetch-site", "cross-site");
    let html = page(&app.send(cross_site).await, 200);
    assert!(html.contains("content=\"0; url=/auth/sign-in?next=%2Fa&amp;again=\""), "{html}");
    assert_eq!(location(&browser.get("/auth/sign-in?next=%2Fa&again=").await), "/a");
    let again = with(get("/auth/sign-in?next=/a&again="), "sec-fetch-site", "cross-site");
    assert!(page(&app.send(again).await, 200).contains("<form"));

    let response = submit(&mut app.browser(), "/auth/sign-in", ANN, PASSWORD).await;
    let on = location(&response).to_owned();
    let html = page(&app.send(get(&on)).await, 200);
    let token = on.split("t=").nth(1).unwrap();
    let url = format!("content=\"0; url=/auth/continue?t={token}&amp;again=\"");
    assert!(html.contains(&url), "{html}");
    let html = page(&app.send(get(&format!("{on}&again="))).await, 200);
    assert!(html.contains("not encrypted"), "{html}");
}

#[tokio::test]
async fn sign_in_ends_the_session_of_another_user() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    let former = browser.get("/auth/session").await.json()["session_id"].as_str().unwrap().parse().unwrap();
    app.user(BOB).await;
    // A form that was loaded before Ann signed in, in another tab.
    let response = submit(&mut browser, "/auth/sign-in?next=/a", BOB, PASSWORD).await;
    assert!(location(&response).starts_with("/auth/continue?next=%2Fa&t="));
    assert_eq!(app.row(former).await.end.map(|end| end.reason.as_str()), Some("logged_out"));
    assert_eq!(browser.get("/auth/session").await.json()["user"]["email"], BOB);
    // Sent again, the form works as before.
    let response = submit(&mut browser, "/auth/sign-in?next=/a", BOB, PASSWORD).await;
    assert!(location(&response).starts_with("/auth/continue?next=%2Fa&t="));
    assert_eq!(browser.get("/auth/sessions").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn page_names_the_reason_for_the_end_of_a_session() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    app.clock.advance(Duration::from_secs(30 * 86_400));
    let response = browser.get("/auth/sign-in").await;
    assert_eq!(response.event(), Some("idle_expired"));
    assert!(page(&response, 200).contains("role=\"status\">Your session has expired."));
    let response = get_in_japanese(&mut browser, "/auth/sign-in").await;
    assert!(page(&response, 200).contains("有効期限が切れました"));
}

#[tokio::test]
async fn unavailable_database_loses_nothing_that_was_typed() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    app.break_store().await;
    let response = submit(&mut browser, "/auth/sign-in?next=/a", BOB, PASSWORD).await;
    let html = page(&response, 503);
    assert!(html.contains("temporarily") || html.contains("does not work at the moment"), "{html}");
    assert!(html.contains(&format!("value=\"{BOB}\"")) && !html.contains(PASSWORD), "{html}");
    assert_eq!(response.header("retry-after"), Some("1"));
    assert!(response.set_cookies().is_empty());
    app.expire();
    for path in ["/auth/sign-in?next=/a", "/auth/continue?next=/a", "/auth/account"] {
        let response = browser.get(path).await;
        let html = page(&response, 503);
        assert!(html.contains("<a class=\"button primary\" href=\"\">Try again</a>"), "{html}");
        assert_eq!(response.event(), Some("store_unavailable"));
        assert!(response.set_cookies().is_empty());
    }
    app.repair_store().await;
    assert_eq!(location(&browser.get("/auth/sign-in?next=/a").await), "/a");
}

#[tokio::test]
async fn own_sign_in_page_gets_the_requested_page() {
    let app = start(&[("pages.sign_in", "/login?lang=en")]).await;
    let mut browser = app.browser();
    assert_eq!(location(&browser.get("/auth/sign-in?next=/a%3Fb").await), "/login?lang=en&next=%2Fa%3Fb");
    // Its form goes to the gateway.
    app.user(ANN).await;
    let response = submit(&mut browser, "/auth/sign-in?next=/a", ANN, PASSWORD).await;
    assert!(location(&response).starts_with("/auth/continue?next=%2Fa&t="));
    let app = start(&[("pages.sign_in", "https://login.example.com/")]).await;
    let response = app.browser().get("/auth/sign-in?next=/a").await;
    let expected = "https://login.example.com/?next=https%3A%2F%2Fapp.example.com%2Fa";
    assert_eq!(location(&response), expected);
}

#[tokio::test]
async fn cross_site_forms_are_rejected_with_and_without_cookies() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    for path in [
        "/auth/sign-in",
        "/auth/sign-out",
        "/auth/account/password",
        "/auth/account/devices/sign-out",
        "/auth/account/devices/sign-out-others",
    ] {
        let request = || {
            let request = with(form(path, &[]), "sec-fetch-site", "cross-site");
            with(request, "origin", "https://evil.example")
        };
        browser.send(request()).await.problem(403, "cross_site");
        app.send(request()).await.problem(403, "cross_site");
    }
    assert_eq!(browser.get("/auth/session").await.status, 200);
}

#[tokio::test]
async fn cookies_of_the_form_are_those_of_the_api() {
    let app = start(&[]).await;
    app.user(ANN).await;
    let attributes = |cookies: Vec<SetCookie>| -> BTreeMap<_, _> {
        let cookies = cookies.into_iter().map(|cookie| (cookie.name, (cookie.max_age, cookie.attributes)));
        cookies.collect()
    };
    let by_form = submit(&mut app.browser(), "/auth/sign-in", ANN, PASSWORD).await;
    let by_api = submit(&mut app.browser(), "/auth/login", ANN, PASSWORD).await;
    assert_eq!(attributes(by_form.set_cookies()), attributes(by_api.set_cookies()));
}
