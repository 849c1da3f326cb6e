//! Databases as the version before made and filled them, in which users are UUIDs.

use sekisho::models::audit::AuditEntry;
use sekisho::models::session::Session;
use sekisho::models::user::UserId;
use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection, SqliteConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::db::{DatabaseLocation, TestDatabase, run, run_sqlite};

/// A database with the schema and the rows of the version before.
pub(crate) struct PreviousVersion {
    location: DatabaseLocation,
}

impl PreviousVersion {
    /// Creates the schema.
    pub(crate) async fn create(location: DatabaseLocation) -> Self {
        if is_sqlite(&location) {
            let url = format!("{}?mode=rwc", location.url);
            let mut connection = SqliteConnection::connect(&url).await.unwrap();
            until_last(sqlx::migrate!("migrations/sqlite")).run(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        } else {
            run(&location.url, "CREATE SCHEMA myapi").await;
            let mut migrator = until_last(sqlx::migrate!("migrations/postgres"));
            migrator.table_name = "myapi._sqlx_migrations".into();
            let mut connection = PgConnection::connect(&location.url).await.unwrap();
            migrator.run(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        Self { location }
    }

    /// Inserts the row of a session.
    pub(crate) async fn insert_session(&self, session: &Session) {
        let token = session.asked_by;
        let mut values = vec![
            self.id(session.id.0),
            self.id(UserId::try_from(&session.subject).expect("a user of the server").0),
            text(Some(session.kind.as_str())),
            text(Some(&session.email)),
            text(Some(session.roles.as_str())),
            session.generation.to_string(),
            session.key_number.to_string(),
            self.time(session.created_at),
            self.time(session.rotated_at),
            optional(token.map(|token| self.id(token.id.0))),
            optional(token.map(|token| self.time(token.issued_at))),
            optional(session.settled_by.map(|token| self.id(token.0))),
            session.rotations.to_string(),
            session.replays.to_string(),
            self.time(session.idle_expires_at),
            self.time(session.absolute_expires_at),
            optional(session.end.map(|end| self.time(end.at))),
            text(session.end.map(|end| end.reason.as_str())),
            optional(session.client.address.map(|address| format!("'{address}'"))),
            text(session.client.user_agent.as_deref()),
        ];
        let mut columns = "id, user_id, kind, email, roles, generation, key_number, created_at, rotated_at, \
            asked_by, asked_by_issued_at, settled_by, rotations, replays, idle_expires_at, \
            absolute_expires_at, ended_at, end_reason, address, user_agent"
            .to_owned();
        if !is_sqlite(&self.location) {
            columns.push_str(", end_recorded_at");
            values.push(optional(session.end.map(|end| self.time(end.at))));
        }
        self.run(&format!(
            "INSERT INTO {}sessions ({columns}) VALUES ({})",
            self.schema(),
            values.join(", ")
        ))
        .await;
    }

    /// Inserts an audit entry. `id` is the one that SQLite would have assigned.
    pub(crate) async fn insert_audit(&self, id: i64, entry: &AuditEntry) {
        let user = entry.user.as_ref().map(|user| UserId::try_from(user).expect("a user of the server"));
        let mut values = vec![
            self.time(entry.at),
            text(Some(entry.event.as_str())),
            optional(user.map(|user| self.id(user.0))),
            optional(entry.session.map(|session| self.id(session.0))),
            optional(entry.held),
        ];
        let mut columns = "at, event, user_id, session_id, held".to_owned();
        if is_sqlite(&self.location) {
            columns.push_str(", id");
            values.push(id.to_string());
        }
        self.run(&format!("INSERT INTO {}audit ({columns}) VALUES ({})", self.schema(), values.join(", ")))
            .await;
    }

    /// Opens the database with this version, without migrating it.
    pub(crate) async fn open(self) -> TestDatabase {
        let stores = self.location.open().await;
        TestDatabase::new(stores, self.location)
    }

    async fn run(&self, sql: &str) {
        let url = &self.location.url;
        if is_sqlite(&self.location) { run_sqlite(url, sql).await } else { run(url, sql).await }
    }

    fn schema(&self) -> &'static str {
        if is_sqlite(&self.location) { "" } else { "myapi." }
    }

    fn id(&self, id: Uuid) -> String {
        if is_sqlite(&self.location) { format!("x'{}'", id.simple()) } else { format!("'{id}'") }
    }

    fn time(&self, at: OffsetDateTime) -> String {
        let micros = at.unix_timestamp_nanos() / 1_000;
        if is_sqlite(&self.location) {
            micros.to_string()
        } else {
            format!("timestamptz 'epoch' + {micros} * interval '1 microsecond'")
        }
    }
}

/// Returns the migrations that the version before had.
fn until_last(migrator: Migrator) -> Migrator {
    const LAST: i64 = 7;
    let known = migrator.migrations.iter().filter(|migration| migration.version <= LAST);
    Migrator { migrations: known.cloned().collect(), ..migrator }
}

fn is_sqlite(location: &DatabaseLocation) -> bool {
    location.url.starts_with("sqlite")
}

fn text(text: Option<&str>) -> String {
    optional(text.map(|text| format!("'{text}'")))
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |value| value.to_string())
}
