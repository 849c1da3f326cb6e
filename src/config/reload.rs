//! The keys that a running process can reload, and those that need a restart.

use secrecy::ExposeSecret;

use super::{Config, KeySource};

/// Keys that take effect on reload, besides all keys of routes.
pub const RELOADED: &[&str] = &[
    "server.allowed_origins",
    "server.trusted_proxies",
    "server.forwarded_headers",
    "server.allow_readable_secrets",
    "server.max_connections",
    "server.max_connections_per_client",
    "server.max_streams",
    "server.max_in_flight",
    "server.max_in_flight_per_client",
    "server.max_open_per_client",
    "server.max_header_bytes",
    "server.max_header_fields",
    "server.max_uri",
    "server.header_timeout",
    "server.keep_alive",
    "server.write_timeout",
    "server.min_body_rate",
    "server.min_read_rate",
    "server.drain",
    "server.drain_delay",
    "verify.redirect",
    "pages.title",
    "pages.logo",
    "pages.accent",
    "pages.stylesheet",
    "pages.templates",
    "pages.languages",
    "log.access",
];

impl Config {
    /// Returns the keys that differ in `next` and take effect only after a restart. The certificate can be
    /// reloaded from other files, but TLS cannot be turned on or off.
    #[must_use]
    pub fn needs_restart_for(&self, next: &Self) -> Vec<&'static str> {
        RESTART_KEYS.iter().filter(|(_, is_equal)| !is_equal(self, next)).map(|(key, _)| *key).collect()
    }
}

/// A key, and the comparison of two configurations for it.
type RestartKey = (&'static str, fn(&Config, &Config) -> bool);

/// Keys that need a restart. Parsed values are compared, so a default that depends on another key changes
/// with that key.
const RESTART_KEYS: &[RestartKey] = &[
    ("server.listen", |a, b| a.server.listen == b.server.listen),
    ("server.socket_mode", |a, b| a.server.socket_mode == b.server.socket_mode),
    ("server.proxy_protocol", |a, b| a.server.proxy_protocol == b.server.proxy_protocol),
    ("server.public_origin", |a, b| a.server.public_origin == b.server.public_origin),
    ("server.builtin", |a, b| a.server.builtin == b.server.builtin),
    ("server.auth_prefix", |a, b| a.server.auth_prefix == b.server.auth_prefix),
    ("server.reuse_port", |a, b| a.server.reuse_port == b.server.reuse_port),
    ("server.tls_certificate", |a, b| a.server.tls.is_some() == b.server.tls.is_some()),
    ("server.tls_key", |a, b| a.server.tls.is_some() == b.server.tls.is_some()),
    ("server.threads", |a, b| a.server.threads == b.server.threads),
    ("admin.listen", |a, b| a.admin.listen == b.admin.listen),
    ("verify.listen", |a, b| {
        let listen = |config: &Config| config.verify.as_ref().map(|verify| verify.listen.clone());
        listen(a) == listen(b)
    }),
    ("verify.source", |a, b| match (&a.verify, &b.verify) {
        (Some(a), Some(b)) => a.source == b.source,
        _ => true,
    }),
    ("database.url", |a, b| a.database.has_url_of(&b.database)),
    ("database.wait", |a, b| a.database.wait == b.database.wait),
    ("database.max_connections", |a, b| a.database.max_connections == b.database.max_connections),
    ("database.pooling", |a, b| a.database.transaction_pooling == b.database.transaction_pooling),
    ("database.listen_url", |a, b| a.database.has_listen_url_of(&b.database)),
    ("tokens.algorithm", |a, b| a.tokens.algorithm == b.tokens.algorithm),
    ("tokens.issuer", |a, b| a.tokens.issuer == b.tokens.issuer),
    ("tokens.audience", |a, b| a.tokens.audience == b.tokens.audience),
    ("tokens.key_dir", |a, b| match (&a.tokens.keys, &b.tokens.keys) {
        (KeySource::Dir(a), KeySource::Dir(b)) => a == b,
        _ => true,
    }),
    ("tokens.secret", |a, b| match (&a.tokens.keys, &b.tokens.keys) {
        (KeySource::Secret(a), KeySource::Secret(b)) => a.expose_secret() == b.expose_secret(),
        (KeySource::Dir(_), KeySource::Dir(_)) => true,
        _ => false,
    }),
    ("tokens.key_activation", |a, b| a.tokens.key_activation == b.tokens.key_activation),
    ("tokens.access_ttl", |a, b| a.tokens.access_ttl == b.tokens.access_ttl),
    ("tokens.access_ttl_jitter", |a, b| {
        a.tokens.access_ttl_jitter.to_bits() == b.tokens.access_ttl_jitter.to_bits()
    }),
    ("tokens.leeway", |a, b| a.tokens.leeway == b.tokens.leeway),
    ("session.idle_ttl", |a, b| a.session.idle_ttl == b.session.idle_ttl),
    ("session.absolute_ttl", |a, b| a.session.absolute_ttl == b.session.absolute_ttl),
    ("session.grace", |a, b| a.session.grace == b.session.grace),
    ("session.max_per_user", |a, b| a.session.max_per_user == b.session.max_per_user),
    ("session.on_store_loss", |a, b| a.session.on_store_loss == b.session.on_store_loss),
    ("session.keep_ended", |a, b| a.session.keep_ended == b.session.keep_ended),
    ("audit.keep", |a, b| a.audit.keep == b.audit.keep),
    ("cookies.access_name", |a, b| a.cookies.access_name == b.cookies.access_name),
    ("cookies.refresh_name", |a, b| a.cookies.refresh_name == b.cookies.refresh_name),
    ("cookies.same_site", |a, b| a.cookies.same_site == b.cookies.same_site),
    ("cookies.secure", |a, b| a.cookies.secure == b.cookies.secure),
    ("cookies.partitioned", |a, b| a.cookies.partitioned == b.cookies.partitioned),
    ("login.bcrypt_cost", |a, b| a.login.bcrypt_cost == b.login.bcrypt_cost),
    ("login.registration", |a, b| a.login.registration == b.login.registration),
    ("login.password_min_length", |a, b| a.login.password_min_length == b.login.password_min_length),
    ("pages.sign_in", |a, b| a.pages.sign_in == b.pages.sign_in),
    ("log.format", |a, b| a.log.format == b.log.format),
    ("otlp.endpoint", |a, b| {
        let endpoint = |config: &Config| config.otlp.as_ref().map(|otlp| otlp.endpoint.clone());
        endpoint(a) == endpoint(b)
    }),
    ("otlp.sample", |a, b| match (&a.otlp, &b.otlp) {
        (Some(a), Some(b)) => a.sample.to_bits() == b.sample.to_bits(),
        _ => true,
    }),
];

#[cfg(test)]
mod tests {
    use super::super::keys::KEYS;
    use super::*;

    #[test]
    fn every_key_is_either_reloaded_or_needs_a_restart() {
        for key in KEYS.iter() {
            let is_reloaded = RELOADED.contains(key);
            let without_file = key.strip_suffix("_file").unwrap_or(key);
            let needs_restart = RESTART_KEYS.iter().any(|(restart_key, _)| *restart_key == without_file);
            assert!(is_reloaded != needs_restart, "{key}: reloaded {is_reloaded}, restart {needs_restart}");
        }
    }
}
