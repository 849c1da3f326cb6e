//! The command line: exit codes and output.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::thread;

use tempfile::TempDir;

/// The program in an empty directory with an empty environment.
struct CliFixture {
    dir: TempDir,
    env: Vec<(&'static str, String)>,
}

struct CommandOutput {
    code: Option<i32>,
    out: String,
    err: String,
}

impl CliFixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), env: Vec::new() }
    }

    fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.dir.path().join(name), text).unwrap();
        self
    }

    fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sekisho"));
        command.args(args).current_dir(self.dir.path()).env_clear().stdin(Stdio::null());
        command.envs(self.env.iter().map(|(name, value)| (*name, value)));
        command
    }

    fn run(&self, args: &[&str]) -> CommandOutput {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        CommandOutput { code: status.code(), out: text(stdout), err: text(stderr) }
    }
}

impl CommandOutput {
    /// Checks for a failure with `code` and a single line on standard error, and returns that line.
    fn fails(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        assert_eq!(self.out, "");
        let line = self.err.strip_prefix("sekisho: ").and_then(|line| line.strip_suffix('\n'));
        let line = line.unwrap_or_else(|| panic!("expected one line: {:?}", self.err));
        assert!(!line.contains(['\n', '\x1b']), "{line:?}");
        line
    }
}

