//! The routes and error codes of `docs/http-api.md`.

use std::collections::BTreeSet;
use std::fs;

use super::{assert_none, pages, root};
use crate::support::app::TestApp;
use crate::support::http::get;

const PAGE: &str = "docs/http-api.md";

#[tokio::test]
async fn http_api_page_lists_every_operation() {
    let openapi = TestApp::demo().await.send(get("/openapi.json")).await.json();
    let mut operations = Vec::new();
    for (path, methods) in openapi["paths"].as_object().unwrap() {
        let methods = methods.as_object().unwrap().keys();
        operations.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
    }
    assert!(operations.len() > 10, "the description was not read");
    assert_listed(&operations);
}

#[test]
fn http_api_page_lists_every_error_code() {
    let mut codes = Vec::new();
    for file in ["src/proxy/error.rs", "src/routers/error.rs"] {
        let source = fs::read_to_string(root().join(file)).unwrap();
        let pairs = source.split("(StatusCode::").skip(1).filter_map(|rest| rest.split_once(", \""));
        let named = pairs.filter(|(status, _)| status.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'));
        codes.extend(named.filter_map(|(_, rest)| rest.split_once('"')).map(|(code, _)| code.to_owned()));
    }
    assert!(codes.len() > 25, "the codes were not read: {codes:?}");
    assert_listed(&codes);
}

fn assert_listed(names: &[String]) {
    let pages = pages();
    let page = pages.iter().find(|page| page.path == PAGE).unwrap();
    let listed: BTreeSet<&str> = page.code_spans.iter().map(|span| &*span.text).collect();
    let missing = names.iter().filter(|name| !listed.contains(name.as_str()));
    assert_none(missing.map(|name| format!("{PAGE} does not list {name}")));
}
