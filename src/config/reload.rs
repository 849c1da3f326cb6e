//! What of a configuration takes effect while the program runs, and what with its next start alone.

use secrecy::ExposeSecret;

use super::{Config, KeySource};

/// The keys outside of routes that can change while the program runs. All of a route's can.
pub const RELOADED: &[&str] = &[
    "server.allowed_origins",
    "server.trusted_proxies",
    "server.max_connections",
    "server.max_streams",
    "server.max_in_flight",
    "server.max_header_bytes",
    "server.max_header_fields",
    "server.max_uri",
    "server.header_timeout",
    "server.keep_alive",
    "server.write_timeout",
    "server.drain",
    "server.drain_delay",
    "log.access",
];

impl Config {
    /// The keys that `next` has other values for, and that need a restart. A certificate may come from
    /// other files, but not begin or cease to be there.
    #[must_use]
    pub fn needs_restart_for(&self, next: &Self) -> Vec<&'static str> {
        RESTART_KEYS.iter().filter(|(_, is_same)| !is_same(self, next)).map(|(key, _)| *key).collect()
    }
}

/// A key, and whether two configurations say the same for it.
type RestartKey = (&'static str, fn(&Config, &Config) -> bool);

/// Compares what the keys come to, not how it is written: a default that follows another key changes
/// with it.
const RESTART_KEYS: &[RestartKey] = &[
    ("server.listen", |one, other| one.server.listen == other.server.listen),
    ("server.public_origin", |one, other| one.server.public_origin == other.server.public_origin),
    ("server.builtin", |one, other| one.server.builtin == other.server.builtin),
    ("server.auth_prefix", |one, other| one.server.auth_prefix == other.server.auth_prefix),
    ("server.reuse_port", |one, other| one.server.reuse_port == other.server.reuse_port),
    ("server.tls_certificate", |one, other| one.server.tls.is_some() == other.server.tls.is_some()),
    ("server.tls_key", |one, other| one.server.tls.is_some() == other.server.tls.is_some()),
    ("server.threads", |one, other| one.server.threads == other.server.threads),
    ("admin.listen", |one, other| one.admin.listen == other.admin.listen),
    ("verify.listen", |one, other| {
        let listen = |config: &Config| config.verify.as_ref().map(|verify| verify.listen.clone());
        listen(one) == listen(other)
    }),
    ("verify.source", |one, other| match (&one.verify, &other.verify) {
        (Some(one), Some(other)) => one.source == other.source,
        _ => true,
    }),
    ("database.url", |one, other| one.database.url.expose_secret() == other.database.url.expose_secret()),
    ("database.max_connections", |one, other| one.database.max_connections == other.database.max_connections),
    ("tokens.algorithm", |one, other| one.tokens.algorithm == other.tokens.algorithm),
    ("tokens.issuer", |one, other| one.tokens.issuer == other.tokens.issuer),
    ("tokens.audience", |one, other| one.tokens.audience == other.tokens.audience),
    ("tokens.key_dir", |one, other| match (&one.tokens.keys, &other.tokens.keys) {
        (KeySource::Dir(one), KeySource::Dir(other)) => one == other,
        _ => true,
    }),
    ("tokens.secret", |one, other| match (&one.tokens.keys, &other.tokens.keys) {
        (KeySource::Secret(one), KeySource::Secret(other)) => one.expose_secret() == other.expose_secret(),
        (KeySource::Dir(_), KeySource::Dir(_)) => true,
        _ => false,
    }),
    ("tokens.key_activation", |one, other| one.tokens.key_activation == other.tokens.key_activation),
    ("tokens.access_ttl", |one, other| one.tokens.access_ttl == other.tokens.access_ttl),
    ("tokens.access_ttl_jitter", |one, other| {
        one.tokens.access_ttl_jitter.to_bits() == other.tokens.access_ttl_jitter.to_bits()
    }),
    ("tokens.leeway", |one, other| one.tokens.leeway == other.tokens.leeway),
    ("session.idle_ttl", |one, other| one.session.idle_ttl == other.session.idle_ttl),
    ("session.absolute_ttl", |one, other| one.session.absolute_ttl == other.session.absolute_ttl),
    ("session.grace", |one, other| one.session.grace == other.session.grace),
    ("session.max_per_user", |one, other| one.session.max_per_user == other.session.max_per_user),
    ("session.on_store_loss", |one, other| one.session.on_store_loss == other.session.on_store_loss),
    ("session.keep_ended", |one, other| one.session.keep_ended == other.session.keep_ended),
    ("audit.keep", |one, other| one.audit.keep == other.audit.keep),
    ("cookies.access_name", |one, other| one.cookies.access_name == other.cookies.access_name),
    ("cookies.refresh_name", |one, other| one.cookies.refresh_name == other.cookies.refresh_name),
    ("cookies.same_site", |one, other| one.cookies.same_site == other.cookies.same_site),
    ("cookies.secure", |one, other| one.cookies.secure == other.cookies.secure),
    ("login.bcrypt_cost", |one, other| one.login.bcrypt_cost == other.login.bcrypt_cost),
    ("login.registration", |one, other| one.login.registration == other.login.registration),
    ("login.password_min_length", |one, other| {
        one.login.password_min_length == other.login.password_min_length
    }),
    ("log.format", |one, other| one.log.format == other.log.format),
    ("otlp.endpoint", |one, other| {
        let endpoint = |config: &Config| config.otlp.as_ref().map(|otlp| otlp.endpoint.clone());
        endpoint(one) == endpoint(other)
    }),
    ("otlp.sample", |one, other| match (&one.otlp, &other.otlp) {
        (Some(one), Some(other)) => one.sample.to_bits() == other.sample.to_bits(),
        _ => true,
    }),
];

#[cfg(test)]
mod tests {
    use super::super::KEYS;
    use super::*;

    #[test]
    fn every_key_is_reloaded_or_kept() {
        for key in KEYS {
            let is_reloaded = RELOADED.contains(key);
            let plain = key.strip_suffix("_file").unwrap_or(key);
            let is_kept = RESTART_KEYS.iter().any(|(kept, _)| *kept == plain);
            assert!(is_reloaded != is_kept, "{key}: reloaded {is_reloaded}, kept {is_kept}");
        }
    }
}
