use super::RequestKind::{FormSubmission, Navigation, Other};
use super::*;

/// The `Accept` of Firefox and Chromium for documents.
const HTML: &str = "accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn kind(method: &str, lines: &[&str]) -> RequestKind {
    let mut request = Request::builder().method(method).uri("/");
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    RequestKind::of(&request.body(()).unwrap())
}

fn fetch_metadata(site: &str, mode: &str, dest: &str) -> [String; 3] {
    [format!("sec-fetch-site: {site}"), format!("sec-fetch-mode: {mode}"), format!("sec-fetch-dest: {dest}")]
}

fn kind_by_metadata(method: &str, mode: &str, dest: &str, more: &[&str]) -> RequestKind {
    let metadata = fetch_metadata("same-origin", mode, dest);
    let lines: Vec<&str> = metadata.iter().map(String::as_str).chain(more.iter().copied()).collect();
    kind(method, &lines)
}

#[test]
fn requests_with_fetch_metadata_are_told_by_mode_and_destination() {
    for (request, method, mode, dest, expected) in [
        ("address bar or link", "GET", "navigate", "document", Navigation),
        ("HEAD", "HEAD", "navigate", "document", Navigation),
        ("form", "POST", "navigate", "document", FormSubmission),
        ("fetch or XHR", "GET", "cors", "empty", Other),
        ("fetch by POST", "POST", "cors", "empty", Other),
        ("fetch of the same origin", "GET", "same-origin", "empty", Other),
        ("fetch without CORS", "GET", "no-cors", "empty", Other),
        ("EventSource", "GET", "cors", "empty", Other),
        ("WebSocket", "GET", "websocket", "empty", Other),
        ("WebSocket of Chromium", "GET", "websocket", "websocket", Other),
        ("image", "GET", "no-cors", "image", Other),
        ("script", "GET", "no-cors", "script", Other),
        ("module script", "GET", "cors", "script", Other),
        ("stylesheet", "GET", "no-cors", "style", Other),
        ("font", "GET", "cors", "font", Other),
        ("video", "GET", "no-cors", "video", Other),
        ("manifest", "GET", "cors", "manifest", Other),
        ("service worker", "GET", "same-origin", "serviceworker", Other),
        ("worker", "GET", "same-origin", "worker", Other),
        ("iframe", "GET", "navigate", "iframe", Other),
        ("frame", "GET", "navigate", "frame", Other),
        ("object", "GET", "navigate", "object", Other),
        ("embed", "GET", "navigate", "embed", Other),
        ("form in an iframe", "POST", "navigate", "iframe", Other),
        ("beacon", "POST", "no-cors", "empty", Other),
        ("report", "POST", "no-cors", "report", Other),
        ("preflight", "OPTIONS", "cors", "empty", Other),
    ] {
        for more in [&[][..], &[HTML], &["accept: */*"]] {
            assert_eq!(kind_by_metadata(method, mode, dest, more), expected, "{request} {more:?}");
        }
    }
}

#[test]
fn prefetch_is_no_navigation() {
    for purpose in [
        "sec-purpose: prefetch",
        "sec-purpose: prefetch;prerender",
        "sec-purpose: prefetch; anonymous-client-ip",
        "purpose: prefetch",
        "purpose: Prefetch",
    ] {
        assert_eq!(kind_by_metadata("GET", "navigate", "document", &[purpose]), Other, "{purpose}");
        assert_eq!(kind("GET", &[HTML, purpose]), Other, "{purpose}");
    }
    assert_eq!(kind_by_metadata("GET", "navigate", "document", &["purpose: prefetched"]), Navigation);
}

#[test]
fn requests_without_fetch_metadata_are_told_by_accept() {
    let by_script = "x-requested-with: XMLHttpRequest";
    for (request, method, lines, expected) in [
        ("old browser, or no TLS", "GET", &[HTML][..], Navigation),
        ("HEAD", "HEAD", &[HTML], Navigation),
        ("form", "POST", &[HTML], FormSubmission),
        ("two lines", "GET", &["accept: */*", "accept: a/b, TEXT/HTML;q=0.5"], Navigation),
        ("curl", "GET", &["accept: */*"], Other),
        ("no headers", "GET", &[], Other),
        ("fetch", "GET", &["accept: application/json"], Other),
        ("XHR of jQuery", "GET", &["accept: text/html, */*; q=0.01", by_script], Other),
        ("WebSocket", "GET", &[HTML, "connection: upgrade", "upgrade: websocket"], Other),
        ("EventSource", "GET", &["accept: text/event-stream"], Other),
        ("image", "GET", &["accept: image/avif,image/webp,image/*,*/*;q=0.8"], Other),
        ("similar types", "GET", &["accept: text/htmlx, text/*, application/xhtml+xml"], Other),
        ("excluded type", "GET", &["accept: text/html;q=0, */*"], Other),
        ("excluded type with decimals", "GET", &["accept: text/html; q=0.000"], Other),
    ] {
        assert_eq!(kind(method, lines), expected, "{request}");
    }
}

/// A browser that sends some fetch metadata sends all of it. The rest was lost on the way, or a program sent it.
#[test]
fn incomplete_fetch_metadata_is_no_navigation() {
    for lines in [
        &["sec-fetch-mode: navigate"][..],
        &["sec-fetch-dest: document"],
        &["sec-fetch-site: none"],
        &["sec-fetch-user: ?1"],
        &["sec-fetch-mode: Navigate", "sec-fetch-dest: document"],
        &["sec-fetch-mode: navigate", "sec-fetch-dest: document, image"],
    ] {
        assert_eq!(kind("GET", &[&[HTML], lines].concat()), Other, "{lines:?}");
    }
}

#[test]
fn vary_lists_each_name_once() {
    let vary_after = |values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        headers.extend(values.iter().map(|value| (VARY, HeaderValue::from_static(value))));
        vary_by_kind(&mut headers);
        let values: Vec<_> = headers.get_all(VARY).iter().cloned().collect();
        values
    };
    assert_eq!(vary_after(&[]), ["Cookie, Sec-Fetch-Mode, Sec-Fetch-Dest, Accept"]);
    assert_eq!(vary_after(&["cookie", "Origin"]), ["cookie, Origin, Sec-Fetch-Mode, Sec-Fetch-Dest, Accept"]);
    assert_eq!(vary_after(&["*"]), ["*"]);
}
