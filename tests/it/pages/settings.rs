//! `[pages]`: title, logo, colour, stylesheet, templates, languages, and their errors.

use std::fs;
use std::path::Path;

use sekisho::app::check_pages;
use sekisho::config::{Config, Sources};
use tempfile::TempDir;

use super::{page, start};
use crate::support::app::TestApp;
use crate::support::http::{get, with};

/// A directory with these files.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(directory.path().join(name), content).unwrap();
    }
    directory
}

fn path(directory: &TempDir, name: &str) -> String {
    directory.path().join(name).display().to_string()
}

async fn sign_in_page(app: &TestApp, language: &str) -> String {
    page(&app.send(with(get("/auth/sign-in"), "accept-language", language)).await, 200)
}

fn load(flags: &[(&str, &str)]) -> Config {
    let flags = flags.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    Config::load(&Sources { flags, ..Sources::default() }).unwrap().config
}

/// Returns the error of `check-config`, with the directory's path removed.
fn error(directory: &Path, flags: &[(&str, &str)]) -> String {
    let error = check_pages(&load(flags)).expect_err("invalid");
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}").replace(&format!("{}/", directory.display()), "")
}

#[tokio::test]
async fn title_logo_colour_and_stylesheet_are_shown() {
    let svg = "<svg xmlns='http://www.w3.org/2000/svg'/>";
    let directory = directory(&[("Logo.SVG", svg), ("my.css", "h1 { color: red; }")]);
    let flags = [
        ("pages.title", "Tea & <Co>"),
        ("pages.logo", &*path(&directory, "Logo.SVG")),
        ("pages.accent", "#1a7f5a"),
        ("pages.stylesheet", &*path(&directory, "my.css")),
    ];
    let app = start(&flags).await;
    let html = sign_in_page(&app, "en").await;
    assert!(html.contains("<title>Sign in – Tea &amp; &lt;Co&gt;</title>"), "{html}");
    assert!(html.contains("<img src=\"/auth/assets/logo.svg\" alt=\"\" height=\"32\">"), "{html}");
    let stylesheets: Vec<_> = html.split("<link rel=\"stylesheet\" href=\"/auth/assets/").skip(1).collect();
    let names: Vec<_> = stylesheets.iter().map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(names, ["pages.css", "accent.css", "custom.css"]);
    let get = async |name: &str| {
        let response = app.send(get(&format!("/auth/assets/{name}"))).await;
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        let content_type = response.header("content-type").unwrap().to_owned();
        (content_type, String::from_utf8(response.body).unwrap())
    };
    assert_eq!(get("logo.svg").await, ("image/svg+xml; charset=utf-8".to_owned(), svg.to_owned()));
    assert!(get("accent.css").await.1.contains("--button: #1a7f5a;"));
    assert_eq!(get("custom.css").await.1, "h1 { color: red; }");
}

