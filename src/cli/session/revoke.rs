//! `sekisho session revoke`.

use clap::Args;

use super::lookup::find_user;
use crate::backend::db::Stores;
use crate::cli::args::{parse_email, parse_session_id};
use crate::cli::bootstrap;
use crate::cli::error::CliError;
use crate::cli::output::{self, sessions_ended};
use crate::client_info::ClientInfo;
use crate::clock::Clock;
use crate::models::session::{EndReason, SessionId};
use crate::services::store::{SessionFilter, SessionTermination};

/// Arguments of `sekisho session revoke`: exactly one of them is required.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct SessionRevoke {
    /// Session ids as shown by `sekisho session list`
    #[arg(value_name = "ID", value_parser = parse_session_id)]
    pub ids: Vec<SessionId>,
    /// All sessions of this user
    #[arg(long, value_name = "EMAIL", value_parser = parse_email)]
    pub user: Option<String>,
    /// All sessions of all users, for instance after the restore of an old backup
    #[arg(long)]
    pub all: bool,
}

pub(super) async fn run(stores: &Stores, args: SessionRevoke) -> Result<(), CliError> {
    let by = ClientInfo::command_line("session revoke");
    let now = bootstrap::session_clock(stores).await?.now();
    let termination = SessionTermination::new(now, EndReason::Revoked, by);
    let filter = match &args.user {
        Some(email) => Some(SessionFilter::User(find_user(stores, email).await?)),
        None => args.all.then_some(SessionFilter::All),
    };
    let ended = match filter {
        Some(filter) => stores.sessions.end_sessions(&filter, &termination).await?.len(),
        None => end_each(stores, &args.ids, &termination).await?,
    };
    output::print_lines(&[sessions_ended(ended)])
}

/// Ends the sessions one by one. An unknown id is an error after all others have ended.
async fn end_each(
    stores: &Stores,
    ids: &[SessionId],
    termination: &SessionTermination,
) -> Result<usize, CliError> {
    let mut ended = 0;
    let mut unknown = Vec::new();
    for &id in ids {
        if stores.sessions.end_session(id, termination).await? {
            ended += 1;
        } else if stores.sessions.find_session(id).await?.is_none() {
            unknown.push(id.to_string());
        }
    }
    if unknown.is_empty() {
        return Ok(ended);
    }
    let unknown = unknown.join(", ");
    Err(CliError::Refused(format!("{}, but there is no session {unknown}", sessions_ended(ended))))
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho session revoke 0198c0de-0000-4000-8000-000000000000
  sekisho session revoke --user ada@example.com
  sekisho session revoke --all

All replicas reject their tokens within one second.";
