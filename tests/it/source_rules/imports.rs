//! Import directions: checks every path in `src/` against one table of allowed modules.

use std::fmt;

use super::lexer::{lex, without_tests};
use super::paths::{paths_of_other_crates, paths_of_this_crate};
use super::{module_of, read_files};

/// The paths that the modules at and below `module` may name.
struct Rule {
    module: &'static str,
    /// Modules and items of this crate, besides `module` itself.
    may_use: &'static [&'static str],
    /// Other crates that are denied.
    must_not_name: &'static [&'static str],
}

const fn rule(
    module: &'static str,
    may_use: &'static [&'static str],
    must_not_name: &'static [&'static str],
) -> Rule {
    Rule { module, may_use, must_not_name }
}

/// The row with the longest matching module applies. A new top-level module needs a row.
const TABLE: &[Rule] = &[
    rule("architecture", ALL, &[]),
    rule("clock", &["models"], WEB),
    rule("identity", &["clock", "models"], WEB),
    rule("client_info", &[], WEB),
    rule("client_share", &[], WEB),
    rule("duration_format", &[], WEB),
    rule("fuzzing", ALL, &[]),
    rule("http_headers", &[], WEB),
    rule("http2_frames", &[], WEB),
    rule("log_interval", &[], WEB),
    rule("long_lived_streams", &[], WEB),
    rule("printable", &[], WEB),
    rule("problem", &[], WEB),
    rule("session_event", &[], WEB),
    rule("unix_socket", &[], WEB),
    rule("user_agent", &[], WEB),
    rule("request_context", &[], WEB),
    rule("response_abort", &[], WEB),
    rule("models", &["clock"], WEB),
    rule("navigation", &[], WEB),
    rule("next", &[], WEB),
    rule("layer", &[], &["axum", "jsonwebtoken", "sqlx"]),
    rule("proxy", &["fuzzing::divisions"], &["jsonwebtoken", "sqlx", "tower_cookies"]),
    rule(
        "sessions",
        &["layer", "models", "services"],
        &["axum", "hyper", "hyper_util", "sqlx", "tower_http"],
    ),
    rule("services", SERVICES, &["axum", "axum_core", "http", "hyper", "hyper_util", "sqlx", "tower_http"]),
    rule("schemas", &["models"], &["sqlx"]),
    rule("pages", &[], &["axum", "sqlx"]),
    rule("routers", &["clock", "layer", "models", "pages", "schemas", "services", "sessions"], &["sqlx"]),
    rule("backend", &["clock", "database_url", "models", "secret", "services"], &["axum"]),
    rule("backend::sqlite", STORE, &["axum"]),
    rule("backend::postgres", STORE, &["axum"]),
    rule(
        "config",
        &["database_url", "layer", "pages", "proxy", "routers", "secret", "server", "services", "telemetry"],
        &["axum", "axum_core", "sqlx"],
    ),
    rule("database_url", &[], WEB),
    rule("key_store", &["clock", "secret", "services"], &["axum", "sqlx"]),
    rule("secret", &[], &["axum", "sqlx"]),
    rule("server", &["clock", "fuzzing::divisions", "secret"], &["sqlx"]),
    rule("telemetry", &["clock"], &["sqlx"]),
    rule("app", ALL, &[]),
    rule(
        "cli",
        &[
            "app",
            "backend",
            "clock",
            "config",
            "database_url",
            "key_store",
            "models",
            "secret",
            "server",
            "services",
            "telemetry",
        ],
        &["axum", "sqlx"],
    ),
    rule("main", &["cli"], &["axum", "sqlx"]),
    rule("test_seed", &[], &[]),
    rule("lib", ALL, &[]),
];

/// Request identity, shared HTTP types and text for terminals, which every module may name.
const CORE: &[&str] = &[
    "client_info",
    "client_share",
    "duration_format",
    "http2_frames",
    "http_headers",
    "identity",
    "log_interval",
    "long_lived_streams",
    "navigation",
    "next",
    "printable",
    "problem",
    "request_context",
    "response_abort",
    "session_event",
    "unix_socket",
    "user_agent",
];

/// HTTP frameworks and SQL.
const WEB: &[&str] = &["axum", "axum_core", "hyper", "hyper_util", "sqlx", "tower", "tower_http"];

/// Modules that services may name, among them the trait of `layer` that they implement and its types.
const SERVICES: &[&str] = &[
    "clock",
    "models",
    "layer::IllegalToken",
    "layer::token",
    "layer::RefreshError",
    "layer::RefreshRequest",
    "layer::RefreshedSession",
    "layer::SessionActiveFuture",
    "layer::TokenService",
    "layer::Verified",
    "layer::VerifyError",
    "test_seed",
];

/// Modules that stores may name. They must not need the gateway.
const STORE: &[&str] = &[
    "backend::database",
    "backend::migrations",
    "backend::namespace",
    "backend::open_error",
    "backend::sql",
    "clock",
    "models",
    "services::store",
];

const ALL: &[&str] = &[""];

/// Derives of database rows, which models may name.
const DERIVES: &[&str] = &["sqlx::FromRow", "sqlx::Type"];

