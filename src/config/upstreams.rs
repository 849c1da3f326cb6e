//! `[[routes]]`: upstreams, their health checks and limits.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::uri::PathAndQuery;
use rustls_pki_types::{CertificateDer, ServerName};

use super::error::{ConfigError, ParseError};
use super::origin::Origin;
use super::pem_files;
use super::raw::{RawSettings, first_duplicate};
use crate::proxy::{ClientCertificate, HeaderCase, HealthCheck, UpstreamHttp, UpstreamSettings};
use crate::unix_socket::{InvalidUnixSocketAddr, UnixSocketAddr};

/// The address of an upstream.
#[derive(PartialEq)]
pub(super) enum UpstreamAddr {
    Http(Origin),
    Unix(UnixSocketAddr),
}

impl UpstreamAddr {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Http(origin) => origin.as_str(),
            Self::Unix(socket) => socket.as_str(),
        }
    }

    fn is_https(&self) -> bool {
        matches!(self, Self::Http(origin) if origin.is_https())
    }
}

impl FromStr for UpstreamAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if UnixSocketAddr::is_meant_by(text) {
            return text.parse().map(Self::Unix).map_err(|error: InvalidUnixSocketAddr| error.to_string());
        }
        // The error of an international host name has its ASCII form.
        text.parse().map(Self::Http).map_err(|error: ParseError| {
            if text.is_ascii() { EXPECTED_UPSTREAM.to_owned() } else { error.to_string() }
        })
    }
}

impl fmt::Display for UpstreamAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads the settings of a route's upstreams. `server_max_in_flight` is the limit of all routes together.
pub(super) fn read_settings(
    table: &RawSettings,
    upstreams: &[UpstreamAddr],
    server_max_in_flight: usize,
) -> Result<UpstreamSettings, ConfigError> {
    let defaults = UpstreamSettings::default();
    let share = share_of_upstream(server_max_in_flight, upstreams.len());
    let duration = |key, default| table.duration_or(key, default);
    let max_in_flight = table.integer("routes.max_in_flight", 1..=1_000_000)?;
    let max_queued = table.integer("routes.max_queued", 0..=1_000_000)?;
    Ok(UpstreamSettings {
        http: table.one_of("routes.upstream_http", &HTTP)?.unwrap_or(defaults.http),
        header_case: table.one_of("routes.header_case", &HEADER_CASES)?.unwrap_or(defaults.header_case),
        ca: authorities(table, upstreams)?,
        server_name: server_name(table, upstreams)?,
        client_certificate: client_certificate(table, upstreams)?,
        health: health_check(table)?,
        eject_after: table.integer("routes.eject_after", 1..=1000)?.unwrap_or(defaults.eject_after),
        eject_for: duration("routes.eject_for", defaults.eject_for)?,
        slow_start: duration("routes.slow_start", defaults.slow_start)?,
        max_in_flight: max_in_flight.map_or(defaults.max_in_flight.min(share), |max| max as usize),
        max_queued: max_queued.map_or(defaults.max_queued.min(share), |max| max as usize),
        queue_timeout: duration("routes.queue_timeout", defaults.queue_timeout)?,
        ..defaults
    })
}

/// Returns the number of requests that one of `upstreams` may hold by default, and as many may be queued for it.
///
/// A route whose upstreams hang then holds half of the server's limit.
fn share_of_upstream(server_max_in_flight: usize, upstreams: usize) -> usize {
    (server_max_in_flight / 4 / upstreams.max(1)).max(1)
}

/// Returns the number of requests that the upstreams of a route may hold, if it exceeds half of the server's limit.
pub(super) fn excessive_total(
    settings: &UpstreamSettings,
    upstreams: usize,
    server_max_in_flight: usize,
) -> Option<usize> {
    let total = settings.max_in_flight.saturating_add(settings.max_queued).saturating_mul(upstreams);
    // More than half if the server's limit is smaller than the number of upstreams.
    let by_default = 2 * share_of_upstream(server_max_in_flight, upstreams) * upstreams;
    (total > by_default.max(server_max_in_flight / 2)).then_some(total)
}

