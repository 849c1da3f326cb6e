//! `sekisho session …`.

use clap::{Args, Subcommand};
use serde::Serialize;
use time::OffsetDateTime;

use super::bootstrap;
use super::error::CliError;
use super::explain::{self, SessionExplain};
use super::output::{self, TableRow};
use super::user::{parse_email, sessions_ended};
use crate::backend::db::Stores;
use crate::client_info::ClientInfo;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::models::session::{EndReason, Session, SessionId};
use crate::models::user::UserId;
use crate::services::store::{SessionFilter, SessionTermination, StoreError};

/// What to do with sessions.
#[derive(Clone, Debug, Subcommand)]
pub enum SessionCommand {
    /// List sessions, the latest first
    #[command(after_help = LIST_EXAMPLES)]
    List(SessionList),
    /// Tell why a session is over, or what it has been through
    #[command(after_help = explain::EXAMPLES)]
    Explain(SessionExplain),
    /// End sessions: some, a user's, or all
    #[command(after_help = REVOKE_EXAMPLES)]
    Revoke(SessionRevoke),
}

/// Arguments of `sekisho session list`.
#[derive(Args, Clone, Debug)]
pub struct SessionList {
    /// Only this user's
    #[arg(long, value_name = "EMAIL", value_parser = parse_email)]
    pub user: Option<String>,
    /// Ended and expired ones too
    #[arg(long)]
    pub ended: bool,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sekisho session revoke`: exactly one of them.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct SessionRevoke {
    /// The sessions, by the ids that `sekisho session list` shows
    #[arg(value_name = "ID", value_parser = parse_id)]
    pub ids: Vec<SessionId>,
    /// All of this user's
    #[arg(long, value_name = "EMAIL", value_parser = parse_email)]
    pub user: Option<String>,
    /// Everybody's, as after a restore from an old backup
    #[arg(long)]
    pub all: bool,
}

/// Does what is to be done with sessions.
pub(super) async fn run(command: SessionCommand, config: &Config) -> Result<(), CliError> {
    let stores = bootstrap::stores(config).await?;
    let done = match command {
        SessionCommand::List(list) => print(&stores, list).await,
        SessionCommand::Explain(which) => explain::explain(&stores, which).await,
        SessionCommand::Revoke(revoke) => end(&stores, revoke).await,
    };
    stores.close().await;
    done
}

async fn print(stores: &Stores, list: SessionList) -> Result<(), CliError> {
    let now = SystemClock.now();
    let which = match &list.user {
        Some(email) => SessionFilter::User(user(stores, email).await?),
        None => SessionFilter::All,
    };
    let live_at = (!list.ended).then_some(now);
    let sessions = stores.sessions.list_sessions(&which, live_at, list.limit).await.map_err(failed)?;
    let rows: Vec<_> = sessions.iter().map(|session| SessionRow::new(session, now)).collect();
    output::print_list(&rows, list.json)
}

async fn end(stores: &Stores, revoke: SessionRevoke) -> Result<(), CliError> {
    let by = ClientInfo::command_line("session revoke");
    let ending = SessionTermination::new(SystemClock.now(), EndReason::Revoked, by);
    let which = match &revoke.user {
        Some(email) => Some(SessionFilter::User(user(stores, email).await?)),
        None => revoke.all.then_some(SessionFilter::All),
    };
    let ended = match which {
        Some(which) => stores.sessions.end_sessions(&which, &ending).await.map_err(failed)?.len(),
        None => end_each(stores, &revoke.ids, &ending).await?,
    };
    output::print_lines(&[sessions_ended(ended)])
}

/// Ends these sessions; one that isn't there is an error, but the others end all the same.
async fn end_each(
    stores: &Stores,
    ids: &[SessionId],
    ending: &SessionTermination,
) -> Result<usize, CliError> {
    let mut ended = 0;
    let mut unknown = Vec::new();
    for &id in ids {
        if stores.sessions.end_session(id, ending).await.map_err(failed)? {
            ended += 1;
        } else if stores.sessions.find_session(id).await.map_err(failed)?.is_none() {
            unknown.push(id.to_string());
        }
    }
    if unknown.is_empty() {
        return Ok(ended);
    }
    let unknown = unknown.join(", ");
    Err(CliError::Refused(format!("{}, but there is no session {unknown}", sessions_ended(ended))))
}

async fn user(stores: &Stores, email: &str) -> Result<UserId, CliError> {
    let found = stores.users.find_user_by_email(email).await.map_err(failed)?;
    found.map(|user| user.id).ok_or_else(|| CliError::Refused(format!("there is no user {email}")))
}

pub(super) fn failed(error: StoreError) -> CliError {
    CliError::failed("can't ask the database", error)
}

/// A session, as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct SessionRow {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub email: String,
    /// `browser` or `client`.
    pub kind: &'static str,
    /// `live`, or why it is over, as `X-Session-Event` says it.
    pub state: &'static str,
    /// The same, for people.
    pub state_in_words: &'static str,
    /// When the user signed in.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was last renewed.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
    /// When it ends, or ended.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// From where it was last renewed.
    pub address: Option<String>,
    /// With which program.
    pub user_agent: Option<String>,
}

impl SessionRow {
    /// The row of `session` as it is at `now`.
    #[must_use]
    pub fn new(session: &Session, now: OffsetDateTime) -> Self {
        let over = session.termination(now);
        Self {
            id: session.id.to_string(),
            email: session.email.clone(),
            kind: session.kind.as_str(),
            state: over.map_or("live", |(event, _)| event.as_str()),
            state_in_words: over.map_or("live", |(event, _)| explain::describe_event(event)),
            created_at: session.created_at,
            last_seen_at: session.rotated_at,
            expires_at: over.map_or_else(|| session.expires_at(), |(_, since)| since),
            address: session.client.address.map(|address| address.to_string()),
            user_agent: session.client.user_agent.clone(),
        }
    }
}

impl TableRow for SessionRow {
    const HEAD: &'static [&'static str] =
        &["ID", "EMAIL", "KIND", "STATE", "CREATED", "LAST SEEN", "UNTIL", "ADDRESS", "USER AGENT"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.email.clone(),
            self.kind.to_owned(),
            self.state_in_words.to_owned(),
            output::minute(self.created_at),
            output::minute(self.last_seen_at),
            output::minute(self.expires_at),
            self.address.clone().unwrap_or_default(),
            self.user_agent.clone().unwrap_or_default(),
        ]
    }
}

pub(super) fn parse_id(text: &str) -> Result<SessionId, String> {
    text.parse().map_err(|_| "expected a session's id, as `sekisho session list` shows it".to_owned())
}

const LIST_EXAMPLES: &str = "\
Examples:
  sekisho session list --user ada@example.com
  sekisho session list --ended --json

STATE is live, or why the session is over; `sekisho session explain ID` tells more of one.";

const REVOKE_EXAMPLES: &str = "\
Examples:
  sekisho session revoke 0198c0de-0000-4000-8000-000000000000
  sekisho session revoke --user ada@example.com
  sekisho session revoke --all

Their tokens are refused by every replica within a second.";

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho session list --user ada@example.com
  sekisho session list --json
  sekisho session explain 0198c0de-0000-4000-8000-000000000000
  sekisho session revoke 0198c0de-0000-4000-8000-000000000000
  sekisho session revoke --user ada@example.com
  sekisho session revoke --all";
