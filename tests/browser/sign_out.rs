//! Signing out: other tabs notice, and the back button shows nothing personal.

use crate::chromium::Chromium;
use crate::site::{EMAIL, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the account page does not read /auth/events yet"]
async fn sign_out_reaches_the_other_tab() {
    let Some((site, browser)) = Site::start().await else { return };
    site.sign_in(&browser).await;
    site.open(&browser, "/auth/account").await;
    assert!(browser.text("main").await.contains(EMAIL));
    let account = browser.client.window().await.unwrap();
    browser.switch_to_new_tab().await;
    sign_out(&site, &browser).await;
    browser.switch_to(account).await;
    browser.wait_until(&format!("!document.body.textContent.includes({EMAIL:?})")).await;
    let text = browser.text("main").await;
    assert!(text.contains("signed out"), "{text}");
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
