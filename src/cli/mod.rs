//! The command line.
//!
//! There is one file for each command. A command receives its parsed arguments and the configuration, and
//! returns a [`CliError`], which [`run`] prints in one line.

mod args;
mod bootstrap;
pub mod check_config;
pub mod completions;
pub mod demo;
mod error;
mod healthcheck;
pub mod import;
mod init;
pub mod key;
mod listeners;
mod migrate;
pub mod output;
pub mod password;
mod plural;
mod reload;
pub mod serve;
pub mod session;
mod shutdown;
mod signals;
mod systemd;
mod unix_listener;
pub mod user;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

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
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::ServeArgs),
    /// Run a demo gateway with a sample user and movies
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::DemoArgs),
    /// Write a configuration file for an API and a page
    #[command(after_help = init::EXAMPLES)]
    Init,
    /// Create or migrate the database tables
    #[command(after_help = migrate::EXAMPLES)]
    Migrate,
    /// Check the configuration
    #[command(after_help = check_config::EXAMPLES)]
    CheckConfig(check_config::CheckConfigArgs),
    /// Manage users
    #[command(subcommand, after_help = user::EXAMPLES)]
    User(user::UserCommand),
    /// Manage sessions
    #[command(subcommand, after_help = session::EXAMPLES)]
    Session(session::SessionCommand),
    /// Manage signing keys
    #[command(subcommand, after_help = key::EXAMPLES)]
    Key(key::KeyCommand),
    /// Check whether the running gateway is ready; exit code 0 if so, else 1
    #[command(after_help = healthcheck::EXAMPLES)]
    Healthcheck,
    /// Print a script for the completion of arguments in a shell
    #[command(after_help = completions::EXAMPLES)]
    Completions(completions::CompletionsArgs),
}

/// Parses `args`, which begin with the program name, runs the command and returns its exit status.
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
        Command::CheckConfig(args) => block_on(check_config::run(args, &load(cli.config)?)),
        Command::Completions(args) => completions::run(args, &mut Cli::command()),
        Command::Demo(args) => demo::run(&args, cli.config),
        Command::Healthcheck => healthcheck::run(&load(cli.config)?.config),
        Command::Init => init::run(cli.config),
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
  sekisho demo                                start the demo on http://localhost:8080
  sekisho init                                write ./sekisho.toml
  sekisho check-config                        check ./sekisho.toml
  sekisho serve --config /etc/sekisho/sekisho.toml
  sekisho user create --email ada@example.com --role admin

Settings can also come from the environment: server.listen is SEKISHO_SERVER__LISTEN.
Exit codes: 0 success, 1 failure, 2 wrong usage, 78 invalid configuration.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn session_revoke_accepts_several_ids() {
        let (one, other) = ("0198c0de-0000-4000-8000-000000000001", "0198c0de-0000-4000-8000-000000000002");
        let cli =
            Cli::try_parse_from(["sekisho", "session", "revoke", one, other, "--config", "x.toml"]).unwrap();
        let Command::Session(session::SessionCommand::Revoke(revoke)) = cli.command else { panic!("revoke") };
        assert_eq!(revoke.ids.len(), 2);
        assert_eq!(cli.config, Some(PathBuf::from("x.toml")));
    }

    #[test]
    fn user_create_lowercases_the_email() {
        let cli = Cli::try_parse_from(["sekisho", "user", "create", "--email", "Ada@Example.com"]).unwrap();
        let Command::User(user::UserCommand::Create { email, name, role, password_stdin }) = cli.command
        else {
            panic!("create")
        };
        assert_eq!((email.as_str(), role.as_str()), ("ada@example.com", "user"));
        assert!(name.is_none() && !password_stdin);
    }
}
