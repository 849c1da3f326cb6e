//! Signing out: other tabs notice, and the back button shows nothing personal.

use crate::chromium::Chromium;
use crate::site::{EMAIL, Site};
use crate::support::app::PASSWORD;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_out_reaches_the_other_tab() {
    let Some((site, browser)) = Site::start().await else { return };
    site.sign_in(&browser).await;
    site.open(&browser, "/auth/account").await;
    assert!(browser.text("main").await.contains(EMAIL));
    let account = browser.client.window().await.unwrap();
    browser.switch_to_new_tab().await;
    let other = browser.client.window().await.unwrap();
    sign_out(&site, &browser).await;
    browser.switch_to(account.clone()).await;
    browser.wait_until(&format!("!document.body.textContent.includes({EMAIL:?})")).await;
    let text = browser.text("main").await;
    assert!(text.contains("You signed out in another tab or on another device."), "{text}");
    let html = browser.run("return document.documentElement.outerHTML", &[]).await;
    assert!(!html.as_str().unwrap().contains(EMAIL), "{html}");
    assert_eq!(browser.run("return document.activeElement.localName", &[]).await, "h1");

    // After a sign-in in the other tab, the page is back by itself.
    browser.switch_to(other).await;
    site.sign_in(&browser).await;
    browser.switch_to(account).await;
    browser.wait_until(&format!("document.body.textContent.includes({EMAIL:?})")).await;
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
