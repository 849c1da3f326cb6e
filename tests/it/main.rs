//! All integration tests, in one binary.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod cli;
mod config;
mod database;
mod layering;
mod model;
mod movies;
mod pages;
mod proxy;
mod proxy_hygiene;
mod store_contract;
mod support;
