//! Password input from standard input or a terminal, never from the command line.

use std::io::{self, IsTerminal, Read};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroize;

use super::error::CliError;
use crate::secret::without_line_end;

/// Reads a new password: all of standard input if `from_stdin`, else two prompts on the terminal,
/// without echo. The prompt states `min_length`; the caller checks the password policy.
///
/// # Errors
///
/// Returns an error if there is no terminal, if the two inputs differ, or if the password is empty.
pub fn read_new(from_stdin: bool, min_length: u32) -> Result<SecretString, CliError> {
    let stdin = io::stdin();
    if from_stdin {
        return from_reader(stdin.lock());
    }
    if !stdin.is_terminal() {
        let remedy = "standard input is not a terminal: pass the password with --password-stdin";
        return Err(CliError::Usage(remedy.to_owned()));
    }
    let first = prompt(&format!("Password, at least {min_length} characters: "))?;
    let second = prompt("Once more: ")?;
    if first.expose_secret() != second.expose_secret() {
        return Err(CliError::Refused("the two passwords differ".to_owned()));
    }
    not_empty(first)
}

/// Reads a password and strips one line ending.
fn from_reader(reader: impl Read) -> Result<SecretString, CliError> {
    let mut text = String::new();
    reader
        .take(MAX_INPUT_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| CliError::failed("cannot read a password from standard input", error))?;
    let password = SecretString::from(without_line_end(&text));
    text.zeroize();
    not_empty(password)
}

fn prompt(prompt: &str) -> Result<SecretString, CliError> {
    rpassword::prompt_password(prompt)
        .map(SecretString::from)
        .map_err(|error| CliError::failed("cannot prompt for a password", error))
}

fn not_empty(password: SecretString) -> Result<SecretString, CliError> {
    if password.expose_secret().is_empty() {
        return Err(CliError::Refused("the password is empty".to_owned()));
    }
    Ok(password)
}

/// Exceeds the maximum password length, so a longer password is rejected instead of truncated.
const MAX_INPUT_BYTES: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_the_input_less_one_line_end() {
        let read =
            |text: &'static [u8]| from_reader(text).map(|password| password.expose_secret().to_owned());
        assert_eq!(read(b"correct horse \n").unwrap(), "correct horse ");
        assert_eq!(read(b"no line end").unwrap(), "no line end");
        assert_eq!(read(b"two\nlines\r\n").unwrap(), "two\nlines");
        assert!(read(b"\n").is_err() && read(b"").is_err());
        assert!(read(b"\xff\n").is_err());
    }
}
