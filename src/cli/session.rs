//! `sekisho session …`.

use clap::{Args, Subcommand};
use serde::Serialize;
use time::OffsetDateTime;

use super::output::{self, Row};
use super::user::parse_email;
use crate::models::session::{Session, SessionId};

/// What to do with sessions.
#[derive(Clone, Debug, Subcommand)]
pub enum SessionCommand {
    /// List sessions, the latest first
    List(SessionList),
    /// End sessions: some, a user's, or all
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
    #[arg(value_name = "ID")]
    pub ids: Vec<SessionId>,
    /// All of this user's
    #[arg(long, value_name = "EMAIL", value_parser = parse_email)]
    pub user: Option<String>,
    /// Everybody's, as after a restore from an old backup
    #[arg(long)]
    pub all: bool,
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
    /// `live`, or why it is over.
    pub state: &'static str,
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
        let over = session.over(now);
        Self {
            id: session.id.to_string(),
            email: session.email.clone(),
            kind: session.kind.as_str(),
            state: over.map_or("live", |(event, _)| event.as_str()),
            created_at: session.created_at,
            last_seen_at: session.rotated_at,
            expires_at: over.map_or_else(|| session.expires_at(), |(_, since)| since),
            address: session.client.address.map(|address| address.to_string()),
            user_agent: session.client.user_agent.clone(),
        }
    }
}

impl Row for SessionRow {
    const HEAD: &'static [&'static str] =
        &["ID", "EMAIL", "KIND", "STATE", "CREATED", "LAST SEEN", "UNTIL", "ADDRESS", "USER AGENT"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.email.clone(),
            self.kind.to_owned(),
            self.state.to_owned(),
            output::minute(self.created_at),
            output::minute(self.last_seen_at),
            output::minute(self.expires_at),
            self.address.clone().unwrap_or_default(),
            self.user_agent.clone().unwrap_or_default(),
        ]
    }
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho session list --user ada@example.com
  sekisho session list --json
  sekisho session revoke 0198c0de-0000-4000-8000-000000000000
  sekisho session revoke --user ada@example.com
  sekisho session revoke --all";