/// Parses `upstreams`.
pub(super) fn addresses(table: &RawSettings) -> Result<Option<Vec<UpstreamAddr>>, ConfigError> {
    let key = "routes.upstreams";
    let Some(upstreams) = table.list(key, str::parse::<UpstreamAddr>)? else { return Ok(None) };
    if upstreams.is_empty() {
        return Err(table.invalid(key, "expected at least one, such as [\"http://127.0.0.1:3000\"]"));
    }
    if let Some(upstream) = first_duplicate(&upstreams) {
        return Err(table.invalid(key, format!("{upstream} is listed twice")));
    }
    Ok(Some(upstreams))
}

fn authorities(
    table: &RawSettings,
    upstreams: &[UpstreamAddr],
) -> Result<Option<Vec<CertificateDer<'static>>>, ConfigError> {
    let key = "routes.upstream_ca";
    let Some(path) = table.text(key)? else { return Ok(None) };
    let certificates = pem_files::read_certificates(table, key, path.into())?;
    require_https(table, key, upstreams)?;
    Ok(Some(certificates))
}

/// Reads the name that the certificates of the upstreams must be valid for.
fn server_name(table: &RawSettings, upstreams: &[UpstreamAddr]) -> Result<Option<String>, ConfigError> {
    let key = "routes.upstream_server_name";
    let Some(name) = table.text(key)? else { return Ok(None) };
    if ServerName::try_from(name).is_err() {
        return Err(table.invalid(key, "expected a host name such as app.internal, or an IP address"));
    }
    require_https(table, key, upstreams)?;
    Ok(Some(name.to_owned()))
}

fn client_certificate(
    table: &RawSettings,
    upstreams: &[UpstreamAddr],
) -> Result<Option<ClientCertificate>, ConfigError> {
    let Some(paths) = pem_files::paths(table, CLIENT_CERTIFICATE, CLIENT_KEY)? else { return Ok(None) };
    let chain = pem_files::read_certificates(table, CLIENT_CERTIFICATE, paths.certificate)?;
    let key = pem_files::read_private_key(table, CLIENT_KEY, paths.key)?;
    require_https(table, CLIENT_CERTIFICATE, upstreams)?;
    let certificate = ClientCertificate::new(chain, key);
    certificate.map(Some).map_err(|error| {
        let problem = format!("it does not fit routes.upstream_client_certificate: {error}");
        table.invalid(CLIENT_KEY, problem)
    })
}

/// Rejects a setting of TLS if no upstream uses TLS.
fn require_https(table: &RawSettings, key: &str, upstreams: &[UpstreamAddr]) -> Result<(), ConfigError> {
    if upstreams.iter().any(UpstreamAddr::is_https) {
        return Ok(());
    }
    let problem = "no upstream of the route is https: remove the key or change routes.upstreams";
    Err(table.invalid(key, problem))
}

fn health_check(table: &RawSettings) -> Result<Option<HealthCheck>, ConfigError> {
    let key = "routes.health_path";
    let interval = table.duration("routes.health_interval", Duration::from_millis(1))?;
    let Some(text) = table.text(key)? else {
        if interval.is_some() {
            return Err(
                table.invalid("routes.health_interval", "it has no effect without routes.health_path")
            );
        }
        return Ok(None);
    };
    let path = text.parse::<PathAndQuery>().ok().filter(|_| text.starts_with('/'));
    let path = path.ok_or_else(|| table.invalid(key, "expected a path such as /healthz"))?;
    Ok(Some(HealthCheck { path, interval: interval.unwrap_or(HEALTH_INTERVAL) }))
}

const CLIENT_CERTIFICATE: &str = "routes.upstream_client_certificate";
const CLIENT_KEY: &str = "routes.upstream_client_key";

const EXPECTED_UPSTREAM: &str =
    "expected http://HOST:PORT or https://HOST:PORT, without a path, or unix:/PATH for a Unix socket";

const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

const HEADER_CASES: [(&str, HeaderCase); 2] = [("lower", HeaderCase::Lower), ("title", HeaderCase::Title)];

const HTTP: [(&str, UpstreamHttp); 2] = [("1.1", UpstreamHttp::Http1), ("2", UpstreamHttp::Http2)];
