//! The recipes of `deploy/`, with a browser: a deep link behind each front proxy, refreshes, and sign-out.

use serde_json::json;

use crate::chromium::Chromium;
use crate::django::Django;
use crate::site::{EMAIL, submit_sign_in};
use crate::support::app::PASSWORD;
use crate::support::front_proxy::{FrontProxyHarness, FrontProxyKind};

const DEEP_LINK: &str = "/reports/?year=2026&q=%E9%96%A2+x%20y&next=%2Fother#totals-%E6%9C%88";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caddy() {
    deep_link_is_reached_behind(FrontProxyKind::Caddy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy() {
    deep_link_is_reached_behind(FrontProxyKind::Envoy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy() {
    deep_link_is_reached_behind(FrontProxyKind::Haproxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx() {
    deep_link_is_reached_behind(FrontProxyKind::Nginx).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traefik() {
    deep_link_is_reached_behind(FrontProxyKind::Traefik).await;
}

async fn deep_link_is_reached_behind(front: FrontProxyKind) {
    let Some(browser) = Chromium::start().await else { return };
    let Some(django) = Django::start() else { return };
    let Some(harness) = FrontProxyHarness::start_before(front, django.address).await else { return };
    harness.app.user(EMAIL).await;
    let at = |path: &str| format!("http://{}{path}", harness.address);
    browser.open(&at(DEEP_LINK)).await;
    browser.wait_for_path("/auth/sign-in").await;
    submit_sign_in(&browser, PASSWORD).await;
    browser.wait_for_url(&at(DEEP_LINK)).await;
    assert_eq!(browser.text("#query").await, "year=2026&q=%E9%96%A2+x%20y&next=%2Fother");
    for _ in 0..5 {
        harness.app.expire();
        browser.client.refresh().await.unwrap();
        assert_eq!(browser.text("#user").await, EMAIL);
    }

    // A form of the application, sent with an expired access token.
    browser.open(&at("/note/")).await;
    browser.fill("input[name=text]", "behind a proxy").await;
    harness.app.expire();
    browser.click("#send").await;
    browser.wait_until("document.querySelector('.message') !== null").await;
    assert_eq!(browser.text(".message").await, "Saved: behind a proxy");

    browser.open(&at("/auth/sign-out")).await;
    browser.click("main form button").await;
    browser.wait_for_path("/auth/sign-in").await;
    let script = "const response = await fetch('/api/data'); return [response.status, response.redirected]";
    assert_eq!(browser.run(script, &[]).await, json!([401, false]));
    browser.open(&at(DEEP_LINK)).await;
    browser.wait_for_path("/auth/sign-in").await;
}
