//! `sekisho demo`: everything in one place, to try it out.

use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::SecretString;

use super::bootstrap::{self, block_on};
use super::error::CliError;
use super::output;
use super::serve::serve;
use crate::app::DemoCredentials;
use crate::backend::db::Stores;
use crate::config::{Config, ListenAddr, Sources};
use crate::models::user::Role;
use crate::services::sample_movies::sample_movies;
use crate::services::store::{MovieQuery, StoreError};
use crate::services::users::{NewUser, UserError};
use crate::telemetry::LogGuard;

/// Arguments of `sekisho demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Listen on this address
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:8080")]
    pub listen: ListenAddr,
}

impl DemoArgs {
    /// Configuration of the demo, with database and keys in `dir`.
    ///
    /// Apart from `file`, nothing on the machine is read, so the demo cannot open a real database.
    #[must_use]
    pub fn sources(&self, dir: &Path, file: Option<PathBuf>) -> Sources {
        let mut flags = vec![
            ("server.listen", self.listen.to_string()),
            ("server.builtin", r#"["auth", "token", "movies", "docs"]"#.to_owned()),
            ("admin.listen", "127.0.0.1:0".to_owned()),
            ("database.url", format!("sqlite://{}", dir.join("demo.db").display())),
            ("tokens.key_dir", dir.join("keys").display().to_string()),
            // Short, so that refreshes are easy to watch.
            ("tokens.access_ttl", "20s".to_owned()),
            ("session.grace", "5s".to_owned()),
        ];
        if !self.listen.is_loopback() {
            // As in a container whose port is published on this machine.
            flags.push(("server.public_origin", format!("http://localhost:{}", self.listen.port())));
        }
        let flags = flags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Sources { file, flags, ..Sources::default() }
    }
}

/// Starts the gateway with a sample user and movies, and prints its address.
pub(super) fn run(args: &DemoArgs, file: Option<PathBuf>) -> Result<(), CliError> {
    let config = Config::load(&args.sources(Path::new(DIR), file))?.config;
    let log = LogGuard::to_stderr(config.log.format);
    block_on(async {
        let stores = bootstrap::stores(&config).await?;
        seed(&config, &stores).await?;
        let sample = DemoCredentials { email: EMAIL.to_owned(), password: PASSWORD.to_owned() };
        serve(&config, None, stores, &log, Some(sample), |origin| output::print_lines(&banner(origin))).await
    })
}

/// Creates the sample user and the movies, unless they exist.
async fn seed(config: &Config, stores: &Stores) -> Result<(), CliError> {
    let users = bootstrap::users(config, stores).await?;
    let sample = NewUser {
        email: EMAIL.to_owned(),
        name: Some("Taro".to_owned()),
        role: Role::Admin,
        password: SecretString::from(PASSWORD),
    };
    match users.create(sample).await {
        Ok(_) | Err(UserError::Store(StoreError::Conflict(_))) => {}
        Err(error) => return Err(error.into()),
    }
    let failed = |error| CliError::failed("cannot store the movies", error);
    let (_, there) = stores.movies.list_movies(&MovieQuery::default()).await.map_err(failed)?;
    if there == 0 {
        stores.movies.insert_movies(&sample_movies()).await.map_err(failed)?;
    }
    Ok(())
}

fn banner(origin: &str) -> [String; 5] {
    [
        "Sekisho demo".to_owned(),
        format!("  open      {origin}"),
        format!("  sign in   {EMAIL} / {PASSWORD}"),
        format!("  API       {origin}/docs"),
        "  stop      Ctrl-C; start it again, and you are still signed in".to_owned(),
    ]
}

/// The directory of database and keys, below the current directory.
const DIR: &str = "data/demo";
const EMAIL: &str = "taro@example.jp";
const PASSWORD: &str = "mountain-lantern-over-hakone";

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho demo                            on http://localhost:8080
  sekisho demo --listen localhost:9000

The demo prints its address and the sample credentials. Access tokens expire after 20 seconds, so that
refreshes can be observed. It is not suitable for production. Its data is in data/demo. It reads no
configuration except a file given with --config.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn demo_configuration_is_valid() {
        for (listen, origin) in [
            ("localhost:8080", "http://localhost:8080"),
            ("127.0.0.1:0", "http://127.0.0.1:1"),
            ("0.0.0.0:8080", "http://localhost:8080"),
        ] {
            let args = DemoArgs { listen: listen.parse().unwrap() };
            let config = Config::load(&args.sources(Path::new("/tmp/x"), None)).unwrap().config;
            assert_eq!(config.server.public_origin_at("127.0.0.1:1".parse().unwrap()).as_str(), origin);
        }
    }
}
