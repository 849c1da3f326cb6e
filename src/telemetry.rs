//! Logs.
//!
//! One line for each event, on standard error. A message reads alone; the fields carry the rest.
//! Never logged at any level: passwords, tokens, cookies, `Authorization`, keys, query strings.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sends logs to standard error, coloured on a terminal only.
///
/// `RUST_LOG` chooses what is logged, as in `RUST_LOG=sekisho=debug`; without it, `info` and above.
/// Called twice, the second call does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let stderr = std::io::stderr;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false);
    // Fails only if there is a subscriber already, as in tests.
    let _ = lines.try_init();
}
