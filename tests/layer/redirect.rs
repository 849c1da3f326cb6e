//! Redirects to a sign-in page.

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, Response};
use sekisho::layer::{CurrentUser, InvalidSignInPath, RedirectToSignIn};

use super::{Fixture, fixture, render, send};

const NAVIGATION: [(&str, &str); 2] = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
const SCRIPT: [(&str, &str); 2] = [("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];

async fn ask(page: &str, method: &str, path: &str, fields: &[(&str, &str)]) -> Response<String> {
    let on_reject = RedirectToSignIn::new(page).unwrap();
    let fixture = Fixture { tokens: fixture().tokens, on_reject };
    let request = Request::builder().method(method).uri(path);
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    fixture.call(request.body(String::new()).unwrap()).await
}

fn location(response: &Response<String>) -> Option<&str> {
    response.headers().get("location").map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn navigation_is_redirected_with_the_way_back() {
    let response = ask("/sign-in", "GET", "/movies?page=2&title=%E9%96%A2", &NAVIGATION).await;
    insta::assert_snapshot!(render(&response), @"
    303 See Other
    cache-control: private, no-store
    location: /sign-in?next=%2Fmovies%3Fpage%3D2%26title%3D%25E9%2596%25A2
    vary: Cookie, Sec-Fetch-Mode, Sec-Fetch-Dest, Accept
    x-session-event: missing
    ");
    let response = ask("/login?theme=dark", "HEAD", "/a", &NAVIGATION).await;
    assert_eq!(location(&response), Some("/login?theme=dark&next=%2Fa"));
    let old_browser = ask("/sign-in", "GET", "/a", &[("accept", "text/html")]).await;
    assert_eq!(location(&old_browser), Some("/sign-in?next=%2Fa"));
}

#[tokio::test]
async fn other_requests_get_a_problem() {
    let prefetch = [NAVIGATION[0], NAVIGATION[1], ("sec-purpose", "prefetch")];
    let other: [(&str, &[(&str, &str)]); 5] =
        [("GET", &SCRIPT), ("GET", &[]), ("GET", &prefetch), ("POST", &NAVIGATION), ("POST", &SCRIPT)];
    for (method, fields) in other {
        let response = ask("/sign-in", method, "/a", fields).await;
        assert_eq!((response.status().as_u16(), location(&response)), (401, None), "{method} {fields:?}");
        assert!(response.body().contains(r#""code":"missing""#));
        assert_eq!(response.headers()["vary"], "Cookie, Sec-Fetch-Mode, Sec-Fetch-Dest, Accept");
        assert_eq!(response.headers()["cache-control"], "private, no-store");
    }
}

#[tokio::test]
async fn unavailable_store_is_503_for_all() {
    for fields in [NAVIGATION, SCRIPT] {
        let fields = [fields[0], fields[1], ("cookie", "refresh_token=store-down")];
        let response = ask("/sign-in", "GET", "/a", &fields).await;
        assert_eq!((response.status().as_u16(), location(&response)), (503, None));
    }
}

#[tokio::test]
async fn next_never_leads_to_another_site_or_in_a_circle() {
    for path in ["//other.example/", "/%2Fother.example", "/a/../b", "/sign-out"] {
        assert_eq!(
            location(&ask("/sign-in", "GET", path, &NAVIGATION).await),
            Some("/sign-in?next=%2F"),
            "{path}"
        );
    }
    let page_itself = ask("/sign-in", "GET", "/sign-in?next=%2Fa", &NAVIGATION).await;
    assert_eq!((page_itself.status().as_u16(), location(&page_itself)), (401, None));
}

#[tokio::test]
async fn session_passes() {
    let fields = [NAVIGATION[0], NAVIGATION[1], ("cookie", "access_token=valid")];
    assert_eq!(ask("/sign-in", "GET", "/a", &fields).await.body(), "old");
}

#[tokio::test]
async fn layer_around_a_nested_router_sees_the_whole_path() {
    let nested = Router::new().route("/reports", get(async |_: CurrentUser| "done"));
    let layer = fixture().layer().with_on_reject(RedirectToSignIn::new("/sign-in").unwrap());
    let app = Router::new().nest("/admin", nested).layer(layer);
    let request = Request::get("/admin/reports").header("accept", "text/html").body(Body::empty()).unwrap();
    assert_eq!(location(&send(app, request).await), Some("/sign-in?next=%2Fadmin%2Freports"));
}

#[test]
fn invalid_paths_are_named() {
    let error = |path: &str| RedirectToSignIn::new(path).unwrap_err();
    for path in ["", "sign-in", "https://login.example/", "?a"] {
        assert_eq!(error(path), InvalidSignInPath::Relative(path.to_owned()));
    }
    assert_eq!(error("//other.example"), InvalidSignInPath::OtherHost("//other.example".to_owned()));
    for path in ["/a b", "/a#b", "/\\other.example", "/\tb", "/é", "/a\r\nb", "/<b>"] {
        assert_eq!(error(path), InvalidSignInPath::Character(path.to_owned()));
    }
    assert_eq!(
        error("sign-in").to_string(),
        r#""sign-in" does not begin with a slash: give the path of a page, such as "/sign-in""#
    );
}
