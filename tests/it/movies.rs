//! `/movies`: reads, writes and rejections.

use axum::body::Body;
use axum::http::Request;
use sekisho::models::user::Role;
use sekisho::services::sample_movies::sample_movies;
use serde_json::{Value, json};

use crate::support::app::{TestApp, on_each_database};
use crate::support::browser::Browser;
use crate::support::db::TestDatabase;
use crate::support::http::TestResponse;

on_each_database! {
    movies_can_be_created_read_replaced_and_deleted
    list_is_paginated
    list_can_be_filtered_and_sorted
    invalid_parameter_is_named
    invalid_movie_field_is_named
    body_must_be_json_within_the_limit
    reading_requires_a_user_and_writing_an_admin
    non_numeric_id_is_404
    unknown_paths_and_methods_return_problem_details
    responses_are_neither_cached_nor_sniffed
}

async fn movies_can_be_created_read_replaced_and_deleted(database: TestDatabase) {
    let app = App::new(database).await;
    let ran = json!({"title": "Ran", "year": 1985, "director": "Akira Kurosawa", "rating": 8.25});

    let created = app.write("POST", "/movies", &ran).await;
    assert_eq!(created.status, 201);
    let movie = created.json();
    assert_eq!(movie["title"], "Ran");
    assert_eq!(movie["rating"], 8.25);
    assert_eq!(movie["runtime_minutes"], Value::Null);
    let path = format!("/movies/{}", movie["id"]);
    assert_eq!(created.header("location"), Some(path.as_str()));
    assert_eq!(app.read(&path).await.json(), movie);

    let kagemusha =
        json!({"title": "Kagemusha", "year": 1980, "director": "Akira Kurosawa", "runtime_minutes": 180});
    let replaced = app.write("PUT", &path, &kagemusha).await;
    assert_eq!(replaced.status, 200);
    assert_eq!(replaced.json()["rating"], Value::Null, "PUT replaces, it does not merge");
    assert_eq!(app.read(&path).await.json(), replaced.json());

    let deleted = app.send("DELETE", &path, Some(Role::Admin), None, "").await;
    assert_eq!((deleted.status.as_u16(), deleted.body.len()), (204, 0));
    app.read(&path).await.problem(404, "not_found");
    app.write("PUT", &path, &kagemusha).await.problem(404, "not_found");
    app.send("DELETE", &path, Some(Role::Admin), None, "").await.problem(404, "not_found");
}

async fn list_is_paginated(database: TestDatabase) {
    let app = App::with_films(database).await;
    let total = sample_movies().len();

    let first = app.list("").await;
    assert_eq!(first["items"].as_array().map(Vec::len), Some(20));
    assert_eq!((&first["total"], &first["limit"], &first["offset"]), (&json!(total), &json!(20), &json!(0)));

    let mut seen: Vec<i64> = Vec::new();
    for offset in (0..total).step_by(25) {
        let page = app.list(&format!("?limit=25&offset={offset}&sort=-id")).await;
        assert_eq!(page["offset"], offset);
        let items = page["items"].as_array().expect("items");
        seen.extend(items.iter().map(|movie| movie["id"].as_i64().expect("an id")));
    }
    assert_eq!(seen.len(), total);
    assert!(seen.is_sorted_by(|a, b| a > b), "{seen:?}");

    let beyond = app.list(&format!("?offset={}", u32::MAX)).await;
    assert_eq!((&beyond["items"], &beyond["total"]), (&json!([]), &json!(total)));
}

async fn list_can_be_filtered_and_sorted(database: TestDatabase) {
    let app = App::with_films(database).await;

    let kurosawa = app.list("?director=kuroSAWA&sort=-year&limit=100").await;
    let items = kurosawa["items"].as_array().expect("items");
    assert!(items.len() >= 3);
    assert!(items.iter().all(|movie| movie["director"] == "Akira Kurosawa"));
    assert!(items.windows(2).all(|pair| pair[0]["year"].as_i64() >= pair[1]["year"].as_i64()));

    let samurai = app.list("?title=samurai&year=1954").await;
    assert_eq!(titles(&samurai), ["Seven Samurai"]);
    assert_eq!(
        app.list("?title=&director=").await["total"],
        sample_movies().len(),
        "an empty field is no filter"
    );
    assert_eq!(app.list("?title=100%25").await["total"], 0, "`%` is no wildcard");
}

async fn invalid_parameter_is_named(database: TestDatabase) {
    let app = App::new(database).await;
    for (query, parameter) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("limit=5&limit=5", "limit"),
        ("offset=-1", "offset"),
        ("offset=4294967296", "offset"),
        ("year=19.5", "year"),
        ("sort=-", "sort"),
        ("sort=budget", "sort"),
        ("title=a&title=b", "title"),
        ("title=a%00b", "title"),
        ("director=%20", "director"),
        ("page=2", "page"),
    ] {
        let detail = app.read(&format!("/movies?{query}")).await.problem(400, "invalid_request");
        assert!(detail.starts_with(&format!("`{parameter}` ")), "{query}: {detail}");
    }
}

