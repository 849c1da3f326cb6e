//! Who may import whom: reads `src/` and holds every path against one table. Direction only; it
//! polices no sizes.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use self::source::{lex, paths_of_other_crates, paths_of_this_crate, without_tests};

mod source;

/// What the modules at and below `module` may name.
struct Rule {
    module: &'static str,
    /// Of this crate, besides themselves.
    may_use: &'static [&'static str],
    /// Of other crates.
    must_not_name: &'static [&'static str],
}

const fn rule(
    module: &'static str,
    may_use: &'static [&'static str],
    must_not_name: &'static [&'static str],
) -> Rule {
    Rule { module, may_use, must_not_name }
}

/// The deepest module that matches has the say. A new top-level module needs a row.
const TABLE: &[Rule] = &[
    rule("clock", &["models"], WEB),
    rule("identity", &["clock", "models"], WEB),
    rule("client_info", &[], WEB),
    rule("http_headers", &[], WEB),
    rule("problem", &[], WEB),
    rule("session_event", &[], WEB),
    rule("request_context", &[], WEB),
    rule("response_abort", &[], WEB),
    rule("models", &["clock"], WEB),
    rule("layer", &[], &["axum", "jsonwebtoken", "sqlx"]),
    rule("proxy", &[], &["jsonwebtoken", "sqlx", "tower_cookies"]),
    rule("services", SERVICES, &["axum", "axum_core", "http", "hyper", "hyper_util", "sqlx", "tower_http"]),
    rule("schemas", &["models"], &["sqlx"]),
    rule("routers", &["clock", "layer", "models", "schemas", "services"], &["sqlx"]),
    rule("backend", &["clock", "models", "services"], &["axum"]),
    rule("backend::sqlite", STORE, &["axum"]),
    rule("backend::postgres", STORE, &["axum"]),
    rule(
        "config",
        &["layer", "proxy", "routers", "secret", "server", "services", "telemetry"],
        &["axum", "axum_core", "sqlx"],
    ),
    rule("key_store", &["clock", "secret", "services"], &["axum", "sqlx"]),
    rule("secret", &[], &["axum", "sqlx"]),
    rule("server", &["clock"], &["sqlx"]),
    rule("telemetry", &["clock"], &["sqlx"]),
    rule("app", ALL, &[]),
    rule(
        "cli",
        &[
            "app",
            "backend",
            "clock",
            "config",
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

/// What a request speaks for and what happens to it: every module may name these.
const CORE: &[&str] = &[
    "client_info",
    "http_headers",
    "identity",
    "problem",
    "request_context",
    "response_abort",
    "session_event",
];

/// No HTTP, and no SQL.
const WEB: &[&str] = &["axum", "axum_core", "hyper", "hyper_util", "sqlx", "tower", "tower_http"];

/// The trait that services implement, and its words, which `layer` exports.
const SERVICES: &[&str] = &[
    "clock",
    "models",
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

const STORE: &[&str] = &["backend::database", "clock", "models", "services::store"];

const ALL: &[&str] = &[""];

/// Rows may derive how they are read.
const DERIVES: &[&str] = &["sqlx::FromRow", "sqlx::Type"];

#[test]
fn imports_follow_the_table() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&src).unwrap();
    assert!(files.iter().any(|file| file.ends_with("services/store.rs")), "src/ was not read");
    let offences: Vec<String> = files
        .iter()
        .filter(|file| !file.ends_with("tests.rs"))
        .flat_map(|file| {
            let module = module_of(file.strip_prefix(&src).unwrap());
            let offences = check(&module, &fs::read_to_string(file).unwrap());
            offences.into_iter().map(|offence| format!("{}:{offence}", file.display()))
        })
        .collect();
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

fn rust_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// `backend/sqlite/mod.rs` is the module `backend::sqlite`.
fn module_of(file: &Path) -> String {
    let path = file.with_extension("");
    let mut segments: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    segments.pop_if(|last| last == "mod");
    segments.join("::")
}

/// Something named that the table doesn't allow.
struct Violation {
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

/// What the source of `module` names against the table.
fn check(module: &str, source: &str) -> Vec<Violation> {
    let Some(rule) = rule_for(module) else {
        let what = format!("no row for `{module}` in the table of tests/it/layering.rs");
        return vec![Violation { line: 1, what }];
    };
    let tokens = without_tests(&lex(source));
    let ours = paths_of_this_crate(module, &tokens).into_iter().filter(|(_, path)| !rule.allows(path)).map(
        |(line, path)| Violation { line, what: format!("`{}` may not use `crate::{path}`", rule.module) },
    );
    let others = paths_of_other_crates(&tokens)
        .into_iter()
        .filter(|(_, path)| rule.forbids(path))
        .map(|(line, path)| Violation { line, what: format!("`{}` may not name `{path}`", rule.module) });
    ours.chain(others).collect()
}

fn rule_for(module: &str) -> Option<&'static Rule> {
    TABLE.iter().filter(|rule| is_within(module, rule.module)).max_by_key(|rule| rule.module.len())
}

impl Rule {
    fn allows(&self, path: &str) -> bool {
        is_within(path, self.module) || CORE.iter().chain(self.may_use).any(|module| is_within(path, module))
    }

    fn forbids(&self, path: &str) -> bool {
        let derived = self.module == "models" && DERIVES.contains(&path);
        self.must_not_name.iter().any(|name| is_within(path, name)) && !derived
    }
}

/// Whether `path` is `module` or below it. All is within the crate's root, which is called ``.
fn is_within(path: &str, module: &str) -> bool {
    let rest = path.strip_prefix(module);
    module.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn checker_finds_what_it_should() {
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
    let ours = ["4 routers", "5 backend::db", "5 backend::sqlite", "5 backend::sqlite::*", "7 proxy::Proxy"];
    let ours = ours.into_iter().chain([
        "12 schemas::movie::Movie::default",
        "17 layer::CookiePolicy::default",
        "23 server",
        "32 telemetry",
    ]);
    let others = ["8 axum", "9 http::StatusCode", "15 sqlx::query"];
    let expected: Vec<String> = ours
        .map(|offence| offence.split_once(' ').unwrap())
        .map(|(line, path)| format!("{line}: `services` may not use `crate::{path}`"))
        .chain(others.map(|offence| {
            let (line, path) = offence.split_once(' ').unwrap();
            format!("{line}: `services` may not name `{path}`")
        }))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn deepest_row_decides() {
    let offends = |module: &str, source: &str| !check(module, source).is_empty();
    assert!(!offends("backend::db", "use crate::backend::sqlite::SqliteStore;"));
    assert!(offends("backend::sqlite::sessions", "use crate::backend::postgres::Store;"));
    assert!(offends("backend::sqlite", "use super::postgres::Store;"));
    assert!(!offends("backend::sqlite", "use crate::services::store::StoreError;"));
    assert!(offends("backend::sqlite", "use crate::services::rotation::Decision;"));
    assert!(offends("config::toml", "use crate::models::user::User;"));
    assert!(!offends("config::toml", "use crate::secret::Secret; use super::RawSettings;"));
    assert!(!offends("app", "use crate::{backend, cli, layer, proxy, routers}; use sqlx::query;"));
    assert!(!offends("main", "fn main() { sekisho::cli::run() }"));
    assert!(offends("main", "fn main() { sekisho::app::run() }"));
    assert!(!offends(
        "models::user",
        "#[cfg_attr(feature = \"server\", derive(sqlx::FromRow))] struct User;"
    ));
    assert!(offends("models::user", "fn find() { sqlx::query_as() }"));
    assert!(offends("services::movies", "#[derive(sqlx::FromRow)] struct Movie;"));
    assert!(offends("newcomer", ""), "a module without a row");
}
