//! `[log]`: what the program says on standard error.

use super::error::ConfigError;
use super::settings::Settings;
use crate::telemetry::LogFormat;

/// The log: `[log]`.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// What its lines look like.
    pub format: LogFormat,
    /// Whether it has a line for each request.
    pub access: bool,
}

impl Log {
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        Ok(Self {
            format: settings.required("log.format", settings.one_of("log.format", &words))?,
            access: settings.required("log.access", settings.boolean("log.access"))?,
        })
    }
}
