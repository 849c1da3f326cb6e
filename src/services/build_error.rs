//! Errors of the creation of tokens.

use std::fmt;

use super::keys::KeyError;
use super::store::StoreError;

/// Error of [`TokensBuilder::build`](super::token::TokensBuilder::build).
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The secret cannot be used.
    #[error("{0}: generate one with `openssl rand -base64 32`")]
    Secret(#[source] KeyError),
    /// A setting is outside of its limits.
    #[error("{setting}: {limit}")]
    Setting {
        /// The name of the setting.
        setting: &'static str,
        /// The value that is expected.
        limit: String,
    },
}

impl BuildError {
    pub(super) fn setting(setting: &'static str, limit: impl Into<String>) -> Self {
        Self::Setting { setting, limit: limit.into() }
    }
}

/// Shows the message with its remedy, since `main` and `unwrap` print errors in this form.
impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Error of [`TokensBuilder::open`](super::token::TokensBuilder::open).
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum OpenTokensError {
    /// A setting or a key cannot be used.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A setting differs from that of the processes that share the store.
    #[error(
        "{setting} is {value:?}, but the store was set up with {expected:?}: set it to that, or delete the setting \
         {name} of the store, which ends all sessions"
    )]
    Setting {
        /// The setting: `issuer` or `audience`.
        setting: &'static str,
        /// Its name in the store.
        name: &'static str,
        /// The value of this process.
        value: String,
        /// The value in the store.
        expected: String,
    },
    /// A key differs from that of the processes that share the store.
    #[error(
        "key {0} differs from the one that the store knows under this number: use the former key, or give the new one \
         another number; if the former is lost, call key_registry::forget, which ends its sessions"
    )]
    Key(u8),
    /// The store failed.
    #[error("cannot read {what} from the store: have its migrations been applied?")]
    Store {
        /// The data to be read.
        what: &'static str,
        /// The cause.
        source: StoreError,
    },
}

/// As that of [`BuildError`].
impl fmt::Debug for OpenTokensError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        if let Self::Store { source, .. } = self { write!(f, ": {source:?}") } else { Ok(()) }
    }
}

impl OpenTokensError {
    pub(super) fn store(what: &'static str) -> impl FnOnce(StoreError) -> Self {
        move |source| Self::Store { what, source }
    }
}
