//! `[[routes]]`: header edits and identity headers.

use std::collections::BTreeMap;
use std::path::Path;

use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::error::ConfigError;
use super::raw::{RawSettings, parse_choice};
use super::value::RawValue;
use crate::secret;

/// What changes in the headers of messages in one direction.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    /// What goes, in every spelling.
    pub remove: Vec<HeaderName>,
    /// What is set, each value marked sensitive: it may be a key.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    pub(super) fn read(table: &RawSettings, remove: &str, set: &str) -> Result<Self, ConfigError> {
        Ok(Self { remove: table.list(remove, header_name)?.unwrap_or_default(), set: pairs(table, set)? })
    }
}

/// By which headers upstreams learn who the user is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteIdentity {
    /// By these; what is `None` they don't learn.
    Custom {
        /// For the user's id.
        user: Option<HeaderName>,
        /// For the user's address.
        email: Option<HeaderName>,
        /// For the user's roles.
        groups: Option<HeaderName>,
    },
    /// By those that upstreams of another gateway know.
    Preset(IdentityPreset),
}

/// Headers that upstreams may know already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityPreset {
    /// None at all.
    None,
    /// `Remote-User` and its like.
    Remote,
    /// `X-Auth-Request-User` and its like.
    XAuthRequest,
    /// `X-Forwarded-User` and its like.
    XForwarded,
}

impl RouteIdentity {
    pub(super) fn read(table: &RawSettings) -> Result<Self, ConfigError> {
        let key = "routes.identity";
        let Some(value) = table.raw(key) else { return Ok(Self::Preset(IdentityPreset::XForwarded)) };
        let invalid = |problem: String| table.invalid(key, problem);
        let pairs = match value {
            RawValue::Text(word) => return parse_choice(word, &PRESETS).map(Self::Preset).map_err(invalid),
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
        Ok(Self::Custom { user: header("user")?, email: header("email")?, groups: header("groups")? })
    }
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
            RawValue::Text(text) => SecretString::from(text.as_str()),
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
    let secret = secret::read_file(Path::new(path)).map_err(|source| ConfigError::Unreadable {
        path: path.into(),
        key: Some(format!("{key}.{header}")),
        source,
    })?;
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

const PRESETS: [(&str, IdentityPreset); 4] = [
    ("x-forwarded", IdentityPreset::XForwarded),
    ("x-auth-request", IdentityPreset::XAuthRequest),
    ("remote", IdentityPreset::Remote),
    ("none", IdentityPreset::None),
];
