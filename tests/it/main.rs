//! All integration tests, in one binary.

mod movies;
mod support;
