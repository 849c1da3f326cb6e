//! A browser, as far as sessions see one: a cookie jar (RFC 6265bis, section 5), the headers that
//! guard against cross-site requests, tabs that ask at once, crashes and lost answers.

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
use super::http::{Answer, get, post};

/// The names of the two cookies.
pub(crate) const ACCESS: &str = "__Host-access_token";
pub(crate) const REFRESH: &str = "__Host-refresh_token";

/// One browser. A clone is a thief who has copied the jar.
#[derive(Clone)]
pub(crate) struct Browser {
    pub(crate) jar: Jar,
    public: PublicService,
    clock: Arc<ManualClock>,
    address: [u8; 4],
    agent: &'static str,
}

impl Browser {
    pub(crate) fn new(public: PublicService, clock: Arc<ManualClock>) -> Self {
        Self { jar: Jar::default(), public, clock, address: [192, 0, 2, 7], agent: "Browser/1.0" }
    }

    /// The same jar at another address.
    pub(crate) fn with_client(mut self, address: [u8; 4], agent: &'static str) -> Self {
        (self.address, self.agent) = (address, agent);
        self
    }

    /// The same jar, before another replica.
    pub(crate) fn with_service(mut self, public: PublicService) -> Self {
        self.public = public;
        self
    }

    /// Signs the user with [`PASSWORD`] in, and returns the session.
    #[track_caller]
    pub(crate) fn sign_in(&mut self, email: &str) -> impl Future<Output = SessionId> {
        let credentials = json!({"email": email, "password": PASSWORD});
        let asked_at = std::panic::Location::caller();
        async move {
            let answer = self.post("/auth/login", &credentials).await;
            assert_eq!(answer.status, 200, "{asked_at}: {answer:?}");
            answer.json()["session_id"].as_str().unwrap().parse().unwrap()
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(get(path)).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &serde_json::Value) -> Answer {
        self.send(post(path, body)).await
    }

    /// Sends a request of a page of ours, and keeps the cookies of the answer.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Answer {
        let answer = self.send_and_drop(request).await;
        self.store_cookies(&answer);
        answer
    }

    /// Sends a request whose answer is lost on its way here. (The test sees it all the same.)
    pub(crate) async fn send_and_drop(&self, request: Request<Body>) -> Answer {
        send_from(self.address, self.public.clone(), self.with_browser_headers(request)).await
    }

    /// Asks for all of these at once, as several tabs do: with the cookies of now. The answers'
    /// cookies are kept in that order, unless the test keeps them itself.
    pub(crate) async fn ask_at_once(&self, paths: &[&str]) -> Vec<Answer> {
        let asked = paths.iter().map(|path| tokio::spawn(self.clone().asked(get(path))));
        join_all(asked).await.into_iter().map(|answer| answer.expect("no panic")).collect()
    }

    async fn asked(self, request: Request<Body>) -> Answer {
        self.send_and_drop(request).await
    }

    /// Keeps the cookies of an answer.
    pub(crate) fn store_cookies(&mut self, answer: &Answer) {
        for cookie in answer.set_cookies() {
            self.jar.keep(&cookie, self.clock.now());
        }
    }

    /// The `Cookie` header that would be sent now.
    pub(crate) fn cookies(&self) -> String {
        self.jar.header(self.clock.now())
    }

    /// The value of one of the cookies.
    #[track_caller]
    pub(crate) fn token(&self, name: &str) -> String {
        self.jar.0.get(name).expect("the cookie is there").value.clone()
    }

    /// Adds what a browser adds, where the test has not done so.
    fn with_browser_headers(&self, mut request: Request<Body>) -> Request<Body> {
        let safe = matches!(*request.method(), Method::GET | Method::HEAD);
        let cookies = self.cookies();
        let mut add = |name: &'static str, value: &str| {
            request.headers_mut().entry(name).or_insert(HeaderValue::try_from(value).expect("visible ASCII"));
        };
        add("host", ORIGIN.trim_start_matches("https://"));
        add("user-agent", self.agent);
        add("sec-fetch-site", "same-origin");
        if !safe {
            add("origin", ORIGIN);
        }
        if !cookies.is_empty() {
            add("cookie", &cookies);
        }
        request
    }
}

/// A cookie jar for one secure origin. A clone is what was on the disk then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Jar(BTreeMap<String, Kept>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    value: String,
    until: Option<OffsetDateTime>,
}

impl Jar {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A jar that was put together from two: the access token of one, the refresh token of the
    /// other.
    pub(crate) fn of(access: &Browser, refresh: &Browser) -> Self {
        let kept = |browser: &Browser, name: &str| (name.to_owned(), browser.jar.0[name].clone());
        Self([kept(access, ACCESS), kept(refresh, REFRESH)].into())
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
        let until = cookie.max_age.map(|seconds| now + Duration::from_secs(seconds.unsigned_abs()));
        self.0.insert(cookie.name.clone(), Kept { value: cookie.value.clone(), until });
    }

    fn header(&self, now: OffsetDateTime) -> String {
        let live = self.0.iter().filter(|(_, kept)| kept.until.is_none_or(|until| now < until));
        live.map(|(name, kept)| format!("{name}={}", kept.value)).collect::<Vec<_>>().join("; ")
    }
}

/// One `Set-Cookie` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetCookie {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) max_age: Option<i64>,
    /// All attributes, in lower case and sorted, without `Max-Age` and `Expires`.
    pub(crate) attributes: Vec<String>,
}

impl SetCookie {
    /// Reads one line as browsers do.
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

    /// Whether it clears its cookie.
    pub(crate) fn clears(&self) -> bool {
        self.max_age.is_some_and(|seconds| seconds <= 0)
    }

    /// The prefix `__Host-` (section 4.1.3.2): `Secure`, `Path=/`, and no `Domain`.
    fn is_acceptable(&self) -> bool {
        let has = |attribute: &str| self.attributes.iter().any(|one| one == attribute);
        let bound = has("secure") && has("path=/");
        let domain = self.attributes.iter().any(|one| one.starts_with("domain="));
        (!self.name.starts_with("__Host-") || (bound && !domain))
            && self.name.len() + self.value.len() <= 4_096
    }
}
