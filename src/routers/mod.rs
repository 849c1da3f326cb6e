//! The program's own answers over HTTP.
//!
//! | path | module |
//! |---|---|
//! | `/`, `/assets/{file}`, `/favicon.svg`, `/demo/sample.json` | [`pages`] |
//! | `/movies`, `/movies/{id}` | [`movies`] |
//! | `/docs`, `/docs/{file}`, `/openapi.json` | [`docs`] |
//!
//! Every error is an [`ApiError`], the only place that turns one into an answer.

mod assets;
pub mod docs;
mod error;
mod extract;
pub mod movies;
pub mod pages;
pub mod security_headers;

pub use self::error::{ApiError, with_fallbacks};
pub use self::extract::{JsonBody, QueryParams};
