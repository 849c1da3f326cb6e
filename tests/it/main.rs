//! All integration tests, in one binary.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod cli;
mod config;
mod csrf;
mod database;
mod feed;
mod gateway;
mod layering;
mod login;
mod logout;
mod movies;
mod pages;
mod proxy;
mod proxy_hygiene;
mod rotation_races;
mod silent_refresh;
mod store_contract;
mod support;
mod token;
