//! Sources of settings, their precedence, and errors.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod dot_env;
mod errors;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::ExposeSecret;
use sekisho::config::{
    BuiltinRoutes, Config, ConfigError, DatabaseKind, ForwardedHeader, KEYS, KeySource, LoadedConfig,
    ROUTE_KEYS, RouteAuth, Sources,
};
use sekisho::layer::{OnStoreLoss, SameSite};
use sekisho::pages::PagesSettings;
use sekisho::proxy::{HealthCheck, IdentityHeaders, UpstreamHttp, UpstreamSettings};
use sekisho::routers::forward_auth::OriginalRequestSource;
use sekisho::server::ServerLimits;
use sekisho::services::auth::Registration;
use sekisho::services::keys::Algorithm;
use sekisho::telemetry::LogFormat;
use tempfile::TempDir;

/// A directory with `sekisho.toml`, `.env`, and an environment.
struct ConfigFixture {
    dir: TempDir,
    sources: Sources,
}

impl ConfigFixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sources = Sources { dir: Some(dir.path().to_owned()), ..Sources::default() };
        Self { dir, sources }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(self, name: &str, text: &str) -> Self {
        fs::write(self.path(name), text).unwrap();
        self
    }

    fn file(self, text: &str) -> Self {
        self.write("sekisho.toml", text)
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn flag(mut self, key: &str, value: &str) -> Self {
        self.sources.flags.push((key.to_owned(), value.to_owned()));
        self
    }

    fn load(&self) -> Result<LoadedConfig, ConfigError> {
        Config::load(&self.sources)
    }

    fn config(&self) -> Config {
        self.load().unwrap().config
    }

    /// Returns the message, with the path of the directory removed.
    fn error(&self) -> String {
        let message = self.load().map(|_| ()).unwrap_err().to_string();
        message.replace(&format!("{}/", self.dir.path().display()), "./")
    }
}

fn file(text: &str) -> ConfigFixture {
    ConfigFixture::new().file(text)
}