#[test]
fn help_lists_every_command() {
    let help = CliFixture::new().run(&["--help"]);
    assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
    insta::assert_snapshot!(help.out, @r"
    A gateway that keeps browser users signed in

    Usage: sekisho [OPTIONS] <COMMAND>

    Commands:
      serve         Run the gateway
      demo          Run a demo gateway with a sample user and movies
      init          Write a configuration file for an API and a page
      migrate       Create or migrate the database tables
      check-config  Check the configuration
      user          Manage users
      session       Manage sessions
      key           Manage signing keys
      healthcheck   Check whether the running gateway is ready; exit code 0 if so, else 1
      completions   Print a script for the completion of arguments in a shell
      help          Print this message or the help of the given subcommand(s)

    Options:
          --config <FILE>  Read this configuration file [default: ./sekisho.toml, then
                           /etc/sekisho/sekisho.toml]
      -h, --help           Print help
      -V, --version        Print version

    Examples:
      sekisho demo                                start the demo on http://localhost:8080
      sekisho init                                write ./sekisho.toml
      sekisho check-config                        check ./sekisho.toml
      sekisho serve --config /etc/sekisho/sekisho.toml
      sekisho user create --email ada@example.com --role admin

    Settings can also come from the environment: server.listen is SEKISHO_SERVER__LISTEN.
    Exit codes: 0 success, 1 failure, 2 wrong usage, 78 invalid configuration.
    ");
}

#[test]
fn every_command_has_help() {
    for command in [
        "serve",
        "demo",
        "init",
        "migrate",
        "check-config",
        "healthcheck",
        "completions",
        "user create",
        "user list",
        "user passwd",
        "user role",
        "user disable",
        "user enable",
        "user delete",
        "user import",
        "session list",
        "session revoke",
        "key init",
        "key list",
        "key rotate",
        "key retire",
    ] {
        let words: Vec<_> = command.split(' ').chain(["--help"]).collect();
        let help = CliFixture::new().run(&words);
        assert_eq!(help.code, Some(0), "{command}: {}", help.err);
        assert!(help.out.contains(&format!("Usage: sekisho {command}")), "{command}: {}", help.out);
        assert!(help.out.contains("--config <FILE>"), "{command}");
        let usage = help.out.split("Example").next().unwrap();
        assert_eq!(usage.contains("--json"), command.ends_with(" list"), "{command}");
        assert!(help.out.contains("\nExample"), "{command}");
    }
}

#[test]
fn version_is_printed() {
    let version = CliFixture::new().run(&["--version"]);
    assert_eq!(
        (version.code, version.out.as_str()),
        (Some(0), concat!("sekisho ", env!("CARGO_PKG_VERSION"), "\n"))
    );
}

#[test]
fn wrong_usage_exits_with_2_and_one_line() {
    for (args, part) in [
        (&["--colour"][..], "unexpected argument '--colour' found"),
        (
            &["chek-config"],
            "unrecognized subcommand 'chek-config'; a similar subcommand exists: 'check-config'",
        ),
        (&["user", "create"], "the following required arguments were not provided: --email <EMAIL>"),
        (
            &["user", "create", "--email", "invalid"],
            "invalid value 'invalid' for '--email <EMAIL>': expected an e-mail address",
        ),
        (&["user", "role", "ada@example.com", "root"], "expected user or admin"),
        (
            &["serve", "--listen", "8080"],
            "invalid value '8080' for '--listen <HOST:PORT>': expected HOST:PORT",
        ),
        (&["demo", "--listen", "a\nb\x1b[2J"], "expected HOST:PORT"),
        (&["session", "revoke"], "required"),
        (&["session", "revoke", "--all", "--user", "ada@example.com"], "cannot be used with"),
        (&["session", "revoke", "not-an-id"], "expected a session id as shown by `sekisho session list`"),
        (&["session", "explain", "x"], "invalid value 'x' for '<ID>'"),
        (&["key", "retire", "256"], "invalid value '256'"),
        (&["user", "create", "--email", "a@b.c", "--password", "x"], "unexpected argument '--password'"),
    ] {
        let output = CliFixture::new().run(args);
        let line = output.fails(2);
        assert!(line.contains(part), "{args:?}: {line}");
    }
    let output = CliFixture::new().run(&[]);
    assert_eq!((output.code, output.out.as_str()), (Some(2), ""));
    assert!(output.err.contains("Usage: sekisho"), "{}", output.err);
}

#[test]
fn check_config_accepts_a_valid_file() {
    let output = CliFixture::new().run(&["check-config"]);
    assert_eq!((output.code, output.err.as_str()), (Some(0), ""));
    insta::assert_snapshot!(output.out, @r"
    configuration file: none, using defaults and environment
    configuration is valid (nothing was connected to: --connect tries the database)
    ");

    let fixture = CliFixture::new().file("sekisho.toml", "[session]\ngrace = '30s'");
    let output = fixture.run(&["check-config"]);
    assert_eq!((output.code, output.err.as_str()), (Some(0), ""));
    insta::assert_snapshot!(output.out, @r"
    configuration file: ./sekisho.toml
    warning: session.grace is below 45s: browsers write cookies to disk every 30 s, so after a crash a browser may present an old token that counts as stolen
    configuration is valid (nothing was connected to: --connect tries the database)
    ");
}

#[test]
fn invalid_configuration_exits_with_78_and_one_line() {
    let fixture = CliFixture::new().file("sekisho.toml", "[server]\nlisen = '127.0.0.1:80'");
    for args in [&["check-config"][..], &["healthcheck"], &["check-config", "--config", "./sekisho.toml"]] {
        let output = fixture.run(args);
        assert_eq!(
            output.fails(78),
            "unknown key server.lisen in ./sekisho.toml, line 2: did you mean server.listen?"
        );
    }
    let output = CliFixture::new().run(&["--config", "nowhere.toml", "check-config"]);
    assert_eq!(output.fails(78), "cannot read nowhere.toml: No such file or directory (os error 2)");
    // Line breaks and escape sequences in a value are escaped.
    let fixture = CliFixture::new().file("sekisho.toml", "[server]\nlisten = \"a\\n\\u001b[2J\"");
    assert!(fixture.run(&["check-config"]).fails(78).contains("server.listen = \"a\\n\\u{1b}[2J\""));
}

/// D14: errors were named one at a time.
#[test]
fn each_error_of_the_configuration_has_a_line() {
    let route = "[[routes]]\nupstreams = ['http://h']\nremove_request_headers = ['Host']\n";
    let file = format!("{route}path = '/a'\n{route}path = '/b'\n[pages]\nlogo = '/nonexistent.svg'\n");
    let fixture = CliFixture::new().file("sekisho.toml", &file);
    for command in ["check-config", "serve"] {
        let output = fixture.run(&[command]);
        assert_eq!(output.code, Some(78), "{}", output.err);
        let lines: Vec<_> = output.err.lines().collect();
        assert_eq!(lines.len(), 3, "{}", output.err);
        for (line, part) in lines.iter().zip(["line 2: route `/a`", "line 6: route `/b`", "/nonexistent.svg"])
        {
            assert!(line.starts_with("sekisho: ") && line.contains(part), "{line}");
        }
    }
    let fixture =
        CliFixture::new().file("sekisho.toml", "[server]\nlisen = 1\nthreads = 0\n[log]\nformat = 'x'\n");
    for command in [&["check-config"][..], &["serve"], &["user", "list"]] {
        let output = fixture.run(command);
        assert_eq!((output.code, output.err.lines().count()), (Some(78), 3), "{}", output.err);
    }
}

/// D5: `check-config` accepted values of `database.url` that `serve` refused.
#[test]
fn check_config_and_serve_have_one_parser_of_the_database_url() {
    for url in [
        "sqlite://data/x.db?mode=rwc",
        "sqlite::memory:",
        "sqlite://a%20b.db",
        "postgres://ann:hunter2@h/db?sslmode=bogus",
        "postgres://ann:hunter2@h/db?sslmod=require",
    ] {
        let fixture = CliFixture::new().env("SEKISHO_DATABASE__URL", url);
        let checked = fixture.run(&["check-config"]);
        let line = checked.fails(78);
        assert!(line.starts_with("database.url from SEKISHO_DATABASE__URL: "), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
        assert_eq!(fixture.run(&["serve"]).fails(78), line);
    }
}

/// D5: `--connect` tries the database, and changes nothing.
#[test]
fn check_config_connects_on_request() {
    let fixture = CliFixture::new();
    let checked = fixture.run(&["check-config", "--connect"]);
    assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""));
    assert!(checked.out.contains("database: data/sekisho.db does not exist yet"), "{}", checked.out);
    assert!(!fixture.dir.path().join("data").exists());

    assert_eq!(fixture.run(&["migrate"]).code, Some(0));
    let checked = fixture.run(&["check-config", "--connect"]);
    assert!(checked.out.contains("database: connected, its tables are up to date"), "{}", checked.out);
    assert!(checked.out.ends_with("configuration is valid\n"), "{}", checked.out);

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let fixture = CliFixture::new().env("SEKISHO_DATABASE__URL", format!("postgres://ann:hunter2@{free}/db"));
    assert_eq!(fixture.run(&["check-config"]).code, Some(0));
    let checked = fixture.run(&["check-config", "--connect"]);
    let line = checked.fails(1);
    assert!(line.contains("start PostgreSQL, or check host and port in database.url"), "{line}");
}

/// D10: a command that only reads created a second, empty database.
#[test]
fn commands_that_only_read_create_no_database() {
    let id = "0198c0de-0000-4000-8000-000000000000";
    let fixture = CliFixture::new();
    for args in [
        &["session", "list"][..],
        &["session", "list", "--ended", "--json"],
        &["session", "explain", id],
        &["user", "list"],
        &["user", "list", "--json"],
        &["check-config", "--connect"],
    ] {
        let output = fixture.run(args);
        if args[0] != "check-config" {
            let line = output.fails(1);
            assert!(line.starts_with("the database data/sekisho.db does not exist: "), "{args:?}: {line}");
        }
        assert!(!fixture.dir.path().join("data").exists(), "{args:?}");
    }
}

/// D8: "1 bad lines", and an array without a remedy.
#[test]
fn import_errors_say_what_to_write() {
    let hash = "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW";
    let user = format!(r#"{{"email": "ada@example.com", "hashed_password": "{hash}"}}"#);
    let layout = "line 1: expected one object on each line: convert an array with `jq -c '.[]' FILE`";
    for (name, text, first, last) in [
        ("users.json", format!("[{user}]"), layout, "users.json: 1 invalid line, nothing was imported"),
        (
            "users.json",
            format!("[\n{user},\n{user}\n]\n"),
            layout,
            "users.json: 1 invalid line, nothing was imported",
        ),
        ("users", "[]".to_owned(), layout, "users: 1 invalid line, nothing was imported"),
        ("users.jsonl", format!("{{\n{}\n", &user[1..]), layout, "1 invalid line"),
        ("users.csv", "email,hashed_password\na,b\nc,d\n".to_owned(), "line 2: email: ", "2 invalid lines"),
    ] {
        let fixture = CliFixture::new().file(name, &text);
        let output = fixture.run(&["user", "import", name]);
        assert_eq!(output.code, Some(1));
        let lines: Vec<_> = output.err.lines().collect();
        assert!(lines[0].contains(first), "{}", output.err);
        assert!(lines.last().unwrap().contains(last), "{}", output.err);
    }
}

#[test]
fn import_names_the_users_that_exist() {
    let hash = "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW";
    let user = |name: &str, disabled: &str| format!("{name}@example.com,{hash},{disabled}\n");
    let header = "email,hashed_password,disabled\n";
    let first = format!("{header}{}{}{}", user("ada", "1"), user("bob", "f"), user("dan", "False"));
    let second = format!("{header}{}{}{}", user("dan", "0"), user("eve", "t"), user("ada", "TRUE"));
    let fixture = CliFixture::new().file("first.csv", &first).file("second.csv", &second);
    // In another directory than the server's there is no database yet.
    let imported = fixture.run(&["user", "import", "first.csv"]);
    assert_eq!(imported.out, "created the database data/sekisho.db\nimported 3 users\n");
    let output = fixture.run(&["user", "import", "second.csv"]);
    assert_eq!(
        output.fails(1),
        "these users exist already, and nothing was imported: dan@example.com, ada@example.com"
    );
    let listed = fixture.run(&["user", "list", "--json"]).out;
    assert_eq!(listed.matches("\"disabled\": true").count(), 1, "{listed}");
    assert!(!listed.contains("eve@example.com"), "{listed}");
}

#[test]
fn an_unreadable_certificate_is_named_with_the_cause() {
    let tls = "[server]\nlisten = '127.0.0.1:8443'\npublic_origin = 'https://app.example.com'\n\
               tls_certificate = 'missing.pem'\ntls_key = 'key.pem'\n";
    let fixture = CliFixture::new().file("sekisho.toml", tls);
    let line = fixture.run(&["check-config"]).fails(78).to_owned();
    assert!(line.ends_with("cannot read missing.pem: No such file or directory (os error 2)"), "{line}");
}

/// The advice "run `sekisho key rotate`" was repeated after it had been followed.
#[test]
fn a_route_with_bearer_waits_until_the_new_key_signs() {
    let route =
        "[tokens]\nalgorithm = 'ES256'\n[[routes]]\npath = '/'\nupstreams = ['http://h']\nbearer = 'api'\n";
    let fixture = CliFixture::new().file("sekisho.toml", route);
    let hs256 = fixture.file("hs256.toml", "[tokens]\nalgorithm = 'HS256'\n");
    assert_eq!(hs256.run(&["--config", "hs256.toml", "key", "init"]).code, Some(0));
    let line = hs256.run(&["check-config"]).fails(78).to_owned();
    assert!(line.ends_with("set tokens.algorithm and run `sekisho key rotate`"), "{line}");
    let rotated = hs256.run(&["key", "rotate"]);
    assert!(rotated.out.starts_with("added key 2 (ES256)"), "{}", rotated.err);
    let line = hs256.run(&["check-config"]).fails(78).to_owned();
    assert!(line.contains("but the signing key is for HS256: key 2, for ES256, signs from 2"), "{line}");
    assert!(line.ends_with(" UTC: start again then, or without bearer now"), "{line}");
}

/// It set another password for the user of the first, even if it failed because the port was in use.
#[test]
fn a_second_demo_in_the_same_directory_is_refused() {
    let fixture = CliFixture::new();
    let mut first = fixture.command(&["demo", "--listen", "127.0.0.1:0"]);
    let mut first = first.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let banner = BufReader::new(first.stdout.take().unwrap()).lines().map_while(Result::ok).take(6);
    let banner: Vec<_> = banner.collect();
    assert!(banner[5].ends_with("start it again, and you are still signed in"), "{banner:?}");
    let mode = std::fs::metadata(fixture.dir.path().join("data/demo")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "database and keys are the user's");
    for listen in ["0.0.0.0:8080", "127.0.0.1:0"] {
        let second = fixture.run(&["demo", "--listen", listen]);
        assert!(second.fails(1).starts_with("a demo is running in this directory: "), "{}", second.err);
    }
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn init_writes_a_valid_file_and_overwrites_none() {
    let fixture = CliFixture::new();
    let written = fixture.run(&["init"]);
    assert_eq!((written.code, written.err.as_str()), (Some(0), ""));
    assert!(written.out.contains("sekisho check-config --config sekisho.toml"), "{}", written.out);
    let text = std::fs::read_to_string(fixture.dir.path().join("sekisho.toml")).unwrap();
    assert!(text.contains("path = \"/api\"") && text.contains("path = \"/\""), "{text}");
    let checked = fixture.run(&["check-config"]);
    assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""));
    assert!(!checked.out.contains("warning"), "{}", checked.out);

    let fixture = fixture.file("sekisho.toml", "# mine\n");
    assert!(fixture.run(&["init"]).fails(1).starts_with("sekisho.toml exists already: "));
    assert_eq!(std::fs::read_to_string(fixture.dir.path().join("sekisho.toml")).unwrap(), "# mine\n");
    assert_eq!(fixture.run(&["init", "--config", "other.toml"]).code, Some(0));
    assert_eq!(std::fs::read_to_string(fixture.dir.path().join("other.toml")).unwrap(), text);
    // A link that leads nowhere.
    std::os::unix::fs::symlink("elsewhere.toml", fixture.dir.path().join("link.toml")).unwrap();
    assert_eq!(fixture.run(&["init", "--config", "link.toml"]).code, Some(1));
    assert!(!fixture.dir.path().join("elsewhere.toml").exists());
    let line = fixture.run(&["init", "--config", "missing/x.toml"]);
    assert!(line.fails(1).starts_with("cannot write missing/x.toml: "), "{}", line.err);
}

#[test]
fn completions_are_printed_for_each_shell() {
    let fixture = CliFixture::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = fixture.run(&["completions", shell]);
        assert_eq!((output.code, output.err.as_str()), (Some(0), ""), "{shell}");
        assert!(
            output.out.contains("check-config") && output.out.contains("explain"),
            "{shell}: {}",
            output.out
        );
    }
    let output = fixture.run(&["completions", "csh"]);
    assert!(output.fails(2).contains("bash, elvish, fish, powershell, zsh"), "{}", output.err);
}

/// D9: the warning appeared at every start.
#[test]
fn limit_on_open_files_is_a_warning_only_if_it_is_too_low() {
    let new = |text: &str| {
        CliFixture::new()
            .file("sekisho.toml", text)
            .env("SEKISHO_SERVER__LISTEN", "127.0.0.1:0")
            .env("SEKISHO_ADMIN__LISTEN", "127.0.0.1:0")
    };
    let limits =
        "[server]\nmax_connections = 1000\nmax_connections_per_client = 1000\nmax_open_per_client = 1000\n";
    let route = format!("{limits}[[routes]]\npath = '/'\nupstreams = ['http://h']\n");
    for (text, files, has_warning) in [
        (String::new(), 10_000, false),
        (String::new(), 9_999, true),
        (limits.to_owned(), 1_000, false),
        (limits.to_owned(), 999, true),
        (route.clone(), 2_000, false),
        (route, 1_999, true),
    ] {
        let fixture = new(&text);
        let mut command = Command::new("sh");
        command.args([
            "-c",
            &format!("ulimit -n {files} && exec \"$0\" serve"),
            env!("CARGO_BIN_EXE_sekisho"),
        ]);
        command.current_dir(fixture.dir.path()).env_clear().stdin(Stdio::null()).stderr(Stdio::piped());
        command.envs(fixture.env.iter().map(|(name, value)| (*name, value)));
        let lines = lines_until_serving(command);
        let warned = lines.iter().any(|line| line.contains("the limit on open files is too low"));
        assert_eq!(warned, has_warning, "{text} {files}: {lines:?}");
    }
}

#[test]
fn check_config_validates_routes_as_the_proxy_does() {
    let route = "[[routes]]\npath = '/a'\nupstreams = ['http://h']\n";
    let file = format!(
        "{route}\n[[routes]]\npath = '/b'\nupstreams = ['http://h']\nremove_request_headers = ['Host']"
    );
    assert_eq!(
        CliFixture::new().file("sekisho.toml", &file).run(&["check-config"]).fails(78),
        "the route in ./sekisho.toml, line 6: route `/b`: remove_request_headers cannot contain `host`: every \
         request needs it"
    );
}

/// B14: `check-config` and `serve` have one rule for secrets and key files.
#[test]
fn check_config_refuses_the_keys_that_serve_refuses() {
    let spring = "404E635266556A586E3272357538782F413F4428472B4B6250645367566B5970";
    let spring_base64 =
        "NDA0RTYzNTI2NjU1NkE1ODZFMzI3MjM1NzUzODc4MkY0MTNGNDQyODQ3MkI0QjYyNTA2NDUzNjc1NjZCNTk3MA==";
    let strong = "kq2V8mYb0Zr4n7PxWc1sTgH5uJdLfA9eXo3iRvBzQ6E=";
    let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let new = || {
        CliFixture::new()
            .env("SEKISHO_SERVER__LISTEN", "127.0.0.1:0")
            .env("SEKISHO_ADMIN__LISTEN", "127.0.0.1:0")
    };
    let mut fixtures = Vec::new();
    for secret in [spring, spring_base64, zeros, "r9iMKoe5CRMgvJBBtp4HrqN7QiPpUToj"] {
        fixtures.push((new().env("SEKISHO_TOKENS__SECRET", secret), "tokens.secret"));
        fixtures
            .push((new().file("sekisho.toml", &format!("[tokens]\nsecret = '{secret}'")), "tokens.secret"));
    }
    for (signing, refresh) in [(zeros, strong), (strong, zeros), (spring_base64, strong)] {
        let fixture = new().env("SEKISHO_TOKENS__KEY_DIR", "keys");
        let dir = fixture.dir.path().join("keys");
        std::fs::create_dir(&dir).unwrap();
        let key = format!(
            "number = 1\nalgorithm = \"HS256\"\ncreated_at = \"2026-01-01T00:00:00Z\"\n\
             signing_key = \"{signing}\"\nrefresh_key = \"{refresh}\"\n"
        );
        std::fs::write(dir.join("1.toml"), key).unwrap();
        std::fs::set_permissions(dir.join("1.toml"), std::fs::Permissions::from_mode(0o600)).unwrap();
        fixtures.push((fixture, "keys/1.toml: the "));
    }
    for (fixture, named) in fixtures {
        let checked = fixture.run(&["check-config"]);
        let line = checked.fails(78);
        assert!(line.starts_with(named) && (line.contains("example") || line.contains("repeats")), "{line}");
        assert!(!line.contains(spring) && !line.contains(zeros), "{line}");
        let served = fixture.run(&["serve"]);
        assert_eq!(served.code, Some(78), "{}", served.err);
        assert!(served.err.contains(line), "{line}: {}", served.err);
    }
}

/// B12: container platforms mount secrets read-only, with owners and modes that cannot be changed. The test needs
/// the right to create a mount namespace.
#[test]
fn secrets_on_a_read_only_mount_are_accepted() {
    let secret = "kq2V8mYb0Zr4n7PxWc1sTgH5uJdLfA9eXo3iRvBzQ6E=";
    let fixture = CliFixture::new().env("SEKISHO_TOKENS__SECRET_FILE", "mounted/secret");
    let dir = fixture.dir.path().join("mounted");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("secret"), secret).unwrap();
    let set_mode =
        |path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    set_mode(dir.join("secret"), 0o666);
    set_mode(dir.clone(), 0o777);
    let refused = fixture.run(&["check-config"]);
    assert!(refused.fails(78).contains("mounted has mode 0777"), "{}", refused.err);
    let mount = "mount --bind mounted mounted && mount -o remount,bind,ro mounted && exec \"$0\" \"$@\"";
    let in_namespace = |program: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", mount]).args(program);
        command.current_dir(fixture.dir.path()).envs(fixture.env.iter().map(|(name, value)| (*name, value)));
        command.output()
    };
    if !in_namespace(&["true"]).is_ok_and(|output| output.status.success()) {
        return;
    }
    let Output { status, stdout, stderr } =
        in_namespace(&[env!("CARGO_BIN_EXE_sekisho"), "check-config"]).unwrap();
    let out = String::from_utf8(stdout).unwrap();
    assert_eq!(status.code(), Some(0), "{out}{}", String::from_utf8_lossy(&stderr));
    assert!(!out.contains("warning: tokens.secret_file"), "{out}");
}

