//! TLS and resource limits of `[server]`.

use std::path::PathBuf;
use std::time::Duration;

use super::error::{ConfigError, ValueSource};
use super::limit_checks;
use super::pem_files::{self, CertificatePaths};
use super::raw::RawSettings;
use crate::server::ServerLimits;

/// TLS of the public listener: `server.tls_certificate` and `server.tls_key`.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The file of the certificate chain, in PEM, leaf first.
    pub certificate: PathBuf,
    /// The file of the private key, in PEM.
    pub key: PathBuf,
    places: [ValueSource; 2],
}

impl Tls {
    pub(super) fn read(settings: &RawSettings) -> Result<Option<Self>, ConfigError> {
        let paths = pem_files::paths(settings, CERTIFICATE, KEY)?;
        let places = [CERTIFICATE, KEY].map(|key| settings.place(key));
        Ok(paths.map(|CertificatePaths { certificate, key }| Self { certificate, key, places }))
    }

    /// Returns the error for an invalid key file (`is_key`) or certificate file.
    #[must_use]
    pub fn invalid(&self, is_key: bool, problem: impl Into<String>) -> ConfigError {
        let [certificate_place, key_place] = &self.places;
        let (key, path, place) = if is_key {
            (KEY, &self.key, key_place)
        } else {
            (CERTIFICATE, &self.certificate, certificate_place)
        };
        ConfigError::Invalid {
            key: key.to_owned(),
            value: Some(format!("\"{}\"", path.display())),
            place: place.clone(),
            problem: problem.into(),
        }
    }
}

/// Reads the limits on what clients of the public listener may use.
pub(super) fn read(settings: &RawSettings, warnings: &mut Vec<String>) -> Result<ServerLimits, ConfigError> {
    let count = |key: &str, range| settings.required(key, settings.integer(key, range));
    let duration = |key: &str| settings.required(key, settings.duration(key, Duration::from_millis(100)));
    let in_flight = count("server.max_in_flight", 1..=1_000_000)? as usize;
    let in_flight_per_client = settings.integer("server.max_in_flight_per_client", 1..=1_000_000)?;
    let limits = ServerLimits {
        connections: count("server.max_connections", 1..=1_000_000)? as usize,
        connections_per_client: count("server.max_connections_per_client", 1..=1_000_000)? as usize,
        streams: count("server.max_streams", 1..=10_000)?,
        in_flight,
        in_flight_per_client: in_flight_per_client.map_or((in_flight / 10).max(1), |max| max as usize),
        open_per_client: count("server.max_open_per_client", 1..=1_000_000)? as usize,
        header_bytes: size(settings, "server.max_header_bytes", 8 * 1024)?,
        header_fields: count("server.max_header_fields", 10..=10_000)? as usize,
        uri_bytes: size(settings, "server.max_uri", 256)?,
        header_timeout: duration("server.header_timeout")?,
        keep_alive: duration("server.keep_alive")?,
        write_timeout: duration("server.write_timeout")?,
        min_body_rate: rate(settings, "server.min_body_rate")?,
        min_read_rate: rate(settings, "server.min_read_rate")?,
        drain: duration("server.drain")?,
        ..ServerLimits::default()
    };
    if limits.uri_bytes > limits.header_bytes {
        let problem = "expected at most server.max_header_bytes, which includes it";
        return Err(settings.invalid("server.max_uri", problem));
    }
    if limits.uri_bytes > MAX_URI_BYTES {
        warnings.push("server.max_uri: URIs over 64KiB are rejected regardless".to_owned());
    }
    warnings.extend(limit_checks::unreachable(settings, &limits));
    Ok(limits)
}

fn size(settings: &RawSettings, key: &str, min: u64) -> Result<usize, ConfigError> {
    let expected = format!("expected a size from {min} bytes to 1MiB");
    let size = settings.required(key, settings.size(key, min..=MAX_HEADER_BYTES, &expected))?;
    usize::try_from(size).map_err(|_| settings.invalid(key, expected))
}

/// Reads a rate in bytes per second.
fn rate(settings: &RawSettings, key: &str) -> Result<u32, ConfigError> {
    let expected = "expected a number of bytes per second up to 1MiB, or 0 for no minimum";
    let rate = settings.required(key, settings.size(key, 0..=MAX_RATE, expected))?;
    u32::try_from(rate).map_err(|_| settings.invalid(key, expected))
}

const CERTIFICATE: &str = "server.tls_certificate";
const KEY: &str = "server.tls_key";
const MAX_HEADER_BYTES: u64 = 1024 * 1024;
const MAX_RATE: u64 = 1024 * 1024;
/// The longest URI that the `http` crate accepts.
const MAX_URI_BYTES: usize = 65_534;
