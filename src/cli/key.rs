//! `sekisho key …`.

use std::cmp::Ordering;
use std::path::Path;

use clap::Subcommand;
use serde::Serialize;
use time::OffsetDateTime;

use super::bootstrap;
use super::error::CliError;
use super::output::{self, TableRow, sessions_ended};
use crate::backend::db::{self, Stores};
use crate::client_info::ClientInfo;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, KeySource};
use crate::duration_format::format_duration;
use crate::key_store::{self, KeyFileError};
use crate::models::audit::{AuditEntry, AuditEvent};
use crate::models::session::{EndReason, SessionId};
use crate::services::key_registry;
use crate::services::keys::KeyMaterial;
use crate::services::store::{SessionFilter, SessionTermination, StoreError};

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
    if let (KeyCommand::Retire { number }, KeySource::Secret(_)) = (&command, &config.tokens.keys) {
        return output::print_lines(&[retire_secret(*number, config).await?]);
    }
    let dir = bootstrap::key_dir(config)?;
    // The server could not read files of another user.
    db::check_owner(dir)?;
    let algorithm = config.tokens.algorithm;
    let said = match command {
        KeyCommand::Init => {
            let KeyContext { now, last_number } = KeyContext::read(config).await;
            let number = key_store::init(dir, algorithm, last_number, now)?;
            format!("created key {number} ({}) in {}", algorithm.as_str(), dir.display())
        }
        KeyCommand::List { json } => return print(dir, config, SystemClock.now(), json),
        KeyCommand::Rotate => {
            let KeyContext { now, last_number } = KeyContext::read(config).await;
            let number = key_store::rotate(dir, algorithm, last_number, now)?;
            record_audit(config, AuditEvent::KeyRotated, number, "key rotate").await;
            let activation = format_duration(config.tokens.key_activation);
            format!("added key {number} ({}); it signs in {activation}; no session ends", algorithm.as_str())
        }
        KeyCommand::Retire { number } => retire(dir, number, config).await?,
    };
    output::print_lines(&[said])
}

/// The part of the database that a new key depends on.
struct KeyContext {
    /// The database's time. By a slow clock of this machine, a key would sign before the replicas have loaded
    /// it.
    now: OffsetDateTime,
    /// The highest number of a key that the database knows, or 0.
    last_number: u8,
}

impl KeyContext {
    /// Reads the database. Neither creates it nor changes its tables. An unavailable database is only a
    /// warning: a server does not start with a key whose number the database knows from another.
    async fn read(config: &Config) -> Self {
        Self::try_read(config).await.unwrap_or_else(|error| {
            output::print_warning(&format!(
                "the key is dated by the clock of this machine, and its number may have been used before: {error}"
            ));
            Self { now: SystemClock.now(), last_number: 0 }
        })
    }

    async fn try_read(config: &Config) -> Result<Self, CliError> {
        if bootstrap::missing_file(config).is_some() {
            return Ok(Self { now: SystemClock.now(), last_number: 0 });
        }
        let stores = bootstrap::open(config).await?;
        let read = async {
            let now = stores.sessions.database_time().await?;
            let pending = stores.pending().await?;
            let has_tables = pending.iter().all(|migration| migration.number > SETTINGS_MIGRATION);
            let last_number = if has_tables { bootstrap::last_key_number(&stores).await? } else { 0 };
            Ok::<_, CliError>(Self { now, last_number })
        };
        let read = read.await;
        stores.close().await;
        read
    }
}

/// Ends the sessions of `tokens.secret`, and frees its number for another secret.
async fn retire_secret(number: u8, config: &Config) -> Result<String, CliError> {
    if number != 1 {
        return Err(KeyFileError::Unknown(number).into());
    }
    let stores = bootstrap::stores(config).await?;
    let retire = async {
        let ended = end_sessions_of(&stores, number).await?;
        key_registry::forget(&*stores.settings, number).await?;
        Ok::<_, StoreError>(ended)
    };
    let ended = retire.await;
    stores.close().await;
    let ended = ended.map_err(|error| CliError::failed("cannot end the sessions of the key", error))?;
    record_audit(config, AuditEvent::KeyRetired, number, "key retire").await;
    Ok(format!("{}; set another tokens.secret on all replicas and restart them", sessions_ended(ended.len())))
}

async fn end_sessions_of(stores: &Stores, number: u8) -> Result<Vec<SessionId>, StoreError> {
    let by = ClientInfo::command_line("key retire");
    let now = stores.sessions.database_time().await?;
    let ending = SessionTermination::new(now, EndReason::Revoked, by);
    stores.sessions.end_sessions(&SessionFilter::SignedBy(number), &ending).await
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
    let ended = end_sessions_of(&stores, number).await;
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

/// The migration after which sessions and settings can be read.
const SETTINGS_MIGRATION: i64 = 4;

const INIT_EXAMPLES: &str = "\
Example:
  sekisho key init --config /etc/sekisho/sekisho.toml

With PostgreSQL, run it once before the first start, and give every replica the same directory. With \
SQLite the first start creates the key. Read access to a key file allows signing in as any user.";

const ROTATE_EXAMPLES: &str = "\
Example:
  sekisho key rotate

Copy the new file to every replica before it becomes active; each replica rereads its directory every \
10 seconds. Older keys still verify tokens. The rotation is recorded in the audit log.";

const RETIRE_EXAMPLES: &str = "\
Example:
  sekisho key retire 1

For a key that may have leaked: run `sekisho key rotate` first, and retire the old key once the new one \
signs.";

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho key init          before the first start, with PostgreSQL
  sekisho key rotate        no session ends
  sekisho key list --json
  sekisho key retire 1      ends the sessions whose latest token it signed";
