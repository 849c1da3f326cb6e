//! All integration tests, in one binary.
//!
//! Random tests take their seed from [`test_seed`]. `scripts/explore` runs them with other seeds.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod audit;
mod cli;
mod commands;
mod config;
mod crash;
mod csrf;
mod cut_answers;
mod database;
mod durability;
mod feed;
mod gateway;
mod hygiene;
mod late_answers;
mod layering;
mod lifecycle;
mod login;
mod logout;
mod model;
mod movies;
mod nginx_upstream;
mod outage;
mod pages;
mod proxy;
mod proxy_hygiene;
mod recipes;
mod rotation_races;
mod rotation_rounds;
mod server;
mod shutdown;
mod silent_refresh;
mod startup;
mod store_contract;
mod streams;
mod support;
mod telemetry;
#[path = "../../src/test_seed.rs"]
mod test_seed;
mod thefts;
mod token;
mod two_servers;
mod upstreams;
mod verify;
