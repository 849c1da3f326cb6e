//! `sekisho session list`.

use clap::Args;

use super::lookup::find_user;
use super::row::SessionRow;
use crate::backend::db::Stores;
use crate::cli::args::parse_email;
use crate::cli::bootstrap;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::clock::Clock;
use crate::services::store::SessionFilter;

/// Arguments of `sekisho session list`.
#[derive(Args, Clone, Debug)]
pub struct SessionList {
    /// Only sessions of this user
    #[arg(long, value_name = "EMAIL", value_parser = parse_email)]
    pub user: Option<String>,
    /// Include ended and expired sessions
    #[arg(long)]
    pub ended: bool,
    /// Maximum number of sessions
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) async fn run(stores: &Stores, args: SessionList) -> Result<(), CliError> {
    let now = bootstrap::session_clock(stores).await?.now();
    let filter = match &args.user {
        Some(email) => SessionFilter::User(find_user(stores, email).await?),
        None => SessionFilter::All,
    };
    let live_at = (!args.ended).then_some(now);
    let sessions = stores.sessions.list_sessions(&filter, live_at, args.limit).await?;
    let rows: Vec<_> = sessions.iter().map(|session| SessionRow::new(session, now)).collect();
    output::print_list(&rows, args.json)
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho session list --user ada@example.com
  sekisho session list --ended --json

STATE is live, or the reason for its end; `sekisho session explain ID` has details. --json has all \
fields, with the whole user agent.";