#[tokio::test]
async fn templates_and_texts_are_replaced_by_name() {
    let directory = directory(&[
        (
            "sign-out.html",
            "{% extends \"base.html\" %}{% block content %}<h1>{{ t(\"sign_out.title\") }}!</h1>{% endblock %}",
        ),
        ("en.toml", "[sign_in]\ntitle = \"Welcome\"\n"),
        ("de.toml", "[sign_in]\ntitle = \"Anmelden\"\n[date]\npattern = \"{day}. {month} {year}\"\n"),
        ("fragment.js", "// ours"),
    ]);
    let templates = directory.path().display().to_string();
    let flags = [("pages.templates", &*templates), ("pages.languages", r#"["en", "ja", "de"]"#)];
    let app = start(&flags).await;
    assert!(sign_in_page(&app, "en").await.contains("<h1>Welcome</h1>"));
    let german = sign_in_page(&app, "de-AT, en;q=0.5").await;
    // A text that is missing is in English.
    assert!(german.contains("<html lang=\"de\"") && german.contains("<h1>Anmelden</h1>"), "{german}");
    assert!(german.contains("Email address"), "{german}");
    assert!(sign_in_page(&app, "ja").await.contains("<h1>サインイン</h1>"));
    let html = page(&app.send(get("/auth/sign-out")).await, 200);
    assert!(html.contains("<h1>Sign out!</h1>"), "{html}");
    assert_eq!(app.send(get("/auth/assets/fragment.js")).await.body, b"// ours");
}

#[test]
fn invalid_files_are_named_with_their_line() {
    for (name, content, expected) in [
        ("sign-in.html", "\n{% if %}\n", "pages.templates: sign-in.html, line 2: "),
        ("sign-in.html", "<p>\n\n{{ nothing }}", "pages.templates: sign-in.html, line 3: undefined value"),
        (
            "error.html",
            "{{ t(\"no.such\") }}",
            "pages.templates: error.html, line 1: invalid operation: there is no text no.such",
        ),
        ("base.html", "{% include \"x.html\" %}", "pages.templates: base.html, line 1: "),
        (
            "en.toml",
            "[sign_in]\ntitel = \"x\"",
            "pages.templates: en.toml, line 2: there is no text sign_in.titel",
        ),
        ("ja.toml", "[sign_in\n", "pages.templates: ja.toml, line 1: "),
        ("en.toml", "\u{0}", "pages.templates: en.toml, line 1: "),
    ] {
        let directory = directory(&[(name, content)]);
        let templates = directory.path().display().to_string();
        let error = error(directory.path(), &[("pages.templates", &templates)]);
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn unreadable_files_are_named_with_their_key() {
    let directory = directory(&[("logo.txt", ""), ("logo.svg", "")]);
    fs::write(directory.path().join("large.png"), vec![0; 1024 * 1024 + 1]).unwrap();
    fs::write(directory.path().join("sign-in.html"), b"\xff").unwrap();
    let path = |name: &str| path(&directory, name);
    for (key, value, expected) in [
        ("pages.logo", path("none.svg"), "pages.logo: cannot read none.svg: No such file"),
        ("pages.logo", path("logo.txt"), "pages.logo: logo.txt: expected a file named *.svg"),
        ("pages.logo", path("large.png"), "pages.logo: large.png is larger than 1024 KiB"),
        ("pages.stylesheet", path("none.css"), "pages.stylesheet: cannot read none.css: No such file"),
        ("pages.stylesheet", path(""), "pages.stylesheet: cannot read"),
        ("pages.templates", path("none"), "pages.templates: cannot read none: No such file"),
        ("pages.templates", path("logo.svg"), "pages.templates: cannot read logo.svg: Not a directory"),
        ("pages.templates", path(""), "pages.templates: cannot read sign-in.html: the file is not UTF-8"),
        ("pages.languages", r#"["en", "de"]"#.to_owned(), "set pages.templates to a directory with de.toml"),
    ] {
        let error = error(directory.path(), &[(key, &value)]);
        assert!(error.contains(expected), "{key}: {error}");
    }
    fs::remove_file(directory.path().join("sign-in.html")).unwrap();
    let templates = directory.path().display().to_string();
    let flags = [("pages.templates", &*templates), ("pages.languages", r#"["en", "de"]"#)];
    assert_eq!(error(directory.path(), &flags), "pages.languages: there are no texts for de: add de.toml");
}

#[tokio::test]
async fn reload_puts_other_pages_into_force() {
    let app = start(&[]).await;
    let other = load(&[("pages.title", "Other"), ("pages.languages", r#"["ja"]"#)]);
    app.app.apply(app.app.prepare(&other).unwrap());
    assert!(sign_in_page(&app, "en").await.contains("<title>サインイン – Other</title>"));
    let invalid = load(&[("pages.logo", "/nowhere.svg")]);
    assert!(app.app.prepare(&invalid).is_err());
    assert!(sign_in_page(&app, "en").await.contains("<title>サインイン – Other</title>"));
}
