//! Names, addresses and agents with markup, bidirectional controls and great length stay within their element.

use serde_json::{Value, json};

use crate::chromium::Chromium;
use crate::site::{EMAIL, Site, submit_sign_in};
use crate::support::app::PASSWORD;
use crate::support::gateway::route;

/// Texts that a user or a client chooses.
fn names() -> [String; 7] {
    [
        "<script>window.hacked = true</script><img src=x onerror='window.hacked = true'>".to_owned(),
        "</title></bdi></dd></dl></main><h1>Not ours</h1>".to_owned(),
        "\u{202e}gnp.exe\u{2066} \u{2067}(".to_owned(),
        "\u{627}\u{644}\u{639}\u{631}\u{628}\u{64a}\u{629} 123 (abc)".to_owned(),
        "x".repeat(300),
        "\u{95a2}".repeat(300),
        "a\u{301}\u{302}\u{303} ".repeat(75),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_names_stay_within_their_element() {
    let Some(browser) = Chromium::start().await else { return };
    let title = r#"</title><script>window.hacked = true</script> \u202eeltit"#;
    let config =
        |application: &str| format!("{}\n[pages]\ntitle = \"{title}\"\n", route("/", application, ""));
    let Some(site) = Site::start_with_config(config).await else { return };
    let size = json!({"width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": true});
    browser.devtools("Emulation.setDeviceMetricsOverride", size).await;
    site.sign_in(&browser).await;
    // Agents are header values. These two are unknown to the table of devices.
    for agent in ["<b>x</b>\"'><script>window.hacked = true</script>", LONG_AGENT] {
        site.app.browser().with_client([192, 0, 2, 99], agent).sign_in(EMAIL).await;
    }
    for name in names() {
        site.app.sql(&format!("UPDATE {{users}} SET name = '{}'", name.replace('\'', "''"))).await;
        site.open(&browser, "/auth/account").await;
        assert_contained(&browser, &name).await;
        let shown = browser.run("return document.querySelector('dd bdi').textContent", &[]).await;
        assert_eq!(shown, name.as_str());
    }
    let devices =
        browser.run("return [...document.querySelectorAll('h3')].map(h => h.textContent.trim())", &[]);
    let devices = devices.await;
    let is_cut = |device: &Value| {
        let device = device.as_str().unwrap();
        device.ends_with('…') && device.chars().count() == 60
    };
    assert!(devices.as_array().unwrap().iter().any(is_cut), "{devices}");

    // The sign-in page shows what was typed.
    browser.delete_cookies().await;
    for name in names() {
        site.open(&browser, "/auth/sign-in").await;
        let fill = "document.querySelector('#email').value = arguments[0];
            document.querySelector('#password').value = 'wrong'; document.querySelector('main form').submit()";
        browser.run(fill, &[json!(name)]).await;
        browser.wait_until("document.querySelector('[role=alert]') !== null").await;
        assert_contained(&browser, &name).await;
        assert_eq!(browser.value("#email").await, name.trim());
    }
    site.open(&browser, "/auth/sign-in").await;
    submit_sign_in(&browser, PASSWORD).await;
    browser.wait_for_path("/").await;
    for path in ["/auth/sign-in?signed_out", "/auth/sign-out", "/auth/nowhere"] {
        site.open(&browser, path).await;
        assert_contained(&browser, path).await;
    }
}

/// Checks that no script has run, that nothing is wider than the window, and that texts of users are isolated.
async fn assert_contained(browser: &Chromium, name: &str) {
    let seen = browser.run(SEEN, &[]).await;
    let expected = json!({"hacked": false, "width": 320, "headings": 1, "outside": [], "open": []});
    assert_eq!(seen, expected, "{name:?}");
}

const SEEN: &str = r#"
const isolates = [...document.querySelectorAll("bdi")];
const isOutside = element => {
  const { left, right } = element.getBoundingClientRect();
  return left < 0 || right > 320;
};
return {
  hacked: window.hacked === true,
  width: document.scrollingElement.scrollWidth,
  headings: document.querySelectorAll("h1").length,
  outside: [...document.querySelectorAll("body *")].filter(isOutside).map(element => element.outerHTML),
  open: isolates.filter(element => getComputedStyle(element).unicodeBidi !== "isolate").map(element => element.outerHTML),
};
"#;

const LONG_AGENT: &str = concat!(
    "AVeryLongNameOfAClientThatHasNoSpacesAndIsNotKnownToTheTableOfDevices/1.0.0-",
    "with-a-version-that-is-just-as-long-and-goes-on-and-on-and-on"
);
