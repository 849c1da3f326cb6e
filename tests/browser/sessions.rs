//! Sessions in use: refreshes within navigations, forms, uploads and fetches of the application.

use serde_json::json;

use crate::site::{EMAIL, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_refreshes_are_invisible_in_use() {
    let Some((site, browser)) = Site::start().await else { return };
    site.sign_in_by_script(&browser).await;
    site.open(&browser, "/old-reports/?year=2026&q=%E9%96%A2#totals").await;
    // Redirects of the application keep the fragment, as without the gateway.
    assert_eq!(browser.url().await.as_str(), site.at("/reports/?year=2026&q=%E9%96%A2#totals"));
    assert_eq!(browser.text("#user").await, EMAIL);
    assert_eq!(browser.text("#fragment").await, "#totals");
    site.record.take();

    site.app.expire();
    browser.client.refresh().await.unwrap();
    assert_eq!(browser.text("#query").await, "year=2026&q=%E9%96%A2");

    site.app.expire();
    let fetched = browser.run("return await (await fetch('/api/data')).json()", &[]).await;
    assert_eq!(fetched, json!({"user": EMAIL, "method": "GET"}));

    // A form of the application, with its own CSRF protection, cookie and redirect.
    site.open(&browser, "/note/").await;
    browser.fill("input[name=text]", "from Ann").await;
    site.app.expire();
    browser.click("#send").await;
    assert_eq!(browser.text(".message").await, "Saved: from Ann");

    site.open(&browser, "/upload/").await;
    let content = "x".repeat(3_000_000);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("upload.txt");
    std::fs::write(&file, content).unwrap();
    browser.fill("input[name=file]", file.to_str().unwrap()).await;
    site.app.expire();
    browser.click("#send").await;
    let received = browser.text(".message").await;
    assert!(received.starts_with("Received 3000000 bytes"), "{received}");

    site.app.expire();
    browser.client.back().await.unwrap();
    browser.client.refresh().await.unwrap();
    assert_eq!(browser.text("#user").await, EMAIL);

    let exchanges = site.record.take();
    let rotated = exchanges.iter().filter(|exchange| exchange.event.as_deref() == Some("rotated")).count();
    assert_eq!(rotated, 5, "{exchanges:#?}");
    assert!(exchanges.iter().all(|exchange| exchange.status < 400), "{exchanges:#?}");
}
