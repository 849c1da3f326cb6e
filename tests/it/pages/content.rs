//! Contents of the pages: escaped values, languages, links.

use super::{ANN, in_japanese, location, page, start, submit};
use crate::support::app::PASSWORD;
use crate::support::browser::Browser;
use crate::support::http::{get, with};

/// The hash of [`PASSWORD`] is not known here, so the name is set in the database.
async fn named(app: &crate::support::app::TestApp, name: &str, agent: &'static str) -> Browser {
    app.user(ANN).await;
    app.sql(&format!("UPDATE {{users}} SET name = '{}'", name.replace('\'', "''"))).await;
    let mut browser = app.browser().with_client([192, 0, 2, 7], agent);
    location(&submit(&mut browser, "/auth/sign-in", ANN, PASSWORD).await);
    browser
}

#[tokio::test]
async fn markup_in_names_and_agents_is_escaped() {
    for name in [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "'-alert(1)-'",
        "{{ 7 * 7 }}{% raw %}",
        "</title><svg/onload=alert(1)>",
        "&lt;b&gt;",
    ] {
        let app = start(&[]).await;
        let mut browser = named(&app, name, "<b>x</b>\"'{{7*7}}").await;
        let html = page(&browser.get("/auth/account").await, 200);
        for mark in ["<script>alert", "<img", "<svg", "<b>", "<bdi>49", "{% raw"] {
            assert!(!html.contains(mark) || mark == "{% raw" && name.contains(mark), "{mark}\n{html}");
        }
        assert!(html.contains("&lt;b&gt;"), "{html}");
    }
}

#[tokio::test]
async fn bidirectional_and_long_names_stay_in_their_element() {
    for name in ["\u{202e}nimda\u{2066}", "أحمد", &"x".repeat(300), "関所 太郎"] {
        let app = start(&[]).await;
        let mut browser = named(&app, name, "\u{e9}\u{202e}").await;
        let html = page(&browser.get("/auth/account").await, 200);
        assert!(html.contains(&format!("<bdi>{name}</bdi>")), "{html}");
    }
}

#[tokio::test]
async fn markup_in_the_form_is_escaped() {
    let app = start(&[]).await;
    for email in ["\"><script>alert(1)</script>", "' onfocus='alert(1)", "{{ next }}", &"x".repeat(3_000)] {
        let html = page(&submit(&mut app.browser(), "/auth/sign-in", email, "x").await, 401);
        assert!(!html.contains("<script>alert") && !html.contains("' onfocus="), "{html}");
        assert_eq!(html.matches("id=\"email\"").count(), 1);
    }
}

#[tokio::test]
async fn language_follows_the_request() {
    let app = start(&[]).await;
    for (accepted, expected) in [("ja-JP,ja;q=0.9,en;q=0.8", "ja"), ("de, en;q=0.1", "en"), ("ja;q=0", "en")]
    {
        let response = app.send(with(get("/auth/sign-in"), "accept-language", accepted)).await;
        assert_eq!(response.header("content-language"), Some(expected), "{accepted}");
        assert!(page(&response, 200).contains(&format!("<html lang=\"{expected}\" dir=\"ltr\">")));
        let vary: Vec<_> =
            response.headers.get_all("vary").iter().map(|value| value.to_str().unwrap()).collect();
        assert!(vary.join(",").contains("Accept-Language") && vary.join(",").contains("Cookie"), "{vary:?}");
    }
    let app = start(&[("pages.languages", r#"["ja"]"#)]).await;
    let response = app.send(with(get("/auth/sign-in"), "accept-language", "en")).await;
    assert_eq!(response.header("content-language"), Some("ja"));
}

#[tokio::test]
async fn every_linked_file_is_served() {
    let app = start(&[]).await;
    let html = page(&app.send(in_japanese(get("/auth/sign-in"))).await, 200);
    let links = html.split("/auth/assets/").skip(1).map(|rest| rest.split('"').next().unwrap());
    let links: Vec<_> = links.collect();
    assert_eq!(links, ["pages.css", "fragment.js", "signed-in.js"]);
    for (name, content_type) in [
        ("pages.css", "text/css; charset=utf-8"),
        ("fragment.js", "text/javascript; charset=utf-8"),
        ("signed-in.js", "text/javascript; charset=utf-8"),
        ("times.js", "text/javascript; charset=utf-8"),
        ("account.js", "text/javascript; charset=utf-8"),
        ("ended.js", "text/javascript; charset=utf-8"),
        ("retry.js", "text/javascript; charset=utf-8"),
    ] {
        let response = app.send(get(&format!("/auth/assets/{name}"))).await;
        assert_eq!((response.status.as_u16(), response.header("content-type")), (200, Some(content_type)));
        let tag = response.header("etag").unwrap().to_owned();
        let again = with(get(&format!("/auth/assets/{name}")), "if-none-match", &tag);
        assert_eq!(app.send(again).await.status, 304);
        let text = String::from_utf8(response.body).unwrap();
        assert!(!text.contains("://"), "{name} names another host");
    }
    app.send(get("/auth/assets/other.js")).await.problem(404, "not_found");
    app.send(get("/auth/assets/..%2Fen.toml")).await.problem(400, "bad_path");
}

#[tokio::test]
async fn pages_are_not_served_if_they_are_off() {
    let app = start(&[("pages.sign_in", "off")]).await;
    for path in ["sign-in", "continue", "sign-out", "account", "assets/pages.css"] {
        app.send(get(&format!("/auth/{path}"))).await.problem(404, "not_found");
    }
    app.send(get("/auth/session")).await.problem(401, "missing");
}

#[tokio::test]
async fn pages_follow_the_path_prefix() {
    let app = start(&[("server.auth_prefix", "/_gate/in")]).await;
    let html = page(&app.send(get("/_gate/in/sign-in?next=/_gate/in/sign-out")).await, 200);
    assert!(html.contains("action=\"/_gate/in/sign-in\"") && !html.contains("/auth/"), "{html}");
    assert_eq!(app.send(get("/_gate/in/assets/pages.css")).await.status, 200);
    assert_eq!(location(&app.send(get("/.well-known/change-password")).await), "/_gate/in/account");
}
