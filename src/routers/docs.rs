//! API documentation: the OpenAPI document at `/openapi.json`, and Swagger UI at `/docs`.
//!
//! Swagger UI is started by an embedded script instead of its usual inline one, and loads nothing from
//! another host. It therefore works under the content security policy of all pages.

use std::sync::Arc;

use axum::response::Redirect;
use axum::routing::get;
use axum::{Json, Router};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Flow, Http, HttpAuthScheme, OAuth2, Password, Scopes, SecurityRequirement,
    SecurityScheme,
};
use utoipa::openapi::tag::Tag;
use utoipa::openapi::{
    Components, Content, Info, License, OpenApi, OpenApiBuilder, PathItem, Ref, RefOr, ResponseBuilder,
};
use utoipa_swagger_ui::Config;

use super::files::route_file;
use super::security_headers;
use crate::problem::Problem;

/// Completes the OpenAPI document of `routes` with its title, tags and security schemes. `access_cookie` is the name of the
/// access token cookie.
#[must_use]
pub fn openapi(routes: OpenApi, access_cookie: &str) -> OpenApi {
    let mut info = Info::new("Sekisho", env!("CARGO_PKG_VERSION"));
    info.description = Some(DESCRIPTION.to_owned());
    info.license = Some(License::new("MIT"));

    // Swagger UI shows the tags in this order.
    let tags = ["auth", "movies", "token", "keys"].map(Tag::new);
    let has_token = routes.paths.paths.contains_key(TOKEN_PATH);
    let components = security_schemes(access_cookie, has_token);
    let openapi = OpenApiBuilder::new().info(info).tags(Some(tags)).components(Some(components));
    let mut openapi = openapi.build();
    openapi.merge(routes);
    for (path, PathItem { get, put, post, delete, patch, .. }) in &mut openapi.paths.paths {
        let has_parameter = path.contains('{');
        for operation in [&mut *put, &mut *post, &mut *delete, &mut *patch].into_iter().flatten() {
            add_response(operation, "403", CROSS_SITE);
        }
        for operation in [get, put, post, delete, patch].into_iter().flatten() {
            add_response(operation, "429", CLIENT_BUSY);
            if has_parameter {
                add_response(operation, "400", BAD_PATH);
            }
            if has_token {
                add_password_scheme(operation);
            }
        }
    }
    openapi
}

/// Adds a response, unless the operation describes one of this status.
fn add_response(operation: &mut Operation, status: &str, description: &str) {
    operation.responses.responses.entry(status.to_owned()).or_insert_with(|| {
        let schema = Content::new(Some(Ref::from_schema_name("Problem")));
        let response = ResponseBuilder::new().description(description);
        RefOr::T(response.content(Problem::CONTENT_TYPE, schema).build())
    });
}

/// Adds the sign-in with a password to an operation that accepts access tokens.
fn add_password_scheme(operation: &mut Operation) {
    let requirement = |name: &str| SecurityRequirement::new(name, Vec::<String>::new());
    if let Some(security) = operation.security.as_mut().filter(|all| all.contains(&requirement(BEARER))) {
        security.push(requirement(PASSWORD));
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

fn security_schemes(access_cookie: &str, has_token: bool) -> Components {
    let cookie = ApiKeyValue::with_description(access_cookie, "Session cookie, set by `POST /auth/login`.");
    let mut components = Components::new();
    components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    components.add_security_scheme(BEARER, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    if has_token {
        let flow = Flow::Password(Password::new(TOKEN_PATH, Scopes::new()));
        let description =
            "Access token of `POST /token`, for an e-mail address as the user name, and a password.";
        let scheme = OAuth2::with_description([flow], description);
        components.add_security_scheme(PASSWORD, SecurityScheme::OAuth2(scheme));
    }
    components
}

/// Names of security schemes.
const BEARER: &str = "bearer";
const PASSWORD: &str = "password";

const TOKEN_PATH: &str = "/token";

const BAD_PATH: &str = "The path is not in normal form: `bad_path`.";
const CLIENT_BUSY: &str = "The client has too many requests in progress: `client_busy`.";
const CROSS_SITE: &str = "The request was sent by a page of an origin that is not allowed: `cross_site`.";

const DESCRIPTION: &str = "A gateway that keeps browser users signed in. Browsers send the session cookies with every request, \
     and the gateway refreshes them as needed. Other clients send the access token of `POST /token`.";
