//! Statements about settings.

use crate::backend::sql::statements;

statements! {
    /// The statements about settings.
    struct SettingSql {
        insert: INSERT,
        set: SET,
        replace: REPLACE,
        list: LIST,
        delete: DELETE,
        find: FIND,
    }
}

const INSERT: &str =
    "INSERT INTO {namespace}settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

const SET: &str = "INSERT INTO {namespace}settings (name, value) VALUES ($1, $2) \
    ON CONFLICT (name) DO UPDATE SET value = excluded.value";

const REPLACE: &str = "UPDATE {namespace}settings SET value = $3 WHERE name = $1 AND value = $2";

const LIST: &str = "SELECT name, value FROM {namespace}settings WHERE substr(name, 1, length($1)) = $1";

const DELETE: &str = "DELETE FROM {namespace}settings WHERE name = $1";

const FIND: &str = "SELECT value FROM {namespace}settings WHERE name = $1";
