//! The names of all configuration keys, which stand in `config/default.toml`.

use std::sync::LazyLock;

/// All keys except those of routes, in the order of `config/default.toml`.
pub static KEYS: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| documented_keys(|section| section != "routes"));

/// All keys of a `[[routes]]` table, in the order of `config/default.toml`.
pub static ROUTE_KEYS: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| documented_keys(|section| section == "routes"));

/// Returns the keys of the sections that are `included`.
///
/// A key is a line `name = value`, or `#name = value` if it has no default. Lines of text begin with `# `.
fn documented_keys(included: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut keys = Vec::<&'static str>::new();
    let mut section = "";
    for line in DEFAULTS.lines().map(|line| line.strip_prefix('#').unwrap_or(line)) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        } else if let Some((name, _)) = line.split_once(" = ")
            && !name.starts_with(' ')
            && included(section)
        {
            keys.push(format!("{section}.{name}").leak());
        }
    }
    keys
}

/// The built-in defaults, with every key and its documentation.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Keys whose value can be a table.
pub(super) const TABLE_KEYS: &[&str] =
    &["routes.identity", "routes.set_request_headers", "routes.set_response_headers"];

/// Prefix of the environment variables that are configuration.
pub(super) const ENV_PREFIX: &str = "SEKISHO_";
