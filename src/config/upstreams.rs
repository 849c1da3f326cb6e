//! `[[routes]]`: upstreams, their health checks and limits.

use std::path::PathBuf;
use std::time::Duration;

use http::uri::PathAndQuery;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

use super::error::ConfigError;
use super::origin::Origin;
use super::raw::{RawSettings, first_duplicate};

/// What a route says of its upstreams.
#[derive(Clone, Debug)]
pub struct Upstreams {
    /// Where they are: at least one.
    pub origins: Vec<Origin>,
    /// Which HTTP they speak.
    pub http: UpstreamHttp,
    /// The authorities that their certificates are checked against; `None` takes the system's.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// What they are asked for, to see whether they are well, if they are.
    pub health_path: Option<PathAndQuery>,
    /// How often they are asked.
    pub health_interval: Duration,
    /// After how many failures in a row one gets no more requests for a while.
    pub eject_after: u32,
    /// How long the first such while is.
    pub eject_for: Duration,
    /// How long one that is back takes to get its full share again.
    pub slow_start: Duration,
    /// How many requests may be under way to one of them.
    pub max_in_flight: u32,
    /// How many requests may wait for one of them.
    pub max_queued: u32,
    /// How long they may wait.
    pub queue_timeout: Duration,
}

/// Which HTTP a route's upstreams speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamHttp {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Upstreams {
    pub(super) fn read(table: &RawSettings, origins: Vec<Origin>) -> Result<Self, ConfigError> {
        let duration = |key, default| {
            let duration = table.duration(key, Duration::from_millis(1))?;
            Ok(duration.unwrap_or(Duration::from_secs(default)))
        };
        let upstreams = Self {
            origins,
            http: table.one_of("routes.upstream_http", &HTTP)?.unwrap_or(UpstreamHttp::Http1),
            ca: authorities(table)?,
            health_path: health_path(table)?,
            health_interval: duration("routes.health_interval", 5)?,
            eject_after: table.integer("routes.eject_after", 1..=1000)?.unwrap_or(5),
            eject_for: duration("routes.eject_for", 10)?,
            slow_start: duration("routes.slow_start", 10)?,
            max_in_flight: table.integer("routes.max_in_flight", 1..=1_000_000)?.unwrap_or(1024),
            max_queued: table.integer("routes.max_queued", 0..=1_000_000)?.unwrap_or(256),
            queue_timeout: duration("routes.queue_timeout", 1)?,
        };
        upstreams.check(table)?;
        Ok(upstreams)
    }

    fn check(&self, table: &RawSettings) -> Result<(), ConfigError> {
        if self.ca.is_some() && !self.origins.iter().any(Origin::is_https) {
            let problem = "no upstream of the route is https: remove the key or change the upstreams";
            return Err(table.invalid("routes.upstream_ca", problem));
        }
        if table.is_explicit("routes.health_interval") && self.health_path.is_none() {
            return Err(table.invalid("routes.health_interval", "it has no effect without health_path"));
        }
        Ok(())
    }
}

/// Parses `upstreams`.
pub(super) fn origins(table: &RawSettings) -> Result<Option<Vec<Origin>>, ConfigError> {
    let key = "routes.upstreams";
    let expected = "expected http://HOST:PORT or https://HOST:PORT, without a path";
    let parse = |text: &str| text.parse::<Origin>().map_err(|_| expected.to_owned());
    let Some(upstreams) = table.list(key, parse)? else { return Ok(None) };
    if upstreams.is_empty() {
        return Err(table.invalid(key, "expected at least one, such as [\"http://127.0.0.1:3000\"]"));
    }
    if let Some(upstream) = first_duplicate(&upstreams) {
        return Err(table.invalid(key, format!("{upstream} is listed twice")));
    }
    Ok(Some(upstreams))
}

fn authorities(table: &RawSettings) -> Result<Option<Vec<CertificateDer<'static>>>, ConfigError> {
    let key = "routes.upstream_ca";
    let Some(path) = table.text(key)?.map(PathBuf::from) else { return Ok(None) };
    let read = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(Some(certificates)),
        Err(pem::Error::Io(source)) => {
            Err(ConfigError::Unreadable { path, key: Some(key.to_owned()), source })
        }
        _ => Err(table.invalid(key, "expected a file of PEM certificates (-----BEGIN CERTIFICATE-----)")),
    }
}

fn health_path(table: &RawSettings) -> Result<Option<PathAndQuery>, ConfigError> {
    let key = "routes.health_path";
    let Some(text) = table.text(key)? else { return Ok(None) };
    let path = text.parse::<PathAndQuery>().ok().filter(|_| text.starts_with('/'));
    path.map(Some).ok_or_else(|| table.invalid(key, "expected a path such as /healthz"))
}

const HTTP: [(&str, UpstreamHttp); 2] = [("1.1", UpstreamHttp::Http1), ("2", UpstreamHttp::Http2)];
