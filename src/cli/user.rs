//! `sekisho user …`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use secrecy::SecretString;
use serde::Serialize;
use time::OffsetDateTime;

use super::error::CliError;
use super::import::{self, Format, ImportedUser};
use super::output::{self, TableRow};
use super::{bootstrap, password};
use crate::client_info::ClientInfo;
use crate::config::Config;
use crate::models::user::{Role, User};
use crate::services::store::StoreError;
use crate::services::users::{self, HashedUser, NewUser, UserError, Users};

/// What to do with users.
#[derive(Clone, Debug, Subcommand)]
pub enum UserCommand {
    /// Create a user; asks for the password twice
    #[command(after_help = CREATE_EXAMPLES)]
    Create(UserCreate),
    /// List all users
    #[command(
        after_help = "Examples:\n  sekisho user list\n  sekisho user list --json | jq -r '.[] | select(.disabled) | .email'"
    )]
    List(UserList),
    /// Set a user's password, which ends their sessions; asks for it twice
    #[command(after_help = PASSWD_EXAMPLES)]
    Passwd(UserPasswd),
    /// Set a user's role, which ends their sessions
    #[command(after_help = "Example:\n  sekisho user role ada@example.com admin")]
    Role(UserRole),
    /// Forbid a user to sign in, and end their sessions
    #[command(after_help = "Example:\n  sekisho user disable bob@example.com")]
    Disable(UserName),
    /// Let a user sign in again
    #[command(after_help = "Example:\n  sekisho user enable bob@example.com")]
    Enable(UserName),
    /// Delete a user, and end their sessions
    #[command(after_help = DELETE_EXAMPLES)]
    Delete(UserName),
    /// Import users with the password hashes that they have: all of a file, or nothing
    #[command(after_help = import::EXAMPLES)]
    Import(UserImport),
}

/// Arguments of `sekisho user create`.
#[derive(Args, Clone, Debug)]
pub struct UserCreate {
    /// The address to sign in with
    #[arg(long, value_name = "EMAIL", value_parser = parse_email)]
    pub email: String,
    /// What to call the user
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// What the user may do: user or admin
    #[arg(long, value_name = "ROLE", default_value = "user", value_parser = parse_role)]
    pub role: Role,
    /// Read the password from standard input instead of asking for it
    #[arg(long)]
    pub password_stdin: bool,
}

