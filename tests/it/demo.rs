//! Demo page, assets, and OpenAPI description.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::support::app::{DEMO_EMAIL, PASSWORD, TestApp};
use crate::support::browser::Browser;
use crate::support::db;
use crate::support::http::{TestResponse, bare, form, get, with, with_body};

#[tokio::test]
async fn every_referenced_file_is_served() {
    let (_app, mut browser) = signed_in().await;
    let mut fetched = BTreeSet::new();
    let mut pending = vec!["/".to_owned()];
    while let Some(path) = pending.pop() {
        if !fetched.insert(path.clone()) {
            continue;
        }
        let response = browser.get(&path).await;
        assert_eq!(response.status, 200, "{path}");
        pending.extend(links_in(&path, &text(&response)));
    }
    for path in [
        "/assets/app.js",
        "/assets/demo.css",
        "/assets/requests.js",
        "/auth/account",
        "/auth/assets/pages.css",
        "/auth/assets/ended.js",
        "/demo/movies/7",
        "/demo/movies/new",
        "/?sort=-year&page=2",
        "/docs",
        "/docs/swagger-ui-bundle.js",
    ] {
        assert!(fetched.contains(path), "{path}: {fetched:?}");
    }
}

#[tokio::test]
async fn pages_comply_with_their_csp() {
    let (_app, mut browser) = signed_in().await;
    for (path, referrer_policy) in [("/", "same-origin"), ("/docs", "no-referrer")] {
        let response = browser.get(path).await;
        let policy = response.header("content-security-policy").expect("no policy");
        for rule in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]
        {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.header("referrer-policy"), Some(referrer_policy));
        assert_eq!(response.header("x-frame-options"), Some("DENY"));
        assert_eq!(response.header("cross-origin-resource-policy"), Some("same-origin"));

        let page = text(&response);
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains("://"), "{path}");
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script ").count(),
            "inline script in {path}"
        );
    }
}

#[tokio::test]
async fn assets_are_revalidated_by_etag() {
    let app = TestApp::demo().await;
    for (path, content_type) in [
        ("/assets/app.js", "text/javascript; charset=utf-8"),
        ("/assets/demo.css", "text/css; charset=utf-8"),
        ("/docs/favicon.svg", "image/svg+xml; charset=utf-8"),
    ] {
        let full = app.send(get(path)).await;
        assert_eq!(full.header("content-type"), Some(content_type));
        assert_eq!(full.header("cache-control"), Some("no-cache"));
        let tag = full.header("etag").expect("no ETag").to_owned();

        let head = app.send(bare("HEAD", path)).await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), Some(full.body.len().to_string().as_str()));

        for (sent, status) in [
            (tag.clone(), 304),
            (format!("\"other\", W/{tag}"), 304),
            ("*".to_owned(), 304),
            ("\"other\"".to_owned(), 200),
        ] {
            let response = app.send(with(get(path), "if-none-match", &sent)).await;
            assert_eq!(response.status, status, "{path}, {sent}");
            assert_eq!(response.header("etag"), Some(tag.as_str()));
        }
    }
}

#[tokio::test]
async fn only_the_demo_shows_sample_credentials() {
    let demo = TestApp::demo().await;
    let page = text(&demo.send(get("/auth/sign-in")).await);
    for part in [
        format!("<code>{DEMO_EMAIL}</code>"),
        format!("<code>{PASSWORD}</code>"),
        format!("value=\"{DEMO_EMAIL}\""),
        format!("value=\"{PASSWORD}\""),
    ] {
        assert!(page.contains(&part), "{part}: {page}");
    }
    // The form does not repeat the password after a mistake.
    let wrong = form("/auth/sign-in", &[("email", DEMO_EMAIL), ("password", "wrong")]);
    let page = text(&demo.browser().send(wrong).await);
    assert!(!page.contains(&format!("value=\"{PASSWORD}\"")), "{page}");

    let plain = TestApp::with_database(db::sqlite().await.expect("SQLite needs no server")).await;
    let page = text(&plain.send(get("/auth/sign-in")).await);
    assert!(!page.contains("<code>") && !page.contains("Demo"), "{page}");
    for path in ["/", "/demo/movies/1", "/assets/app.js"] {
        plain.send(get(path)).await.problem(404, "no_route");
    }
}

