//! Errors of the configuration: what is refused, and how the messages help.

use std::fs;

use sekisho::config::ConfigError;

use super::{ConfigFixture, file};

/// Returns the messages of all errors.
fn errors(fixture: &ConfigFixture) -> Vec<String> {
    fixture.load().map(|_| ()).unwrap_err().all().iter().map(ConfigError::to_string).collect()
}

fn route(lines: &str) -> ConfigFixture {
    file(&format!("[[routes]]\n{lines}\nupstreams = ['http://h']"))
}

/// D1: `/api/*` matched a literal `*` alone, so that `/api/secret` was open.
#[test]
fn patterns_in_paths_are_refused_with_the_prefix_to_write() {
    for (path, prefix) in [
        ("/api/*", "/api"),
        ("/api/**", "/api"),
        ("/api/{id}", "/api"),
        ("/api/:id", "/api"),
        ("^/api", "/api"),
        ("/api$", "/api"),
        ("/api?", "/api"),
        ("/api/(a|b)", "/api"),
        ("/api/[0-9]+", "/api"),
        ("/api/<id>", "/api"),
        ("*", "/"),
    ] {
        let expected =
            format!("a path is a prefix, not a pattern: write {prefix}, which matches all paths below");
        for (fixture, key) in [
            (route(&format!("path = '{path}'")), "routes.path"),
            (file(&format!("[server]\nauth_prefix = '{path}'")), "server.auth_prefix"),
        ] {
            let error = fixture.error();
            assert!(
                error.starts_with(&format!("{key} = \"{path}\" in")) && error.contains(&expected),
                "{error}"
            );
        }
    }
    // A literal character is percent-encoded.
    assert_eq!(route("path = '/a%2Ab'").config().routes[0].path.as_str(), "/a%2Ab");
}

/// D1: a trailing slash makes no difference.
#[test]
fn trailing_slash_of_a_path_is_removed() {
    let config = route("path = '/api/'").config();
    assert_eq!((config.routes[0].path.as_str(), config.routes[0].spec.path.as_str()), ("/api", "/api"));
    assert_eq!(file("[server]\nauth_prefix = '/sign/'").config().server.auth_prefix.as_str(), "/sign");
    let twice = "[[routes]]\npath = '/api/'\nupstreams = ['http://h']\n[[routes]]\npath = '/api'\nupstreams = ['http://h']";
    assert!(file(twice).error().contains("another route has the same path"));
    assert!(route("path = '/auth/'").error().contains("the built-in /auth hides this route"));
    for path in ["/api//", "//"] {
        assert!(
            route(&format!("path = '{path}'")).error().contains("expected a path such as /api"),
            "{path}"
        );
    }
}

/// Browsers limit name and value together to 4,096 bytes, and dropped cookies with a long name and a long token.
#[test]
fn long_cookie_names_are_refused_with_the_limit() {
    let [longest, longer] = ["a".repeat(64), "a".repeat(65)];
    let cookies = file(&format!("[cookies]\naccess_name = '{longest}'")).config().cookies;
    assert_eq!(cookies.access_name, longest);
    for key in ["access_name", "refresh_name"] {
        let error = file(&format!("[cookies]\n{key} = '{longer}'")).error();
        let expected = format!(
            "cookies.{key} = \"{longer}\" in ./sekisho.toml, line 2: the name has 65 bytes, but at most 64"
        );
        assert!(error.starts_with(&expected) && error.ends_with("choose a shorter one"), "{error}");
    }
}

/// D5: `check-config` accepted URLs that `serve` refused.
#[test]
fn database_urls_that_cannot_be_opened_are_refused() {
    for (url, problem) in [
        ("sqlite://data/x.db?mode=rwc", "without ?, # or %"),
        ("sqlite::memory:", "a database in memory ends with the process"),
        ("sqlite://a%20b.db", "without ?, # or %"),
        ("sqlite://data/", "expected the path of a file"),
        ("postgres://h/db?sslmode=bogus", "the parameter sslmode is invalid: expected disable, allow"),
        ("postgres://h/db?sslmod=require", "the parameter sslmod is not supported: did you mean sslmode?"),
        (
            "postgres://h/db?channel_binding=require",
            "the parameter channel_binding is not supported: remove it",
        ),
        ("postgres://h/db?port=x", "the parameter port is invalid"),
        (
            "postgres://h/db?sslrootcert=/nonexistent.pem",
            "cannot read /nonexistent.pem of the parameter sslrootcert",
        ),
        ("postgres://a,b/db", "expected one host"),
        ("postgres://u:p#w@h/db", "special characters in a password percent-encoded"),
    ] {
        let error = ConfigFixture::new().env("SEKISHO_DATABASE__URL", url).error();
        assert!(error.starts_with("database.url from SEKISHO_DATABASE__URL: "), "{error}");
        assert!(error.contains(problem), "{url}: {error}");
        let postgres = "postgres://h/db";
        let listen = ConfigFixture::new().env("SEKISHO_DATABASE__URL", postgres);
        let error = listen.env("SEKISHO_DATABASE__LISTEN_URL", url).error();
        assert!(
            error.starts_with("database.listen_url from SEKISHO_DATABASE__LISTEN_URL: "),
            "{url}: {error}"
        );
    }
}

