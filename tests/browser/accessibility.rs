//! All pages with axe, in both languages, light and dark, at a width of 320 pixels, and printed.
//!
//! With `SEKISHO_TEST_SCREENSHOTS` set to a directory, the tests save a picture of each page there.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::axe;
use crate::chromium::Chromium;
use crate::site::{EMAIL, Site, submit_sign_in};
use crate::support::app::{IDLE_TTL, PASSWORD};
use crate::support::gateway::route;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_in_english_are_accessible() {
    check_pages("en").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_in_japanese_are_accessible() {
    check_pages("ja").await;
}

/// Visits all pages and checks each.
async fn check_pages(language: &str) {
    let preferences = json!({"intl.accept_languages": language});
    let Some(browser) = Chromium::start_with(&[], preferences).await else { return };
    // Accepts connections and never responds.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let config = |application: &str| failing_routes(application, &silent);
    let Some(site) = Site::start_with_config(config).await else { return };
    let mut report = Report::new(language);

    site.open(&browser, "/reports/").await;
    report.check_page(&browser, "sign-in").await;
    submit_sign_in(&browser, "wrong").await;
    browser.wait_until("document.querySelector('[role=alert]') !== null").await;
    report.check_page(&browser, "sign-in-wrong").await;
    browser.fill("#password", PASSWORD).await;
    browser.click("main form button").await;
    browser.wait_for_path("/reports/").await;
    let asked = site.record.all().into_iter().find(|seen| seen.target.starts_with("/auth/continue"));
    let asked = asked.expect("the page after the form").target;

    browser.delete_cookies().await;
    site.open(&browser, &asked).await;
    report.check_page(&browser, "cookies").await;
    site.sign_in(&browser).await;

    // Devices, one with a long name and one that is unknown.
    for agent in [FIREFOX, "<b>curl</b>/8.5 (a client with a long name, and nothing else that is known)", ""]
    {
        let mut device = site.app.browser().with_client([192, 0, 2, 99], agent);
        device.sign_in(EMAIL).await;
    }
    site.open(&browser, "/auth/account").await;
    report.check_page(&browser, "account").await;
    site.open(&browser, "/auth/sign-out").await;
    report.check_page(&browser, "sign-out").await;
    for (path, name) in [("/admin/", "403"), ("/nowhere", "404"), ("/dead/", "502"), ("/slow/", "504")] {
        site.open(&browser, path).await;
        report.check_page(&browser, name).await;
    }

    site.open(&browser, "/note/").await;
    browser.fill("input[name=text]", "late").await;
    site.app.break_store().await;
    site.app.expire();
    site.open(&browser, "/reports/").await;
    report.check_page(&browser, "503").await;
    site.app.repair_store().await;

    site.open(&browser, "/note/").await;
    browser.fill("input[name=text]", "late").await;
    site.app.clock.advance(IDLE_TTL * 2);
    browser.click("#send").await;
    browser.wait_until("document.getElementById('send') === null").await;
    report.check_page(&browser, "401").await;
    site.open(&browser, "/auth/sign-in?signed_out").await;
    report.check_page(&browser, "signed-out").await;
    drop(listener);
    report.finish();
}

/// Returns routes for the error pages. The upstream `silent` never responds.
fn failing_routes(application: &str, silent: &str) -> String {
    [
        route("/reports", application, ""),
        route("/note", application, ""),
        route("/admin", application, "roles = [\"admin\"]"),
        route("/dead", "http://127.0.0.1:1", ""),
        route("/slow", silent, "first_byte_timeout = \"100ms\""),
    ]
    .concat()
}

/// The problems of all pages in one language.
pub(crate) struct Report {
    language: String,
    problems: Vec<String>,
}

impl Report {
    /// Creates a report without problems.
    pub(crate) fn new(language: &str) -> Self {
        Self { language: language.to_owned(), problems: Vec::new() }
    }

    /// Checks the present page on screens and in print.
    async fn check_page(&mut self, browser: &Chromium, name: &str) {
        self.check(browser, name).await;
        self.check_print(browser, name).await;
    }

    /// Checks the present page, light and dark.
    pub(crate) async fn check(&mut self, browser: &Chromium, name: &str) {
        let language = browser.run("return document.documentElement.lang", &[]).await;
        if language != self.language.as_str() {
            self.problems.push(format!("{name}: the language is {language}"));
        }
        for scheme in ["light", "dark"] {
            let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
            browser.devtools("Emulation.setEmulatedMedia", media).await;
            let name = format!("{name}-{}-{scheme}", self.language);
            let found = axe::violations(browser).await;
            self.problems.extend(found.into_iter().map(|violation| format!("{name}: {violation}")));
            self.save(browser, &name).await;
            self.check_narrow(browser, &name).await;
        }
    }

    /// Checks that a page is printed black on white, also for a user who prefers dark pages, and without controls.
    async fn check_print(&mut self, browser: &Chromium, name: &str) {
        let dark = json!({"name": "prefers-color-scheme", "value": "dark"});
        let media = json!({"media": "print", "features": [dark]});
        browser.devtools("Emulation.setEmulatedMedia", media).await;
        let printed = browser.run(PRINTED, &[]).await;
        if printed != json!(["rgb(255, 255, 255)", "rgb(0, 0, 0)", 0]) {
            self.problems
                .push(format!("{name}: background, text and number of controls in print: {printed}"));
        }
        self.save(browser, &format!("{name}-{}-print", self.language)).await;
        browser.devtools("Emulation.setEmulatedMedia", json!({"media": "", "features": []})).await;
    }

    /// Checks that a page 320 pixels wide does not scroll sideways (WCAG 1.4.10).
    async fn check_narrow(&mut self, browser: &Chromium, name: &str) {
        let size = json!({"width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": true});
        browser.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let widths = browser.run("return [document.scrollingElement.scrollWidth, innerWidth]", &[]).await;
        if widths != json!([320, 320]) {
            self.problems.push(format!("{name}: the width of content and window is {widths}"));
        }
        self.save(browser, &format!("{name}-320")).await;
        browser.devtools("Emulation.clearDeviceMetricsOverride", json!({})).await;
    }

    /// Saves a picture of the whole page.
    async fn save(&self, browser: &Chromium, name: &str) {
        if let Some(directory) = std::env::var_os("SEKISHO_TEST_SCREENSHOTS") {
            let size = &browser.devtools("Page.getLayoutMetrics", json!({})).await["cssContentSize"];
            let clip = json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1});
            let options = json!({"captureBeyondViewport": true, "clip": clip});
            let picture = browser.devtools("Page.captureScreenshot", options).await;
            let picture = BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
            std::fs::write(Path::new(&directory).join(format!("{name}.png")), picture).unwrap();
        }
    }

    /// Fails if there are problems.
    pub(crate) fn finish(self) {
        assert!(self.problems.is_empty(), "{:#?}", self.problems);
    }
}

const PRINTED: &str = r#"
const body = getComputedStyle(document.body);
const controls = [...document.querySelectorAll("button, .button, input")].filter(control => control.checkVisibility());
return [body.backgroundColor, body.color, controls.length];
"#;

const FIREFOX: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0";
