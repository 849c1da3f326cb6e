//! All integration tests, in one binary.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod cli;
mod commands;
mod config;
mod crash;
mod database;
mod layering;
mod movies;
mod nginx_upstream;
mod pages;
mod proxy;
mod proxy_hygiene;
mod shutdown;
mod startup;
mod store_contract;
mod support;
