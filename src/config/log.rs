//! `[log]`.

use super::error::ConfigError;
use super::raw::RawSettings;
use crate::telemetry::LogFormat;

/// The log on standard error: `[log]`.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// The format of log lines.
    pub format: LogFormat,
    /// True if each request is logged.
    pub access: bool,
}

impl Log {
    pub(super) fn read(settings: &RawSettings) -> Result<Self, ConfigError> {
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        Ok(Self {
            format: settings.required("log.format", settings.one_of("log.format", &formats))?,
            access: settings.required("log.access", settings.boolean("log.access"))?,
        })
    }
}
