//! Parsers for command-line arguments.

use crate::models::session::SessionId;
use crate::models::user::Role;
use crate::services::users;

/// Parses an e-mail address and returns it in lower case.
pub(super) fn parse_email(text: &str) -> Result<String, String> {
    users::parse_email(text).map_err(|_| "expected an e-mail address such as ada@example.com".to_owned())
}

pub(super) fn parse_role(text: &str) -> Result<Role, String> {
    Role::from_word(text).ok_or_else(|| "expected user or admin".to_owned())
}

pub(super) fn parse_session_id(text: &str) -> Result<SessionId, String> {
    text.parse().map_err(|_| "expected a session id as shown by `sekisho session list`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_email_accepts_plain_addresses_only() {
        assert_eq!(parse_email("Ada@Example.COM").as_deref(), Ok("ada@example.com"));
        for bad in ["", "ada", "@example.com", "Ada <ada@example.com>", "ada@[127.0.0.1]", "a b@example.com"]
        {
            assert!(parse_email(bad).is_err(), "{bad}");
        }
        assert!(parse_email(&format!("{}@{}.example", "a".repeat(60), "b.".repeat(100))).is_err());
    }
}
