//! Requests that are no navigations: without a session they get 401, never a redirect.

use fantoccini::wd::WindowHandle;
use serde_json::json;

use crate::chromium::Chromium;
use crate::site::{EMAIL, Exchange, Site, submit_sign_in};
use crate::support::app::{IDLE_TTL, PASSWORD};
use crate::support::process::until;

/// Kinds of requests, as bodies of functions of `url`, with the `Sec-Fetch-Dest` that Chromium sends.
const KINDS: [(&str, &str, &str); 31] = [
    ("fetch", "empty", "await fetch(url)"),
    ("fetch of HTML", "empty", "await fetch(url, {headers: {Accept: 'text/html'}})"),
    ("fetch without CORS", "empty", "await fetch(url, {mode: 'no-cors'})"),
    ("fetch with POST", "empty", "await fetch(url, {method: 'POST', body: 'x'})"),
    ("fetch with PUT", "empty", "await fetch(url, {method: 'PUT', body: 'x'})"),
    ("fetch with HEAD", "empty", "await fetch(url, {method: 'HEAD'})"),
    ("beacon", "empty", "navigator.sendBeacon(url, 'x')"),
    ("XMLHttpRequest", "empty", "xhr('GET')"),
    ("XMLHttpRequest with POST", "empty", "xhr('POST')"),
    ("EventSource", "empty", "new EventSource(url)"),
    ("WebSocket", "", "new WebSocket(url)"),
    ("image", "image", "add('img', {src: url})"),
    ("script", "script", "add('script', {src: url})"),
    ("module", "script", "add('script', {src: url, type: 'module'})"),
    ("imported module", "script", "await import(url).catch(() => {})"),
    ("stylesheet", "style", "add('link', {rel: 'stylesheet', href: url})"),
    ("font", "font", "await new FontFace('probe', `url(${url})`).load().catch(() => {})"),
    ("audio", "audio", "add('audio', {src: url, preload: 'auto'})"),
    ("video", "video", "add('video', {src: url, preload: 'auto'})"),
    ("object", "object", "add('object', {data: url})"),
    ("embed", "embed", "add('embed', {src: url})"),
    ("frame", "iframe", "add('iframe', {src: url})"),
    ("frame with POST", "iframe", "post('frame')"),
    ("icon", "image", "add('link', {rel: 'icon', href: url})"),
    ("manifest", "manifest", "manifest()"),
    ("service worker", "serviceworker", "await navigator.serviceWorker.register(url).catch(() => {})"),
    ("worker", "worker", "new Worker(url)"),
    ("shared worker", "sharedworker", "new SharedWorker(url)"),
    ("preload", "image", "add('link', {rel: 'preload', as: 'image', href: url})"),
    ("prefetch", "empty", "add('link', {rel: 'prefetch', href: url})"),
    ("prerender", "document", "add('script', {type: 'speculationrules', text: rules})"),
];

const FUNCTIONS: &str = r#"
const [url] = arguments;
const rules = JSON.stringify({prerender: [{urls: [url], eagerness: "immediate"}]});
const add = (name, properties) => {
  const element = Object.assign(document.createElement(name), properties);
  (name === "link" ? document.head : document.body).append(element);
};
const manifest = () => {
  document.querySelector("link[rel=manifest]")?.remove();
  add("link", { rel: "manifest", href: url, crossOrigin: "use-credentials" });
};
const xhr = method => {
  const request = new XMLHttpRequest();
  request.open(method, url);
  request.send();
};
const post = target => {
  add("iframe", {name: target});
  add("form", {action: url, method: "post", target});
  document.forms[document.forms.length - 1].submit();
};
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_session_are_not_redirected() {
    let Some((site, browser)) = Site::start().await else { return };
    site.sign_in(&browser).await;
    site.open(&browser, "/reports/").await;
    // The session ends while the page is open.
    site.app.clock.advance(IDLE_TTL * 2);
    request_all(&site, &browser, "ended").await;
    browser.delete_cookies().await;
    request_all(&site, &browser, "without-cookies").await;
}

