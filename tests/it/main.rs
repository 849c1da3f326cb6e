//! All integration tests, in one binary.

#![expect(clippy::expect_used, reason = "a test that can't go on stops")]

mod movies;
mod pages;
mod support;
