//! Tests in a real browser: headless Chromium, driven by WebDriver.
//!
//! The gateway runs in the process of the test, on a manual clock and a free port. Behind it is a Django application,
//! `application.py`. `SEKISHO_TEST_CHROMEDRIVER` and `SEKISHO_TEST_PYTHON` are the programs, if they are not at their
//! usual paths; without them the tests are skipped.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is how a test fails")]

mod accessibility;
mod axe;
mod branding;
mod chromium;
mod demo;
mod django;
mod front_proxies;
mod hostile_names;
mod hostile_next;
mod requests;
mod sessions;
mod sign_in;
mod sign_out;
mod site;
#[allow(dead_code, unused_imports, unused_macros, reason = "shared with tests/it")]
#[path = "../it/support/mod.rs"]
mod support;
mod tabs;
#[allow(dead_code, reason = "shared with tests/it")]
#[path = "../../src/test_seed.rs"]
mod test_seed;
