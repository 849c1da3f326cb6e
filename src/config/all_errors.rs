//! Finds all errors of a configuration, instead of the first.
//!
//! The configuration is read again and again: the value that an error names is replaced by its default, so that the
//! next error appears. An error that is only a consequence of such a replacement is left out. It names the replaced
//! key: all errors name the keys that they depend on.

use super::error::{ConfigError, ValueSource};
use super::keys::KEYS;
use super::raw::RawSettings;
use super::sources::RawConfig;
use super::value::{RawValue, SourcedValue};

/// Reads `raw` with `read`. Returns all errors as one.
pub(super) fn collect<T>(
    mut raw: RawConfig,
    read: impl Fn(&RawConfig) -> Result<T, ConfigError>,
) -> Result<T, ConfigError> {
    let mut errors = std::mem::take(&mut raw.errors);
    // Keys that have a value in the sources, but on a line or under a name that was not read.
    let mut unread = std::mem::take(&mut raw.unreadable_keys);
    let mut replaced = unread.clone();
    loop {
        let error = match read(&raw) {
            Ok(loaded) if errors.is_empty() => return Ok(loaded),
            Ok(_) => return Err(ConfigError::from_list(errors)),
            Err(error) => error,
        };
        let replacement = replace(&mut raw, &error);
        let is_known = errors.iter().any(|known| known.to_string() == error.to_string());
        if let ConfigError::UnknownKey { nearest, .. } = &error {
            unread.extend(nearest.clone());
        }
        if !is_known && !is_consequence(&error, &replaced, &unread) {
            errors.push(error);
        }
        match replacement {
            Some(keys) => replaced.extend(keys),
            None => return Err(ConfigError::from_list(errors)),
        }
    }
}

/// Returns `true` if an error names a replaced key besides its own, or if a replaced or unread key is missing. A required
/// key of a route that is replaced is missing in no route because of that.
fn is_consequence(error: &ConfigError, replaced: &[String], unread: &[String]) -> bool {
    let (key, text) = match error {
        ConfigError::Invalid { key, problem, .. } => (key, problem),
        ConfigError::Missing { key, remedy } => (key, remedy),
        _ => return false,
    };
    let is_missing = matches!(error, ConfigError::Missing { .. });
    let is_absent = unread.contains(key) || !key.starts_with("routes.") && replaced.contains(key);
    replaced.iter().any(|name| name != key && text.contains(name.as_str())) || is_missing && is_absent
}

/// Replaces the value that an error names, so that the error does not occur again. Returns the keys whose values are
/// not those of the sources any more, or `None` if the error stays.
fn replace(raw: &mut RawConfig, error: &ConfigError) -> Option<Vec<String>> {
    match error {
        ConfigError::Invalid { key, place, problem, .. } => {
            if replace_at(raw, key, place) {
                return Some(vec![key.clone()]);
            }
            Some(replace_named(raw, problem)).filter(|keys| !keys.is_empty())
        }
        ConfigError::UnknownKey { key, place, .. } => {
            let mut tables = std::iter::once(&mut raw.settings).chain(&mut raw.routes);
            tables.find(|table| is_at(table, key, place))?.set(key, None);
            Some(vec![key.clone()])
        }
        ConfigError::Missing { key, .. } => fill(raw, key).then(Vec::new),
        ConfigError::Unreadable { key: Some(key), path, .. } => {
            replace_file(raw, key, &path.display().to_string())
        }
        _ => None,
    }
}

/// Replaces the value of `key` from `place`. Returns `false` if it is the default already.
fn replace_at(raw: &mut RawConfig, key: &str, place: &ValueSource) -> bool {
    if *place == ValueSource::BuiltIn {
        return false;
    }
    if let Some(index) = raw.routes.iter().position(|table| is_at(table, key, place)) {
        let value = placeholder(key, index);
        raw.routes[index].set(key, value);
        return true;
    }
    let is_found = is_at(&raw.settings, key, place);
    if is_found {
        raw.settings.set(key, raw.defaults.get(key).cloned());
    }
    is_found
}

/// Replaces the values of all keys in `text` that have none by default.
fn replace_named(raw: &mut RawConfig, text: &str) -> Vec<String> {
    let is_named = |key: &&&str| raw.settings.is_explicit(key) && text.contains(**key);
    let named: Vec<String> = KEYS.iter().filter(is_named).map(|key| (*key).to_owned()).collect();
    for key in &named {
        raw.settings.set(key, raw.defaults.get(key).cloned());
    }
    named
}

/// Removes the value that names the file `path`. A key of headers has the header as its last part.
fn replace_file(raw: &mut RawConfig, key: &str, path: &str) -> Option<Vec<String>> {
    for table in std::iter::once(&mut raw.settings).chain(&mut raw.routes) {
        let names = [key, key.rsplit_once('.').map_or(key, |(name, _)| name)];
        let found = names.into_iter().find(|name| table.raw(name).is_some_and(|value| value.contains(path)));
        if let Some(name) = found {
            table.set(name, None);
            return Some(vec![name.to_owned()]);
        }
    }
    None
}

/// Sets a missing key to a valid value. Returns `false` if there is none.
fn fill(raw: &mut RawConfig, key: &str) -> bool {
    let index = raw.routes.iter().position(|table| table.get(key).is_none()).unwrap_or_default();
    let is_route = key.starts_with("routes.");
    let table = if is_route { raw.routes.get_mut(index) } else { Some(&mut raw.settings) };
    let Some(table) = table.filter(|table| table.get(key).is_none()) else { return false };
    // Of an empty route one error is enough.
    let keys: &[&str] = if is_route && table.first_place().is_none() { &REQUIRED[..] } else { &[key] };
    for key in keys {
        table.set(key, placeholder(key, index));
    }
    table.get(key).is_some()
}

fn is_at(table: &RawSettings, key: &str, place: &ValueSource) -> bool {
    table.get(key).is_some_and(|value| value.place == *place)
}

/// Required keys of a route.
const REQUIRED: [&str; 2] = ["routes.path", "routes.upstreams"];

/// Returns a valid value of a required key. That of a path differs from those of other routes.
fn placeholder(key: &str, route: usize) -> Option<SourcedValue> {
    let text = |text: &str| RawValue::Text(text.to_owned());
    let value = match key {
        "routes.path" => text(&format!("/placeholder-{route}")),
        "routes.upstreams" => RawValue::List(vec![text("http://placeholder.invalid")]),
        "server.public_origin" => text("https://placeholder.invalid"),
        "verify.source" => text("x-original"),
        _ => return None,
    };
    Some(SourcedValue { value, place: ValueSource::BuiltIn })
}
