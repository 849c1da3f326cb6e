//! The gateway in front of the Django application, with a record of all responses.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use http::{Request, Response};
use sekisho::app::PublicService;
use sekisho::server::{HttpService, ServerLimits, serve};
use serde_json::json;
use tokio::net::TcpListener;
use tower::ServiceExt;

use crate::chromium::Chromium;
use crate::django::Django;
use crate::support::app::{PASSWORD, TestApp};
use crate::support::gateway::route;

/// A gateway with an application behind it. Both are stopped when it is dropped.
pub(crate) struct Site {
    pub(crate) app: TestApp,
    /// The origin by which the browser comes, such as `http://127.0.0.1:4000`.
    pub(crate) origin: String,
    pub(crate) record: Record,
    _django: Django,
}

/// A request and its response, as the gateway saw them.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) method: String,
    pub(crate) target: String,
    /// `Sec-Fetch-Mode` and `Sec-Fetch-Dest`.
    pub(crate) fetch: (String, String),
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) event: Option<String>,
}

/// The responses of the gateway, in order.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<Exchange>>>);

impl Site {
    /// Starts the gateway and a browser. Without their programs, reports a skipped test and returns `None`.
    pub(crate) async fn start() -> Option<(Self, Chromium)> {
        let browser = Chromium::start().await?;
        Some((Self::start_alone().await?, browser))
    }

    /// Starts the gateway without a browser.
    pub(crate) async fn start_alone() -> Option<Self> {
        let config = |application: &str| {
            route("/", application, "") + &route("/public", application, "auth = \"none\"")
        };
        Self::start_with_config(config).await
    }

    /// Starts the gateway with a configuration, a function of the application's URL. Its public origin is the address
    /// that it listens on.
    pub(crate) async fn start_with_config(config: impl Fn(&str) -> String) -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        Self::serve(listener, origin.clone(), &origin, config).await
    }

    /// Starts the gateway with another public origin than `http://host:port`, by which the browser comes.
    pub(crate) async fn start_with_origin(host: &str, public_origin: &str) -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{host}:{}", listener.local_addr().unwrap().port());
        Self::serve(listener, origin, public_origin, |application| route("/", application, "")).await
    }

    async fn serve(
        listener: TcpListener,
        origin: String,
        public_origin: &str,
        config: impl Fn(&str) -> String,
    ) -> Option<Self> {
        let django = Django::start()?;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sekisho.toml");
        std::fs::write(&file, config(&django.url())).unwrap();
        let app = TestApp::from_file(file, &[("server.public_origin", public_origin)]).await;
        app.user(EMAIL).await;
        let record = Record::default();
        let service = record.around(app.app.public.clone());
        tokio::spawn(serve(listener, service, ServerLimits::default(), std::future::pending()));
        Some(Self { app, origin, record, _django: django })
    }

    /// Returns the URL of a path.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// Opens a path and waits until the page has loaded.
    pub(crate) async fn open(&self, browser: &Chromium, path: &str) {
        browser.open(&self.at(path)).await;
    }

    /// Signs in as [`EMAIL`] by a script of a public page, as single-page applications do.
    pub(crate) async fn sign_in_by_script(&self, browser: &Chromium) {
        self.open(browser, "/public/").await;
        let status = browser.run(SIGN_IN, &[json!({"email": EMAIL, "password": PASSWORD})]).await;
        assert_eq!(status, 200);
    }

    /// Opens the sign-in page and signs in as [`EMAIL`].
    pub(crate) async fn sign_in(&self, browser: &Chromium) {
        self.open(browser, "/auth/sign-in").await;
        submit_sign_in(browser, PASSWORD).await;
        browser.wait_for_path("/").await;
    }
}

/// Sends the form of the sign-in page with [`EMAIL`].
pub(crate) async fn submit_sign_in(browser: &Chromium, password: &str) {
    browser.fill("#email", EMAIL).await;
    browser.fill("#password", password).await;
    browser.click("main form button").await;
}

impl Record {
    /// Returns all exchanges so far.
    pub(crate) fn all(&self) -> Vec<Exchange> {
        self.0.lock().unwrap().clone()
    }

    /// Removes and returns all exchanges so far.
    pub(crate) fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Returns a service that records what `inner` responds.
    fn around(&self, inner: PublicService) -> impl HttpService {
        let record = self.clone();
        tower::util::BoxCloneSyncService::new(tower::service_fn(move |request: Request<Body>| {
            let record = record.clone();
            let inner = inner.clone();
            async move {
                let exchange = Exchange::of(&request);
                let response = inner.oneshot(request).await?;
                record.0.lock().unwrap().push(exchange.answered_by(&response));
                Ok(response)
            }
        }))
    }
}

impl Exchange {
    fn of(request: &Request<Body>) -> Self {
        let header = |name| {
            let value = request.headers().get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        Self {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            fetch: (header("sec-fetch-mode"), header("sec-fetch-dest")),
            status: 0,
            location: None,
            event: None,
        }
    }

    fn answered_by(self, response: &Response<Body>) -> Self {
        let header = |name| {
            let value =
                response.headers().get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
            value.map(str::to_owned)
        };
        Self {
            status: response.status().as_u16(),
            location: header("location"),
            event: header("x-session-event"),
            ..self
        }
    }
}

/// The user of a site.
pub(crate) const EMAIL: &str = "ann@example.com";

const SIGN_IN: &str = r#"
const headers = {"Content-Type": "application/json"};
const body = JSON.stringify(arguments[0]);
return (await fetch("/auth/login", {method: "POST", headers, body})).status;
"#;