#[test]
fn imports_follow_the_table() {
    let files = read_files(&["src"]);
    assert!(files.iter().any(|file| file.path == "src/services/store.rs"), "src/ was not read");
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| !file.path.ends_with("/tests.rs")) {
        let found = check(&module_of(&file.path), &file.text);
        violations.extend(found.into_iter().map(|violation| format!("{}:{violation}", file.path)));
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// A path that the table does not allow.
struct Violation {
    line: usize,
    message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.message)
    }
}

/// Returns the paths in the source of `module` that the table does not allow.
fn check(module: &str, source: &str) -> Vec<Violation> {
    let Some(rule) = rule_for(module) else {
        let message = format!("no row for `{module}` in the table of tests/it/source_rules/imports.rs");
        return vec![Violation { line: 1, message }];
    };
    let tokens = without_tests(&lex(source));
    let mut violations = Vec::new();
    for found in paths_of_this_crate(module, &tokens) {
        if !rule.allows(&found.path) {
            let message = format!("`{}` may not use `crate::{}`", rule.module, found.path);
            violations.push(Violation { line: found.line, message });
        }
    }
    for (line, path) in paths_of_other_crates(&tokens) {
        if rule.denies_crate(&path) {
            violations.push(Violation { line, message: format!("`{}` may not name `{path}`", rule.module) });
        }
    }
    violations
}

fn rule_for(module: &str) -> Option<&'static Rule> {
    TABLE.iter().filter(|rule| is_within(module, rule.module)).max_by_key(|rule| rule.module.len())
}

impl Rule {
    fn allows(&self, path: &str) -> bool {
        is_within(path, self.module) || CORE.iter().chain(self.may_use).any(|module| is_within(path, module))
    }

    fn denies_crate(&self, path: &str) -> bool {
        let is_derive = self.module == "models" && DERIVES.contains(&path);
        self.must_not_name.iter().any(|name| is_within(path, name)) && !is_derive
    }
}

/// Returns `true` if `path` is `module` or below it. The empty module is the crate's root.
fn is_within(path: &str, module: &str) -> bool {
    let rest = path.strip_prefix(module);
    module.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn denied_paths_are_found() {
    let source = r##"
use std::sync::Arc;
use crate::models::user::User; // allowed
use crate::routers;
use crate::{clock::Clock, backend::{db, sqlite::{self, *}}};
use super::store::UserStore;
use super::super::proxy::Proxy;
use axum as web;
use ::http::StatusCode;
/// Unlike [`crate::app`] and axum::Router.
fn call<'a>(text: &'a str) -> char {
    let _ = crate::schemas::movie::Movie::default();
    let _ = (r#"crate::cli " axum::"#, b"crate::cli", '"', "\" crate::cli");
    /* crate::cli /* nested */ axum::Router */
    sqlx::query("x");
    crate::layer::RefreshedSession::default();
    crate::layer::CookiePolicy::default();
    pin::http::nothing(text.http);
    '\''
}
mod inner {
    use super::super::password;
    use super::super::super::server;
}
#[cfg(test)]
use crate::{cli::a, app};
#[cfg(test)]
mod tests {
    use crate::app::App;
    fn nothing() { axum::nothing() }
}
use crate::telemetry;
"##;
    let found: Vec<String> = check("services::auth", source).iter().map(ToString::to_string).collect();
    let crate_paths =
        ["4 routers", "5 backend::db", "5 backend::sqlite", "5 backend::sqlite::*", "7 proxy::Proxy"];
    let crate_paths = crate_paths.into_iter().chain([
        "12 schemas::movie::Movie::default",
        "17 layer::CookiePolicy::default",
        "23 server",
        "32 telemetry",
    ]);
    let other_paths = ["8 axum", "9 http::StatusCode", "15 sqlx::query"];
    let expected: Vec<String> = crate_paths
        .map(|violation| violation.split_once(' ').unwrap())
        .map(|(line, path)| format!("{line}: `services` may not use `crate::{path}`"))
        .chain(other_paths.map(|violation| {
            let (line, path) = violation.split_once(' ').unwrap();
            format!("{line}: `services` may not name `{path}`")
        }))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn longest_matching_row_applies() {
    let is_denied = |module: &str, source: &str| !check(module, source).is_empty();
    assert!(!is_denied("backend::db", "use crate::backend::sqlite::SqliteStore;"));
    assert!(is_denied("backend::sqlite::sessions", "use crate::backend::postgres::Store;"));
    assert!(is_denied("backend::sqlite", "use super::postgres::Store;"));
    assert!(!is_denied("backend::sqlite", "use crate::services::store::StoreError;"));
    assert!(is_denied("backend::sqlite", "use crate::services::rotation::Decision;"));
    assert!(is_denied("config::toml", "use crate::models::user::User;"));
    assert!(!is_denied("config::toml", "use crate::secret::Secret; use super::RawSettings;"));
    assert!(!is_denied("app", "use crate::{backend, cli, layer, proxy, routers}; use sqlx::query;"));
    assert!(!is_denied("main", "fn main() { sekisho::cli::run() }"));
    assert!(is_denied("main", "fn main() { sekisho::app::run() }"));
    assert!(!is_denied(
        "models::user",
        "#[cfg_attr(feature = \"server\", derive(sqlx::FromRow))] struct User;"
    ));
    assert!(is_denied("models::user", "fn find() { sqlx::query_as() }"));
    assert!(is_denied("services::movies", "#[derive(sqlx::FromRow)] struct Movie;"));
    assert!(is_denied("newcomer", ""), "a module without a row");
}
