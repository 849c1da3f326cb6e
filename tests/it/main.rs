//! All integration tests, in one binary.

#![expect(clippy::expect_used, reason = "helpers of tests may fail loudly")]

mod cli;
mod config;
mod movies;
mod pages;
mod support;
