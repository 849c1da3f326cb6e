//! `sekisho user …`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use secrecy::SecretString;
use serde::Serialize;
use time::OffsetDateTime;

use super::args::{parse_email, parse_role};
use super::error::CliError;
use super::import::{self, Format};
use super::output::{self, TableRow, sessions_ended};
use super::plural::counted;
use super::{bootstrap, password};
use crate::client_info::ClientInfo;
use crate::config::Config;
use crate::models::user::{Role, User};
use crate::services::store::StoreError;
use crate::services::users::{HashedUser, NewUser, UserError, Users};

/// Subcommands of `sekisho user`.
#[derive(Clone, Debug, Subcommand)]
pub enum UserCommand {
    /// Create a user; prompts for the password twice
    #[command(after_help = CREATE_EXAMPLES)]
    Create {
        /// E-mail address for sign-in
        #[arg(long, value_name = "EMAIL", value_parser = parse_email)]
        email: String,
        /// Display name
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Role: user or admin
        #[arg(long, value_name = "ROLE", default_value = "user", value_parser = parse_role)]
        role: Role,
        /// Read the password from standard input instead of prompting
        #[arg(long)]
        password_stdin: bool,
    },
    /// List all users
    #[command(
        after_help = "Examples:\n  sekisho user list\n  sekisho user list --json | jq -r '.[] | select(.disabled) | .email'"
    )]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Set a user's password and end their sessions; prompts for it twice
    #[command(after_help = PASSWD_EXAMPLES)]
    Passwd {
        /// E-mail address of the user
        #[arg(value_name = "EMAIL", value_parser = parse_email)]
        email: String,
        /// Read the password from standard input instead of prompting
        #[arg(long)]
        password_stdin: bool,
    },
    /// Set a user's role and end their sessions
    #[command(after_help = "Example:\n  sekisho user role ada@example.com admin")]
    Role {
        /// E-mail address of the user
        #[arg(value_name = "EMAIL", value_parser = parse_email)]
        email: String,
        /// New role: user or admin
        #[arg(value_name = "ROLE", value_parser = parse_role)]
        role: Role,
    },
    /// Disable a user and end their sessions
    #[command(after_help = "Example:\n  sekisho user disable bob@example.com")]
    Disable(UserName),
    /// Enable a disabled user
    #[command(after_help = "Example:\n  sekisho user enable bob@example.com")]
    Enable(UserName),
    /// Delete a user and end their sessions
    #[command(after_help = DELETE_EXAMPLES)]
    Delete(UserName),
    /// Import users with their password hashes from a file; all of them or none
    #[command(after_help = import::EXAMPLES)]
    Import {
        /// File in JSON Lines, or in CSV with a header line
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Arguments of `sekisho user disable`, `enable` and `delete`.
#[derive(Args, Clone, Debug)]
pub struct UserName {
    /// E-mail address of the user
    #[arg(value_name = "EMAIL", value_parser = parse_email)]
    pub email: String,
}

/// Runs a user command.
pub(super) async fn run(command: UserCommand, config: &Config) -> Result<(), CliError> {
    // Passwords and files are read first, so that an error leaves the database untouched.
    let (password, imported) = match &command {
        UserCommand::Create { password_stdin, .. } | UserCommand::Passwd { password_stdin, .. } => {
            (Some(password::read_new(*password_stdin, config.login.password_min_length)?), Vec::new())
        }
        UserCommand::Import { file } => (None, read_import(file)?),
        _ => (None, Vec::new()),
    };
    let stores = match &command {
        UserCommand::List { .. } => bootstrap::existing_stores(config).await?,
        _ => {
            let missing = bootstrap::missing_file(config);
            let stores = bootstrap::stores(config).await?;
            if let Some(file) = missing {
                output::print_lines(&[format!("created the database {}", file.display())])?;
            }
            stores
        }
    };
    let users = bootstrap::users(config, &stores).await?;
    let done = perform(command, &users, password, imported).await;
    stores.close().await;
    done
}

async fn perform(
    command: UserCommand,
    users: &Users,
    password: Option<SecretString>,
    imported: Vec<HashedUser>,
) -> Result<(), CliError> {
    let password = password.unwrap_or_default();
    let by = |command: &str| ClientInfo::command_line(&format!("user {command}"));
    let said = match command {
        UserCommand::List { json } => {
            let rows: Vec<_> = users.list().await?.iter().map(UserRow::from).collect();
            return output::print_list(&rows, json);
        }
        UserCommand::Create { email, name, role, .. } => {
            let user = users.create(NewUser { email, name, role, password }).await?;
            format!("created {} ({}), id {}", user.email, user.role.as_str(), user.id)
        }
        UserCommand::Passwd { email, .. } => {
            let ended =
                users.set_password(&users.find_by_email(&email).await?, &password, &by("passwd")).await?;
            format!("set the password of {email}; {}", sessions_ended(ended))
        }
        UserCommand::Role { email, role } => {
            let ended = users.set_role(&users.find_by_email(&email).await?, role, &by("role")).await?;
            format!("{email} is {} now; {}", role.as_str(), sessions_ended(ended))
        }
        UserCommand::Disable(UserName { email }) => {
            let ended = users.disable(&users.find_by_email(&email).await?, &by("disable")).await?;
            format!("disabled {email}; {}", sessions_ended(ended))
        }
        UserCommand::Enable(UserName { email }) => {
            users.enable(&users.find_by_email(&email).await?).await?;
            format!("enabled {email}")
        }
        UserCommand::Delete(UserName { email }) => {
            let ended = users.delete(&users.find_by_email(&email).await?, &by("delete")).await?;
            format!("deleted {email}; {}", sessions_ended(ended))
        }
        UserCommand::Import { .. } => {
            let imported = users.import(imported).await?;
            format!("imported {}", counted(imported, "user"))
        }
    };
    output::print_lines(&[said])
}

impl From<UserError> for CliError {
    fn from(error: UserError) -> Self {
        match error {
            UserError::Store(StoreError::Conflict(_)) => Self::Refused(
                "a user with this e-mail address exists already; nothing was changed".to_owned(),
            ),
            other => Self::Refused(super::error::display_chain(&other)),
        }
    }
}

/// A row of `sekisho user list`.
#[derive(Clone, Debug, Serialize)]
pub struct UserRow {
    /// The id.
    pub id: String,
    /// The e-mail address.
    pub email: String,
    /// The display name.
    pub name: Option<String>,
    /// `user` or `admin`.
    pub role: &'static str,
    /// True if the user is disabled.
    pub disabled: bool,
    /// The time of creation.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl From<&User> for UserRow {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.to_string(),
            email: user.email.clone(),
            name: user.name.clone(),
            role: user.role.as_str(),
            disabled: user.disabled_at.is_some(),
            created_at: user.created_at,
        }
    }
}

