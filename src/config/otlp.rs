//! `[otlp]`: traces for an OpenTelemetry collector.

use super::error::ConfigError;
use super::settings::Settings;
use super::types::Origin;

/// Where traces go: `[otlp]`.
#[derive(Clone, Debug)]
pub struct Otlp {
    /// The collector, by OTLP over HTTP.
    pub endpoint: Origin,
    /// The part of all requests of which it gets a span, from 0 to 1.
    pub sample: f64,
}

impl Otlp {
    /// `None` without an endpoint.
    pub(super) fn read(settings: &Settings) -> Result<Option<Self>, ConfigError> {
        let sample = settings.required("otlp.sample", settings.fraction("otlp.sample", 0.0..=1.0))?;
        let Some(endpoint) = settings.parsed::<Origin>(ENDPOINT)? else { return Ok(None) };
        if endpoint.is_https() {
            let problem = "expected http://: a collector on this machine or its private network";
            return Err(settings.invalid(ENDPOINT, problem));
        }
        Ok(Some(Self { endpoint, sample }))
    }
}

const ENDPOINT: &str = "otlp.endpoint";