/// Sends a request of each kind, with a path of its own below `folder`, and checks the responses.
async fn request_all(site: &Site, browser: &Chromium, folder: &str) {
    for (number, (_, _, request)) in KINDS.iter().enumerate() {
        let script = format!("{FUNCTIONS}{request}");
        browser.run(&script, &[json!(path(folder, number))]).await;
    }
    // Chromium reads a manifest when a tool asks for it.
    browser.devtools("Page.getAppManifest", json!({})).await;
    for (number, (kind, dest, _)) in KINDS.iter().enumerate() {
        let seen = wait_for(site, &path(folder, number)).await;
        assert_eq!((seen.status, seen.location.as_deref()), (401, None), "{kind}: {seen:?}");
        assert!(seen.fetch.1 == *dest || dest.is_empty(), "{kind}: {seen:?}");
    }
    let redirected =
        site.record.all().into_iter().find(|seen| seen.target.contains(folder) && seen.status < 400);
    assert!(redirected.is_none(), "{redirected:?}");
}

fn path(folder: &str, number: usize) -> String {
    format!("/{folder}/{number}")
}

/// Waits until the gateway has responded to a request for `target`.
async fn wait_for(site: &Site, target: &str) -> Exchange {
    until(target, async || site.record.all().into_iter().find(|seen| seen.target == target)).await
}

/// Scripts see the status and the address of the sign-in page, without following a redirect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn script_reads_the_address_of_the_sign_in_page() {
    let Some((site, browser)) = Site::start().await else { return };
    site.open(&browser, "/reports/").await;
    let script = "const response = await fetch('/api/data');
        const problem = await response.json();
        return [response.status, response.redirected, problem.code, problem.sign_in_url]";
    let seen = browser.run(script, &[]).await;
    assert_eq!(seen, json!([401, false, "missing", site.at("/auth/sign-in")]));
}

/// A form that is sent after the end of the session gets a page. Nothing is redirected, for that would lose the data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn form_without_session_gets_a_page() {
    let Some((site, browser)) = Site::start().await else { return };
    site.sign_in(&browser).await;
    site.open(&browser, "/note/").await;
    let application = browser.client.window().await.unwrap();
    browser.fill("input[name=text]", "not lost").await;
    site.app.clock.advance(IDLE_TTL * 2);
    browser.click("#send").await;
    browser.wait_until("document.title.startsWith('You are signed out')").await;
    assert_eq!(browser.url().await.path(), "/note/");

    // As the page says: sign in in another tab, then send the form again.
    browser.click("main a").await;
    let tabs = browser.client.windows().await.unwrap();
    let other = tabs.into_iter().find(|tab| *tab != application).expect("a new tab");
    browser.switch_to(other).await;
    submit_sign_in(&browser, PASSWORD).await;
    browser.wait_for_path("/").await;
    send_form_again(&browser, application).await;
}

/// Goes back to the form in a tab, which still has its text, and sends it.
async fn send_form_again(browser: &Chromium, tab: WindowHandle) {
    browser.switch_to(tab).await;
    browser.client.back().await.unwrap();
    browser.wait_until("document.querySelector('input[name=text]') !== null").await;
    assert_eq!(browser.value("input[name=text]").await, "not lost");
    browser.click("#send").await;
    browser.wait_until("document.querySelector('.message') !== null").await;
    assert_eq!(browser.text(".message").await, "Saved: not lost");
}

/// While the database is down, people keep their sessions, addresses and forms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_outage_loses_nothing() {
    let Some((site, browser)) = Site::start().await else { return };
    site.sign_in(&browser).await;
    site.open(&browser, "/note/").await;
    browser.fill("input[name=text]", "not lost").await;
    site.app.break_store().await;
    site.app.expire();
    browser.click("#send").await;
    browser.wait_until("document.title.startsWith('The service is unavailable')").await;
    let text = browser.text("main").await;
    assert!(text.contains("To send the form again, go back to it"), "{text}");
    let application = browser.client.window().await.unwrap();
    browser.switch_to_new_tab().await;
    site.open(&browser, "/reports/?year=2026#totals").await;
    assert!(browser.text("main").await.contains("Try again in a minute."));

    site.app.repair_store().await;
    browser.click("main a.button").await;
    browser.wait_for_url(&site.at("/reports/?year=2026#totals")).await;
    browser.wait_until("document.getElementById('user') !== null").await;
    assert_eq!(browser.text("#user").await, EMAIL);
    send_form_again(&browser, application).await;
}
