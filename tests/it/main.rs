//! All integration tests, in one binary.

<<<<<<< HEAD
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod cli;
mod config;
mod database;
mod layering;
mod movies;
mod pages;
mod store_contract;
=======
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod proxy;
mod proxy_hygiene;
>>>>>>> proxy
mod support;
