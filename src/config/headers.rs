//! `[[routes]]`: header edits and identity headers.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::error::ConfigError;
use super::raw::{RawSettings, parse_choice, read_secret};
use super::value::RawValue;
use crate::proxy::{HeaderEdits, IdentityHeaders};
use crate::secret;

/// Reads the header edits of one direction from the keys `remove` and `set`. The values are marked
/// sensitive, for they may be API keys.
pub(super) fn read_edits(table: &RawSettings, remove: &str, set: &str) -> Result<HeaderEdits, ConfigError> {
    Ok(HeaderEdits { remove: table.list(remove, header_name)?.unwrap_or_default(), set: pairs(table, set)? })
}

/// Reads `identity`: a preset, or a table of header names.
pub(super) fn read_identity(table: &RawSettings) -> Result<IdentityHeaders, ConfigError> {
    let key = "routes.identity";
    let Some(value) = table.raw(key) else { return Ok(IdentityHeaders::default()) };
    let invalid = |problem: String| table.invalid(key, problem);
    let presets = [
        ("x-forwarded", IdentityHeaders::X_FORWARDED),
        ("x-auth-request", IdentityHeaders::X_AUTH_REQUEST),
        ("remote", IdentityHeaders::REMOTE),
        ("none", IdentityHeaders::NONE),
    ];
    let pairs = match value {
        RawValue::Text(word) => {
            return parse_choice(word, &presets).map_err(invalid);
        }
        RawValue::Table(pairs) => pairs,
        _ => return Err(invalid(EXPECTED_IDENTITY.to_owned())),
    };
    if let Some(unknown) = pairs.keys().find(|key| !["user", "email", "groups"].contains(&key.as_str())) {
        return Err(invalid(format!("{unknown}: {EXPECTED_IDENTITY}")));
    }
    let header = |field: &str| match pairs.get(field) {
        None => Ok(None),
        Some(RawValue::Text(text)) => {
            header_name(text).map(Some).map_err(|problem| invalid(format!("{field}: {problem}")))
        }
        Some(_) => Err(invalid(EXPECTED_IDENTITY.to_owned())),
    };
    Ok(IdentityHeaders { user: header("user")?, email: header("email")?, groups: header("groups")? })
}

fn pairs(table: &RawSettings, key: &str) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigError> {
    let pairs = match table.raw(key) {
        None => return Ok(Vec::new()),
        Some(RawValue::Table(pairs)) => pairs,
        Some(_) => return Err(table.invalid(key, EXPECTED_PAIRS)),
    };
    let parse = |(text, raw): (&String, &RawValue)| {
        let name = header_name(text).map_err(|problem| table.invalid(key, format!("{text}: {problem}")))?;
        let secret = match raw {
            RawValue::Text(text) => SecretString::from(secret::trimmed(text)),
            RawValue::Table(file) => read_value(table, key, text, file)?,
            _ => return Err(table.invalid(key, EXPECTED_PAIRS)),
        };
        let value = HeaderValue::from_str(secret.expose_secret()).ok().filter(|value| value.to_str().is_ok());
        let Some(mut value) = value else {
            let problem = "expected visible ASCII characters and spaces, on one line";
            return Err(table.invalid(key, format!("{text}: {problem}")));
        };
        value.set_sensitive(true);
        Ok((name, value))
    };
    pairs.iter().map(parse).collect()
}

/// Reads the value from the file of `{ file = "PATH" }`.
fn read_value(
    table: &RawSettings,
    key: &str,
    header: &str,
    file: &BTreeMap<String, RawValue>,
) -> Result<SecretString, ConfigError> {
    let (Some(RawValue::Text(path)), 1) = (file.get("file"), file.len()) else {
        return Err(table.invalid(key, format!("{header}: {EXPECTED_PAIRS}")));
    };
    let secret = read_secret(path.into(), &format!("{key}.{header}"))?;
    if secret.expose_secret().is_empty() {
        return Err(table.invalid(key, format!("{header}: the file is empty")));
    }
    Ok(secret)
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::try_from(text).map_err(|_| "expected a header name such as X-Api-Key".to_owned())
}

const EXPECTED_PAIRS: &str =
    r#"expected headers and values, { "X-Name" = "value", "X-Key" = { file = "PATH" } }"#;
const EXPECTED_IDENTITY: &str = r#"expected x-forwarded, x-auth-request, remote or none, or header names for user, email and groups, such as { user = "X-User", groups = "X-Roles" }"#;
