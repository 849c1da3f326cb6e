//! `sekisho demo`: everything in one place, to try it out.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::SecretString;

use super::bootstrap::{self, block_on};
use super::error::CliError;
use super::output;
use super::serve::serve;
use crate::app::DemoCredentials;
use crate::backend::db::Stores;
use crate::client_info::ClientInfo;
use crate::config::{Config, ConfigError, ListenAddr, Sources};
use crate::models::user::Role;
use crate::services::crypto::random_id;
use crate::services::sample_movies::sample_movies;
use crate::services::store::{MovieQuery, StoreError};
use crate::services::users::{NewUser, UserError, Users};
use crate::telemetry::LogGuard;

/// Arguments of `sekisho demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Listen on this address
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:8080")]
    pub listen: ListenAddr,
}

impl DemoArgs {
    /// Loads the configuration of the demo, with database and keys in `dir`.
    ///
    /// Apart from `file`, nothing on the machine is read, so the demo cannot open a real database.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] that names the invalid setting of `file`.
    pub fn config(&self, dir: &Path, file: Option<PathBuf>) -> Result<Config, ConfigError> {
        let mut config = Config::load(&self.sources(dir, file))?.config;
        if !self.listen.is_loopback() {
            // Only the demo may: browsers drop Secure cookies of plain http.
            config.cookies.allow_http();
        }
        Ok(config)
    }

