//! The command line: what each command is called, what it takes, and how it ends.
//!
//! One file for each noun. A command gets its parsed arguments and the loaded configuration; what it
//! can't do comes back as a [`CliError`], which is printed here, in one line, and nowhere else.

mod bootstrap;
mod check_config;
pub mod demo;
mod error;
mod explain;
mod healthcheck;
pub mod import;
pub mod key;
mod listeners;
mod migrate;
pub mod output;
pub mod password;
mod reload;
pub mod serve;
pub mod session;
mod shutdown;
mod signals;
mod systemd;
pub mod user;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use self::bootstrap::block_on;
pub use self::error::{CliError, ExitStatus};
use crate::config::{Config, LoadedConfig, Sources};

/// A gateway that keeps browser users signed in.
#[derive(Debug, Parser)]
#[command(name = "sekisho", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// Read this configuration file [default: ./sekisho.toml, then /etc/sekisho/sekisho.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::ServeArgs),
    /// Run a gateway to try out, with a sample user and movies
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::DemoArgs),
    /// Bring the database's tables up to date
    #[command(after_help = migrate::EXAMPLES)]
    Migrate,
    /// Check the configuration and name what is wrong with it
    #[command(after_help = check_config::EXAMPLES)]
    CheckConfig,
    /// Manage users
    #[command(subcommand, after_help = user::EXAMPLES)]
    User(user::UserCommand),
    /// List, explain and end sessions
    #[command(subcommand, after_help = session::EXAMPLES)]
    Session(session::SessionCommand),
    /// Manage the keys that sign tokens
    #[command(subcommand, after_help = key::EXAMPLES)]
    Key(key::KeyCommand),
    /// Ask the running gateway whether it is ready: exit code 0 if so, else 1
    #[command(after_help = healthcheck::EXAMPLES)]
    Healthcheck,
}

/// Parses `args` (the program's name first), does what they say, and tells how it went. Can be called
/// any number of times.
pub fn run(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitStatus {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return error::report_usage(&error),
    };
    match dispatch(cli) {
        Ok(()) => ExitStatus::Done,
        Err(error) => error::report(&error),
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    match cli.command {
        Command::CheckConfig => check_config::run(&load(cli.config)?),
        Command::Demo(args) => demo::run(&args, cli.config),
        Command::Healthcheck => healthcheck::run(&load(cli.config)?.config),
        Command::Key(command) => block_on(key::run(command, &load(cli.config)?.config)),
        Command::Migrate => block_on(migrate::run(&load(cli.config)?.config)),
        Command::Serve(args) => serve::run(&args, cli.config),
        Command::Session(command) => block_on(session::run(command, &load(cli.config)?.config)),
        Command::User(command) => block_on(user::run(command, &load(cli.config)?.config)),
    }
}

fn load(file: Option<PathBuf>) -> Result<LoadedConfig, CliError> {
    Ok(Config::load(&Sources::from_env(file)?)?)
}

const EXAMPLES: &str = "\
Examples:
  sekisho demo                                try it out on http://localhost:8080
  sekisho check-config                        what is wrong with ./sekisho.toml?
  sekisho serve --config /etc/sekisho/sekisho.toml
  sekisho user create --email ada@example.com --role admin

Every setting can also come from the environment: server.listen is SEKISHO_SERVER__LISTEN.
Exit codes: 0 done, 1 failed while running, 2 wrong usage, 78 bad configuration.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn several_sessions_can_be_named() {
        let (one, other) = ("0198c0de-0000-4000-8000-000000000001", "0198c0de-0000-4000-8000-000000000002");
        let cli =
            Cli::try_parse_from(["sekisho", "session", "revoke", one, other, "--config", "x.toml"]).unwrap();
        let Command::Session(session::SessionCommand::Revoke(revoke)) = cli.command else { panic!("revoke") };
        assert_eq!(revoke.ids.len(), 2);
        assert_eq!(cli.config, Some(PathBuf::from("x.toml")));
    }

    #[test]
    fn addresses_are_taken_in_lower_case() {
        let cli = Cli::try_parse_from(["sekisho", "user", "create", "--email", "Ada@Example.com"]).unwrap();
        let Command::User(user::UserCommand::Create(create)) = cli.command else { panic!("create") };
        assert_eq!((create.email.as_str(), create.role.as_str()), ("ada@example.com", "user"));
        assert!(create.name.is_none() && !create.password_stdin);
    }
}
