//! `sekisho key …`.

use std::cmp::Ordering;
use std::path::Path;

use clap::Subcommand;
use serde::Serialize;
use time::OffsetDateTime;

use super::bootstrap;
use super::error::CliError;
use super::output::{self, TableRow, sessions_ended};
use crate::backend::db;
use crate::client_info::ClientInfo;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::key_store::{self, KeyFileError};
use crate::models::audit::{AuditEntry, AuditEvent};
use crate::models::session::EndReason;
use crate::services::keys::KeyMaterial;
use crate::services::store::{SessionFilter, SessionTermination};

/// Subcommands of `sekisho key`.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyCommand {
    /// Create the first key in tokens.key_dir
    #[command(after_help = INIT_EXAMPLES)]
    Init,
    /// List the keys, without their secrets
    #[command(after_help = "Examples:\n  sekisho key list\n  sekisho key list --json")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add a key, which signs after tokens.key_activation
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate,
    /// Remove a key and end the sessions that use it
    #[command(after_help = RETIRE_EXAMPLES)]
    Retire {
        /// Number of the key as shown by `sekisho key list`
        #[arg(value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
        number: u8,
    },
}

/// Runs a key command.
pub(super) async fn run(command: KeyCommand, config: &Config) -> Result<(), CliError> {
    let dir = bootstrap::key_dir(config)?;
    // The server could not read files of another user.
    db::check_owner(dir)?;
    let algorithm = config.tokens.algorithm;
    let now = SystemClock.now();
    let said = match command {
        KeyCommand::Init => {
            let number = key_store::init(dir, algorithm, now)?;
            format!("created key {number} ({}) in {}", algorithm.as_str(), dir.display())
        }
        KeyCommand::List { json } => return print(dir, config, now, json),
        KeyCommand::Rotate => {
            let number = key_store::rotate(dir, algorithm, creation_time(config).await)?;
            record_audit(config, AuditEvent::KeyRotated, number, "key rotate").await;
            let activation = humantime::format_duration(config.tokens.key_activation);
            format!("added key {number} ({}); it signs in {activation}; no session ends", algorithm.as_str())
        }
        KeyCommand::Retire { number } => retire(dir, number, config).await?,
    };
    output::print_lines(&[said])
}

/// Returns the database's time, by which replicas compute the activation of a key.
///
/// By a slow clock of this machine it would sign before the replicas have loaded it.
async fn creation_time(config: &Config) -> OffsetDateTime {
    let read = async {
        let stores = bootstrap::stores(config).await?;
        let now = stores.sessions.database_time().await;
        stores.close().await;
        Ok::<_, CliError>(now?)
    };
    read.await.unwrap_or_else(|error| {
        output::print_warning(&format!("the key is dated by the clock of this machine: {error}"));
        SystemClock.now()
    })
}

/// Ends the sessions before it removes the key, so that a database error changes nothing.
async fn retire(dir: &Path, number: u8, config: &Config) -> Result<String, CliError> {
    let keys = key_store::list(dir)?;
    if !keys.iter().any(|key| key.number == number) {
        return Err(KeyFileError::Unknown(number).into());
    }
    if keys.len() == 1 {
        return Err(KeyFileError::LastKey(number).into());
    }
    let stores = bootstrap::stores(config).await?;
    let by = ClientInfo::command_line("key retire");
    let ended = async {
        let now = stores.sessions.database_time().await?;
        let ending = SessionTermination::new(now, EndReason::Revoked, by);
        stores.sessions.end_sessions(&SessionFilter::SignedBy(number), &ending).await
    };
    let ended = ended.await;
    stores.close().await;
    let ended = ended.map_err(|error| CliError::failed("cannot end the sessions of the key", error))?;
    key_store::retire(dir, number)?;
    record_audit(config, AuditEvent::KeyRetired, number, "key retire").await;
    Ok(format!("retired key {number}; {}", sessions_ended(ended.len())))
}

/// Adds an audit entry. The change of the keys is complete, so a database error is only a warning.
async fn record_audit(config: &Config, event: AuditEvent, number: u8, command: &str) {
    let write = async {
        let stores = bootstrap::stores(config).await?;
        let written = async {
            let now = stores.sessions.database_time().await?;
            let entry = AuditEntry::new(now, event, ClientInfo::command_line(command));
            stores.sessions.record(&[AuditEntry { key_number: Some(number), ..entry }]).await
        };
        let written = written.await;
        stores.close().await;
        written.map_err(|error| CliError::failed("can't write to the database", error))
    };
    if let Err(error) = write.await {
        output::print_warning(&format!("the audit lacks this {}: {error}", event.as_str()));
    }
}

fn print(dir: &Path, config: &Config, now: OffsetDateTime, json: bool) -> Result<(), CliError> {
    let keys = key_store::list(dir)?;
    if keys.is_empty() {
        return Err(KeyFileError::Empty(dir.to_owned()).into());
    }
    let signing = key_store::load(dir, config.tokens.key_activation)?.signing(now).number();
    let rows: Vec<_> = keys.iter().map(|key| KeyRow::new(key, signing)).collect();
    output::print_list(&rows, json)
}

/// A key, as it is listed.
#[derive(Clone, Debug, Serialize)]
struct KeyRow {
    number: u8,
    algorithm: &'static str,
    state: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl KeyRow {
    fn new(key: &KeyMaterial, signing: u8) -> Self {
        let state = match key.number.cmp(&signing) {
            Ordering::Less => "verifies",
            Ordering::Equal => "signs",
            Ordering::Greater => "will sign",
        };
        Self { number: key.number, algorithm: key.algorithm.as_str(), state, created_at: key.created_at }
    }
}

impl TableRow for KeyRow {
    const HEAD: &'static [&'static str] = &["NUMBER", "ALGORITHM", "STATE", "CREATED"];

    fn cells(&self) -> Vec<String> {
        let (algorithm, state) = (self.algorithm.to_owned(), self.state.to_owned());
        vec![self.number.to_string(), algorithm, state, output::minute(self.created_at)]
    }
}

impl From<KeyFileError> for CliError {
    fn from(error: KeyFileError) -> Self {
        match error {
            KeyFileError::Access(_)
            | KeyFileError::Key { .. }
            | KeyFileError::NotAKey { .. }
            | KeyFileError::Secret(_)
            | KeyFileError::Weak { .. } => Self::misconfigured(error),
            other => Self::Refused(super::error::display_chain(&other)),
        }
    }
}

const INIT_EXAMPLES: &str = "\
Example:
  sekisho key init --config /etc/sekisho/sekisho.toml

With PostgreSQL, run it once before the first start, and give every replica the same directory. With
SQLite the first start creates the key. Read access to a key file allows signing in as any user.";

const ROTATE_EXAMPLES: &str = "\
Example:
  sekisho key rotate

Copy the new file to every replica before it becomes active; each replica rereads its directory every
10 seconds. Older keys still verify tokens. The rotation is recorded in the audit log.";

const RETIRE_EXAMPLES: &str = "\
Example:
  sekisho key retire 1

For a key that may have leaked: run `sekisho key rotate` first, and retire the old key once the new one
signs.";

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho key init          before the first start, with PostgreSQL
  sekisho key rotate        no session ends
  sekisho key list --json
  sekisho key retire 1      ends the sessions whose latest token it signed";
