//! All integration tests, in one binary.

mod database;
mod store_contract;
mod support;
