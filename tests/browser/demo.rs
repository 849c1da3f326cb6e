//! The demo: sign-in, the timeline of requests, movies, and the end of the session in another tab.

use fantoccini::key::Key;
use sekisho::server::{ServerLimits, serve};
use serde_json::json;
use tokio::net::TcpListener;

use crate::accessibility::Report;
use crate::chromium::Chromium;
use crate::support::app::{DEMO_EMAIL, TestApp};

/// A demo that the browser reaches.
struct Demo {
    app: TestApp,
    origin: String,
}

impl Demo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        // As `sekisho demo`, whose cookies are kept over plain http by Safari too.
        let app = TestApp::demo_with(&[
            ("server.public_origin", &origin),
            ("cookies.secure", "false"),
            ("tokens.access_ttl", "20s"),
            ("session.grace", "5s"),
            ("pages.title", "Sekisho"),
            ("pages.logo", concat!(env!("CARGO_MANIFEST_DIR"), "/web/favicon.svg")),
        ])
        .await;
        let service = app.app.public.clone();
        tokio::spawn(serve(listener, service, ServerLimits::default(), std::future::pending()));
        Self { app, origin }
    }

    async fn open(&self, browser: &Chromium, path: &str) {
        browser.open(&format!("{}{path}", self.origin)).await;
    }

    /// Opens the demo and sends the form, which is filled in.
    async fn sign_in(&self, browser: &Chromium) {
        self.open(browser, "/").await;
        browser.wait_for_path("/auth/sign-in").await;
        browser.click("main form button").await;
        browser.wait_for_path("/").await;
    }

    /// Presses the button for 20 requests once the access token has expired, and waits for the responses.
    async fn send_many_after_expiry(&self, browser: &Chromium) {
        self.app.expire();
        browser.click("#send-many").await;
        browser.wait_until("document.querySelectorAll('#entries li:first-child .dots i').length == 20").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_shows_refreshes_and_the_end_of_the_session() {
    let Some(browser) = Chromium::start_with(&["--window-size=1280,800"], json!({})).await else { return };
    let demo = Demo::start().await;
    demo.open(&browser, "/").await;
    assert_eq!(browser.url().await.path(), "/auth/sign-in");
    assert_eq!(browser.value("#email").await, DEMO_EMAIL);
    // The button has the focus, because the form is filled in.
    browser.press(&Key::Enter.to_string()).await;
    browser.wait_for_path("/").await;
    assert_eq!(browser.text("bdi.user").await, DEMO_EMAIL);

    // By keyboard: past the account and the sign-out.
    for _ in 0..3 {
        browser.press(&Key::Tab.to_string()).await;
    }
    demo.app.expire();
    browser.press(&Key::Enter.to_string()).await;
    browser.wait_until("document.querySelectorAll('#entries li:first-child .dots i').length == 20").await;
    assert_eq!(browser.text("#entries .is-refreshed .outcome").await, "Session refreshed");
    let numbers = browser.text("#entries .is-refreshed .explanation").await;
    assert!(numbers.starts_with("1 refreshed the session"), "{numbers}");
    assert_eq!(browser.run(NEWEST_IS_VISIBLE, &[]).await, true);
    assert_eq!(browser.run("return scrollY", &[]).await, 0);

    for _ in 0..3 {
        browser.click("#send-one").await;
    }
    browser.wait_until("document.querySelectorAll('#entries li:first-child .dots i').length == 3").await;
    assert_eq!(browser.text("#entries li:first-child .outcome").await, "Session valid");
    demo.app.expire();
    browser.click("#send-one").await;
    browser.wait_until("document.querySelector('#entries li').className == 'is-refreshed'").await;
    let text = browser.text("#entries li:first-child").await;
    assert!(text.contains("GET /movies?limit=1") && text.contains("had expired"), "{text}");
    assert_eq!(browser.run(LAYOUT_SHIFT, &[]).await, 0);

    let phone = json!({"width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": true});
    browser.devtools("Emulation.setDeviceMetricsOverride", phone).await;
    browser.click("#send-one").await;
    browser.wait_until("document.querySelector('#entries li').className == 'is-valid'").await;
    assert_eq!(browser.run(NEWEST_IS_VISIBLE, &[]).await, true);
    browser.devtools("Emulation.clearDeviceMetricsOverride", json!({})).await;

    change_a_movie(&demo, &browser).await;
    sign_out_in_another_tab(&demo, &browser).await;
}

/// The list and the form replace each other without a navigation, which would empty the timeline.
async fn change_a_movie(demo: &Demo, browser: &Chromium) {
    browser.fill("#filter-title", "rashomon").await;
    browser.wait_until("document.querySelectorAll('#list tbody tr').length == 1").await;
    assert_eq!(browser.url().await.query(), Some("title=rashomon&sort=title"));
    browser.click("#list tbody a").await;
    browser.wait_until("document.querySelector('#director')?.value == 'Akira Kurosawa'").await;
    browser.fill("#director", " (黒澤明)").await;
    demo.app.expire();
    browser.click("#movies form .primary").await;
    browser.wait_until("document.querySelector('#movies .notice') !== null").await;
    assert_eq!(browser.text("#movies .notice").await, "The movie was saved.");
    let newest = browser.text("#entries .is-refreshed").await;
    assert!(newest.contains("POST /demo/movies/"), "{newest}");
    browser.client.back().await.unwrap();
    browser.wait_until("document.querySelector('#director')?.value == 'Akira Kurosawa (黒澤明)'").await;
}

async fn sign_out_in_another_tab(demo: &Demo, browser: &Chromium) {
    let first = browser.client.window().await.unwrap();
    browser.switch_to_new_tab().await;
    let second = browser.client.window().await.unwrap();
    demo.open(browser, "/").await;
    browser.click("form[action$='/sign-out'] button").await;
    browser.wait_for_path("/auth/sign-in").await;
    assert!(browser.text("main").await.contains("You are signed out."));

    browser.switch_to(first.clone()).await;
    browser.wait_until("document.querySelector('#signed-in') === null").await;
    let text = browser.text("main").await;
    assert!(text.contains("You signed out in another tab") && !text.contains(DEMO_EMAIL), "{text}");
    // A sign-in in the other tab is enough for both.
    browser.switch_to(second).await;
    browser.click("main form button").await;
    browser.wait_for_path("/").await;
    browser.switch_to(first).await;
    browser.wait_until("document.querySelector('#signed-in') !== null").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_works_without_scripts() {
    let Some(browser) = Chromium::start().await else { return };
    let demo = Demo::start().await;
    browser.disable_scripts().await;
    demo.sign_in(&browser).await;
    assert!(browser.text("#signed-in noscript").await.contains("needs JavaScript"));
    browser.fill("#filter-director", "ozu").await;
    demo.app.expire();
    browser.click("#filter button").await;
    browser.wait_until("location.search.includes('director=ozu')").await;
    assert!(browser.text("#list tbody").await.contains("Tokyo Story"));
    browser.click("#list tbody a").await;
    browser.wait_until("document.querySelector('#minutes') !== null").await;
    browser.fill("#minutes", "1").await;
    browser.click("#movies form .primary").await;
    browser.wait_until("location.search == '?done=saved'").await;
    assert_eq!(browser.text("#movies .notice").await, "The movie was saved.");
    browser.click("[rel=next]").await;
    browser.wait_until("location.search == '?page=2'").await;
    browser.click("form[action$='/sign-out'] button").await;
    browser.wait_for_path("/auth/sign-in").await;
    assert!(browser.text("main").await.contains("You are signed out."));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_in_english_is_accessible() {
    check_pages("en").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_in_japanese_is_accessible() {
    check_pages("ja").await;
}

async fn check_pages(language: &str) {
    let preferences = json!({"intl.accept_languages": language});
    let Some(browser) = Chromium::start_with(&["--window-size=1280,800"], preferences).await else { return };
    let demo = Demo::start().await;
    let mut report = Report::new(language);
    demo.open(&browser, "/").await;
    report.check(&browser, "demo-sign-in").await;
    demo.sign_in(&browser).await;
    report.check(&browser, "demo-empty").await;
    browser.click("#send-one").await;
    browser.wait_until("document.querySelector('#entries .is-valid') !== null").await;
    demo.send_many_after_expiry(&browser).await;
    demo.app.expire();
    for _ in 0..8 {
        browser.click("#send-one").await;
    }
    browser.wait_until("document.querySelectorAll('#entries .is-valid .dots i').length > 5").await;
    report.check(&browser, "demo").await;
    browser.client.execute("document.querySelector('#list tbody a').click()", vec![]).await.unwrap();
    browser.wait_until("document.querySelector('#minutes') !== null").await;
    report.check(&browser, "demo-form").await;
    let sign_out = "await fetch('/auth/logout', { method: 'POST' })";
    browser.run(sign_out, &[]).await;
    browser.wait_until("document.querySelector('#signed-in') === null").await;
    report.check(&browser, "demo-ended").await;
    report.finish();
}

/// Returns `true` if the newest entry can be seen.
const NEWEST_IS_VISIBLE: &str = r#"
const list = document.getElementById("entries");
const { top, bottom } = list.firstElementChild.getBoundingClientRect();
return list.scrollTop === 0 && top >= 0 && bottom <= innerHeight;
"#;

/// Returns by how much parts of the page have moved without an action of the user (Layout Instability API).
///
/// The API takes what moves within half a second for the result of an action. On a loaded machine the response to a click
/// takes longer, and its entry moves the older ones of the timeline, which is therefore left out.
const LAYOUT_SHIFT: &str = r#"
let sum = 0;
const timeline = document.getElementById("entries");
const isOutside = ({ node }) => !timeline.contains(node);
const observer = new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (!entry.hadRecentInput && entry.sources.some(isOutside)) sum += entry.value;
  }
});
observer.observe({ type: "layout-shift", buffered: true });
await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
return sum;
"#;
