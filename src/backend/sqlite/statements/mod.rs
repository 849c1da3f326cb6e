//! All statements of a store, with the names of its tables.

mod audit;
mod sessions;
mod settings;

pub(super) use self::audit::AuditSql;
pub(super) use self::sessions::SessionSql;
pub(super) use self::settings::SettingSql;

/// The statements of a store.
#[derive(Debug)]
pub(super) struct StoreSql {
    pub(super) sessions: SessionSql,
    pub(super) audit: AuditSql,
    pub(super) settings: SettingSql,
}

impl StoreSql {
    /// Renders the statements for tables whose names `prefix` precedes.
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            sessions: SessionSql::new(prefix),
            audit: AuditSql::new(prefix),
            settings: SettingSql::new(prefix),
        }
    }
}