impl TableRow for UserRow {
    const HEAD: &'static [&'static str] = &["EMAIL", "NAME", "ROLE", "DISABLED", "CREATED", "ID"];
    const CUT: &'static [usize] = &[1];

    fn cells(&self) -> Vec<String> {
        vec![
            self.email.clone(),
            self.name.clone().unwrap_or_default(),
            self.role.to_owned(),
            if self.disabled { "yes" } else { "" }.to_owned(),
            output::minute(self.created_at),
            self.id.clone(),
        ]
    }
}

/// Reads the file of `sekisho user import`, with a progress bar on a terminal.
///
/// # Errors
///
/// Returns an error if the file cannot be read, or [`CliError::BadImport`] with all invalid lines.
pub fn read_import(file: &Path) -> Result<Vec<HashedUser>, CliError> {
    let unreadable = |error| CliError::failed(format!("cannot read {}", file.display()), error);
    let opened = File::open(file).map_err(unreadable)?;
    let size = opened.metadata().map_err(unreadable)?.len();
    let mut reader = BufReader::new(opened);
    let format = Format::of(file, reader.fill_buf().map_err(unreadable)?);
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left");
    // indicatif draws on standard error, and only if it is a terminal.
    let bar = ProgressBar::new(size).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let users = import::parse(reader, format, |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    users.map_err(|lines| CliError::BadImport { file: file.to_owned(), lines })
}

const CREATE_EXAMPLES: &str = "\
Examples:
  sekisho user create --email ada@example.com --role admin
  sekisho user create --email bob@example.com --password-stdin < password.txt

A password needs at least login.password_min_length characters (default 15) and must not be easy to \
guess; a few uncommon words work well.";

const PASSWD_EXAMPLES: &str = "\
Examples:
  sekisho user passwd ada@example.com
  sekisho user passwd ada@example.com --password-stdin < password.txt";

const DELETE_EXAMPLES: &str = "\
Example:
  sekisho user delete bob@example.com

This cannot be undone. `sekisho user disable` can.";

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho user create --email ada@example.com --name Ada --role admin
  sekisho user create --email bob@example.com --password-stdin < password.txt
  sekisho user list --json
  sekisho user passwd ada@example.com
  sekisho user role bob@example.com admin
  sekisho user import users.csv

Passwords are not accepted as arguments, because other users of the machine can read those.";