    fn sources(&self, dir: &Path, file: Option<PathBuf>) -> Sources {
        let mut flags = vec![
            ("server.listen", self.listen.to_string()),
            ("server.builtin", r#"["auth", "token", "movies", "docs"]"#.to_owned()),
            ("admin.listen", "127.0.0.1:0".to_owned()),
            ("database.url", database_url(dir)),
            ("tokens.key_dir", dir.join(KEYS).display().to_string()),
            // Short, so that refreshes are easy to watch.
            ("tokens.access_ttl", ACCESS_TTL.to_owned()),
            ("session.grace", GRACE.to_owned()),
            // Few, so that the common limits on open files are high enough.
            ("server.max_connections", "1000".to_owned()),
            ("server.max_connections_per_client", "500".to_owned()),
            // The log shows what happens to sessions, and the address and password above it.
            ("log.access", "false".to_owned()),
            ("pages.title", "Sekisho".to_owned()),
            ("pages.logo", dir.join(LOGO).display().to_string()),
        ];
        if self.listen.is_loopback() {
            // Safari drops Secure cookies of plain http, also on this machine.
            flags.push(("cookies.secure", "false".to_owned()));
        } else {
            // As in a container whose port is published on this machine.
            flags.push(("server.public_origin", format!("http://localhost:{}", self.listen.port())));
        }
        let flags = flags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Sources { file, flags, ..Sources::default() }
    }
}

fn database_url(dir: &Path) -> String {
    format!("sqlite://{}", dir.join("demo.db").display())
}

/// Starts the gateway with a sample user and movies, and prints its address.
pub(super) fn run(args: &DemoArgs, file: Option<PathBuf>) -> Result<(), CliError> {
    let dir = Path::new(DIR);
    let config = args.config(dir, file)?;
    let log = LogGuard::to_stderr(config.log.format);
    let is_public = !args.listen.is_loopback();
    let password = if is_public { random_password()? } else { PASSWORD.to_owned() };
    block_on(async {
        // Creates the directory, for the current user alone.
        let stores = bootstrap::stores(&config).await?;
        // A second demo would set another password for the user of the first.
        let _lock = lock(&dir.join(LOCK))?;
        if is_public {
            tracing::warn!(
                listen = %args.listen,
                "the demo is reachable from other machines over plain http, with a random password: use it for a short time"
            );
        }
        seed(&config, &stores, &SecretString::from(password.as_str())).await?;
        write_file(&dir.join(LOGO), include_str!("../../web/favicon.svg"))?;
        write_file(&dir.join(COMMAND_CONFIG), &command_config(dir))?;
        let shown = (!is_public).then(|| password.clone());
        let sample = DemoCredentials { email: EMAIL.to_owned(), password: shown };
        let ready = |origin: &str| output::print_lines(&banner(origin, &password, is_public));
        serve(&config, None, stores, &log, Some(sample), ready).await
    })
}

/// Locks the file at `path`, until the returned one is dropped or the process ends.
fn lock(path: &Path) -> Result<File, CliError> {
    let failed = |error| CliError::failed(format!("cannot lock {}", path.display()), error);
    let file = File::create(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CliError::Refused(
            "a demo is running in this directory: stop it first, or start this one in another directory"
                .to_owned(),
        )),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Returns the configuration with which commands open the demo's database.
fn command_config(dir: &Path) -> String {
    let url = database_url(dir);
    let keys = dir.join(KEYS);
    format!(
        "# Written by `sekisho demo`, for commands beside it.\n\
         [database]\nurl = {url:?}\n\n\
         [tokens]\nkey_dir = {keys:?}\naccess_ttl = {ACCESS_TTL:?}\n\n\
         [session]\ngrace = {GRACE:?}\n"
    )
}

fn write_file(path: &Path, text: &str) -> Result<(), CliError> {
    std::fs::write(path, text)
        .map_err(|error| CliError::failed(format!("cannot write {}", path.display()), error))
}

/// Creates the sample user and the movies, unless they exist.
async fn seed(config: &Config, stores: &Stores, password: &SecretString) -> Result<(), CliError> {
    seed_user(&bootstrap::users(config, stores).await?, password).await?;
    let failed = |error| CliError::failed("cannot store the movies", error);
    let (_, there) = stores.movies.list_movies(&MovieQuery::default()).await.map_err(failed)?;
    if there == 0 {
        stores.movies.insert_movies(&sample_movies()).await.map_err(failed)?;
    }
    Ok(())
}

/// Creates the sample user with this password, or sets it, unless it is the user's.
async fn seed_user(users: &Users, password: &SecretString) -> Result<(), CliError> {
    let sample = NewUser {
        email: EMAIL.to_owned(),
        name: Some("Taro".to_owned()),
        role: Role::Admin,
        password: password.clone(),
    };
    match users.create(sample).await {
        Err(UserError::Store(StoreError::Conflict(_))) => {}
        created => return Ok(created.map(drop)?),
    }
    let user = users.find_by_email(EMAIL).await?;
    if !users.has_password(&user, password).await? {
        users.set_password(&user, password, &ClientInfo::command_line("demo")).await?;
    }
    Ok(())
}

/// Returns a password of 80 random bits.
fn random_password() -> Result<String, CliError> {
    let id = random_id().map_err(|_| UserError::Random)?;
    let letters = id.into_bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
    let groups = letters.chunks(4).map(String::from_iter);
    Ok(groups.collect::<Vec<_>>().join("-"))
}

fn banner(origin: &str, password: &str, is_public: bool) -> [String; 6] {
    let (elsewhere, next_start) = if is_public {
        (", or from elsewhere this machine's address", "the next start sets another password")
    } else {
        ("", "start it again, and you are still signed in")
    };
    [
        "Sekisho demo".to_owned(),
        format!("  open      {origin}{elsewhere}"),
        format!("  sign in   {EMAIL} / {password}"),
        format!("  API       {origin}/docs"),
        format!("  commands  sekisho session list --config {DIR}/{COMMAND_CONFIG}"),
        format!("  stop      Ctrl-C; {next_start}"),
    ]
}

/// The directory of database and keys, below the current directory.
const DIR: &str = "data/demo";
const KEYS: &str = "keys";
const COMMAND_CONFIG: &str = "sekisho.toml";
const LOCK: &str = "lock";
const LOGO: &str = "logo.svg";
const ACCESS_TTL: &str = "20s";
const GRACE: &str = "5s";
const EMAIL: &str = "taro@example.jp";
const PASSWORD: &str = "mountain-lantern-over-hakone";

/// Letters and digits that are hard to confuse.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho demo                            on http://localhost:8080
  sekisho demo --listen localhost:9000
  sekisho demo --listen 0.0.0.0:8080      for other machines, with a random password
  sekisho session list --config data/demo/sekisho.toml

The demo prints its address and the sample credentials. Access tokens expire after 20 seconds, so that \
refreshes can be observed. It is not suitable for production. Its data is in data/demo, with a configuration \
file for commands beside it. It reads no configuration except a file given with --config. Its log has no \
access entries.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demo_configuration_is_valid() {
        for (listen, origin) in [
            ("localhost:8080", "http://localhost:8080"),
            ("127.0.0.1:0", "http://127.0.0.1:1"),
            ("0.0.0.0:8080", "http://localhost:8080"),
        ] {
            let args = DemoArgs { listen: listen.parse().unwrap() };
            let config = args.config(Path::new("/tmp/x"), None).unwrap();
            assert!(!config.cookies.secure && !config.log.access);
            assert_eq!(config.cookies.access_name, "access_token");
            assert_eq!(config.server.public_origin_at(Some(1)).unwrap().as_str(), origin);
        }
    }
}
