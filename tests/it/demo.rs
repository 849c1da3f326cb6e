//! Demo page, assets, and OpenAPI description.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::db;
use crate::support::http::{TestResponse, bare, get, with};

#[tokio::test]
async fn every_referenced_file_is_served() {
    let app = TestApp::demo().await;
    let mut fetched = BTreeSet::new();
    let mut pending = vec!["/".to_owned()];
    while let Some(path) = pending.pop() {
        if !fetched.insert(path.clone()) {
            continue;
        }
        let response = app.send(get(&path)).await;
        assert_eq!(response.status, 200, "{path}");
        pending.extend(links_in(&text(&response)));
    }
    for path in
        ["/assets/app.js", "/assets/requests.js", "/assets/style.css", "/docs", "/docs/swagger-ui-bundle.js"]
    {
        assert!(fetched.contains(path), "{fetched:?}");
    }
}

#[tokio::test]
async fn pages_comply_with_their_csp() {
    let app = TestApp::demo().await;
    for path in ["/", "/docs"] {
        let response = app.send(get(path)).await;
        let policy = response.header("content-security-policy").expect("no policy");
        for rule in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]
        {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(response.header("x-frame-options"), Some("DENY"));
        assert_eq!(response.header("cross-origin-resource-policy"), Some("same-origin"));

        let page = text(&response);
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains("://"), "{path}");
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script ").count(),
            "inline script in {path}"
        );
    }
}

#[tokio::test]
async fn assets_are_revalidated_by_etag() {
    let app = TestApp::demo().await;
    for (path, content_type) in [
        ("/assets/app.js", "text/javascript; charset=utf-8"),
        ("/assets/style.css", "text/css; charset=utf-8"),
        ("/favicon.svg", "image/svg+xml; charset=utf-8"),
    ] {
        let full = app.send(get(path)).await;
        assert_eq!(full.header("content-type"), Some(content_type));
        assert_eq!(full.header("cache-control"), Some("no-cache"));
        let tag = full.header("etag").expect("no ETag").to_owned();

        let head = app.send(bare("HEAD", path)).await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), Some(full.body.len().to_string().as_str()));

        for (sent, status) in [
            (tag.clone(), 304),
            (format!("\"other\", W/{tag}"), 304),
            ("*".to_owned(), 304),
            ("\"other\"".to_owned(), 200),
        ] {
            let response = app.send(with(get(path), "if-none-match", &sent)).await;
            assert_eq!(response.status, status, "{path}, {sent}");
            assert_eq!(response.header("etag"), Some(tag.as_str()));
        }
    }
}

#[tokio::test]
async fn only_the_demo_shows_sample_credentials() {
    let response = TestApp::demo().await.send(get("/demo/sample.json")).await;
    assert_eq!(response.json(), json!({"email": "otama@example.com", "password": "let me through"}));
    assert_eq!(response.header("cache-control"), Some("private, no-store"));

    let plain = TestApp::with_database(db::sqlite().await.expect("SQLite needs no server")).await;
    for path in ["/demo/sample.json", "/", "/assets/app.js"] {
        plain.send(get(path)).await.problem(404, "no_route");
    }
}

#[tokio::test]
async fn openapi_description_is_complete() {
    let openapi = TestApp::demo().await.send(get("/openapi.json")).await.json();
    assert!(openapi["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")));

    let operations = [
        ("/movies", "get"),
        ("/movies", "post"),
        ("/movies/{id}", "get"),
        ("/movies/{id}", "put"),
        ("/movies/{id}", "delete"),
    ];
    for (path, method) in operations {
        let operation = &openapi["paths"][path][method];
        assert!(operation["responses"]["401"].is_object(), "{method} {path}");
        assert!(operation["responses"]["429"].is_object(), "{method} {path}");
        assert!(operation["responses"]["503"].is_object(), "{method} {path}");
    }
    for reference in references(&openapi) {
        let pointer = reference.trim_start_matches('#');
        assert!(openapi.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

#[tokio::test]
async fn docs_have_one_address() {
    let response = TestApp::demo().await.send(get("/docs/")).await;
    assert_eq!((response.status.as_u16(), response.header("location")), (308, Some("/docs")));
}

fn text(response: &TestResponse) -> String {
    String::from_utf8(response.body.clone()).expect("UTF-8")
}

/// Returns the URLs that a page loads or links to, and the imports of a module.
fn links_in(content: &str) -> Vec<String> {
    let after = |mark: &str| -> Vec<String> {
        let rests = content.split(mark).skip(1);
        rests.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()).collect()
    };
    let imported = after("from \"./").into_iter().map(|name| format!("/assets/{name}"));
    let pending = [" src=\"/", " href=\"/"].into_iter().flat_map(after).map(|name| format!("/{name}"));
    imported.chain(pending).collect()
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(members) => {
            let own = members.get("$ref").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(members.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}