/// D7: the driver logged the values of parameters that it does not know.
#[test]
fn parameters_without_effect_are_warnings_without_their_value() {
    let url = "postgres://u@h/db?sslpassword=hunter2&connect_timeout=10";
    let warnings = ConfigFixture::new().env("SEKISHO_DATABASE__URL", url).load().unwrap().warnings;
    let expected = ["sslpassword", "connect_timeout"];
    assert_eq!(warnings, expected.map(|name| format!("database.url: the parameter {name} has no effect")));
}

/// D6: an IPv4-mapped network was accepted and matched no peer.
#[test]
fn ipv4_mapped_networks_are_ipv4_networks() {
    let text = |networks: &str| format!("[server]\ntrusted_proxies = [{networks}]");
    let networks =
        "'::ffff:10.0.0.1', '::ffff:10.0.0.0/104', '::ffff:a00:1/128', '10.1.0.0/16', '2001:db8::/32', '::1'";
    let proxies = file(&text(networks)).config().server.trusted_proxies;
    let proxies: Vec<_> = proxies.iter().map(ToString::to_string).collect();
    assert_eq!(
        proxies,
        ["10.0.0.1/32", "10.0.0.0/8", "10.0.0.1/32", "10.1.0.0/16", "2001:db8::/32", "::1/128"]
    );
    let error = file(&text("'::ffff:10.0.0.0/80'")).error();
    assert!(error.contains("expected an IPv4 network, such as 10.0.0.0/32"), "{error}");
    let warnings = file(&text("'::ffff:0:0/96'")).load().unwrap().warnings;
    assert!(warnings[0].contains("contains every address"), "{warnings:?}");
    let listen = file("[server]\nlisten = '[::ffff:127.0.0.1]:8080'\n[cookies]\nsecure = false").config();
    assert_eq!(listen.server.listen.to_string(), "127.0.0.1:8080");
    let conflict = file("[admin]\nlisten = '[::ffff:127.0.0.1]:8080'").error();
    assert!(conflict.contains("conflicts with server.listen"), "{conflict}");
}

/// D8: "invalid float, expected nothing".
#[test]
fn messages_about_toml_say_what_to_write() {
    for (value, problem) in [
        ("127.0.0.1:80", "text needs quotes: listen = \"…\""),
        ("localhost", "text needs quotes: listen = \"…\""),
        ("15m", "text needs quotes: listen = \"…\""),
        ("/run/x # comment", "text needs quotes: listen = \"…\""),
        ("True", "expected true or false, in lower case"),
        ("FALSE # comment", "expected true or false, in lower case"),
        ("“a:1”", "expected straight quotes: listen = \"…\""),
        ("", "expected a value after listen ="),
    ] {
        let error = file(&format!("[server]\nlisten = {value}\nthreads = 2\n")).error();
        assert_eq!(error, format!("./sekisho.toml, line 2: {problem}"), "{value}");
    }
}

/// D8: messages named neither the form nor the remedy.
#[test]
fn messages_say_what_to_write() {
    for (fixture, part) in [
        (file("[tokens]\naccess_ttl = '1s'"), "from 2s to 10 years"),
        (file("[session]\nkeep_ended = '10m'"), "expected at least 18m 5s, the sum of tokens.access_ttl"),
        (
            file("[server]\npublic_origin = 'https://bücher.example'"),
            "expected a host name in ASCII, as browsers send it: write https://xn--bcher-kva.example",
        ),
        (file("[server]\nallowed_origins = ['https://日本語.jp']"), "write https://xn--wgv71a119e.jp"),
        (file("[[routes]]\npath = '/'\nupstreams = ['http://bücher:80']"), "write http://xn--bcher-kva"),
        (
            ConfigFixture::new().env("SEKISHO_SERVER__ALLOWED_ORIGINS", "https://a.example"),
            r#"expected a list of texts, in single quotes in a shell: '["one", "two"]'"#,
        ),
    ] {
        let error = fixture.error();
        assert!(error.contains(part), "{error}");
    }
    assert!(file("[audit]\nkeep = '10 years'").load().is_ok());
}