/// Returns the output of `serve` until it is ready.
fn startup_lines(fixture: &CliFixture) -> Vec<String> {
    let mut command = fixture.command(&["serve"]);
    command.stderr(Stdio::piped());
    lines_until_serving(command)
}

fn lines_until_serving(mut command: Command) -> Vec<String> {
    let mut serving = command.spawn().unwrap();
    let mut lines = Vec::new();
    for line in BufReader::new(serving.stderr.take().unwrap()).lines().map(Result::unwrap) {
        let done = line.contains("INFO serving");
        lines.push(line);
        if done {
            break;
        }
    }
    serving.kill().unwrap();
    serving.wait().unwrap();
    lines
}

#[test]
fn first_start_prints_next_steps() {
    let fixture = CliFixture::new()
        .env("SEKISHO_SERVER__LISTEN", "127.0.0.1:0")
        .env("SEKISHO_ADMIN__LISTEN", "127.0.0.1:0")
        .env("SEKISHO_LOGIN__BCRYPT_COST", "4");
    let contains = |lines: &[String], text| lines.iter().any(|line| line.contains(text));
    let lines = startup_lines(&fixture);
    assert!(contains(&lines, r#"command="sekisho user create --email ADDRESS""#), "{lines:?}");
    assert!(contains(&lines, "no [[routes]] configured"), "{lines:?}");

    let create = ["user", "create", "--email", "ada@example.com", "--password-stdin"];
    let mut created = fixture.command(&create).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    created.stdin.take().unwrap().write_all(b"green ladder under the moon\n").unwrap();
    assert!(created.wait().unwrap().success());
    let lines = startup_lines(&fixture);
    assert!(contains(&lines, "INFO serving") && !contains(&lines, "user create"), "{lines:?}");
}

#[test]
fn process_environment_wins_over_dot_env() {
    let fixture = CliFixture::new()
        .file(".env", "SEKISHO_SESSION__GRACE=1h\nSEKISHO_PORT=tcp://10.0.0.1:80\n")
        .env("SEKISHO_SERVICE_HOST", "10.0.0.1");
    let output = fixture.run(&["check-config"]);
    assert!(
        output
            .fails(78)
            .starts_with("session.grace = \"1h\" from SEKISHO_SESSION__GRACE in ./.env: expected at most")
    );
    let fixture = fixture.env("SEKISHO_SESSION__GRACE", "1m");
    assert_eq!(fixture.run(&["check-config"]).code, Some(0));
    let fixture = fixture.env("SEKISHO_TOKENS__SECRET", "hunter2");
    let output = fixture.run(&["check-config"]);
    let line = output.fails(78);
    assert!(
        line.starts_with("tokens.secret from SEKISHO_TOKENS__SECRET: ") && !line.contains("hunter2"),
        "{line}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn non_utf8_variable_is_rejected() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let fixture = CliFixture::new();
    let value = OsStr::from_bytes(b"\xff");
    let output =
        fixture.command(&["check-config"]).env("SEKISHO_TOKENS__ISSUER", value).env("OTHER", value).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(output.stderr, b"sekisho: SEKISHO_TOKENS__ISSUER in the environment is not UTF-8\n");
}

#[test]
fn closed_output_pipe_is_not_an_error() {
    let fixture = CliFixture::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = fixture.command(&["check-config"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

/// Serves one request with this response. Returns the address and, on join, the request's lines.
fn admin(response: &'static str) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
        let lines = lines.take_while(|line| !line.is_empty()).collect();
        stream.write_all(response.as_bytes()).unwrap();
        lines
    });
    (address, served)
}

#[test]
fn healthcheck_requests_readyz() {
    let (address, served) = admin("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let output = CliFixture::new().env("SEKISHO_ADMIN__LISTEN", &address).run(&["healthcheck"]);
    assert_eq!((output.code, output.out.as_str(), output.err.as_str()), (Some(0), "", ""));
    let lines = served.join().unwrap();
    assert_eq!(lines[0], "GET /readyz HTTP/1.1");
    assert!(lines.contains(&format!("Host: {address}")));

    let (address, served) = admin("HTTP/1.1 503 Service Unavailable\r\n\r\n");
    let port = address.rsplit(':').next().unwrap();
    let output =
        CliFixture::new().env("SEKISHO_ADMIN__LISTEN", format!("0.0.0.0:{port}")).run(&["healthcheck"]);
    let line = output.fails(1);
    assert!(line.contains("returned \"HTTP/1.1 503 Service Unavailable\""), "{line}");
    served.join().unwrap();
}

#[test]
fn healthcheck_fails_without_a_server() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = CliFixture::new().env("SEKISHO_ADMIN__LISTEN", &free).run(&["healthcheck"]);
    let line = output.fails(1);
    assert!(line.starts_with(&format!("no response from admin.listen = {free}: ")), "{line}");
    let output = CliFixture::new().env("SEKISHO_ADMIN__LISTEN", "127.0.0.1:0").run(&["healthcheck"]);
    assert!(output.fails(1).contains("port 0"));
}
