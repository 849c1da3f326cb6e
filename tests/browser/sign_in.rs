//! Signing in: a person who opens a deep link comes back exactly there, whatever the browser lacks.

use fantoccini::key::Key;
use serde_json::json;

use crate::chromium::Chromium;
use crate::site::{EMAIL, Site, submit_sign_in};
use crate::support::app::PASSWORD;
use crate::support::gateway::route;

/// A deep link with a query and a fragment.
const DEEP_LINK: &str = "/reports/?year=2026&q=%E9%96%A2+x%20y#totals-%E6%9C%88";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_link_is_reached_after_sign_in() {
    let Some((site, browser)) = Site::start().await else { return };
    site.open(&browser, DEEP_LINK).await;
    assert_eq!(browser.url().await.path(), "/auth/sign-in");
    // A wrong password first: the second form still knows the way.
    submit_sign_in(&browser, "wrong").await;
    browser.wait_until("document.querySelector('[role=alert]') !== null").await;
    assert_eq!(browser.value("#email").await, EMAIL);
    browser.fill("#password", PASSWORD).await;
    browser.click("main form button").await;
    browser.wait_for_url(&site.at(DEEP_LINK)).await;
    assert_eq!(browser.text("#user").await, EMAIL);
    assert_eq!(browser.text("#query").await, "year=2026&q=%E9%96%A2+x%20y");
    assert_eq!(browser.text("#fragment").await, "#totals-%E6%9C%88");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_link_is_reached_by_keyboard_alone() {
    let Some((site, browser)) = Site::start().await else { return };
    site.open(&browser, DEEP_LINK).await;
    // The first field has the focus.
    browser.press(EMAIL).await;
    browser.press(&Key::Tab.to_string()).await;
    browser.press(PASSWORD).await;
    browser.press(&Key::Tab.to_string()).await;
    assert_eq!(browser.run("return document.activeElement.matches('button.primary')", &[]).await, true);
    browser.press(&Key::Enter.to_string()).await;
    browser.wait_for_url(&site.at(DEEP_LINK)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_link_is_reached_without_scripts() {
    let Some((site, browser)) = Site::start().await else { return };
    browser.disable_scripts().await;
    site.open(&browser, DEEP_LINK).await;
    submit_sign_in(&browser, PASSWORD).await;
    // Without scripts the fragment is lost.
    let (expected, _) = DEEP_LINK.split_once('#').unwrap();
    browser.wait_for_url(&site.at(expected)).await;
    assert_eq!(browser.text("#user").await, EMAIL);
    assert_eq!(browser.text("#fragment").await, "", "a script ran");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_cookies_are_explained() {
    let blocked = json!({"profile.default_content_setting_values.cookies": 2});
    let Some(browser) = Chromium::start_with(&[], blocked).await else { return };
    // Chromium keeps `Secure` cookies of a loopback address without TLS, so they are not the reason.
    for cookies in ["", "\n[cookies]\nsecure = false"] {
        let config = |application: &str| route("/", application, "") + cookies;
        let Some(site) = Site::start_with_config(config).await else { return };
        site.open(&browser, DEEP_LINK).await;
        submit_sign_in(&browser, PASSWORD).await;
        browser.wait_for_path("/auth/continue").await;
        let text = browser.text("main").await;
        assert!(text.contains("Allow cookies for this site"), "{text}");
        let requests = site.record.all();
        assert!(requests.len() < 12, "a loop: {requests:#?}");
    }
}

/// A browser that came by http keeps no `Secure` cookies. The page names the right address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_is_explained() {
    let rule = "--host-resolver-rules=MAP films.test 127.0.0.1";
    let Some(browser) = Chromium::start_with(&[rule], json!({})).await else { return };
    let Some(site) = Site::start_with_origin("films.test", "https://films.test").await else { return };
    site.open(&browser, "/reports/?year=2026").await;
    submit_sign_in(&browser, PASSWORD).await;
    browser.wait_for_path("/auth/continue").await;
    let text = browser.text("main").await;
    assert!(text.contains("not encrypted (http)") && text.contains("https://films.test"), "{text}");
}

/// A form that is sent twice, by a double click, leads to the page and leaves one session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn form_sent_twice_signs_in() {
    let Some((site, browser)) = Site::start().await else { return };
    site.open(&browser, DEEP_LINK).await;
    browser.fill("#email", EMAIL).await;
    browser.fill("#password", PASSWORD).await;
    let script = "const button = document.querySelector('main form button'); button.click();
        setTimeout(() => button.click()); setTimeout(() => button.click(), 20)";
    browser.run(script, &[]).await;
    browser.wait_for_url(&site.at(DEEP_LINK)).await;
    assert_eq!(browser.text("#user").await, EMAIL);
    let forms = site.record.all().into_iter().filter(|request| request.method == "POST");
    assert_eq!(forms.count(), 1);
    let sessions = "return (await (await fetch('/auth/sessions')).json()).length";
    assert_eq!(browser.run(sessions, &[]).await, 1);
}

/// A form of a tab that another tab has left behind signs in the user whom it names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_form_signs_in_another_user() {
    let Some((site, browser)) = Site::start().await else { return };
    site.app.user("bob@example.com").await;
    browser.disable_scripts().await;
    site.open(&browser, DEEP_LINK).await;
    let stale = browser.client.window().await.unwrap();
    browser.switch_to_new_tab().await;
    site.sign_in(&browser).await;
    let other = browser.client.window().await.unwrap();
    browser.switch_to(stale).await;
    browser.fill("#email", "bob@example.com").await;
    browser.fill("#password", PASSWORD).await;
    browser.click("main form button").await;
    browser.wait_for_path("/reports/").await;
    assert_eq!(browser.text("#user").await, "bob@example.com");
    browser.switch_to(other).await;
    browser.client.refresh().await.unwrap();
    assert_eq!(browser.text("#user").await, "bob@example.com");
}
