//! Request and response bodies.
//!
//! Models are never serialized directly: a schema is created from its model, or validated into one.

pub mod auth;
pub mod movie;
pub mod problem;
