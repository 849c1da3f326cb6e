//! `[otlp]`.

use super::error::ConfigError;
use super::origin::Origin;
use super::raw::RawSettings;

/// Export of traces to an OpenTelemetry collector: `[otlp]`.
#[derive(Clone, Debug)]
pub struct Otlp {
    /// The collector, which accepts OTLP over HTTP.
    pub endpoint: Origin,
    /// Fraction of requests that are exported, from 0 to 1.
    pub sample: f64,
}

impl Otlp {
    /// Returns `None` without an endpoint.
    pub(super) fn read(settings: &RawSettings) -> Result<Option<Self>, ConfigError> {
        let sample = settings.required("otlp.sample", settings.fraction("otlp.sample", 0.0..=1.0))?;
        let Some(endpoint) = settings.parsed::<Origin>(ENDPOINT)? else { return Ok(None) };
        if endpoint.is_https() {
            let problem = "expected http://, a collector on this machine or its private network";
            return Err(settings.invalid(ENDPOINT, problem));
        }
        Ok(Some(Self { endpoint, sample }))
    }
}

const ENDPOINT: &str = "otlp.endpoint";
