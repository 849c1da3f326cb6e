//! The rules: no SQL, no HTTP.
//!
//! | module | |
//! |---|---|
//! | [`auth`] | signing in and out |
//! | [`users`] | users, made and changed |
//! | [`password`] | bcrypt on a pool of its own, and what makes a password good enough |
//! | [`movies`], [`sample_movies`] | the reference application |
//! | [`token`] | a session's tokens from sign-in to end; the layer's `TokenService` |
//! | `renewal`, [`rotation`] | renewing: what to do, and the pure function that decides |
//! | `flights`, `notes`, `ends` | renewals shared between requests, what is written behind their backs, and what others have ended |
//! | `watchers` | who keeps a connection open in a session's name, and is told of its end |
//! | `verified`, `minted`, `remembered` | tokens that a thread has found good, or minted for upstreams, a moment ago; the table for both |
//! | [`purge`] | what is over is forgotten, after a while |
//! | [`jwt`], [`refresh_token`], [`keys`], [`crypto`] | tokens and what signs them |
//! | [`store`] | what all this needs of a database |
//! | [`memory`] | a store without one |

#[cfg(feature = "server")]
pub mod auth;
pub mod crypto;
mod deferred_writes;
pub mod jwt;
pub mod keys;
pub mod memory;
#[cfg(feature = "server")]
pub mod movies;
#[cfg(feature = "server")]
pub mod password;
pub mod purge;
mod refresh;
pub mod refresh_token;
mod revocations;
pub mod rotation;
#[cfg(feature = "server")]
pub mod sample_movies;
mod single_flight;
pub mod store;
#[cfg(test)]
mod test_support;
pub mod token;
mod token_cache;
mod upstream_token_cache;
#[cfg(feature = "server")]
pub mod users;
mod verified_token_cache;
mod watchers;
