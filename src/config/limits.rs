//! How `[server]` serves: TLS, and what clients may cost.

use std::path::PathBuf;
use std::time::Duration;

use super::error::{ConfigError, ValueSource};
use super::settings::Settings;
use crate::server::ServerLimits;

/// The files of `server.tls_certificate` and `server.tls_key`.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate, in PEM, followed by those that it was signed with.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    places: [ValueSource; 2],
}

impl Tls {
    pub(super) fn read(settings: &Settings) -> Result<Option<Self>, ConfigError> {
        let file = |key| Ok(settings.text(key)?.map(PathBuf::from));
        let (given, missing) = match (file(CERTIFICATE)?, file(KEY)?) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => {
                let places = [CERTIFICATE, KEY].map(|key| settings.place(key));
                return Ok(Some(Self { certificate, key, places }));
            }
            (Some(_), None) => (CERTIFICATE, KEY),
            (None, Some(_)) => (KEY, CERTIFICATE),
        };
        Err(settings.invalid(given, format!("{missing} is missing: TLS needs both")))
    }

    /// The error that says what is wrong with one of the files: the key's, or the certificate's.
    #[must_use]
    pub fn invalid(&self, is_of_key: bool, problem: impl Into<String>) -> ConfigError {
        let [certificate, key] = &self.places;
        let (name, file, place) =
            if is_of_key { (KEY, &self.key, key) } else { (CERTIFICATE, &self.certificate, certificate) };
        ConfigError::Invalid {
            key: name.to_owned(),
            value: Some(format!("\"{}\"", file.display())),
            place: place.clone(),
            problem: problem.into(),
        }
    }
}

/// Reads the limits on what clients of the public listener may use.
pub(super) fn read(settings: &Settings, warnings: &mut Vec<String>) -> Result<ServerLimits, ConfigError> {
    let count = |key: &str, range| settings.required(key, settings.integer(key, range));
    let duration = |key: &str| settings.required(key, settings.duration(key, Duration::from_millis(100)));
    let limits = ServerLimits {
        connections: count("server.max_connections", 1..=1_000_000)? as usize,
        streams: count("server.max_streams", 1..=10_000)?,
        in_flight: count("server.max_in_flight", 1..=1_000_000)? as usize,
        header_bytes: size(settings, "server.max_header_bytes", 8 * 1024)?,
        header_fields: count("server.max_header_fields", 10..=10_000)? as usize,
        uri_bytes: size(settings, "server.max_uri", 256)?,
        header_timeout: duration("server.header_timeout")?,
        keep_alive: duration("server.keep_alive")?,
        write_timeout: duration("server.write_timeout")?,
        drain: duration("server.drain")?,
    };
    if limits.uri_bytes > limits.header_bytes {
        let problem = "no more than server.max_header_bytes fits: the headers are counted with it";
        return Err(settings.invalid("server.max_uri", problem));
    }
    if limits.uri_bytes > MAX_URI_BYTES {
        warnings.push("server.max_uri: beyond 64KiB requests are refused all the same".to_owned());
    }
    Ok(limits)
}

fn size(settings: &Settings, key: &str, min: u64) -> Result<usize, ConfigError> {
    let size = settings.size(key).ok().flatten().filter(|size| (min..=MAX_HEADER_BYTES).contains(size));
    let bytes = size.and_then(|size| usize::try_from(size).ok());
    bytes.ok_or_else(|| settings.invalid(key, format!("expected a size from {min} bytes to 1MiB")))
}

const CERTIFICATE: &str = "server.tls_certificate";
const KEY: &str = "server.tls_key";
const MAX_HEADER_BYTES: u64 = 1024 * 1024;
/// The longest URI that the `http` crate accepts.
const MAX_URI_BYTES: usize = 65_534;
