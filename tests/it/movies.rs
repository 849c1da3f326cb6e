//! `/movies`: reading, writing, refusals.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use sekisho::identity::{Identity, Roles};
use sekisho::models::movie::{Movie, MovieDetails, MovieId};
use sekisho::models::session::SessionId;
use sekisho::routers;
use sekisho::services::films::films;
use sekisho::services::movies::Movies;
use sekisho::services::store::{MovieQuery, MovieSort, MovieStore, StoreError};
use serde_json::{Value, json};
use time::macros::datetime;
use uuid::Uuid;

use crate::support::http::{Answer, send};

#[tokio::test]
async fn create_find_replace_delete() {
    let app = App::new(store());
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

    let deleted = app.send("DELETE", &path, Some("admin"), None, "").await;
    assert_eq!((deleted.status.as_u16(), deleted.body.len()), (204, 0));
    app.read(&path).await.problem(404, "not_found");
    app.write("PUT", &path, &kagemusha).await.problem(404, "not_found");
    app.send("DELETE", &path, Some("admin"), None, "").await.problem(404, "not_found");
}

#[tokio::test]
async fn pages_of_the_list() {
    let app = App::with_films().await;
    let total = films().len();

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

#[tokio::test]
async fn filters_and_orders() {
    let app = App::with_films().await;

    let kurosawa = app.list("?director=kuroSAWA&sort=-year&limit=100").await;
    let items = kurosawa["items"].as_array().expect("items");
    assert!(items.len() >= 3);
    assert!(items.iter().all(|movie| movie["director"] == "Akira Kurosawa"));
    assert!(items.windows(2).all(|pair| pair[0]["year"].as_i64() >= pair[1]["year"].as_i64()));

    let samurai = app.list("?title=samurai&year=1954").await;
    assert_eq!(titles(&samurai), ["Seven Samurai"]);
    assert_eq!(app.list("?title=&director=").await["total"], films().len(), "an empty field is no filter");
    assert_eq!(app.list("?title=100%25").await["total"], 0, "`%` is no wildcard");
}

#[tokio::test]
async fn a_wrong_parameter_is_named() {
    let app = App::new(store());
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

#[tokio::test]
async fn a_wrong_field_is_named() {
    let app = App::new(store());
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

#[tokio::test]
async fn a_body_must_be_json_and_small() {
    let app = App::new(store());
    let post =
        async |content_type, body: &str| app.send("POST", "/movies", Some("admin"), content_type, body).await;
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

#[tokio::test]
async fn reading_needs_a_user_and_writing_an_admin() {
    let app = App::with_films().await;
    for (method, path) in [
        ("GET", "/movies"),
        ("HEAD", "/movies"),
        ("GET", "/movies/1"),
        ("GET", "/movies/none"),
        ("POST", "/movies"),
        ("PUT", "/movies/1"),
        ("DELETE", "/movies/1"),
    ] {
        let answer = app.send(method, path, None, None, "not even JSON").await;
        assert_eq!(answer.status, 401, "{method} {path}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert_eq!(answer.header("x-session-event"), Some("missing"));
        let writes = !matches!(method, "GET" | "HEAD");
        if writes {
            let answer = app.send(method, path, Some("user,administrator"), None, "not even JSON").await;
            answer.problem(403, "forbidden");
        }
    }
    assert_eq!(app.list("").await["total"], films().len(), "nothing was written");
}

#[tokio::test]
async fn an_id_that_is_no_number_is_no_movie() {
    let app = App::with_films().await;
    for id in ["0", "-1", "99999999999999999999", "x", "1.0", "%00"] {
        app.read(&format!("/movies/{id}")).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let app = App::new(store());
    app.read("/films").await.problem(404, "not_found");
    app.read("/movies/1/cast").await.problem(404, "not_found");

    let answer = app.send("PATCH", "/movies/1", Some("admin"), None, "").await;
    answer.problem(405, "method_not_allowed");
    let allowed = answer.header("allow").expect("RFC 9110, section 15.5.6: a 405 says what is allowed");
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        assert!(allowed.split(',').any(|name| name.trim() == method), "{allowed}");
    }
}

#[tokio::test]
async fn answers_are_not_kept_or_guessed_at() {
    let app = App::with_films().await;
    for (path, content_type) in [("/movies", "application/json"), ("/movies/0", "application/problem+json")] {
        let answer = app.read(path).await;
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert!(answer.header("cache-control").is_some_and(|value| value.contains("no-store")));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"));
    }
}

/// The routes over a store, with the user that the session layer would have put there.
struct App {
    router: Router,
    movies: Arc<dyn MovieStore>,
}

impl App {
    fn new(movies: Arc<dyn MovieStore>) -> Self {
        let routes = routers::movies::router().with_state(Movies::new(Arc::clone(&movies)));
        let router = routers::with_fallbacks(routes.into());
        Self { router: routers::security_headers::for_api(router), movies }
    }

    async fn with_films() -> Self {
        let app = Self::new(store());
        app.movies.insert_movies(&films()).await.expect("the store is there");
        app
    }

    async fn read(&self, uri: &str) -> Answer {
        self.send("GET", uri, Some("user"), None, "").await
    }

    async fn list(&self, query: &str) -> Value {
        let answer = self.read(&format!("/movies{query}")).await;
        assert_eq!(answer.status, 200, "{query}");
        answer.json()
    }

    async fn write(&self, method: &str, uri: &str, body: &Value) -> Answer {
        self.send(method, uri, Some("admin"), Some("application/json"), &body.to_string()).await
    }

    async fn send(
        &self,
        method: &str,
        uri: &str,
        roles: Option<&str>,
        content_type: Option<&str>,
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        if let Some(roles) = roles {
            request = request.extension(identity(roles));
        }
        send(&self.router, request.body(Body::from(body.to_owned())).expect("a request")).await
    }
}

fn identity(roles: &str) -> Identity {
    Identity {
        subject: "0b9e7f3c-6f0e-4a53-9c56-6f2b5a0d7a11".into(),
        session: SessionId(Uuid::from_u128(1)),
        email: "o.tama@example.com".into(),
        roles: Roles::from_list(roles).expect("legal names"),
        expires_at: datetime!(2026-01-01 00:15 UTC),
    }
}

fn titles(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().expect("items");
    items.iter().map(|movie| movie["title"].as_str().expect("a title").to_owned()).collect()
}

// TO BE REPLACED by one of the crate's own stores when both are on one branch, together with
// `ListStore` below.
fn store() -> Arc<dyn MovieStore> {
    Arc::new(ListStore::default())
}

#[derive(Default)]
struct ListStore(Mutex<(i64, BTreeMap<i64, MovieDetails>)>);

#[async_trait]
impl MovieStore for ListStore {
    async fn list_movies(&self, query: &MovieQuery) -> Result<(Vec<Movie>, u64), StoreError> {
        let holds = |text: &str, part: &Option<String>| {
            part.as_ref().is_none_or(|part| text.to_lowercase().contains(&part.to_lowercase()))
        };
        let matches = |movie: &Movie| {
            holds(&movie.details.title, &query.title)
                && holds(&movie.details.director, &query.director)
                && query.year.is_none_or(|year| year == movie.details.year)
        };
        let mut found: Vec<Movie> = self.all().into_iter().filter(matches).collect();
        found.sort_by(|a, b| {
            let (x, y) = (&a.details, &b.details);
            let order = match query.sort {
                MovieSort::Director => x.director.cmp(&y.director),
                MovieSort::Id => a.id.cmp(&b.id),
                MovieSort::Rating => x.rating.partial_cmp(&y.rating).expect("finite"),
                MovieSort::Runtime => x.runtime_minutes.cmp(&y.runtime_minutes),
                MovieSort::Title => x.title.cmp(&y.title),
                MovieSort::Year => x.year.cmp(&y.year),
            };
            let order = if query.descending { order.reverse() } else { order };
            order.then(a.id.cmp(&b.id))
        });
        let total = found.len() as u64;
        let page = found.into_iter().skip(query.offset as usize).take(query.limit as usize);
        Ok((page.collect(), total))
    }

    async fn find_movie(&self, id: MovieId) -> Result<Option<Movie>, StoreError> {
        Ok(self.all().into_iter().find(|movie| movie.id == id))
    }

    async fn insert_movies(&self, movies: &[MovieDetails]) -> Result<Vec<Movie>, StoreError> {
        let mut rows = self.0.lock().expect("not poisoned");
        let insert = |details: &MovieDetails| {
            rows.0 += 1;
            let id = rows.0;
            rows.1.insert(id, details.clone());
            Movie { id: MovieId(id), details: details.clone() }
        };
        Ok(movies.iter().map(insert).collect())
    }

    async fn update_movie(&self, movie: &Movie) -> Result<bool, StoreError> {
        let rows = &mut self.0.lock().expect("not poisoned").1;
        Ok(rows.get_mut(&movie.id.0).map(|details| details.clone_from(&movie.details)).is_some())
    }

    async fn delete_movie(&self, id: MovieId) -> Result<bool, StoreError> {
        Ok(self.0.lock().expect("not poisoned").1.remove(&id.0).is_some())
    }
}

impl ListStore {
    fn all(&self) -> Vec<Movie> {
        let rows = self.0.lock().expect("not poisoned");
        rows.1.iter().map(|(id, details)| Movie { id: MovieId(*id), details: details.clone() }).collect()
    }
}