/// D8: raw bytes as a secret.
#[test]
fn secret_of_raw_bytes_is_refused_with_the_remedy() {
    let fixture = ConfigFixture::new();
    fs::write(fixture.path("secret"), [0xff; 32]).unwrap();
    let path = fixture.path("secret").display().to_string();
    let fixture = fixture.env("SEKISHO_TOKENS__SECRET_FILE", &path);
    let Err(ConfigError::Unreadable { source, .. }) = fixture.load() else { panic!("not refused") };
    assert!(source.to_string().ends_with("`openssl rand -base64 32` does"), "{source}");
}

/// D14: errors were named one at a time.
#[test]
fn all_errors_are_reported_in_the_order_of_their_lines() {
    let text = "[server]
lisen = 'x'
listen = 127.0.0.1:80
threads = 0
allowed_origins = ['*']
[tokens]
access_ttl = 'soon'
[session]
grace = '8m'
max_per_user = 0
[colour]
red = 1
[[routes]]
path = '/api/*'
upstreams = ['h']
auth = 'yes'
[[routes]]
pth = '/x'
max_body = 0
[[routes]]
path = '/y'
upstreams = ['http://h']
upstream_ca = '/nonexistent.pem'
";
    let found = errors(&file(text).env("SEKISHO_LOG__FORMAT", "xml").env("SEKISHO_ROUTES__PATH", "/"));
    let expected = [
        "routes.path from SEKISHO_ROUTES__PATH: ",
        "log.format = \"xml\" from SEKISHO_LOG__FORMAT: ",
        "routes.upstreams is required: the route in ",
        "cannot read /nonexistent.pem (routes.upstream_ca)",
        "unknown key server.lisen in ",
        "LINE 3: text needs quotes",
        "server.threads = 0 in ",
        "server.allowed_origins in ",
        "tokens.access_ttl = \"soon\" in ",
        "session.max_per_user = 0 in ",
        "unknown key colour.red in ",
        "routes.path = \"/api/*\" in ",
        "routes.upstreams in ",
        "routes.auth = \"yes\" in ",
        "unknown key routes.pth in ",
        "routes.max_body = 0 in ",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (error, start) in found.iter().zip(expected) {
        match start.strip_prefix("LINE ") {
            Some(end) => assert!(error.contains(&format!("line {end}")), "{error}"),
            None => assert!(error.starts_with(start), "{error}, not {start}"),
        }
    }
    // As one, for the log.
    let error = file(text).error();
    assert!(!error.contains('\n') && error.contains("; unknown key colour.red in"), "{error}");
}

/// D14: an error that only follows from another one would mislead.
#[test]
fn consequences_of_an_error_are_left_out() {
    for (text, count) in [
        ("[tokens]\naccess_ttl = '1hour x'\n[session]\ngrace = '10m'", 1),
        ("[tokens]\nalgorithm = 'ES255'\n[[routes]]\npath = '/'\nupstreams = ['http://h']\nbearer = 'x'", 1),
        ("[server]\nlisten = 0.0.0.0:80\n[cookies]\nsecure = true", 1),
        ("[[routes]]\npath = '/'\nupstreams = [http://h]", 1),
        ("[[routes]]\nupstream = ['http://h']\npath = '/'", 1),
        ("[[routes]]\nhealth_path = 'x'\nhealth_interval = '5s'\npath = '/'\nupstreams = ['http://h']", 1),
        ("[[routes]]", 1),
        ("[[routes]]\nroles = ['a']", 2),
        ("[database]\nurl = 'postgres://h/d?port=x'\nlisten_url = 'postgres://h/d'", 1),
        ("[server]\npublic_origin = 'x'\nlisten = '0.0.0.0:80'", 1),
    ] {
        let found = errors(&file(text));
        assert_eq!(found.len(), count, "{text}\n{found:#?}");
    }
}

/// D14: what follows a broken line is still checked, unless the structure of the file is unknown.
#[test]
fn errors_after_a_broken_line_are_reported() {
    let found = errors(&file("[log]\nformat = xml\naccess = 'no'\n[tokens]\nissuer = ''\n"));
    assert_eq!(found.len(), 3, "{found:#?}");
    let found = errors(&file("[log]\naccess = 'no'\n[tokens\nissuer = ''\n"));
    assert!(found.len() == 1 && found[0].contains("line 3: "), "{found:#?}");
    let found = errors(&file("[[routes]]\npath = '/'\nupstreams = [http://a,\n  'http://b']\n"));
    assert!(found.len() == 1 && found[0].contains("line 3: "), "{found:#?}");
}
