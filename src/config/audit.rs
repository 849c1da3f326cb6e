//! `[audit]`.

use std::time::Duration;

use super::error::ConfigError;
use super::raw::RawSettings;

/// The audit log: `[audit]`.
#[derive(Clone, Copy, Debug)]
pub struct Audit {
    /// Retention of entries; `None` keeps them indefinitely.
    pub keep: Option<Duration>,
}

impl Audit {
    pub(super) fn read(settings: &RawSettings) -> Result<Self, ConfigError> {
        if settings.text(KEEP).ok().flatten() == Some("forever") {
            return Ok(Self { keep: None });
        }
        let keep = settings.required(KEEP, settings.duration(KEEP, MIN_KEEP)).map_err(|mut error| {
            if let ConfigError::Invalid { problem, .. } = &mut error {
                problem.push_str(", or \"forever\"");
            }
            error
        })?;
        Ok(Self { keep: Some(keep) })
    }
}

const KEEP: &str = "audit.keep";

/// One day, so that support can answer questions about recent events.
const MIN_KEEP: Duration = Duration::from_secs(86_400);
