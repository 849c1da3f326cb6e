//! A browser in the test's process: cookie jar (RFC 6265bis, section 5), `Origin` and `Sec-Fetch-Site`,
//! concurrent tabs, and lost responses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request};
use futures_util::future::join_all;
use sekisho::app::PublicService;
use sekisho::clock::{Clock, ManualClock};
use sekisho::models::session::SessionId;
use serde_json::json;
use time::OffsetDateTime;

use super::app::{ORIGIN, PASSWORD, send_from};
use super::http::{TestResponse, get, post};

/// Names of the two session cookies.
pub(crate) const ACCESS: &str = "__Host-access_token";
pub(crate) const REFRESH: &str = "__Host-refresh_token";

/// A browser. A clone models a thief with a copy of the cookies.
#[derive(Clone)]
pub(crate) struct Browser {
    pub(crate) jar: CookieJar,
    public: PublicService,
    clock: Arc<ManualClock>,
    address: [u8; 4],
    agent: &'static str,
}

impl Browser {
    pub(crate) fn new(public: PublicService, clock: Arc<ManualClock>) -> Self {
        Self { jar: CookieJar::default(), public, clock, address: [192, 0, 2, 7], agent: "Browser/1.0" }
    }

    /// Returns the browser with another address and User-Agent.
    pub(crate) fn with_client(mut self, address: [u8; 4], agent: &'static str) -> Self {
        self.address = address;
        self.agent = agent;
        self
    }

    /// Returns the browser connected to another replica.
    pub(crate) fn with_service(mut self, public: PublicService) -> Self {
        self.public = public;
        self
    }

    /// Signs in with [`PASSWORD`] and returns the session.
    #[track_caller]
    pub(crate) fn sign_in(&mut self, email: &str) -> impl Future<Output = SessionId> {
        let credentials = json!({"email": email, "password": PASSWORD});
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.post("/auth/login", &credentials).await;
            assert_eq!(answer.status, 200, "{caller}: {answer:?}");
            answer.json()["session_id"].as_str().unwrap().parse().unwrap()
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> TestResponse {
        self.send(get(path)).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &serde_json::Value) -> TestResponse {
        self.send(post(path, body)).await
    }

    /// Sends a same-origin request and stores the cookies of the response.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> TestResponse {
        let answer = self.send_and_drop(request).await;
        self.store_cookies(&answer);
        answer
    }

    /// Sends a request without storing the cookies of its response, as if it were lost.
    pub(crate) async fn send_and_drop(&self, request: Request<Body>) -> TestResponse {
        send_from(self.address, self.public.clone(), self.with_browser_headers(request)).await
    }

    /// Requests all paths concurrently with the present cookies, as several tabs do.
    ///
    /// Stores no cookies; the test calls [`store_cookies`](Self::store_cookies).
    pub(crate) async fn get_concurrently(&self, paths: &[&str]) -> Vec<TestResponse> {
        let requests = paths.iter().map(|path| tokio::spawn(self.clone().into_response(get(path))));
        join_all(requests).await.into_iter().map(|answer| answer.expect("no panic")).collect()
    }

    async fn into_response(self, request: Request<Body>) -> TestResponse {
        self.send_and_drop(request).await
    }

    /// Stores the cookies of a response.
    pub(crate) fn store_cookies(&mut self, answer: &TestResponse) {
        for cookie in answer.set_cookies() {
            self.jar.keep(&cookie, self.clock.now());
        }
    }

    /// Returns the `Cookie` header of the next request.
    pub(crate) fn cookies(&self) -> String {
        self.jar.header(self.clock.now())
    }

    /// Returns the value of a cookie.
    #[track_caller]
    pub(crate) fn token(&self, name: &str) -> String {
        self.jar.0.get(name).expect("the cookie is there").value.clone()
    }

    /// Adds the headers of a browser, unless the test has set them.
    fn with_browser_headers(&self, mut request: Request<Body>) -> Request<Body> {
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
        let cookies = self.cookies();
        let mut add = |name: &'static str, value: &str| {
            request.headers_mut().entry(name).or_insert(HeaderValue::try_from(value).expect("visible ASCII"));
        };
        add("host", ORIGIN.trim_start_matches("https://"));
        add("user-agent", self.agent);
        add("sec-fetch-site", "same-origin");
        if !is_safe {
            add("origin", ORIGIN);
        }
        if !cookies.is_empty() {
            add("cookie", &cookies);
        }
        request
    }
}

/// A cookie jar for one secure origin. A clone models the copy on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CookieJar(BTreeMap<String, StoredCookie>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct StoredCookie {
    value: String,
    expires_at: Option<OffsetDateTime>,
}

impl CookieJar {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Combines the access token of one browser with the refresh token of another.
    pub(crate) fn of(access: &Browser, refresh: &Browser) -> Self {
        let cookie = |browser: &Browser, name: &str| (name.to_owned(), browser.jar.0[name].clone());
        Self([cookie(access, ACCESS), cookie(refresh, REFRESH)].into())
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    fn keep(&mut self, cookie: &SetCookie, now: OffsetDateTime) {
        if !cookie.is_acceptable() {
            return;
        }
        if cookie.max_age.is_some_and(|seconds| seconds <= 0) {
            self.0.remove(&cookie.name);
            return;
        }
        let expires_at = cookie.max_age.map(|seconds| now + Duration::from_secs(seconds.unsigned_abs()));
        self.0.insert(cookie.name.clone(), StoredCookie { value: cookie.value.clone(), expires_at });
    }

    fn header(&self, now: OffsetDateTime) -> String {
        let live =
            self.0.iter().filter(|(_, cookie)| cookie.expires_at.is_none_or(|expires_at| now < expires_at));
        live.map(|(name, cookie)| format!("{name}={}", cookie.value)).collect::<Vec<_>>().join("; ")
    }
}

/// A `Set-Cookie` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetCookie {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) max_age: Option<i64>,
    /// The attributes in lower case, sorted, without `Max-Age` and `Expires`.
    pub(crate) attributes: Vec<String>,
}

impl SetCookie {
    /// Parses a header value as browsers do.
    pub(crate) fn parse(line: &str) -> Self {
        let mut parts = line.split(';').map(str::trim);
        let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).expect("a pair");
        let (lifetimes, mut attributes): (Vec<String>, Vec<String>) = parts
            .map(str::to_ascii_lowercase)
            .partition(|part| part.starts_with("max-age=") || part.starts_with("expires="));
        attributes.sort();
        let max_age = lifetimes.iter().find_map(|part| part.strip_prefix("max-age=")?.parse().ok());
        Self { name: name.to_owned(), value: value.to_owned(), max_age, attributes }
    }

    /// Returns `true` if it deletes the cookie.
    pub(crate) fn clears(&self) -> bool {
        self.max_age.is_some_and(|seconds| seconds <= 0)
    }

    /// Checks the prefix `__Host-` (section 4.1.3.2): `Secure`, `Path=/` and no `Domain`.
    fn is_acceptable(&self) -> bool {
        let has = |attribute: &str| self.attributes.iter().any(|present| present == attribute);
        let is_bound = has("secure") && has("path=/");
        let has_domain = self.attributes.iter().any(|attribute| attribute.starts_with("domain="));
        (!self.name.starts_with("__Host-") || (is_bound && !has_domain))
            && self.name.len() + self.value.len() <= 4_096
    }
}
