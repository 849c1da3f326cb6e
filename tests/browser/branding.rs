//! Logo, colour and stylesheet of the operator, in the browser and under the pages' Content-Security-Policy.

use serde_json::json;

use crate::chromium::Chromium;
use crate::site::Site;
use crate::support::gateway::route;

const LOGO: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" width="80" height="40"><path d="M0 0h80v40H0z" fill="#1a7f5a"/></svg>"##;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logo_colour_and_stylesheet_are_applied() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("logo.svg"), LOGO).unwrap();
    std::fs::write(directory.path().join("my.css"), "h1 { color: rgb(1, 2, 3); }").unwrap();
    let Some(browser) = Chromium::start().await else { return };
    let config = |application: &str| {
        let path = directory.path().display();
        let pages =
            format!("logo = \"{path}/logo.svg\"\nstylesheet = \"{path}/my.css\"\naccent = \"#1a7f5a\"");
        format!("[pages]\n{pages}\n{}", route("/", application, ""))
    };
    let Some(site) = Site::start_with_config(config).await else { return };
    for path in ["/auth/sign-in", "/auth/nowhere"] {
        site.open(&browser, path).await;
        let seen = browser.run(SEEN, &[]).await;
        assert_eq!(
            seen,
            json!({"logo": [80, 64, 32], "icon": "/auth/assets/logo.svg", "heading": "rgb(1, 2, 3)"})
        );
    }
    site.open(&browser, "/auth/sign-in").await;
    assert_eq!(browser.run(WIDTH_WHILE_LOADING, &[]).await, 32);
    let button = "return getComputedStyle(document.querySelector('button.primary')).backgroundColor";
    assert_eq!(browser.run(button, &[]).await, "rgb(26, 127, 90)");
}

/// Returns the width of a logo that has not arrived. If it were 0, the title would move when the logo arrives.
const WIDTH_WHILE_LOADING: &str = r#"
const logo = new Image();
logo.alt = "";
logo.src = "/auth/assets/logo.svg?again";
document.querySelector(".site").prepend(logo);
return logo.getBoundingClientRect().width;
"#;

const SEEN: &str = r#"
const logo = document.querySelector("header img");
return {
  logo: [logo.naturalWidth, logo.width, logo.height],
  icon: new URL(document.querySelector("link[rel=icon]").href).pathname,
  heading: getComputedStyle(document.querySelector("h1")).color,
};
"#;
