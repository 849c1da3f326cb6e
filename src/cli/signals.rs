//! Unix signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::CliError;

/// Installs a handler for a signal, which no longer ends the process.
pub(super) fn signal_stream(kind: SignalKind) -> Result<Signal, CliError> {
    signal(kind).map_err(|error| CliError::failed("cannot install a signal handler", error))
}
