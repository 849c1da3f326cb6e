//! Signing out: other tabs notice, and the back button shows nothing personal.

use fantoccini::key::Key;

use crate::chromium::Chromium;
use crate::site::{EMAIL, Exchange, Site};
use crate::support::app::PASSWORD;
use crate::support::process::until;

/// Several account pages share one event stream, and all notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_out_reaches_the_other_tab() {
    let Some((site, browser)) = Site::start().await else { return };
    site.sign_in(&browser).await;
    let mut accounts = Vec::new();
    for _ in 0..3 {
        browser.switch_to_new_tab().await;
        site.open(&browser, "/auth/account").await;
        assert!(browser.text("main").await.contains(EMAIL));
        accounts.push(browser.client.window().await.unwrap());
    }
    let is_stream = |request: &Exchange| request.method == "GET" && request.target == "/auth/events";
    until("an event stream", async || site.record.all().iter().any(is_stream).then_some(())).await;
    browser.switch_to_new_tab().await;
    let other = browser.client.window().await.unwrap();
    site.open(&browser, "/auth/sign-out").await;
    assert_eq!(site.record.all().into_iter().filter(is_stream).count(), 1);
    sign_out(&site, &browser).await;
    for account in &accounts {
        browser.switch_to(account.clone()).await;
        browser.wait_until(&format!("!document.body.textContent.includes({EMAIL:?})")).await;
        let text = browser.text("main").await;
        assert!(text.contains("You signed out in another tab or on another device."), "{text}");
        let html = browser.run("return document.documentElement.outerHTML", &[]).await;
        assert!(!html.as_str().unwrap().contains(EMAIL), "{html}");
        assert_eq!(browser.run("return document.activeElement.localName", &[]).await, "h1");
    }

    // After a sign-in in the other tab, the pages are back by themselves.
    browser.switch_to(other).await;
    site.sign_in(&browser).await;
    for account in accounts {
        browser.switch_to(account).await;
        browser.wait_until(&format!("document.body.textContent.includes({EMAIL:?})")).await;
    }
}

/// All forms of the account page can be reached and sent by keyboard, and need no scripts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_devices_are_signed_out_by_keyboard_without_scripts() {
    let Some((site, browser)) = Site::start().await else { return };
    site.sign_in(&browser).await;
    let mut device = site.app.browser().with_client([192, 0, 2, 99], "curl/8.5");
    device.sign_in(EMAIL).await;
    browser.disable_scripts().await;
    site.open(&browser, "/auth/account").await;
    let mut focused = Vec::new();
    while focused.last().is_none_or(|text| text != "Sign out all other devices") {
        assert!(focused.len() < 10, "{focused:?}");
        browser.press(&Key::Tab.to_string()).await;
        focused.push(browser.client.active_element().await.unwrap().text().await.unwrap());
    }
    assert_eq!(focused, ["Sign out", "Sign out", "Sign out all other devices"]);
    browser.press(&Key::Enter.to_string()).await;
    browser.wait_for_url(&site.at("/auth/account?done=others")).await;
    let text = browser.text("main").await;
    assert!(text.contains("All other devices were signed out.") && !text.contains("curl"), "{text}");
}

/// The page of one user shows another one's as soon as that one has signed in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn account_page_follows_the_user_who_is_signed_in() {
    let Some((site, browser)) = Site::start().await else { return };
    site.app.user("bob@example.com").await;
    site.sign_in(&browser).await;
    site.open(&browser, "/auth/account").await;
    let account = browser.client.window().await.unwrap();
    browser.switch_to_new_tab().await;
    site.open(&browser, "/public/").await;
    let script = "const headers = {'Content-Type': 'application/json'};
        const body = JSON.stringify({email: 'bob@example.com', password: arguments[0]});
        return (await fetch('/auth/login', {method: 'POST', headers, body})).status";
    assert_eq!(browser.run(script, &[PASSWORD.into()]).await, 200);
    browser.switch_to(account).await;
    browser.wait_until("document.body.textContent.includes('bob@example.com')").await;
    let text = browser.text("body").await;
    assert!(!text.contains(EMAIL), "{text}");
}

/// Neither the application's pages nor the account page come back from a cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_button_shows_nothing_personal_after_sign_out() {
    let Some((site, browser)) = Site::start().await else { return };
    site.sign_in(&browser).await;
    site.open(&browser, "/reports/?year=2026").await;
    site.open(&browser, "/auth/account").await;
    sign_out(&site, &browser).await;
    assert!(browser.text("main").await.contains("You are signed out."));
    for _ in 0..4 {
        browser.client.back().await.unwrap();
        browser.wait_until("document.readyState == 'complete'").await;
        let text = browser.text("html").await;
        assert!(!text.contains(EMAIL), "{}: {text}", browser.url().await);
    }
}

/// Opens the sign-out page and presses its button.
async fn sign_out(site: &Site, browser: &Chromium) {
    site.open(browser, "/auth/sign-out").await;
    browser.click("main form button").await;
    browser.wait_for_path("/auth/sign-in").await;
}
