//! API documentation: the OpenAPI document at `/openapi.json`, and Swagger UI at `/docs`.
//!
//! Swagger UI is started by an embedded script instead of its usual inline one, and loads nothing from
//! another host. It therefore works under the content security policy of all pages.

use std::sync::Arc;

use axum::response::Redirect;
use axum::routing::get;
use axum::{Json, Router};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::tag::Tag;
use utoipa::openapi::{
    Components, Content, Info, License, OpenApi, OpenApiBuilder, PathItem, Ref, RefOr, ResponseBuilder,
};
use utoipa_swagger_ui::Config;

use super::files::route_file;
use super::security_headers;
use crate::problem::Problem;

/// Completes the OpenAPI document of `routes` with its title, tags and security schemes.
#[must_use]
pub fn openapi(routes: OpenApi) -> OpenApi {
    let mut info = Info::new("Sekisho", env!("CARGO_PKG_VERSION"));
    info.description = Some(DESCRIPTION.to_owned());
    info.license = Some(License::new("MIT"));

    // Swagger UI shows the tags in this order.
    let tags = ["auth", "movies", "token", "keys"].map(Tag::new);
    let openapi = OpenApiBuilder::new().info(info).tags(Some(tags)).components(Some(security_schemes()));
    let mut openapi = openapi.build();
    openapi.merge(routes);
    add_client_busy(&mut openapi);
    openapi
}

/// Adds the response to a client with too many requests, which every operation can have.
fn add_client_busy(openapi: &mut OpenApi) {
    let response = ResponseBuilder::new()
        .description("The client has too many requests in progress: `client_busy`.")
        .content(Problem::CONTENT_TYPE, Content::new(Some(Ref::from_schema_name("Problem"))))
        .build();
    for PathItem { get, put, post, delete, patch, .. } in openapi.paths.paths.values_mut() {
        for operation in [get, put, post, delete, patch].into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            responses.insert("429".to_owned(), RefOr::T(response.clone()));
        }
    }
}

/// Creates the routes for `/openapi.json` and `/docs`.
pub fn router(openapi: OpenApi) -> Router {
    let document = Router::new().route("/openapi.json", get(async move || Json(openapi)));
    security_headers::for_api(document).merge(pages())
}

fn pages() -> Router {
    let files = [
        ("/docs/favicon.svg", "favicon.svg", include_str!("../../web/favicon.svg")),
        ("/docs", "docs.html", include_str!("../../web/docs.html")),
        ("/docs/start.js", "docs.js", include_str!("../../web/docs.js")),
    ];
    let mut router = Router::new().route("/docs/", get(async || Redirect::permanent("/docs")));
    for (path, name, content) in files {
        router = route_file(router, path, name, content);
    }
    for name in ["swagger-ui.css", "swagger-ui-bundle.js"] {
        router = route_file(router, &format!("/docs/{name}"), name, swagger_ui(name));
    }
    security_headers::for_pages(router)
}

#[expect(clippy::expect_used, reason = "the files are embedded, and covered by a test")]
fn swagger_ui(name: &str) -> Vec<u8> {
    let file = utoipa_swagger_ui::serve(name, Arc::new(Config::default()));
    file.ok().flatten().expect("Swagger UI has this file").bytes.into_owned()
}

fn security_schemes() -> Components {
    let cookie =
        ApiKeyValue::with_description("__Host-access_token", "Session cookie, set by `POST /auth/login`.");
    let mut components = Components::new();
    components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    components
}

const DESCRIPTION: &str = "A gateway that keeps browser users signed in. Browsers send the session cookies with every request, \
     and the gateway refreshes them as needed. Other clients send the access token of `POST /token`.";
