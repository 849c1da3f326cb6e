//! Hostile values of `next`, followed by the browser: it stays on this origin.

use std::path::Path;

use url::form_urlencoded::byte_serialize;

use crate::site::{Site, submit_sign_in};
use crate::support::app::PASSWORD;

/// Returns 50 values of the list, spread over its kinds.
fn values() -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/hostile_next.txt");
    let text = std::fs::read_to_string(file).unwrap();
    let values: Vec<String> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let step = values.len() / 50;
    values.into_iter().step_by(step).take(50).collect()
}

fn query(value: &str) -> String {
    byte_serialize(value.as_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_next_stays_on_the_origin() {
    let Some((site, browser)) = Site::start().await else { return };
    site.sign_in(&browser).await;
    let values = values();
    assert_eq!(values.len(), 50);
    for (number, value) in values.iter().enumerate() {
        // The first to a signed-in browser, some through the form.
        let has_form = number % 10 == 0;
        if has_form {
            browser.delete_cookies().await;
        }
        site.open(&browser, &format!("/auth/sign-in?next={}", query(value))).await;
        if has_form {
            submit_sign_in(&browser, PASSWORD).await;
        }
        browser.wait_until("document.getElementById('path') !== null").await;
        let url = browser.url().await;
        assert_eq!(url.origin().ascii_serialization(), site.origin, "{value:?} leads to {url}");
        assert_eq!(url.path(), "/", "{value:?}");
    }
}
