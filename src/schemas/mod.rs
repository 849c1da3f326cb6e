//! What crosses the wire. Rows never do: each schema is made from its model, or checked into one.

pub mod auth;
pub mod movie;
pub mod problem;
