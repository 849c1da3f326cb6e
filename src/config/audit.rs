//! `[audit]`: how long it is kept what happened to whose access.

use std::time::Duration;

use super::error::ConfigError;
use super::settings::Settings;

/// The audit: `[audit]`.
#[derive(Clone, Copy, Debug)]
pub struct Audit {
    /// How long an entry is kept. `None`: for ever.
    pub keep: Option<Duration>,
}

impl Audit {
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        if settings.text(KEEP).ok().flatten() == Some("forever") {
            return Ok(Self { keep: None });
        }
        let keep =
            settings.required(KEEP, settings.duration(KEEP, SHORTEST)).map_err(|error| match error {
                ConfigError::Invalid { key, value, place, problem } => {
                    ConfigError::Invalid { key, value, place, problem: format!("{problem}, or \"forever\"") }
                }
                other => other,
            })?;
        Ok(Self { keep: Some(keep) })
    }
}

const KEEP: &str = "audit.keep";

/// What a support person asks about has happened lately.
const SHORTEST: Duration = Duration::from_secs(86_400);