#[tokio::test]
async fn demo_opens_on_the_sign_in_page() {
    let app = TestApp::demo().await;
    let response = app.send(navigation(get("/"))).await;
    assert_eq!(
        (response.status.as_u16(), response.header("location")),
        (303, Some("/auth/sign-in?next=%2F"))
    );
    let mut browser = app.browser();
    let form = form("/auth/sign-in", &[("email", DEMO_EMAIL), ("password", PASSWORD)]);
    let asked = browser.send(navigation(form)).await.header("location").expect("a location").to_owned();
    let response = browser.send(navigation(get(&asked))).await;
    assert_eq!((response.status.as_u16(), response.header("location")), (303, Some("/")));
    let page = text(&browser.get("/").await);
    assert!(page.contains(DEMO_EMAIL) && page.contains("Sign out"), "{page}");
    // The movies are there before any script runs.
    assert!(page.contains("<bdi>Sidney Lumet</bdi>") && page.contains("1–12 of 62"), "{page}");
}

#[tokio::test]
async fn demo_is_in_the_language_of_the_browser() {
    let (_app, mut browser) = signed_in().await;
    for path in ["/", "/demo/movies/new"] {
        let response = browser.send(with(get(path), "accept-language", "ja-JP")).await;
        assert_eq!(response.header("content-language"), Some("ja"));
        let page = text(&response);
        assert!(page.contains("リクエスト") && page.contains("タイトル"), "{page}");
        for word in ["Sign", "Requests", "Movies", "Title", "Year"] {
            assert!(!page.contains(&format!(">{word}")), "{word}: {page}");
        }
    }
}