/// The documented defaults.
#[test]
fn defaults_are_as_documented() {
    let LoadedConfig { config, warnings, file } = Config::load(&Sources::default()).unwrap();
    assert!(warnings.is_empty() && file.is_none());
    let Config {
        server,
        admin,
        verify,
        database,
        tokens,
        session,
        audit,
        cookies,
        login,
        pages,
        log,
        otlp,
        routes,
    } = config;
    assert_eq!(pages, PagesSettings::default());
    let minutes = |n: u64| Duration::from_secs(n * 60);
    assert_eq!(server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(server.public_origin.unwrap().as_str(), "http://127.0.0.1:8080");
    assert!(server.allowed_origins.is_empty() && server.trusted_proxies.is_empty() && !server.reuse_port);
    assert_eq!(server.forwarded_headers, [ForwardedHeader::XForwardedFor]);
    let all = [BuiltinRoutes::Auth, BuiltinRoutes::Token, BuiltinRoutes::Movies, BuiltinRoutes::Docs];
    assert_eq!(server.builtin, BTreeSet::from(all));
    assert_eq!(server.auth_prefix.as_str(), "/auth");
    assert!(server.tls.is_none() && server.threads.is_none());
    assert_eq!(admin.listen.to_string(), "127.0.0.1:9090");
    assert!(verify.is_none() && routes.is_empty());
    assert_eq!(
        (database.url.expose_secret(), database.kind),
        ("sqlite://data/sekisho.db", DatabaseKind::Sqlite)
    );
    assert_eq!((database.max_connections, database.wait), (12, Duration::ZERO));
    assert_eq!(tokens.algorithm, Algorithm::Hs256);
    assert_eq!((tokens.issuer.as_str(), tokens.audience.as_str()), ("sekisho", "sekisho"));
    assert!(matches!(tokens.keys, KeySource::Dir(dir) if dir == Path::new("data/keys")));
    assert_eq!((tokens.access_ttl, tokens.key_activation), (minutes(15), minutes(2)));
    assert_eq!((tokens.access_ttl_jitter, tokens.leeway), (0.05, Duration::from_secs(5)));
    assert_eq!((session.idle_ttl, session.absolute_ttl), (minutes(14 * 24 * 60), minutes(90 * 24 * 60)));
    assert_eq!((session.grace, session.max_per_user), (minutes(1), 50));
    assert_eq!(session.on_store_loss, OnStoreLoss::Serve);
    let days = |n: u64| minutes(n * 24 * 60);
    assert_eq!((session.keep_ended, audit.keep), (days(30), Some(days(365))));
    assert_eq!(cookies.access_name, "__Host-access_token");
    assert_eq!(cookies.refresh_name, "__Host-refresh_token");
    assert_eq!((cookies.same_site, cookies.secure, cookies.partitioned), (SameSite::Lax, true, false));
    assert_eq!((login.bcrypt_cost, login.password_min_length), (12, 15));
    assert_eq!(login.registration, Registration::Closed);
    assert_eq!((log.format, log.access), (LogFormat::Text, true));
    assert!(otlp.is_none(), "nothing is exported");
}

#[test]
fn otlp_endpoint_is_validated() {
    let otlp =
        |text: &str| file(text).config().otlp.map(|otlp| (otlp.endpoint.as_str().to_owned(), otlp.sample));
    assert_eq!(otlp("[otlp]\nsample = 1"), None);
    let collector = "http://127.0.0.1:4318".to_owned();
    assert_eq!(otlp("[otlp]\nendpoint = 'http://127.0.0.1:4318'"), Some((collector.clone(), 0.1)));
    assert_eq!(otlp("[otlp]\nendpoint = 'http://127.0.0.1:4318'\nsample = 0"), Some((collector, 0.0)));
}

#[test]
fn default_server_limits() {
    let seconds = Duration::from_secs;
    let server = ConfigFixture::new().config().server;
    assert_eq!(server.drain_delay, Duration::ZERO);
    let limits = server.limits;
    let expected = ServerLimits {
        connections: 10_000,
        connections_per_client: 1_000,
        streams: 100,
        in_flight: 2_000,
        in_flight_per_client: 200,
        open_per_client: 1_000,
        header_bytes: 65_536,
        unfinished_heads: 64 * 1024 * 1024,
        header_fields: 100,
        uri_bytes: 8_192,
        header_timeout: seconds(15),
        keep_alive: seconds(75),
        write_timeout: seconds(60),
        min_body_rate: 240,
        min_read_rate: 240,
        drain: seconds(30),
    };
    assert_eq!(limits, expected);
}

#[test]
fn keys_that_need_a_restart_are_listed() {
    let of = |text: &str| file(text).config();
    let before = of("");
    assert!(before.needs_restart_for(&of("")).is_empty());
    // In any spelling.
    assert!(before.needs_restart_for(&of("[session]\ngrace = '1m'")).is_empty());
    let after = of("[server]\nlisten = '127.0.0.1:8081'\nmax_uri = '1KiB'\ndrain_delay = '5s'\n\
                    trusted_proxies = ['10.0.0.0/8']\n[tokens]\nissuer = 'other'\n\
                    [database]\nurl = 'postgres://ann:secret@db/x'\n[log]\naccess = false");
    // The default origin follows the listener.
    let keys = ["server.listen", "server.public_origin", "database.url", "tokens.issuer"];
    assert_eq!(before.needs_restart_for(&after), keys);
    // The default of `server.builtin` follows the routes.
    let after = of("[[routes]]\npath = '/api'\nupstreams = ['http://a:1']");
    assert_eq!(before.needs_restart_for(&after), ["server.builtin"]);
}

#[test]
fn content_hash_changes_with_the_file() {
    let fixture = file("[log]\naccess = false");
    let before = fixture.sources.snapshot();
    assert_eq!(before, fixture.sources.snapshot());
    let fixture = fixture.file("[log]\naccess = true");
    let after = fixture.sources.snapshot();
    assert_ne!(before, after);
    let fixture = fixture.write(".env", "SEKISHO_LOG__ACCESS=false");
    assert_ne!(fixture.sources.snapshot(), after);
    fs::remove_file(fixture.path(".env")).unwrap();
    assert_eq!(fixture.sources.snapshot(), after);
    // Kubernetes updates a file by changing the target of a symlink.
    let fixture = fixture.write("other.toml", "[log]\naccess = false");
    fs::remove_file(fixture.path("sekisho.toml")).unwrap();
    assert_ne!(fixture.sources.snapshot(), after);
    std::os::unix::fs::symlink("other.toml", fixture.path("sekisho.toml")).unwrap();
    assert_eq!(fixture.sources.snapshot(), before);
}

#[test]
fn certificate_makes_the_default_origin_https() {
    let tls = "[server]\ntls_certificate = '/c'\ntls_key = '/k'\n";
    let server = file(&format!("{tls}threads = 3")).config().server;
    assert_eq!(server.public_origin.unwrap().as_str(), "https://127.0.0.1:8080");
    assert_eq!(server.threads, Some(3));
    let files = server.tls.unwrap();
    assert_eq!((files.certificate, files.key), (PathBuf::from("/c"), PathBuf::from("/k")));
    let server = file(&format!("{tls}listen = 'localhost:0'")).config().server;
    assert_eq!(server.public_origin_at(Some(443)).unwrap().as_str(), "https://localhost");
    let error = file(&format!("{tls}public_origin = 'http://localhost'")).error();
    assert!(
        error.contains("server.public_origin = \"http://localhost\" in ./sekisho.toml, line 4"),
        "{error}"
    );
}

#[test]
fn route_defaults() {
    let fixture = file("[[routes]]\npath = '/api'\nupstreams = ['http://10.0.0.1:3000']");
    let config = fixture.config();
    let [route] = &config.routes[..] else { panic!("one route") };
    assert_eq!((route.path.as_str(), route.auth), ("/api", RouteAuth::Required));
    let spec = &route.spec;
    assert_eq!((spec.path.as_str(), &spec.upstreams[..]), ("/api", &["http://10.0.0.1:3000".to_owned()][..]));
    assert!(!spec.encoded_slash);
    assert!(spec.roles.is_empty() && spec.token_audience.is_none() && spec.max_body.is_none());
    assert!(!spec.strip_prefix && !spec.pass_authorization && spec.methods.is_empty());
    assert_eq!(spec.identity, IdentityHeaders::X_FORWARDED);
    for edits in [&spec.request_headers, &spec.response_headers] {
        assert!(edits.set.is_empty() && edits.remove.is_empty());
    }
    let seconds = [spec.connect_timeout, spec.first_byte_timeout, spec.idle_timeout].map(|t| t.as_secs());
    assert_eq!(seconds, [5, 60, 60]);
    assert_eq!((&*spec.upgrades, spec.tunnel_idle_timeout.as_secs()), (&["websocket".to_owned()][..], 3_600));
    let upstreams = &spec.upstream_settings;
    assert_eq!(upstreams.http, UpstreamHttp::Http1);
    assert!(upstreams.ca.is_none() && upstreams.health.is_none());
    assert_eq!((upstreams.eject_after, upstreams.max_in_flight, upstreams.max_queued), (5, 500, 256));
    let seconds = [upstreams.eject_for, upstreams.slow_start, upstreams.queue_timeout].map(|t| t.as_secs());
    assert_eq!(seconds, [10, 10, 1]);
    assert_eq!(config.server.builtin, BTreeSet::from([BuiltinRoutes::Auth]), "with routes, auth alone");
}

/// A4: two upstreams that hung could hold all requests of the server.
#[test]
fn upstreams_of_a_route_hold_half_of_the_server_limit() {
    let limits = |server: &str, route: &str| {
        let LoadedConfig { config, warnings, .. } =
            file(&format!("{server}\n[[routes]]\npath = '/'\n{route}")).load().unwrap();
        let settings = &config.routes[0].spec.upstream_settings;
        (settings.max_in_flight, settings.max_queued, warnings)
    };
    let one = "upstreams = ['http://a']";
    let two = "upstreams = ['http://a', 'http://b']";
    for (server, route, expected) in [
        ("", two, (250, 250)),
        ("[server]\nmax_in_flight = 100", one, (25, 25)),
        ("[server]\nmax_in_flight = 100000", one, (1024, 256)),
        ("[server]\nmax_in_flight = 1", two, (1, 1)),
    ] {
        let (max_in_flight, max_queued, warnings) = limits(server, route);
        assert_eq!((max_in_flight, max_queued), expected, "{server}");
        assert!(warnings.is_empty(), "{warnings:?}");
    }
    for (limit, has_warning) in
        [("max_in_flight = 744", false), ("max_in_flight = 745", true), ("max_queued = 501", true)]
    {
        let (_, _, warnings) = limits("", &format!("{one}\n{limit}"));
        assert_eq!(warnings.len(), usize::from(has_warning), "{limit}: {warnings:?}");
        assert!(
            warnings.iter().all(|warning| warning.starts_with("routes.max_in_flight of /: ")),
            "{warnings:?}"
        );
    }
}

/// Limits that another limit hides are named, unless all of them are defaults.
#[test]
fn limits_that_cannot_be_reached_are_warnings() {
    let warnings = |text: &str| file(&format!("[server]\n{text}")).load().unwrap().warnings;
    for (text, expected) in [
        ("", &[][..]),
        ("max_in_flight = 100000", &[]),
        ("max_in_flight = 1", &[]),
        ("max_in_flight = 300\nmax_in_flight_per_client = 270", &[]),
        (
            "max_in_flight = 300\nmax_in_flight_per_client = 271",
            &[
                "server.max_in_flight_per_client = 271 cannot be reached: server.max_in_flight without its reserve is 270",
            ],
        ),
        (
            "max_connections = 500",
            &["server.max_connections_per_client = 1000 cannot be reached: server.max_connections is 500"],
        ),
        (
            "max_open_per_client = 99",
            &[
                "server.max_in_flight_per_client = 200 cannot be reached: server.max_open_per_client is 99",
                "server.max_streams = 100 cannot be reached: server.max_open_per_client is 99",
            ],
        ),
        (
            "max_open_per_client = 10001",
            &[
                "server.max_open_per_client = 10001 cannot be reached: the larger of server.max_connections and four \
               times server.max_in_flight is 10000",
            ],
        ),
        (
            "max_connections = 10\nmax_connections_per_client = 10\nmax_streams = 10",
            &[
                "server.max_in_flight = 2000 cannot be reached: server.max_connections times server.max_streams is 100",
            ],
        ),
        (
            "max_streams = 513",
            &[
                "server.max_streams = 513: with more than 512, an HTTP/2 connection may hold more than 16 MiB of request \
               bodies",
            ],
        ),
    ] {
        assert_eq!(warnings(text), expected, "{text}");
    }
    let limits = |text: &str| file(&format!("[server]\n{text}")).config().server.limits;
    assert_eq!(limits("max_in_flight = 5").in_flight_per_client, 1);
    assert_eq!(limits("max_in_flight = 500").in_flight_per_client, 50);
    assert_eq!(limits("max_in_flight_per_client = 7").in_flight_per_client, 7);
}

#[test]
fn route_headers_and_methods() {
    let fixture = file(
        "[[routes]]\npath = '/'\nupstreams = ['http://h']\nmethods = ['GET', 'PROPFIND']\n\
         remove_request_headers = ['X-Debug']\nremove_response_headers = ['Server']\n\
         [routes.identity]\nuser = 'X-User'\ngroups = 'X-Roles'\n\
         [routes.set_request_headers]\nX-Api-Key = { file = 'PATH' }\nX-Version = '2'\n\
         [routes.set_response_headers]\nX-Frame-Options = 'DENY'\n",
    )
    .write("key", "hunter2\n");
    let text = fs::read_to_string(fixture.path("sekisho.toml")).unwrap();
    let key = fixture.path("key").display().to_string();
    let fixture = fixture.file(&text.replace("PATH", &key));
    let route = &fixture.config().routes[0].spec;
    assert_eq!(route.methods.iter().map(http::Method::as_str).collect::<Vec<_>>(), ["GET", "PROPFIND"]);
    let name = |name: &str| Some(name.parse().unwrap());
    let identity = IdentityHeaders { user: name("x-user"), email: None, groups: name("x-roles") };
    assert_eq!(route.identity, identity);
    let (to, back) = (&route.request_headers, &route.response_headers);
    let set: Vec<_> = to.set.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(set, [("x-api-key", "hunter2"), ("x-version", "2")]);
    assert_eq!((to.remove[0].as_str(), back.remove[0].as_str()), ("x-debug", "server"));
    assert_eq!(back.set[0].0, "x-frame-options");
    assert!(!format!("{route:?}").contains("hunter2"), "values may be secret");
    for (word, preset) in [
        ("x-forwarded", IdentityHeaders::X_FORWARDED),
        ("x-auth-request", IdentityHeaders::X_AUTH_REQUEST),
        ("remote", IdentityHeaders::REMOTE),
        ("none", IdentityHeaders::NONE),
    ] {
        let fixture = file(&format!("[[routes]]\npath = '/'\nupstreams = ['http://h']\nidentity = '{word}'"));
        assert_eq!(fixture.config().routes[0].spec.identity, preset);
    }
}

/// A value may be a secret, so no message contains it.
#[test]
fn header_values_are_never_displayed() {
    for (line, part) in [
        (
            "set_request_headers = { X-Key = \"hunter2\\nX-Y: 1\" }",
            "X-Key: expected visible ASCII characters",
        ),
        ("set_request_headers = { X-Key = 'hunter2\u{e9}' }", "X-Key: expected visible ASCII characters"),
        ("set_request_headers = { 'X Key' = 'hunter2' }", "X Key: expected a header name"),
        ("set_request_headers = { X-Key = ['hunter2'] }", "expected headers and values"),
        ("set_request_headers = 'X-Key: hunter2'", "expected headers and values"),
        ("set_response_headers = ['hunter2']", "expected headers and values"),
    ] {
        let error = file(&format!("[[routes]]\npath = '/'\nupstreams = ['http://h']\n{line}")).error();
        assert!(error.starts_with("routes.set_re") && error.contains("line 4: "), "{error}");
        assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn default_file_lists_exactly_the_known_keys() {
    let text = include_str!("../../config/default.toml");
    // Commented-out keys have no space after `#`; prose has one.
    let commented = text.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if !key.starts_with(' ') && !key.is_empty() => key,
        _ => line,
    });
    let all = commented.collect::<Vec<_>>().join("\n");
    let table: toml::Table = all.parse().unwrap();
    let mut keys = Vec::new();
    for (section, value) in &table {
        let keys_of = value.as_table().or_else(|| value.as_array()?.first()?.as_table()).unwrap();
        keys.extend(keys_of.keys().map(|key| format!("{section}.{key}")));
    }
    let known: BTreeSet<_> = KEYS.iter().chain(ROUTE_KEYS.iter()).map(ToString::to_string).collect();
    assert_eq!(keys.into_iter().collect::<BTreeSet<_>>(), known);
}

#[test]
fn every_key_is_read() {
    for key in KEYS.iter() {
        // Not a valid text, number, list, path or file name.
        let error = ConfigFixture::new().flag(key, "\u{1}").error();
        assert!(error.contains(key), "{key}: {error}");
    }
    for key in ROUTE_KEYS.iter() {
        let name = key.trim_start_matches("routes.");
        let others = ["path = '/a'", "upstreams = ['http://h']"];
        let others =
            others.iter().filter(|line| !line.starts_with(name)).copied().collect::<Vec<_>>().join("\n");
        let error = file(&format!("[[routes]]\n{others}\n{name} = 1979-05-27")).error();
        let secret = ["routes.set_request_headers", "routes.set_response_headers"].contains(key);
        let shown = if secret { "" } else { " = 1979-05-27" };
        assert!(error.starts_with(&format!("{key}{shown} in ./sekisho.toml, line")), "{error}");
    }
}

#[test]
fn sources_have_documented_precedence() {
    let issuer = |fixture: &ConfigFixture| fixture.config().tokens.issuer;
    let fixture = ConfigFixture::new();
    assert_eq!(issuer(&fixture), "sekisho");
    let fixture = fixture.file("[tokens]\nissuer = 'file'");
    assert_eq!(issuer(&fixture), "file");
    let fixture = fixture.write(".env", "SEKISHO_TOKENS__ISSUER=dotenv\n");
    assert_eq!(issuer(&fixture), "dotenv");
    let fixture = fixture.env("SEKISHO_TOKENS__ISSUER", "environment");
    assert_eq!(issuer(&fixture), "environment");
    let fixture = fixture.flag("tokens.issuer", "flag");
    assert_eq!(issuer(&fixture), "flag");
    // A later source replaces single keys, not whole sections.
    let fixture = fixture.file("[tokens]\nissuer = 'file'\naudience = 'file'");
    assert_eq!(fixture.config().tokens.audience, "file");
}

#[test]
fn lists_are_replaced_not_merged() {
    let fixture = file("[server]\nbuiltin = ['auth', 'docs']").env("SEKISHO_SERVER__BUILTIN", r#"["token"]"#);
    let fixture = fixture.flag("pages.sign_in", "off");
    assert_eq!(fixture.config().server.builtin, BTreeSet::from([BuiltinRoutes::Token]));
}

#[test]
fn config_file_lookup_order() {
    let mut fixture = file("[tokens]\nissuer = 'local'")
        .write("other.toml", "[tokens]\nissuer = 'other'")
        .write("fallback.toml", "[tokens]\nissuer = 'fallback'");
    fixture.sources.fallback_file = Some(fixture.path("fallback.toml"));
    assert_eq!(fixture.config().tokens.issuer, "local");
    assert_eq!(fixture.load().unwrap().file, Some(fixture.path("sekisho.toml")));

    fixture.sources.file = Some(fixture.path("other.toml"));
    assert_eq!(fixture.config().tokens.issuer, "other");
    assert_eq!(fixture.load().unwrap().file, Some(fixture.path("other.toml")));

    fixture.sources.file = None;
    fs::remove_file(fixture.path("sekisho.toml")).unwrap();
    assert_eq!(fixture.config().tokens.issuer, "fallback");

    fixture.sources.file = Some(fixture.path("missing.toml"));
    assert_eq!(fixture.error(), "cannot read ./missing.toml");
}

#[test]
fn shipped_config_files_are_valid() {
    for (name, warnings) in [("development", 0), ("production.example", 0), ("default", 0)] {
        let file = format!("{}/config/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let sources = Sources { file: Some(file.into()), ..Sources::default() };
        let loaded = Config::load(&sources).unwrap();
        assert_eq!(loaded.warnings.len(), warnings, "{name}: {:?}", loaded.warnings);
    }
}

#[test]
fn environment_text_needs_no_quotes() {
    let fixture = ConfigFixture::new()
        .env("SEKISHO_DATABASE__URL", "postgres://u:p$w@db/x?a=b")
        .env("SEKISHO_TOKENS__ISSUER", "12345")
        .env("SEKISHO_TOKENS__AUDIENCE", "true")
        .env("SEKISHO_LOGIN__BCRYPT_COST", "11")
        .env("SEKISHO_SERVER__REUSE_PORT", "true")
        .env("SEKISHO_TOKENS__ACCESS_TTL_JITTER", "0.1")
        .env(
            "SEKISHO_SERVER__ALLOWED_ORIGINS",
            r#"["https://a.example", 'https://b.example:443', "tauri://localhost"]"#,
        );
    let config = fixture.config();
    assert_eq!(config.database.url.expose_secret(), "postgres://u:p$w@db/x?a=b");
    assert_eq!(config.database.kind, DatabaseKind::Postgres);
    assert_eq!((config.tokens.issuer.as_str(), config.tokens.audience.as_str()), ("12345", "true"));
    assert_eq!((config.login.bcrypt_cost, config.tokens.access_ttl_jitter), (11, 0.1));
    assert!(config.server.reuse_port);
    let origins: Vec<_> = config.server.allowed_origins.iter().map(|origin| origin.as_str()).collect();
    assert_eq!(origins, ["https://a.example", "https://b.example", "tauri://localhost"]);
}

#[test]
fn numeric_secret_is_read_as_text() {
    let digits = "31415926535897932384626433832795028841971";
    let fixture = ConfigFixture::new().env("SEKISHO_TOKENS__SECRET", digits);
    assert!(matches!(fixture.config().tokens.keys, KeySource::Secret(s) if s.expose_secret() == digits));
    // Too short, but otherwise valid.
    assert!(
        ConfigFixture::new().env("SEKISHO_TOKENS__SECRET", "true").error().contains("shorter than 32 bytes")
    );
}

#[test]
fn unrelated_environment_variables_are_ignored() {
    let fixture = ConfigFixture::new()
        .env("SEKISHO_PORT", "tcp://10.96.0.1:80")
        .env("SEKISHO_SERVICE_HOST", "10.96.0.1")
        .env("SEKISHO_PORT_80_TCP_ADDR", "10.96.0.1")
        .env("SEKISHO", "1")
        .env("OTHER__KEY", "1")
        .env("sekisho_server__listen", "1");
    assert!(fixture.load().unwrap().warnings.is_empty());
}

#[test]
fn single_underscore_variable_is_reported() {
    let warnings = ConfigFixture::new().env("SEKISHO_SERVER_LISTEN", "0.0.0.0:80").load().unwrap().warnings;
    assert_eq!(warnings, ["SEKISHO_SERVER_LISTEN is ignored: did you mean SEKISHO_SERVER__LISTEN?"]);
}

#[test]
fn dot_env_does_not_change_the_process_environment() {
    let text =
        "# comment\nexport SEKISHO_TOKENS__ISSUER=\"a-b\"\n\nSEKISHO_TOKENS__AUDIENCE='x$y'\nOTHER=1\n";
    let config = ConfigFixture::new().write(".env", text).config();
    assert_eq!((config.tokens.issuer.as_str(), config.tokens.audience.as_str()), ("a-b", "x$y"));
    assert!(std::env::var_os("SEKISHO_TOKENS__ISSUER").is_none());

    let error = ConfigFixture::new().write(".env", "A=1\nSEKISHO_TOKENS__SECRET='hunter2 x\n").error();
    assert_eq!(error, "./.env, line 2: expected NAME=value; values with spaces or # in them need quotes");

    let fixture = ConfigFixture::new();
    fs::create_dir(fixture.path(".env")).unwrap();
    assert_eq!(fixture.config().tokens.issuer, "sekisho", "a Python environment is no .env file");
}

#[test]
fn secrets_are_read_from_files() {
    let secret = "kq2V8mYb0Zr4n7PxWc1sTgH5uJdLfA9eXo3iRvBzQ6E=";
    let fixture =
        ConfigFixture::new().write("secret", &format!("{secret}\n")).write("url", "postgres://u:p@h/db\r\n");
    let fixture = ConfigFixture {
        sources: Sources {
            env: vec![
                ("SEKISHO_TOKENS__SECRET_FILE".into(), fixture.path("secret").display().to_string()),
                ("SEKISHO_DATABASE__URL_FILE".into(), fixture.path("url").display().to_string()),
            ],
            ..Sources::default()
        },
        ..fixture
    };
    let config = fixture.config();
    assert_eq!(config.database.url.expose_secret(), "postgres://u:p@h/db");
    assert!(matches!(&config.tokens.keys, KeySource::Secret(s) if s.expose_secret() == secret));
    let debug = format!("{config:?}");
    assert!(!debug.contains(secret) && !debug.contains("u:p"), "{debug}");

    fs::write(fixture.path("secret"), "short").unwrap();
    let error = fixture.error();
    assert!(error.starts_with("tokens.secret_file = ") && error.contains("shorter than 32 bytes"), "{error}");
    fs::write(fixture.path("url"), "mysql://root:hunter2@h/db").unwrap();
    let error = fixture.error();
    assert!(error.starts_with("database.url_file = ") && !error.contains("hunter2"), "{error}");
    fs::write(fixture.path("secret"), secret).unwrap();
    fs::remove_file(fixture.path("url")).unwrap();
    assert_eq!(fixture.error(), "cannot read ./url (database.url_file)");
}

/// B4: a secret has one value in every source.
#[test]
fn every_source_of_a_secret_is_trimmed_the_same_way() {
    let secret = "kq2V8mYb0Zr4n7PxWc1sTgH5uJdLfA9eXo3iRvBzQ6E=";
    let url = "postgres://u:p@h/db";
    for (before, after) in [("", ""), ("", "\n"), ("", "\r\n"), ("", "\n\n"), (" ", " "), ("\u{feff}", "\n")]
    {
        let around = |text: &str| format!("{before}{text}{after}");
        let quoted = |text: &str| around(text).replace('\r', "\\r").replace('\n', "\\n");
        let files = ConfigFixture::new().write("secret", &around(secret)).write("url", &around(url));
        let (secret_file, url_file) = (files.path("secret"), files.path("url"));
        for fixture in [
            ConfigFixture::new()
                .env("SEKISHO_TOKENS__SECRET", &around(secret))
                .env("SEKISHO_DATABASE__URL", &around(url)),
            ConfigFixture::new().flag("tokens.secret", &around(secret)).flag("database.url", &around(url)),
            file(&format!(
                "[tokens]\nsecret = \"{}\"\n[database]\nurl = \"{}\"",
                quoted(secret),
                quoted(url)
            )),
            files
                .env("SEKISHO_TOKENS__SECRET_FILE", &secret_file.display().to_string())
                .env("SEKISHO_DATABASE__URL_FILE", &url_file.display().to_string()),
        ] {
            let config = fixture.config();
            assert_eq!(config.database.url.expose_secret(), url, "{before:?} {after:?}");
            let KeySource::Secret(read) = config.tokens.keys else { panic!("not a secret") };
            assert_eq!(read.expose_secret(), secret, "{before:?} {after:?}");
        }
    }
    let text = format!("SEKISHO_TOKENS__SECRET=\"{secret}\\n\"\nSEKISHO_DATABASE__URL=\"{url} \"\n");
    let config = ConfigFixture::new().write(".env", &text).config();
    assert_eq!(config.database.url.expose_secret(), url);
    assert!(matches!(&config.tokens.keys, KeySource::Secret(read) if read.expose_secret() == secret));
}

/// B4: so is the value of a header.
#[test]
fn header_value_is_trimmed_in_the_file_and_in_the_configuration() {
    let value_file = ConfigFixture::new().write("value", " key-1 \r\n");
    let path = value_file.path("value");
    for value in ["\" key-1 \\n\"".to_owned(), format!("{{ file = '{}' }}", path.display())] {
        let route = format!(
            "[[routes]]\npath = '/a'\nupstreams = ['http://h']\nset_request_headers = {{ X-Key = {value} }}"
        );
        let config = file(&route).config();
        assert_eq!(config.routes[0].spec.request_headers.set[0].1, "key-1");
    }
}

/// Files with secrets: the name, the key that is reported, and the configuration with the path of `FILE`.
fn secret_file_cases(secret: &str) -> [(&'static str, &'static str, String); 13] {
    let route = "[[routes]]\npath = '/a'\nupstreams = ['http://h']\n";
    let listen = "[database]\nurl = 'postgres://h/db'\n";
    [
        ("url", "database.listen_url_file", format!("{listen}listen_url_file = 'FILE'")),
        ("sekisho.toml", "database.listen_url", format!("{listen}listen_url = 'postgres://u:p@h/db'")),
        ("key.pem", "database.listen_url", format!("{listen}listen_url = 'postgres://h/db?sslkey=FILE'")),
        ("secret", "tokens.secret_file", "[tokens]\nsecret_file = 'FILE'".to_owned()),
        ("url", "database.url_file", "[database]\nurl_file = 'FILE'".to_owned()),
        ("key.pem", "server.tls_key", "[server]\ntls_certificate = '/c'\ntls_key = 'FILE'".to_owned()),
        (
            "value",
            "routes.set_request_headers",
            format!("{route}set_request_headers = {{ X-Key = {{ file = 'FILE' }} }}"),
        ),
        (
            "value",
            "routes.set_response_headers",
            format!("{route}set_response_headers = {{ X-Key = {{ file = 'FILE' }} }}"),
        ),
        (
            "client.key",
            "routes.upstream_client_key",
            "[[routes]]\npath = '/a'\nupstreams = ['https://h']\nupstream_client_certificate = 'CERTIFICATE'\n\
             upstream_client_key = 'FILE'"
                .to_owned(),
        ),
        ("sekisho.toml", "tokens.secret", format!("[tokens]\nsecret = '{secret}'")),
        ("sekisho.toml", "database.url", "[database]\nurl = 'postgres://u:p@h/db'".to_owned()),
        ("sekisho.toml", "database.url", "[database]\nurl = 'postgres:///db?user=u&password=p'".to_owned()),
        ("key.pem", "database.url", "[database]\nurl = 'postgres://u@h/db?sslkey=FILE'".to_owned()),
    ]
}

/// B12: one rule for all files that contain secrets: what others can change is refused, what they can read is
/// reported.
#[test]
fn secret_files_of_other_users_are_refused_or_reported() {
    let secret = "kq2V8mYb0Zr4n7PxWc1sTgH5uJdLfA9eXo3iRvBzQ6E=";
    let certificate = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
    for (name, key, text) in secret_file_cases(secret) {
        let fixture = ConfigFixture::new().write("secret", secret).write("url", "postgres://u:p@h/db");
        let fixture = fixture.write("key.pem", "x").write("value", "x");
        let fixture = fixture.write("client.pem", &certificate.cert.pem());
        let fixture = fixture.write("client.key", &certificate.signing_key.serialize_pem());
        let path = fixture.path(name);
        let text = text.replace("CERTIFICATE", &fixture.path("client.pem").display().to_string());
        let fixture = fixture.file(&text.replace("FILE", &path.display().to_string()));
        let set_mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        for mode in [0o600, 0o400] {
            set_mode(mode);
            assert!(fixture.load().unwrap().warnings.is_empty(), "{key} {mode:o}");
        }
        set_mode(0o644);
        let warnings = fixture.load().unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].starts_with(&format!("{key}: ")), "{warnings:?}");
        assert!(warnings[0].contains("`chmod go-r ") && !warnings[0].contains(secret), "{warnings:?}");
        for mode in [0o660, 0o602, 0o666] {
            set_mode(mode);
            let error = fixture.error();
            assert!(error.starts_with(key) && error.contains("`chmod go-w "), "{key} {mode:o}: {error}");
        }
        set_mode(0o644);
        let fixture = fixture.env("SEKISHO_SERVER__ALLOW_READABLE_SECRETS", "true");
        assert!(fixture.load().unwrap().warnings.is_empty(), "{key}");
        fs::set_permissions(fixture.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(fixture.error().contains("mode 0777"), "{key}");
    }
    // Settings without a secret may be in a file of any mode.
    let fixture = file("[tokens]\nissuer = 'a'\n[database]\nurl = 'postgres://u@h/db'");
    fs::set_permissions(fixture.path("sekisho.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(fixture.load().unwrap().warnings.is_empty());
}

#[test]
fn errors_do_not_contain_secrets() {
    for (name, value) in [
        ("SEKISHO_TOKENS__SECRET", "hunter2"),
        ("SEKISHO_DATABASE__URL", "mysql://root:hunter2@h/db"),
        ("SEKISHO_DATABASE__URL", "postgres://u:hunter2@h:port/db"),
        ("SEKISHO_SERVER__PUBLIC_ORIGIN", "https://me:hunter2@h"),
        ("SEKISHO_SERVER__ALLOWED_ORIGINS", r#"["https://me:hunter2@h"]"#),
        ("SEKISHO_TOKENS__SECRE", "hunter2"),
    ] {
        let error = ConfigFixture::new().env(name, value).load().expect_err(name);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
    for text in
        ["[tokens]\nsecret = 'hunter2", "[tokens]\nsecret = hunter2", "[tokens]\nsecret = ['hunter2']"]
    {
        let error = file(text).load().expect_err(text);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn unknown_key_error_suggests_the_nearest_key() {
    for (text, message) in [
        (
            "[server]\nlisen = 'x'",
            "unknown key server.lisen in ./sekisho.toml, line 2: did you mean server.listen?",
        ),
        (
            "server.lisen = 'x'",
            "unknown key server.lisen in ./sekisho.toml, line 1: did you mean server.listen?",
        ),
        (
            "\n[sever]\nlisten = 'x'",
            "unknown key sever.listen in ./sekisho.toml, line 3: did you mean server.listen?",
        ),
        ("listen = 'x'", "unknown key listen in ./sekisho.toml, line 1: did you mean server.listen?"),
        (
            "[server]\naccess_ttl = '5m'",
            "unknown key server.access_ttl in ./sekisho.toml, line 2: did you mean tokens.access_ttl?",
        ),
        ("[server]\ncolour = 'red'", "unknown key server.colour in ./sekisho.toml, line 2"),
        ("[server.tls]\ncert = 'x'", "unknown key server.tls.cert in ./sekisho.toml, line 2"),
        (
            "[server.listen]\nport = 80",
            "server.listen = a table in ./sekisho.toml, line 1: expected text, in quotes",
        ),
        (
            "[[routes]]\npth = '/'\nupstreams = ['http://h']",
            "unknown key routes.pth in ./sekisho.toml, line 2: did you mean routes.path?",
        ),
        ("[[route]]\npath = '/'", "unknown key route in ./sekisho.toml, line 1: did you mean routes?"),
        (
            "[[routes]]\npath = '/'\nupstreams = ['http://h']\n[routes.auth.x]\ny = 1",
            "unknown key routes.auth.x.y in ./sekisho.toml, line 5: did you mean routes.auth?",
        ),
    ] {
        assert_eq!(file(text).error(), message);
    }
    assert_eq!(
        ConfigFixture::new().env("SEKISHO_SESSION__GRASE", "1s").error(),
        "unknown key session.grase from SEKISHO_SESSION__GRASE: did you mean session.grace?"
    );
    assert_eq!(
        ConfigFixture::new().env("SEKISHO_SERVER__LISTEN__PORT", "1").error(),
        "unknown key server.listen.port from SEKISHO_SERVER__LISTEN__PORT: did you mean server.listen?"
    );
    assert_eq!(
        ConfigFixture::new().write(".env", "SEKISHO_COOKIES__SECUR=1").error(),
        "unknown key cookies.secur from SEKISHO_COOKIES__SECUR in ./.env: did you mean cookies.secure?"
    );
    assert_eq!(
        ConfigFixture::new().flag("server.lissten", "x").error(),
        "unknown key server.lissten on the command line: did you mean server.listen?"
    );
}

#[test]
fn routes_are_only_read_from_the_file() {
    for name in ["SEKISHO_ROUTES__0__PATH", "SEKISHO_ROUTES__PATH"] {
        let error = ConfigFixture::new().env(name, "/").error();
        assert!(
            error.ends_with(&format!(
                "from {name}: routes can only be set in the configuration file, as [[routes]]"
            )),
            "{error}"
        );
    }
    assert!(
        ConfigFixture::new()
            .flag("routes.path", "/")
            .error()
            .contains("routes can only be set in the configuration file")
    );
    assert!(file("routes = '/'").error().contains("expected one table for each route, headed [[routes]]"));
    assert!(file("[routes]\npath = '/'").error().contains("headed [[routes]]"));
    assert!(file("routes = []").load().is_ok());
}

#[test]
fn invalid_toml_is_rejected_with_its_line() {
    let error = file("[server]\nlisten = 127.0.0.1:80\n").error();
    assert!(error.starts_with("./sekisho.toml, line 2: ") && !error.contains('\n'), "{error}");
    let error = file("[server]\nlisten = 'a:1'\nlisten = 'a:2'\n").error();
    assert!(error.starts_with("./sekisho.toml, line 3: "), "{error}");
    let fixture = ConfigFixture::new();
    fs::write(fixture.path("sekisho.toml"), b"\xff\xfe").unwrap();
    assert_eq!(fixture.error(), "cannot read ./sekisho.toml");
}

#[test]
fn duplicate_key_spellings_are_rejected() {
    let error =
        ConfigFixture::new().env("SEKISHO_TOKENS__ISSUER", "a").env("SEKISHO_tokens__issuer", "b").error();
    assert_eq!(
        error,
        "tokens.issuer is set twice, from SEKISHO_TOKENS__ISSUER and from SEKISHO_tokens__issuer: keep one of them"
    );
}

/// Each of these is rejected with an error that names key, value and expectation.
const BAD: &[(&str, &str)] = &[
    ("[server]\ntls_key = '/k'", "server.tls_certificate is missing: TLS needs both"),
    ("[server]\ntls_certificate = '/c'", "server.tls_key is missing: TLS needs both"),
    ("[server]\nthreads = 0", "server.threads = 0 in ./sekisho.toml, line 2"),
    ("[server]\nmax_connections = 0", "server.max_connections = 0"),
    ("[server]\nmax_header_bytes = '8191B'", "expected a size from 8192 bytes to 1MiB"),
    ("[server]\nmax_header_bytes = '2MiB'", "expected a size from 8192 bytes to 1MiB"),
    ("[server]\nmax_uri = '100B'", "expected a size from 256 bytes to 1MiB"),
    ("[server]\nmax_uri = 'long'", "expected a size from 256 bytes to 1MiB"),
    ("[server]\nmax_uri = '65KiB'", "expected at most server.max_header_bytes"),
    ("[server]\nheader_timeout = '0s'", "server.header_timeout = \"0s\""),
    ("[server]\ndrain_delay = 5", "server.drain_delay = 5 in ./sekisho.toml, line 2: expected a duration"),
    // server
    ("[server]\nlisten = 'nope'", "server.listen = \"nope\" in ./sekisho.toml, line 2: expected HOST:PORT"),
    (
        "[server]\nlisten = 'unix:sekisho.sock'",
        "or the path of a Unix socket of at most 107 bytes, such as unix:/run/",
    ),
    (
        "[server]\nlisten = 'unix:/run/s'",
        "server.public_origin is required: server.listen = unix:/run/s is not a loopback address: set it to",
    ),
    ("[server]\nsocket_mode = '0668'", "expected the mode of a file in octal, such as 0660"),
    ("[server]\nsocket_mode = '2660'", "expected the mode of a file in octal, such as 0660"),
    (
        "[server]\nlisten = 'unix:/run/s'\npublic_origin = 'http://localhost'\nreuse_port = true",
        "a Unix socket cannot be shared: remove the key",
    ),
    ("[server]\nproxy_protocol = true", "only server.trusted_proxies may connect, and the list is empty"),
    (
        "[admin]\nlisten = 'unix:/run/s'",
        "admin.listen = \"unix:/run/s\" in ./sekisho.toml, line 2: expected HOST:PORT",
    ),
    ("[server]\nlisten = 8080", "server.listen = 8080 in ./sekisho.toml, line 2: expected text"),
    ("[server]\nlisten = ''", "server.listen = \"\""),
    ("[server]\nlisten = ':80'", "expected HOST:PORT"),
    ("[server]\nlisten = '127.0.0.1:65536'", "expected HOST:PORT"),
    (
        "[server]\nlisten = '0.0.0.0:80'",
        "server.public_origin is required: server.listen = 0.0.0.0:80 is not a loopback",
    ),
    ("[server]\npublic_origin = 'app.example.com'", "server.public_origin = \"app.example.com\""),
    ("[server]\npublic_origin = 'https://a.example/app'", "without a path"),
    ("[server]\npublic_origin = 'http://app.example.com'", "browsers reject Secure cookies over http"),
    (
        "[server]\nallowed_origins = 'https://a.example'",
        "server.allowed_origins = \"https://a.example\" in ./sekisho.toml, line 2: expected a list",
    ),
    ("[server]\nallowed_origins = ['*']", "\"*\": expected an origin"),
    ("[server]\nallowed_origins = ['null']", "\"null\": expected an origin"),
    (
        "[server]\nallowed_origins = ['capacitor://']",
        "such as https://app.example.com or capacitor://localhost",
    ),
    ("[server]\nallowed_origins = [1]", "expected a list of texts"),
    ("[server]\ntrusted_proxies = ['10.0.0.0/33']", "\"10.0.0.0/33\": expected a network such as 10.0.0.0/8"),
    ("[server]\ntrusted_proxies = ['proxy.example']", "expected a network"),
    (
        "[server]\nforwarded_headers = ['x-forwarded-user']",
        "\"x-forwarded-user\": expected one of forwarded, x-forwarded-for",
    ),
    (
        "[server]\nbuiltin = ['auth', 'moovies']",
        "\"moovies\": expected one of auth, token, movies, docs (did you mean movies?)",
    ),
    (
        "[server]\nauth_prefix = 'auth'",
        "server.auth_prefix = \"auth\" in ./sekisho.toml, line 2: expected a path",
    ),
    ("[server]\nauth_prefix = '/'", "expected a path below /"),
    ("[server]\nauth_prefix = '/a/../b'", "dot segments"),
    ("[server]\nauth_prefix = '/:auth'", "a path is a prefix, not a pattern: write /, which"),
    ("[server]\nauth_prefix = '/a/*b'", "a path is a prefix, not a pattern: write /a, which"),
    ("[server]\nauth_prefix = '/movies/auth'", "it overlaps with the built-in /movies"),
    ("[server]\nauth_prefix = '/.well-known'", "it overlaps with the built-in /.well-known/jwks.json"),
    (
        "[server]\nreuse_port = 'yes'",
        "server.reuse_port = \"yes\" in ./sekisho.toml, line 2: expected true or false",
    ),
    // pages
    (
        "[server]\nbuiltin = ['token']",
        "pages.sign_in = \"builtin\" (the default): server.builtin lacks \"auth\": add it, or set pages.sign_in to",
    ),
    ("[pages]\nsign_in = 'on'", "expected \"builtin\", \"off\", or a page such as /login"),
    ("[pages]\nsign_in = '//login.example'", "expected \"builtin\", \"off\", or a page"),
    ("[pages]\nsign_in = '/\\login.example'", "expected \"builtin\", \"off\", or a page"),
    ("[pages]\nsign_in = 'https://login.example/#top'", "expected \"builtin\", \"off\", or a page"),
    ("[pages]\nsign_in = 'javascript:alert(1)'", "expected \"builtin\", \"off\", or a page"),
    (
        "[pages]\naccent = 'green'",
        "pages.accent = \"green\" in ./sekisho.toml, line 2: expected a colour such as",
    ),
    ("[pages]\ntitle = ''", "expected 1 to 100 characters on one line"),
    ("[pages]\nlogo = ''", "expected the path of a file"),
    ("[pages]\nlanguages = []", "expected at least one language"),
    ("[pages]\nlanguages = ['../en']", "\"../en\": expected a language such as en"),
    // admin, verify
    (
        "[admin]\nlisten = '127.0.0.1:8080'",
        "admin.listen = \"127.0.0.1:8080\" in ./sekisho.toml, line 2: conflicts with server.listen",
    ),
    ("[admin]\nlisten = '0.0.0.0:8080'", "conflicts with server.listen = 127.0.0.1:8080"),
    ("[verify]\nlisten = '127.0.0.1:9090'\nsource = 'envoy'", "conflicts with admin.listen = 127.0.0.1:9090"),
    (
        "[verify]\nlisten = 'localhost:8080'\nsource = 'envoy'",
        "conflicts with server.listen = 127.0.0.1:8080",
    ),
    ("[verify]\nlisten = '127.0.0.1:9091'\nsource = 'envoy'", "only server.trusted_proxies may connect"),
    (
        "[server]\ntrusted_proxies = ['127.0.0.1']\n[verify]\nlisten = '127.0.0.1:9091'",
        "verify.source is required",
    ),
    ("[verify]\nsource = 'nginx'", "expected one of x-original, x-forwarded, envoy"),
    ("[verify]\nlisten = 'on'", "expected HOST:PORT"),
    // database
    (
        "[database]\nurl = 'mysql://h/db'",
        "database.url in ./sekisho.toml, line 2: expected sqlite://PATH or postgres://",
    ),
    ("[database]\nurl = ''", "database.url in ./sekisho.toml"),
    ("[database]\nurl = 5", "database.url in ./sekisho.toml, line 2: expected text"),
    (
        "[database]\nurl = 'sqlite://a'\nurl_file = 'b'",
        "database.url_file = \"b\" in ./sekisho.toml, line 3: database.url is set too, in ./sekisho.toml, line 2",
    ),
    ("[database]\nurl_file = '/nonexistent/url'", "cannot read /nonexistent/url (database.url_file)"),
    ("[database]\nurl_file = '/dev/null'", "the file is empty"),
    // tokens
    (
        "[tokens]\nalgorithm = 'none'",
        "tokens.algorithm = \"none\" in ./sekisho.toml, line 2: expected one of HS256, ES256, EdDSA",
    ),
    ("[tokens]\nalgorithm = 'HS265'", "(did you mean HS256?)"),
    ("[tokens]\nissuer = ''", "tokens.issuer = \"\""),
    ("[tokens]\naudience = 'a b'", "expected 1 to 255 visible ASCII characters"),
    ("[tokens]\nkey_dir = ''", "expected the path of a directory"),
    (
        "[tokens]\nsecret = 'secret'",
        "tokens.secret in ./sekisho.toml, line 2: the secret is shorter than 32 bytes",
    ),
    (
        "[tokens]\nsecret = '09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7'",
        "well-known example",
    ),
    ("[tokens]\nsecret = 'a-string-secret-at-least-256-bits-long'", "well-known example"),
    ("[tokens]\nsecret = 'changeme-changeme-please-and-thank-you'", "well-known example"),
    ("[tokens]\nsecret = '0000000000000000000000000000000000000000'", "repeats itself"),
    (
        "[tokens]\nsecret = 'kq2V8mYb0Zr4n7PxWc1sTgH5uJdLfA9eXo3iRvBzQ6E='\nkey_dir = 'k'",
        "tokens.key_dir is set too, in ./sekisho.toml, line 3",
    ),
    (
        "[tokens]\nsecret = 'kq2V8mYb0Zr4n7PxWc1sTgH5uJdLfA9eXo3iRvBzQ6E='\nalgorithm = 'EdDSA'",
        "a secret can only sign HS256",
    ),
    (
        "[tokens]\nsecret = 'a'\nsecret_file = 'b'",
        "tokens.secret_file = \"b\" in ./sekisho.toml, line 3: tokens.secret is set too",
    ),
    (
        "[tokens]\naccess_ttl = '15'",
        "tokens.access_ttl = \"15\" in ./sekisho.toml, line 2: expected a duration such as",
    ),
    ("[tokens]\naccess_ttl = 900", "tokens.access_ttl = 900"),
    ("[tokens]\naccess_ttl = '-5m'", "expected a duration"),
    ("[tokens]\naccess_ttl = '1s'", "from 2s to"),
    ("[tokens]\naccess_ttl = '99999999999999999999d'", "expected a duration"),
    ("[tokens]\naccess_ttl = '11years'", "expected a duration"),
    (
        "[tokens]\naccess_ttl_jitter = 0.5",
        "tokens.access_ttl_jitter = 0.5 in ./sekisho.toml, line 2: expected a number from 0 to 0.25",
    ),
    ("[tokens]\naccess_ttl_jitter = -0.1", "expected a number from 0 to 0.25"),
    ("[tokens]\naccess_ttl_jitter = nan", "expected a number from 0 to 0.25"),
    (
        "[tokens]\nleeway = '15m'",
        "tokens.leeway = \"15m\" in ./sekisho.toml, line 2: expected less than tokens.access_ttl",
    ),
    ("[tokens]\nkey_activation = 'soon'", "tokens.key_activation = \"soon\""),
    // session
    ("[session]\ngrace = '0s'", "session.grace = \"0s\" in ./sekisho.toml, line 2: expected a duration"),
    ("[session]\ngrace = '8m'", "expected at most 7m 30s, half of tokens.access_ttl (15m)"),
    ("[tokens]\naccess_ttl = '30s'", "session.grace = \"60s\" (the default): expected at most 15s"),
    (
        "[session]\nidle_ttl = '5m'",
        "session.idle_ttl = \"5m\" in ./sekisho.toml, line 2: expected at least 15m",
    ),
    (
        "[session]\nabsolute_ttl = '5m'",
        "session.absolute_ttl = \"5m\" in ./sekisho.toml, line 2: expected at least 15m",
    ),
    // B7: the pooler.
    ("[database]\npooling = 'statement'", "expected one of session, transaction"),
    (
        "[database]\nurl = 'postgres://u:p@h/d'\nlisten_url = 'sqlite://x'",
        "database.listen_url in ./sekisho.toml, line 3: expected postgres://",
    ),
    ("[database]\nlisten_url = 'postgres://h/d'", "database.listen_url in ./sekisho.toml, line 2: expected"),
    ("[database]\nmax_connections = 1", "expected a whole number from 2 to 10000"),
    (
        "[session]\nmax_per_user = 0",
        "session.max_per_user = 0 in ./sekisho.toml, line 2: expected a whole number from 1 to",
    ),
    ("[session]\nmax_per_user = -1", "session.max_per_user = -1"),
    ("[session]\nmax_per_user = 99999999999999999999999", "is not"),
    ("[session]\nmax_per_user = 4294967297", "session.max_per_user = 4294967297"),
    ("[session]\non_store_loss = 'panic'", "expected one of serve, refuse"),
    (
        "[session]\nkeep_ended = '10m'",
        "session.keep_ended = \"10m\" in ./sekisho.toml, line 2: expected at least 18m",
    ),
    // audit
    ("[audit]\nkeep = '1h'", "expected a duration such as 90s, 15m or 14d, from 1d to 10 years"),
    ("[audit]\nkeep = true", "or \"forever\""),
    // cookies
    ("[cookies]\nsame_site = 'Lax'", "expected one of lax, strict, none (did you mean lax?)"),
    ("[cookies]\nsame_site = 'none'\nsecure = false", "browsers reject it without Secure"),
    (
        "[cookies]\npartitioned = true",
        "cookies.partitioned = true in ./sekisho.toml, line 2: only cookies with SameSite=None are sent",
    ),
    (
        "[cookies]\npartitioned = true\nsame_site = 'none'\nsecure = false",
        "browsers reject it without Secure",
    ),
    (
        "[cookies]\nsecure = false\naccess_name = '__Host-a'",
        "cookies.access_name = \"__Host-a\" in ./sekisho.toml, line 3: the prefix requires Secure",
    ),
    ("[cookies]\nsecure = false\nrefresh_name = '__secure-a'", "the prefix requires Secure"),
    ("[cookies]\naccess_name = 'a b'", "cookies.access_name = \"a b\""),
    ("[cookies]\naccess_name = ''", "cookies.access_name = \"\""),
    ("[cookies]\naccess_name = 'a=b'", "expected a cookie name"),
    ("[cookies]\naccess_name = 'a'\nrefresh_name = 'a'", "expected another name than cookies.access_name"),
    (
        "[cookies]\nsecure = false\n[server]\nlisten = '0.0.0.0:80'\npublic_origin = 'http://localhost'",
        "cookies.secure = false in ./sekisho.toml, line 2: server.listen = 0.0.0.0:80 is not a loopback address",
    ),
    (
        "[cookies]\nsecure = false\n[server]\npublic_origin = 'https://a.example'",
        "server.public_origin is not a loopback address",
    ),
    // login
    (
        "[login]\nbcrypt_cost = 17",
        "login.bcrypt_cost = 17 in ./sekisho.toml, line 2: expected a whole number from 4 to 16",
    ),
    ("[login]\nbcrypt_cost = 3", "login.bcrypt_cost = 3"),
    ("[login]\nbcrypt_cost = 'twelve'", "expected a whole number"),
    ("[login]\nbcrypt_cost = 12.0", "expected a whole number"),
    (
        "[login]\nbcrypt_cost = 9\n[server]\nlisten = '0.0.0.0:80'\npublic_origin = 'https://a.example'",
        "expected a whole number from 10 to 16",
    ),
    ("[login]\nregistration = true", "login.registration = true in ./sekisho.toml, line 2: expected text"),
    ("[login]\npassword_min_length = 7", "expected a whole number from 8"),
    ("[log]\nformat = 'jsno'", "log.format = \"jsno\" in ./sekisho.toml, line 2: expected one of text, json"),
    ("[log]\naccess = 'no'", "log.access = \"no\" in ./sekisho.toml, line 2: expected true or false"),
    ("[otlp]\nendpoint = 'https://collector.example'", "line 2: expected http://"),
    ("[otlp]\nendpoint = 'collector:4318'", "otlp.endpoint"),
    ("[otlp]\nsample = 1.5", "otlp.sample = 1.5 in ./sekisho.toml, line 2: expected a number from 0 to 1"),
];

/// Rejected values of a route. `path` and `upstreams` are added unless the case has them.
const BAD_ROUTES: &[(&str, &str)] = &[
    ("path = 'api'", "routes.path = \"api\" in ./sekisho.toml, line 2: expected a path such as /api"),
    ("path = '/a%2fb'", "encoded slashes"),
    ("path = '/auth'", "the built-in /auth hides this route"),
    ("path = '/auth/sessions'", "the built-in /auth hides this route"),
    ("path = '/%61uth/x'", "the built-in /auth hides this route"),
    ("path = '/.well-known/jwks.json'", "disable the built-in one in server.builtin"),
    ("upstreams = []", "expected at least one"),
    ("upstreams = 'http://h:1'", "expected a list of texts"),
    ("upstreams = ['h:1']", "\"h:1\": expected http://HOST:PORT or https://HOST:PORT"),
    (
        "upstreams = ['http://h:1/base']",
        "routes.upstreams in ./sekisho.toml, line 2: \"http://h:1/base\": expected",
    ),
    ("upstreams = ['https://h:1/base']", "without a path"),
    ("upstreams = ['https://h:1?q']", "without a path"),
    ("upstreams = ['http://u:hunter2@h:1']", "line 2: (not shown: it may hold a password)"),
    ("upstreams = ['https://u:hunter2@h:1']", "line 2: (not shown: it may hold a password)"),
    ("upstreams = ['unix:app.sock']", "\"unix:app.sock\": expected unix: and the absolute path of a socket"),
    ("upstreams = ['unix:/run/app.sock:/api']", "such as unix:/run/app.sock"),
    ("upstreams = ['unix:/a', 'unix:///a']", "unix:/a is listed twice"),
    ("upstream_http = '3'", "expected one of 1.1, 2"),
    ("header_case = 'titel'", "expected one of lower, title (did you mean title?)"),
    ("upstream_ca = '/nonexistent.pem'", "cannot read /nonexistent.pem"),
    ("upstream_ca = 'Cargo.toml'", "expected a file of PEM certificates"),
    ("upstream_server_name = 'a b'", "expected a host name such as app.internal, or an IP address"),
    ("upstream_server_name = 'app.internal'", "no upstream of the route is https: remove the key or change"),
    ("upstream_client_certificate = '/c'", "routes.upstream_client_key is missing: TLS needs both"),
    ("upstream_client_key = '/k'", "routes.upstream_client_certificate is missing: TLS needs both"),
    (
        "upstream_client_key = '/k'\nupstream_client_certificate = '/c'",
        "cannot read /c (routes.upstream_client_cert",
    ),
    (
        "upstream_client_key = '/k'\nupstream_client_certificate = 'Cargo.toml'",
        "expected a file of PEM certificates",
    ),
    ("health_path = 'healthz'", "expected a path such as /healthz"),
    ("health_path = '/a b'", "expected a path"),
    ("health_interval = '5s'", "it has no effect without routes.health_path"),
    ("health_interval = '0s'\nhealth_path = '/'", "expected a duration"),
    ("eject_after = 0", "expected a whole number from 1 to 1000"),
    ("eject_for = 10", "expected a duration"),
    ("slow_start = 'soon'", "expected a duration"),
    ("max_in_flight = 0", "expected a whole number from 1"),
    ("max_queued = -1", "expected a whole number from 0"),
    ("queue_timeout = '0s'", "expected a duration"),
    ("upstreams = ['http://h:1', 'http://H:1']", "http://h:1 is listed twice"),
    ("auth = 'yes'", "expected one of required, optional, none"),
    ("roles = ['a,b']", "\"a,b\": expected a role"),
    ("roles = ['admin']\nauth = 'optional'", "roles require a user"),
    ("methods = []", "expected at least one method; remove the key"),
    ("methods = ['get']", "\"get\": expected a method in capitals"),
    ("methods = ['GET POST']", "\"GET POST\": expected a method in capitals"),
    ("methods = ['']", "\"\": expected a method in capitals"),
    ("methods = ['TRACE']", "\"TRACE\": this method is never forwarded"),
    ("methods = ['GET', 'CONNECT']", "\"CONNECT\": this method is never forwarded"),
    ("methods = ['GET', 'GET']", "GET is listed twice"),
    ("methods = 'GET'", "expected a list of texts"),
    ("preflight = 'pas'", "expected one of session, pass (did you mean pass?)"),
    ("preflight = 'pass'\nauth = 'none'", "forwarded without a session: remove the key"),
    ("strip_prefix = '/api'", "expected true or false"),
    (
        "identity = 'x-forward'",
        "routes.identity = \"x-forward\" in ./sekisho.toml, line 2: expected one of x-forwarded, x-auth-request, remote, none (did you mean x-forwarded?)",
    ),
    ("identity = true", "or header names for user, email and groups"),
    (
        "identity = { name = 'X-Name' }",
        "name: expected x-forwarded, x-auth-request, remote or none, or header names",
    ),
    ("identity = { user = 'X User' }", "user: expected a header name such as X-Api-Key"),
    ("identity = { user = 7 }", "or header names for user"),
    ("remove_request_headers = ['X:Y']", "\"X:Y\": expected a header name"),
    ("remove_response_headers = 'Server'", "expected a list of texts"),
    ("set_request_headers = { X-Key = { file = '/dev/null' } }", "X-Key: the file is empty"),
    (
        "set_request_headers = { X-Key = { file = '/nonexistent' } }",
        "cannot read /nonexistent (routes.set_request_headers.X-Key)",
    ),
    ("set_request_headers = { X-Key = { path = '/dev/null' } }", "X-Key: expected headers and values"),
    ("bearer = 'reports'", "could issue sessions: set tokens.algorithm to ES256 or EdDSA"),
    ("bearer = 'sekisho'", "choose another audience"),
    ("bearer = ''", "expected 1 to 255"),
    ("bearer = 'reports'\nauth = 'none'", "there is no user to issue a token for"),
    ("bearer = 'reports'\npass_authorization = true", "keep one of them"),
    ("encoded_slash = 'decode'", "expected one of pass, refuse"),
    ("get_body = 'ignore'", "expected one of pass, refuse"),
    ("connect_timeout = '0s'", "routes.connect_timeout = \"0s\" in ./sekisho.toml"),
    ("first_byte_timeout = 60", "expected a duration"),
    ("idle_timeout = 'never'", "expected a duration"),
    ("max_body = 0", "remove the key for no limit"),
    ("max_body = '2 lots'", "expected a size such as"),
    ("max_body = '-1MiB'", "expected a size such as"),
    ("max_body = '99999EiB'", "expected a size such as"),
    ("buffer_request = '2MiB'", "expected a size up to 1MiB, such as 64KiB, or 0 to stream all bodies"),
    ("buffer_request = 'on'", "expected a size up to 1MiB"),
    ("upgrades = 'websocket'", "expected"),
    ("upgrades = ['websocket', 'H2C']", "\"H2C\": requests inside this protocol would bypass all checks"),
    ("upgrades = ['HTTP/2.0']", "requests inside this protocol"),
    ("upgrades = ['TLS/1.0']", "requests inside this protocol"),
    ("upgrades = ['a b']", "expected a protocol such as websocket"),
    ("upgrades = ['']", "expected a protocol such as websocket"),
    ("tunnel_idle_timeout = '0s'", "routes.tunnel_idle_timeout"),
];

#[test]
fn invalid_values_are_rejected() {
    for (text, part) in BAD {
        let fixture = file(text);
        if part == &"is not" {
            // Beyond the range of TOML integers.
            assert!(fixture.load().is_err());
            continue;
        }
        let error = fixture.error();
        assert!(error.contains(part) && !error.contains('\n'), "{text}\n  says: {error}\n  not: {part}");
    }
}

#[test]
fn invalid_routes_are_rejected() {
    for (text, part) in BAD_ROUTES {
        let mut table = format!("[[routes]]\n{text}");
        for (key, line) in [("path", "\npath = '/api'"), ("upstreams", "\nupstreams = ['http://h:1']")] {
            if !text.starts_with(key) {
                table.push_str(line);
            }
        }
        let error = file(&table).error();
        assert!(error.contains(part) && !error.contains('\n'), "{text}\n  says: {error}\n  not: {part}");
    }
}

#[test]
fn route_requires_unique_path_and_upstreams() {
    assert!(
        file("[[routes]]\npath = '/'")
            .error()
            .starts_with("routes.upstreams is required: the route in ./sekisho.toml, line 2")
    );
    assert!(file("[[routes]]\nupstreams = ['http://h']").error().starts_with("routes.path is required"));
    assert!(file("[[routes]]").error().starts_with("routes.path is required"));
    let route = "[[routes]]\npath = '/a'\nupstreams = ['http://h']\n";
    let error = file(&format!("{route}{route}")).error();
    assert!(
        error.starts_with("routes.path = \"/a\" in ./sekisho.toml, line 5: another route has the same path"),
        "{error}"
    );
}

#[test]
fn disabled_builtin_paths_may_be_routes() {
    let route = "[[routes]]\npath = '/movies/x'\nupstreams = ['http://h']\n";
    assert!(file(route).load().is_ok(), "with routes, auth alone is built in");
    let error = file(&format!("[server]\nbuiltin = ['movies']\n[pages]\nsign_in = 'off'\n{route}")).error();
    assert!(error.contains("the built-in /movies hides this route"), "{error}");
    for path in ["/", "/movie", "/moviesx", "/authx"] {
        let text = format!(
            "[server]\nbuiltin = ['auth', 'token', 'movies', 'docs']\n[[routes]]\npath = '{path}'\nupstreams = ['http://h']"
        );
        assert!(file(&text).load().is_ok(), "{path}");
    }
    let moved = "[server]\nauth_prefix = '/_sekisho'\n[[routes]]\npath = '/auth'\nupstreams = ['http://h']";
    assert!(file(moved).load().is_ok());
}

#[test]
fn suspicious_settings_cause_warnings() {
    for (text, part) in [
        ("[session]\ngrace = '44s'", "session.grace is below 45s"),
        ("[session]\nabsolute_ttl = '1d'", "session.absolute_ttl is shorter than session.idle_ttl"),
        ("[login]\nbcrypt_cost = 4", "login.bcrypt_cost is below 10"),
        ("[tokens]\nkey_activation = '5s'", "tokens.key_activation is below 20s"),
        ("[server]\ntrusted_proxies = ['0.0.0.0/0']", "server.trusted_proxies contains every address"),
        // C9: who relied on `Forwarded` is told.
        ("[server]\ntrusted_proxies = ['10.0.0.1']", "list Forwarded and each other header"),
        ("[server]\nmax_header_bytes = '1MiB'\nmax_uri = '64KiB'", "server.max_uri: URIs over 64KiB"),
        (
            "[[routes]]\npath = '/'\nupstreams = ['http://h']\nroles = ['amdin']",
            "contains amdin, a role that no user can have: there are admin and user",
        ),
    ] {
        let warnings = file(text).load().unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(part), "{warnings:?}");
    }
    assert!(file("[session]\ngrace = '45s'").load().unwrap().warnings.is_empty());
    for headers in ["['x-forwarded-for']", "['Forwarded', 'X-Real-IP']", "[]"] {
        let text = format!("[server]\ntrusted_proxies = ['10.0.0.1']\nforwarded_headers = {headers}");
        assert!(file(&text).load().unwrap().warnings.is_empty(), "{headers}");
    }
}

#[test]
fn loopback_listener_has_a_default_public_origin() {
    for (listen, origin) in [
        ("localhost:8080", Some("http://localhost:8080")),
        ("127.0.0.1:80", Some("http://127.0.0.1")),
        ("[::1]:8080", Some("http://[::1]:8080")),
        ("127.0.0.1:0", None),
    ] {
        let server = ConfigFixture::new().flag("server.listen", listen).config().server;
        assert_eq!(server.public_origin.as_ref().map(|origin| origin.as_str()), origin, "{listen}");
        let expected = origin.unwrap_or("http://127.0.0.1:5000");
        assert_eq!(server.public_origin_at(Some(5000)).unwrap().as_str(), expected);
    }
}

#[test]
fn public_listener_may_be_a_unix_socket() {
    let text =
        "[server]\nlisten = 'unix:///run/s'\npublic_origin = 'https://a.example'\nproxy_protocol = true";
    let server = file(text).config().server;
    assert_eq!(server.listen.to_string(), "unix:/run/s");
    assert!(server.listen.unix_socket().is_some() && server.proxy_protocol);
    assert_eq!((server.listen.port(), server.socket_mode), (None, 0o660));
    assert_eq!(server.public_origin_at(None).unwrap().as_str(), "https://a.example");
}

#[test]
fn insecure_cookies_have_unprefixed_names() {
    let cookies = file("[cookies]\nsecure = false").config().cookies;
    assert_eq!(
        (cookies.access_name.as_str(), cookies.refresh_name.as_str()),
        ("access_token", "refresh_token")
    );
    let cookies = file("[cookies]\nsame_site = 'strict'\naccess_name = '__Secure-a'").config().cookies;
    assert_eq!((cookies.access_name.as_str(), cookies.same_site), ("__Secure-a", SameSite::Strict));
}

#[test]
fn verify_listener_settings() {
    let text = "[server]\ntrusted_proxies = ['10.1.2.3', '::1/128']\n[verify]\nlisten = '10.0.0.1:9091'\nsource = 'x-original'";
    let config = file(text).config();
    let verify = config.verify.unwrap();
    assert_eq!(
        (verify.listen.to_string().as_str(), verify.source),
        ("10.0.0.1:9091", OriginalRequestSource::XOriginal)
    );
    let proxies: Vec<_> = config.server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.1.2.3/32", "::1/128"]);
    assert!(file(text).env("SEKISHO_VERIFY__LISTEN", "off").config().verify.is_none());
}

#[test]
fn route_with_every_key() {
    let text = "[tokens]\nalgorithm = 'EdDSA'\n[[routes]]\npath = '/api'\nupstreams = ['http://a:1', 'http://b:1']\n\
                auth = 'optional'\nstrip_prefix = true\nbearer = 'reports'\nencoded_slash = 'pass'\n\
                connect_timeout = '250ms'\nmax_body = '2MiB'\nupgrades = ['WebSocket', 'shout']";
    let config = file(text).config();
    let route = &config.routes[0].spec;
    assert_eq!(config.routes[0].auth, RouteAuth::Optional);
    assert!(route.encoded_slash && route.strip_prefix);
    assert_eq!((route.token_audience.as_deref(), route.max_body), (Some("reports"), Some(2 * 1024 * 1024)));
    assert_eq!(route.connect_timeout, Duration::from_millis(250));
    assert_eq!(route.upgrades, ["websocket", "shout"]);
    assert_eq!(route.upstreams.len(), 2);
}

#[test]
fn client_certificate_and_key_belong_together() {
    let make = || rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
    let (made, other) = (make(), make());
    let load = |urls: &str, key: &str| {
        let fixture = ConfigFixture::new().write("client.pem", &made.cert.pem()).write("client.key", key);
        fs::set_permissions(fixture.path("client.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "[[routes]]\npath = '/'\nupstreams = {urls}\nupstream_server_name = 'app.internal'\n\
             upstream_client_certificate = '{}'\nupstream_client_key = '{}'",
            fixture.path("client.pem").display(),
            fixture.path("client.key").display()
        );
        fixture.file(&text)
    };
    let pem = made.signing_key.serialize_pem();
    let loaded = load("['https://h']", &pem).load().unwrap();
    let UpstreamSettings { server_name, client_certificate, .. } =
        &loaded.config.routes[0].spec.upstream_settings;
    assert_eq!(server_name.as_deref(), Some("app.internal"));
    assert!(client_certificate.is_some() && loaded.warnings.is_empty());
    assert!(!format!("{client_certificate:?}").contains("key"), "the key is secret");
    for (urls, key, part) in [
        (
            "['https://h']",
            &*other.signing_key.serialize_pem(),
            "line 6: it does not fit routes.upstream_client_certificate: ",
        ),
        ("['https://h']", "x", "line 6: expected a file with an unencrypted private key in PEM"),
        ("['unix:/a']", &pem, "line 4: no upstream of the route is https"),
    ] {
        let error = load(urls, key).error();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn https_upstreams_may_have_their_own_ca() {
    let made = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
    let upstreams = |urls: &str| {
        let fixture = ConfigFixture::new().write("ca.pem", &made.cert.pem());
        let ca = fixture.path("ca.pem");
        let route = format!(
            "[[routes]]\npath = '/api'\nupstream_ca = '{}'\nupstream_http = '2'\nhealth_path = '/h?q'",
            ca.display()
        );
        fixture.file(&format!("{route}\nupstreams = [{urls}]"))
    };
    let config = upstreams("'https://h'").config();
    let UpstreamSettings { ca, http, health, .. } = &config.routes[0].spec.upstream_settings;
    assert_eq!((ca.as_deref(), *http), (Some(&[made.cert.der().clone()][..]), UpstreamHttp::Http2));
    let expected = HealthCheck { path: "/h?q".parse().unwrap(), interval: Duration::from_secs(5) };
    assert_eq!(health.as_ref(), Some(&expected));
    let error = upstreams("'http://h'").error();
    assert!(error.contains("line 3: no upstream of the route is https"), "{error}");
}

proptest::proptest! {
    #![proptest_config(crate::test_seed::proptest_config())]

    #[test]
    fn arbitrary_text_never_panics_and_errors_are_one_line(
        key in proptest::sample::select(KEYS.as_slice()),
        value in proptest::prop_oneof!["\\PC{0,40}", "[0-9]{1,25}[smhdKMGTi]{0,3}", "[\\[\\]\"',a-z0-9./:-]{0,30}"],
        text in "\\[\\[?[a-z]{0,7}\\]?\\]\n([a-z_.]{0,9} ?= ?[\\[\\]'\"a-z0-9:/.-]{0,12}\n){0,3}",
    ) {
        for fixture in [ConfigFixture::new().flag(key, &value), file(&text)] {
            if let Err(error) = fixture.load() {
                proptest::prop_assert!(!error.to_string().contains('\n'), "{}", error);
            }
        }
    }
}
