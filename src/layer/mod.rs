//! The tower [`Layer`](tower_layer::Layer) that keeps a browser's session going.

mod token;

pub use self::token::{RefreshError, RefreshRequest, Renewal, TokenService, Verified, VerifyError};