async fn invalid_movie_field_is_named(database: TestDatabase) {
    let app = App::new(database).await;
    for (field, value) in [
        ("title", json!("")),
        ("title", json!("x".repeat(201))),
        ("title", json!(7)),
        ("year", json!(1869)),
        ("year", json!("1954")),
        ("director", json!("\u{0}")),
        ("runtime_minutes", json!(0)),
        ("runtime_minutes", json!(90.5)),
        ("rating", json!(10.5)),
        ("rating", json!("high")),
        ("colour", json!(true)),
    ] {
        let mut movie = json!({"title": "Ikiru", "year": 1952, "director": "Akira Kurosawa"});
        movie[field] = value.clone();
        let detail = app.write("POST", "/movies", &movie).await.problem(400, "invalid_request");
        assert!(detail.starts_with(&format!("`{field}` ")), "{value}: {detail}");
    }
    let detail = app.write("POST", "/movies", &json!({"year": 1952})).await.problem(400, "invalid_request");
    assert_eq!(detail, "`title` is missing.");
    assert_eq!(app.list("").await["total"], 0);
}

async fn body_must_be_json_within_the_limit(database: TestDatabase) {
    let app = App::new(database).await;
    let post = async |content_type, body: &str| {
        app.send("POST", "/movies", Some(Role::Admin), content_type, body).await
    };
    let movie = r#"{"title":"Ikiru","year":1952,"director":"Akira Kurosawa"}"#;

    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        post(content_type, movie).await.problem(415, "unsupported_media_type");
    }
    for body in ["", "{", "[]", r#"["Ikiru",1952,"Akira Kurosawa",null,null]"#, "null"] {
        post(Some("application/json"), body).await.problem(400, "invalid_request");
    }
    let large = format!("{}{movie}", " ".repeat(64 * 1024));
    post(Some("application/json"), &large).await.problem(413, "too_large");
    assert_eq!(post(Some("Application/JSON; charset=utf-8"), movie).await.status, 201);
}

async fn reading_requires_a_user_and_writing_an_admin(database: TestDatabase) {
    let app = App::with_films(database).await;
    for (method, path) in [
        ("GET", "/movies"),
        ("HEAD", "/movies"),
        ("GET", "/movies/1"),
        ("GET", "/movies/none"),
        ("POST", "/movies"),
        ("PUT", "/movies/1"),
        ("DELETE", "/movies/1"),
    ] {
        let response = app.send(method, path, None, None, "not even JSON").await;
        assert_eq!(response.status, 401, "{method} {path}");
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        assert_eq!(response.header("x-session-event"), Some("missing"));
        let writes = !matches!(method, "GET" | "HEAD");
        if writes {
            let response = app.send(method, path, Some(Role::User), None, "not even JSON").await;
            response.problem(403, "forbidden");
        }
    }
    assert_eq!(app.list("").await["total"], sample_movies().len(), "nothing was written");
}

async fn non_numeric_id_is_404(database: TestDatabase) {
    let app = App::with_films(database).await;
    for id in ["0", "-1", "99999999999999999999", "x", "1.0", "%31%78"] {
        app.read(&format!("/movies/{id}")).await.problem(404, "not_found");
    }
}

async fn unknown_paths_and_methods_return_problem_details(database: TestDatabase) {
    let app = App::new(database).await;
    app.read("/films").await.problem(404, "no_route");
    app.read("/movies/1/cast").await.problem(404, "not_found");

    let response = app.send("PATCH", "/movies/1", Some(Role::Admin), None, "").await;
    response.problem(405, "method_not_allowed");
    let allowed = response.header("allow").expect("RFC 9110, section 15.5.6: a 405 says what is allowed");
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        assert!(allowed.split(',').any(|name| name.trim() == method), "{allowed}");
    }
}

async fn responses_are_neither_cached_nor_sniffed(database: TestDatabase) {
    let app = App::with_films(database).await;
    for (path, content_type) in [("/movies", "application/json"), ("/movies/0", "application/problem+json")] {
        let response = app.read(path).await;
        assert_eq!(response.header("content-type"), Some(content_type));
        assert_eq!(response.header("cache-control"), Some("private, no-store"));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.header("cross-origin-resource-policy"), Some("same-origin"));
    }
}

/// Starts the application with one user of each role.
struct App {
    app: TestApp,
    admin: Browser,
    user: Browser,
}

impl App {
    async fn new(database: TestDatabase) -> Self {
        let app = TestApp::with_database(database).await;
        app.user_as("admin@example.com", Role::Admin).await;
        let mut admin = app.browser();
        admin.sign_in("admin@example.com").await;
        Self { user: app.signed_in("user@example.com").await, admin, app }
    }

    async fn with_films(database: TestDatabase) -> Self {
        let app = Self::new(database).await;
        app.app.fresh.stores.movies.insert_movies(&sample_movies()).await.expect("the store is there");
        app
    }

    async fn read(&self, uri: &str) -> TestResponse {
        self.send("GET", uri, Some(Role::User), None, "").await
    }

    async fn list(&self, query: &str) -> Value {
        let response = self.read(&format!("/movies{query}")).await;
        assert_eq!(response.status, 200, "{query}");
        response.json()
    }

    async fn write(&self, method: &str, uri: &str, body: &Value) -> TestResponse {
        self.send(method, uri, Some(Role::Admin), Some("application/json"), &body.to_string()).await
    }

    async fn send(
        &self,
        method: &str,
        uri: &str,
        role: Option<Role>,
        content_type: Option<&str>,
        body: &str,
    ) -> TestResponse {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        match role {
            Some(Role::Admin) => self.admin.send_and_drop(request).await,
            Some(Role::User) => self.user.send_and_drop(request).await,
            None => self.app.browser().send_and_drop(request).await,
        }
    }
}

fn titles(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().expect("items");
    items.iter().map(|movie| movie["title"].as_str().expect("a title").to_owned()).collect()
}