#[tokio::test]
async fn movies_are_filtered_sorted_and_paged_by_links() {
    let (_app, mut browser) = signed_in().await;
    let kurosawa = text(&browser.get("/?director=KUROSAWA&sort=-year").await);
    let years: Vec<&str> = kurosawa.split("<td role=\"cell\">").filter_map(|cell| cell.get(..4)).collect();
    let years: Vec<u32> = years.iter().filter_map(|year| year.parse().ok()).collect();
    assert!(years.len() > 2 && years.is_sorted_by(|a, b| a >= b), "{years:?}");
    assert!(kurosawa.contains("aria-sort=\"descending\"><a href=\"/?director=KUROSAWA&amp;sort=year\">"));
    assert!(!kurosawa.contains("rel=\"next\""), "{kurosawa}");
    let last = text(&browser.get("/?page=6").await);
    assert!(last.contains("61–62 of 62") && last.contains("rel=\"prev\" href=\"/?page=5\""), "{last}");
    assert!(text(&browser.get("/?title=%3Cb%3E&page=9").await).contains("value=\"&lt;b&gt;\""));
    for query in ["year=soon", "sort=colour", &format!("title={}", "x".repeat(201))] {
        browser.get(&format!("/?{query}")).await.problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn administrator_changes_movies_by_forms() {
    let (app, mut browser) = signed_in().await;
    let fields =
        [("title", "<i>Dreams</i>"), ("director", "Akira Kurosawa"), ("year", "1990"), ("minutes", "")];
    let saved = browser.send(navigation(form("/demo/movies", &fields))).await;
    assert_eq!((saved.status.as_u16(), saved.header("location")), (303, Some("/?done=saved")));
    let list = text(&browser.get("/?done=saved&title=dreams").await);
    assert!(list.contains("The movie was saved.") && list.contains("&lt;i&gt;Dreams"), "{list}");
    let link = list.split("<a href=\"/demo/movies/").nth(1).expect("a link");
    let (id, _) = link.split_once('"').unwrap();

    // The rating, which the form lacks, is kept.
    let rated = r#"{"title":"Dreams","director":"Akira Kurosawa","year":1990,"rating":7.5}"#;
    let put = with_body("PUT", &format!("/movies/{id}"), "application/json", rated);
    assert_eq!(browser.send(put).await.status, 200);
    let fields = [("title", "Dreams"), ("director", "Akira Kurosawa"), ("year", "1990"), ("minutes", "119")];
    // A script gets the list in place of a redirect.
    let saved = browser.send(form(&format!("/demo/movies/{id}"), &fields)).await;
    assert_eq!(saved.status, 200);
    assert!(text(&saved).contains("The movie was saved."));
    let movie = browser.get(&format!("/movies/{id}")).await.json();
    assert_eq!((movie["runtime_minutes"].as_i64(), movie["rating"].as_f64()), (Some(119), Some(7.5)));

    app.expire();
    let refreshed = browser.send(form(&format!("/demo/movies/{id}"), &fields)).await;
    assert_eq!((refreshed.status.as_u16(), refreshed.event()), (200, Some("rotated")));
    let deleted = browser.send(navigation(form(&format!("/demo/movies/{id}/delete"), &[]))).await;
    assert_eq!(deleted.header("location"), Some("/?done=deleted"));
    browser.get(&format!("/demo/movies/{id}")).await.problem(404, "not_found");
    browser.send(form(&format!("/demo/movies/{id}/delete"), &[])).await.problem(404, "not_found");
}

#[tokio::test]
async fn invalid_movie_is_shown_again_with_its_problem() {
    let (_app, mut browser) = signed_in().await;
    let long = "x".repeat(201);
    for (field, value, expected) in [
        ("title", "", "Enter a title"),
        ("title", &*long, "Enter a title"),
        ("director", "  ", "Enter a director"),
        ("year", "soon", "Enter a year"),
        ("year", "1869", "Enter a year"),
        ("minutes", "0", "Enter the minutes"),
        ("minutes", "long", "Enter the minutes"),
    ] {
        let mut fields = [("title", "Ran"), ("director", "\"Akira\""), ("year", "1985"), ("minutes", "162")];
        for (_, given) in fields.iter_mut().filter(|(name, _)| *name == field) {
            *given = value;
        }
        for path in ["/demo/movies", "/demo/movies/7"] {
            let response = browser.send(navigation(form(path, &fields))).await;
            let page = text(&response);
            assert_eq!(response.status, 422, "{page}");
            assert!(page.contains(expected) && page.contains(&format!("action=\"{path}\"")), "{page}");
            assert!(field == "director" || page.contains("value=\"&quot;Akira&quot;\""), "{page}");
        }
    }
}

#[tokio::test]
async fn user_without_the_role_reads_movies_only() {
    let app = TestApp::demo().await;
    let mut browser = app.signed_in("ann@example.com").await;
    let page = text(&browser.get("/").await);
    assert!(
        page.contains("Only administrators may change movies.") && !page.contains("/demo/movies"),
        "{page}"
    );
    let fields = [("title", "Ran"), ("director", "Akira Kurosawa"), ("year", "1985")];
    for path in ["/demo/movies", "/demo/movies/7", "/demo/movies/7/delete"] {
        browser.send(form(path, &fields)).await.problem(403, "forbidden");
    }
    let page = browser.send(navigation(get("/demo/movies/new"))).await;
    assert_eq!(page.status, 403);
    assert!(text(&page).contains("You may not open this page"));
    // Without a session, and from another site.
    app.send(form("/demo/movies", &fields)).await.problem(401, "missing");
    let (app, mut admin) = signed_in().await;
    let foreign = with(form("/demo/movies/7/delete", &[]), "sec-fetch-site", "cross-site");
    let foreign = with(foreign, "origin", "https://evil.example");
    admin.send(foreign).await.problem(403, "cross_site");
    assert_eq!(admin.get("/movies/7").await.status, 200);
    drop(app);
}

#[tokio::test]
async fn openapi_description_is_complete() {
    let openapi = TestApp::demo().await.send(get("/openapi.json")).await.json();
    assert!(openapi["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")));

    let operations = [
        ("/movies", "get"),
        ("/movies", "post"),
        ("/movies/{id}", "get"),
        ("/movies/{id}", "put"),
        ("/movies/{id}", "delete"),
    ];
    for (path, method) in operations {
        let operation = &openapi["paths"][path][method];
        assert!(operation["responses"]["401"].is_object(), "{method} {path}");
        assert!(operation["responses"]["429"].is_object(), "{method} {path}");
        assert!(operation["responses"]["503"].is_object(), "{method} {path}");
    }
    for reference in references(&openapi) {
        let pointer = reference.trim_start_matches('#');
        assert!(openapi.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

/// D18: the description was looser than the program.
#[tokio::test]
async fn openapi_description_constrains_what_the_program_refuses() {
    let openapi = TestApp::demo().await.send(get("/openapi.json")).await.json();
    for status in ["400", "401", "403", "404", "429", "503"] {
        let response = &openapi["paths"]["/auth/sessions/{id}"]["delete"]["responses"][status];
        assert!(response.is_object(), "{status}");
    }
    for (path, methods) in openapi["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let responses = &operation["responses"];
            assert!(method == "get" || responses["403"].is_object(), "{method} {path}");
            assert!(!path.contains('{') || responses["400"].is_object(), "{method} {path}");
        }
    }
    let parameters = openapi["paths"]["/movies"]["get"]["parameters"].as_array().unwrap();
    let parameter = |name: &str| {
        let found = parameters.iter().find(|parameter| parameter["name"] == name);
        found.unwrap_or_else(|| panic!("{name}"))["schema"].clone()
    };
    assert_eq!(parameter("sort")["pattern"], "^-?(id|title|year|director|runtime_minutes|rating)$");
    for name in ["title", "director"] {
        assert!(parameter(name)["pattern"].is_string() && parameter(name)["maxLength"] == 200, "{name}");
    }
    let session = &openapi["components"]["securitySchemes"]["session"];
    assert_eq!((&session["in"], &session["name"]), (&json!("cookie"), &json!("__Host-access_token")));
    let schema = |name: &str| &openapi["components"]["schemas"][name]["properties"];
    assert!(schema("MovieRequest")["title"]["pattern"].is_string());
    for (name, field) in [
        ("LoginRequest", "password"),
        ("RegisterRequest", "password"),
        ("ChangePasswordRequest", "current_password"),
        ("ChangePasswordRequest", "new_password"),
        ("PasswordGrant", "password"),
    ] {
        let password = &schema(name)[field];
        assert!(
            password["minLength"].as_u64() >= Some(1) && password["maxLength"] == 256,
            "{name}: {password}"
        );
    }
    for name in ["PasswordGrant", "RefreshGrant"] {
        assert_eq!(schema(name)["scope"]["maxLength"], 0);
        assert_eq!(schema(name)["scope"]["type"], "string");
    }
}

/// The dialog Authorize of `/docs` asks for user name and password, as FastAPI's does.
#[tokio::test]
async fn openapi_description_has_the_password_flow() {
    let openapi = TestApp::demo().await.send(get("/openapi.json")).await.json();
    let scheme = &openapi["components"]["securitySchemes"]["password"];
    assert_eq!(
        (&scheme["type"], &scheme["flows"]["password"]["tokenUrl"]),
        (&json!("oauth2"), &json!("/token"))
    );
    let security = openapi["paths"]["/movies"]["get"]["security"].as_array().unwrap();
    assert!(security.contains(&json!({"password": []})), "{security:?}");
    let database = db::memory().await.unwrap();
    let without_token = TestApp::with(database, &[("server.builtin", r#"["auth", "movies", "docs"]"#)]).await;
    let openapi = without_token.send(get("/openapi.json")).await.json();
    assert!(openapi["components"]["securitySchemes"].get("password").is_none());
    assert!(!openapi["paths"].to_string().contains(r#""password":[]"#));
}

#[tokio::test]
async fn docs_have_one_address() {
    let response = TestApp::demo().await.send(get("/docs/")).await;
    assert_eq!((response.status.as_u16(), response.header("location")), (308, Some("/docs")));
}

/// Starts a demo and signs in as its user.
async fn signed_in() -> (TestApp, Browser) {
    let app = TestApp::demo().await;
    let mut browser = app.browser();
    browser.sign_in(DEMO_EMAIL).await;
    (app, browser)
}

/// Adds the headers of a request for a document.
fn navigation(request: Request<Body>) -> Request<Body> {
    with(with(request, "sec-fetch-mode", "navigate"), "sec-fetch-dest", "document")
}

fn text(response: &TestResponse) -> String {
    String::from_utf8(response.body.clone()).expect("UTF-8")
}

/// Returns the paths that the page or module at `path` loads, links to or imports.
fn links_in(path: &str, content: &str) -> Vec<String> {
    let after = |mark: &str| -> Vec<String> {
        let rests = content.split(mark).skip(1);
        rests.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()).collect()
    };
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let imports = ["from \"./", "import(\"./"].into_iter().flat_map(after);
    let imported = imports.map(|name| format!("{directory}/{name}"));
    let pending = [" src=\"/", " href=\"/", " data-ended=\"/"]
        .into_iter()
        .flat_map(after)
        .map(|name| format!("/{name}").replace("&amp;", "&"));
    imported.chain(pending).collect()
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(members) => {
            let own = members.get("$ref").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(members.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}
