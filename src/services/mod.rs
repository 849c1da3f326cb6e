//! The domain logic, without SQL or HTTP.
//!
//! | module | |
//! |---|---|
//! | [`auth`] | sign-in, registration, sign-out |
//! | [`users`] | user accounts |
//! | [`password`] | password policy, and bcrypt on a thread pool of its own |
//! | [`movies`], [`sample_movies`] | the reference application |
//! | [`token`] | [`Tokens`](token::Tokens): sessions and their tokens; the layer's `TokenService` |
//! | `tokens_builder`, `session_settings` | keys, store and lifetimes of [`Tokens`](token::Tokens), and their bounds |
//! | `token_issuer` | creates sessions and issues their tokens |
//! | `refresh`, [`rotation`], `single_flight` | refreshes sessions: the procedure, the decision, and request coalescing |
//! | [`revocations`], `watchers` | terminated sessions, and notification of long-lived connections |
//! | `deferred_writes`, [`audit_log`] | write-behind buffer, and audit entries outside of sessions |
//! | [`upstream_tokens`], `token_cache` | tokens for upstreams, and per-thread caches |
//! | [`purge`] | deletes old sessions and audit entries |
//! | [`jwt`], [`refresh_token`], [`keys`], [`crypto`] | token formats and signing keys |
//! | [`continue_token`] | tokens that prove a recent sign-in |
//! | [`weak_secret`] | the rule for secrets that are too weak to sign with |
//! | [`key_registry`] | fingerprints of the keys, in the database |
//! | [`session_time`] | the time of sessions, which never steps |
//! | [`store`] | the contract of a database |
//! | `open`, `session_tasks` | the start of tokens over a store that outlives the process, and their tasks |
//! | [`readiness`] | reasons for which a replica is not ready |
//! | [`memory`] | an in-memory store |

pub mod audit_log;
#[cfg(feature = "server")]
pub mod auth;
mod build_error;
pub mod continue_token;
pub mod crypto;
mod deferred_writes;
pub mod jwt;
pub mod key_registry;
pub mod keys;
pub mod memory;
#[cfg(feature = "server")]
pub mod movies;
mod open;
#[cfg(feature = "server")]
pub mod password;
pub mod purge;
pub mod readiness;
mod refresh;
pub mod refresh_token;
pub mod revocations;
pub mod rotation;
#[cfg(feature = "server")]
pub mod sample_movies;
mod session_settings;
mod session_tasks;
pub mod session_time;
mod single_flight;
pub mod store;
mod store_runtime;
#[cfg(test)]
mod test_support;
pub mod token;
mod token_cache;
mod token_issuer;
pub(crate) mod tokens_builder;
pub mod upstream_tokens;
#[cfg(feature = "server")]
pub mod users;
mod watchers;
pub mod weak_secret;
