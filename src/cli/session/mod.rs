//! `sekisho session …`.

mod explain;
mod list;
mod lookup;
mod revoke;
mod row;

use clap::Subcommand;

pub use self::list::SessionList;
pub use self::revoke::SessionRevoke;
pub use self::row::SessionRow;
use super::args::parse_session_id;
use super::bootstrap;
use super::error::CliError;
use crate::config::Config;
use crate::models::session::SessionId;

/// Subcommands of `sekisho session`.
#[derive(Clone, Debug, Subcommand)]
pub enum SessionCommand {
    /// List sessions, newest first
    #[command(after_help = list::EXAMPLES)]
    List(SessionList),
    /// Explain the state of a session and why it ended
    #[command(after_help = explain::EXAMPLES)]
    Explain {
        /// Session id as shown by `sekisho session list` and in the log
        #[arg(value_name = "ID", value_parser = parse_session_id)]
        id: SessionId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End sessions by id, of a user, or all
    #[command(after_help = revoke::EXAMPLES)]
    Revoke(SessionRevoke),
}

/// Runs a session command.
pub(super) async fn run(command: SessionCommand, config: &Config) -> Result<(), CliError> {
    let stores = match &command {
        SessionCommand::Revoke(_) => bootstrap::stores(config).await?,
        SessionCommand::List(_) | SessionCommand::Explain { .. } => {
            bootstrap::existing_stores(config).await?
        }
    };
    let result = match command {
        SessionCommand::List(args) => list::run(&stores, args).await,
        SessionCommand::Explain { id, json } => explain::run(&stores, id, json).await,
        SessionCommand::Revoke(args) => revoke::run(&stores, args).await,
    };
    stores.close().await;
    result
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho session list --user ada@example.com
  sekisho session list --json
  sekisho session explain 0198c0de-0000-4000-8000-000000000000
  sekisho session revoke 0198c0de-0000-4000-8000-000000000000
  sekisho session revoke --user ada@example.com
  sekisho session revoke --all";