/// Arguments of `sekisho user list`.
#[derive(Args, Clone, Debug)]
pub struct UserList {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sekisho user passwd`.
#[derive(Args, Clone, Debug)]
pub struct UserPasswd {
    /// The user's address
    #[arg(value_name = "EMAIL", value_parser = parse_email)]
    pub email: String,
    /// Read the password from standard input instead of asking for it
    #[arg(long)]
    pub password_stdin: bool,
}

/// Arguments of `sekisho user role`.
#[derive(Args, Clone, Debug)]
pub struct UserRole {
    /// The user's address
    #[arg(value_name = "EMAIL", value_parser = parse_email)]
    pub email: String,
    /// What the user may do from now on: user or admin
    #[arg(value_name = "ROLE", value_parser = parse_role)]
    pub role: Role,
}

/// Whom `sekisho user disable`, `enable` and `delete` are about.
#[derive(Args, Clone, Debug)]
pub struct UserName {
    /// The user's address
    #[arg(value_name = "EMAIL", value_parser = parse_email)]
    pub email: String,
}

/// Arguments of `sekisho user import`.
#[derive(Args, Clone, Debug)]
pub struct UserImport {
    /// JSON Lines, or CSV with a header line
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Does what is to be done with users.
pub(super) async fn run(command: UserCommand, config: &Config) -> Result<(), CliError> {
    // What the user must type, or the file must hold, comes before the database is touched.
    let (password, imported) = match &command {
        UserCommand::Create(UserCreate { password_stdin, .. })
        | UserCommand::Passwd(UserPasswd { password_stdin, .. }) => {
            (Some(password::read_new(*password_stdin, config.login.password_min_length)?), Vec::new())
        }
        UserCommand::Import(UserImport { file }) => (None, read_import(file)?),
        _ => (None, Vec::new()),
    };
    let stores = bootstrap::stores(config).await?;
    let users = bootstrap::users(config, &stores)?;
    let done = perform(command, &users, password, imported).await;
    stores.close().await;
    done
}

async fn perform(
    command: UserCommand,
    users: &Users,
    password: Option<SecretString>,
    imported: Vec<ImportedUser>,
) -> Result<(), CliError> {
    let password = password.unwrap_or_default();
    let by = |command: &str| ClientInfo::command_line(&format!("user {command}"));
    let said = match command {
        UserCommand::List(UserList { json }) => {
            let rows: Vec<_> = users.list().await?.iter().map(UserRow::from).collect();
            return output::print_list(&rows, json);
        }
        UserCommand::Create(UserCreate { email, name, role, .. }) => {
            let user = users.create(NewUser { email, name, role, password }).await?;
            format!("created {} ({}), id {}", user.email, user.role.as_str(), user.id)
        }
        UserCommand::Passwd(UserPasswd { email, .. }) => {
            let ended =
                users.set_password(&users.find_by_email(&email).await?, &password, &by("passwd")).await?;
            format!("set the password of {email}; {}", sessions_ended(ended))
        }
        UserCommand::Role(UserRole { email, role }) => {
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
        UserCommand::Import(_) => {
            let imported = users.import(imported.into_iter().map(HashedUser::from).collect()).await?;
            format!("imported {imported} users")
        }
    };
    output::print_lines(&[said])
}

pub(super) fn sessions_ended(count: usize) -> String {
    match count {
        0 => "no session ended".to_owned(),
        1 => "1 session ended".to_owned(),
        many => format!("{many} sessions ended"),
    }
}

impl From<ImportedUser> for HashedUser {
    fn from(user: ImportedUser) -> Self {
        let ImportedUser { email, name, role, hashed_password, disabled, .. } = user;
        Self { email, name, role, hashed_password, disabled }
    }
}

impl From<UserError> for CliError {
    fn from(error: UserError) -> Self {
        match error {
            UserError::Store(StoreError::Conflict(_)) => {
                Self::Refused("a user with this address is there already; nothing was changed".to_owned())
            }
            other => Self::Refused(super::error::display_chain(&other)),
        }
    }
}

/// A user, as listed.
#[derive(Clone, Debug, Serialize)]
pub struct UserRow {
    /// The id.
    pub id: String,
    /// The address.
    pub email: String,
    /// What to call the user.
    pub name: Option<String>,
    /// `user` or `admin`.
    pub role: &'static str,
    /// Whether the user may not sign in.
    pub disabled: bool,
    /// When the user was created.
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
/// If the file can't be opened, or has bad lines: then with every one of them.
pub fn read_import(file: &Path) -> Result<Vec<ImportedUser>, CliError> {
    let unreadable = |error| CliError::failed(format!("can't read {}", file.display()), error);
    let opened = File::open(file).map_err(unreadable)?;
    let size = opened.metadata().map_err(unreadable)?.len();
    let mut reader = BufReader::new(opened);
    let format = Format::of(file, reader.fill_buf().map_err(unreadable)?);
    // Draws on standard error, and only on a terminal.
    let bar = ProgressBar::new(size).with_style(bar_style());
    let users = import::parse(reader, format, |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    users.map_err(|lines| CliError::BadImport { file: file.to_owned(), lines })
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The address in lower case, if it is one.
pub(super) fn parse_email(text: &str) -> Result<String, String> {
    users::parse_email(text).map_err(|_| "expected an e-mail address such as ada@example.com".to_owned())
}

/// The role of this name.
pub(super) fn parse_role(text: &str) -> Result<Role, String> {
    Role::from_word(text).ok_or_else(|| "expected user or admin".to_owned())
}

const CREATE_EXAMPLES: &str = "\
Examples:
  sekisho user create --email ada@example.com --role admin
  sekisho user create --email bob@example.com --password-stdin < password.txt

A password has at least login.password_min_length characters (15 by default) and isn't easy to guess:
a few uncommon words are best.";

const PASSWD_EXAMPLES: &str = "\
Examples:
  sekisho user passwd ada@example.com
  sekisho user passwd ada@example.com --password-stdin < password.txt";

const DELETE_EXAMPLES: &str = "\
Example:
  sekisho user delete bob@example.com

There is no way back. `sekisho user disable` has one.";

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho user create --email ada@example.com --name Ada --role admin
  sekisho user create --email bob@example.com --password-stdin < password.txt
  sekisho user list --json
  sekisho user passwd ada@example.com
  sekisho user role bob@example.com admin
  sekisho user import users.csv

A password never goes on the command line, where other users of the machine could read it.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(parse_email("Ada@Example.COM").as_deref(), Ok("ada@example.com"));
        for bad in ["", "ada", "@example.com", "Ada <ada@example.com>", "ada@[127.0.0.1]", "a b@example.com"]
        {
            assert!(parse_email(bad).is_err(), "{bad}");
        }
        assert!(parse_email(&format!("{}@{}.example", "a".repeat(60), "b.".repeat(100))).is_err());
    }
}
