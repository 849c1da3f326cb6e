//! All integration tests, in one binary.
//!
//! Random tests take their seed from [`test_seed`]. `scripts/explore` runs them with other seeds.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is how a test fails")]

mod audit;
mod cli;
mod clock_steps;
mod commands;
mod concurrent_refresh;
mod config;
mod crash;
mod cross_site_clients;
mod csrf;
mod database;
mod demo;
mod demo_process;
mod documentation;
mod durability;
mod events;
mod failover;
mod forward_auth;
mod front_proxies;
mod gateway;
mod hostile_next;
mod http_conformance;
mod late_responses;

mod library_stores;
mod lifecycle;
mod login;
mod logout;
mod lost_responses;
mod model;
mod movies;
mod navigation;
mod nginx_upstream;
mod outage;
mod pages;
mod pooling;
mod postgres_errors;
mod proxy;
mod proxy_hygiene;
mod readiness;
mod revocations;
mod rotation_races;
mod server;
mod shutdown;
mod silent_refresh;
mod source_rules;
mod startup;
mod store_contract;
mod streams;
mod support;
mod telemetry;
#[path = "../../src/test_seed.rs"]
mod test_seed;
mod token;
mod token_theft;
mod two_servers;
mod upgrade;
mod upstreams;
