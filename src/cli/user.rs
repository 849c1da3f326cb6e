//! `sekisho user …`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use email_address::{EmailAddress, Options};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use time::OffsetDateTime;

use super::error::CliError;
use super::import::{self, Format, ImportedUser};
use super::output::{self, Row};
use crate::models::user::{Role, User};

/// What to do with users.
#[derive(Clone, Debug, Subcommand)]
pub enum UserCommand {
    /// Create a user; asks for the password twice
    #[command(after_help = "Example:\n  sekisho user create --email ada@example.com --role admin")]
    Create(UserCreate),
    /// List all users
    List(UserList),
    /// Set a user's password, which ends their sessions; asks for it twice
    Passwd(UserPasswd),
    /// Set a user's role, which ends their sessions
    Role(UserRole),
    /// Forbid a user to sign in, and end their sessions
    Disable(UserName),
    /// Let a user sign in again
    Enable(UserName),
    /// Delete a user, and end their sessions
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

impl Row for UserRow {
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
    let options = Options::default().without_display_text().without_domain_literal();
    match EmailAddress::parse_with_options(text, options) {
        Ok(_) if text.len() <= LONGEST_EMAIL => Ok(text.to_lowercase()),
        _ => Err("expected an e-mail address such as ada@example.com".to_owned()),
    }
}

/// The role of this name.
pub(super) fn parse_role(text: &str) -> Result<Role, String> {
    Role::from_word(text).ok_or_else(|| "expected user or admin".to_owned())
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho user create --email ada@example.com --name Ada --role admin
  sekisho user create --email bob@example.com --password-stdin < password.txt
  sekisho user list --json
  sekisho user passwd ada@example.com
  sekisho user role bob@example.com admin
  sekisho user import users.csv

A password never goes on the command line, where other users of the machine could read it.";

/// RFC 5321, section 4.5.3.1.3: a path of 256, less its brackets.
const LONGEST_EMAIL: usize = 254;

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
