//! All integration tests, in one binary.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod proxy;
mod proxy_hygiene;
mod support;
