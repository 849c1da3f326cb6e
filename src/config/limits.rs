//! How `[server]` serves: TLS, and what clients may cost.

use std::path::PathBuf;
use std::time::Duration;

use super::error::{ConfigError, ValueSource};
use super::settings::Settings;

/// The files of `server.tls_certificate` and `server.tls_key`.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate, in PEM, followed by those that it was signed with.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    places: [ValueSource; 2],
}

/// What clients of the public listener may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many connections there may be.
    pub max_connections: u32,
    /// How many requests an HTTP/2 connection may have open.
    pub max_streams: u32,
    /// How many requests may wait for an answer to begin.
    pub max_in_flight: u32,
    /// How large a request's line and headers may be together, in bytes.
    pub max_header_bytes: u32,
    /// How many header fields a request may have.
    pub max_header_fields: u32,
    /// How long a request's path and query may be, in bytes.
    pub max_uri: u32,
    /// How long a client may take over a TLS handshake, and over a request's headers.
    pub header_timeout: Duration,
    /// How long a connection may be without a request.
    pub keep_alive: Duration,
    /// How long a client may take nothing of an answer.
    pub write_timeout: Duration,
    /// How long requests may go on after the server was told to stop.
    pub drain: Duration,
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

impl Limits {
    pub(super) fn read(settings: &Settings, warnings: &mut Vec<String>) -> Result<Self, ConfigError> {
        let number =
            |key: &str, least: u32, most: u32| settings.required(key, settings.integer(key, least..=most));
        let duration = |key: &str| settings.required(key, settings.duration(key, Duration::from_millis(100)));
        let limits = Self {
            max_connections: number("server.max_connections", 1, 1_000_000)?,
            max_streams: number("server.max_streams", 1, 10_000)?,
            max_in_flight: number("server.max_in_flight", 1, 1_000_000)?,
            max_header_bytes: bytes(settings, "server.max_header_bytes", 8 * 1024)?,
            max_header_fields: number("server.max_header_fields", 10, 10_000)?,
            max_uri: bytes(settings, "server.max_uri", 256)?,
            header_timeout: duration("server.header_timeout")?,
            keep_alive: duration("server.keep_alive")?,
            write_timeout: duration("server.write_timeout")?,
            drain: duration("server.drain")?,
        };
        if limits.max_uri > limits.max_header_bytes {
            let problem = "no more than server.max_header_bytes fits: the headers are counted with it";
            return Err(settings.invalid("server.max_uri", problem));
        }
        if limits.max_uri > LONGEST_URI {
            warnings.push("server.max_uri: beyond 64KiB requests are refused all the same".to_owned());
        }
        Ok(limits)
    }
}

fn bytes(settings: &Settings, key: &str, least: u64) -> Result<u32, ConfigError> {
    let size = settings.size(key).ok().flatten().filter(|size| (least..=MOST_BYTES).contains(size));
    let bytes = size.and_then(|size| u32::try_from(size).ok());
    bytes.ok_or_else(|| settings.invalid(key, format!("expected a size from {least} bytes to 1MiB")))
}

const CERTIFICATE: &str = "server.tls_certificate";
const KEY: &str = "server.tls_key";
const MOST_BYTES: u64 = 1024 * 1024;
/// What the HTTP library takes.
const LONGEST_URI: u32 = 65_534;
