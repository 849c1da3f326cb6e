//! The connection of the revocation poller, which notices that it no longer leads to the primary.
//!
//! After a failover, an established connection may still lead to the former primary, where no termination
//! appears. So each poll opens a new connection, unless the last one is a tenth of a second old: if the
//! host name has moved, it leads to the new primary. Each poll also reads from the server, in the same
//! statement as the terminations:
//!
//! - whether it accepts writes: a standby and a fenced primary do not;
//! - its system identifier and its timeline. A promotion begins a new timeline.
//!
//! A server that does not accept writes, and one with an earlier timeline than another before, fail the poll.
//! A new identity fails one poll, so that the next is a full load from the new server. In all three cases the
//! other connections are replaced before their next use.
//!
//! A former primary that still accepts writes under the same name looks like the primary.

use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, FromRow};
use time::OffsetDateTime;
use time::macros::datetime;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::address::Address;
use super::pool::{StatementMode, begin, commit, read_only_error, with_timeout};
use super::server_changes::ServerChanges;
use super::statement::PreparedQuery;
use crate::backend::sql::statements;
use crate::services::store::{ACQUIRE_TIMEOUT, EndedSince};

/// The sessions that ended, as the primary knows them.
#[derive(Debug)]
pub(super) struct Feed {
    address: Address,
    sql: FeedSql,
    mode: StatementMode,
    changes: ServerChanges,
    state: Mutex<FeedState>,
}

#[derive(Debug)]
struct FeedState {
    connection: Option<FeedConnection>,
    primary: Option<Primary>,
    is_read_only: bool,
    /// False if the server lacks the functions for its identity, or denies them.
    has_identity: bool,
}

#[derive(Debug)]
struct FeedConnection {
    raw: PgConnection,
    opened_at: Instant,
}

/// The server that was the primary at the last poll.
#[derive(Debug)]
struct Primary {
    identity: ServerIdentity,
    seen_at: Instant,
}

/// Identity of a server: the system identifier of its cluster, and the timeline that it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ServerIdentity {
    system: i64,
    /// Eight hexadecimal digits.
    timeline: String,
}

impl fmt::Display for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "system {}, timeline {}", self.system, self.timeline)
    }
}

/// A row of the feed: facts about the server, with a session or with nulls.
#[derive(Debug, FromRow)]
pub(super) struct FeedRow {
    /// The server's time, from before the snapshot of the rows.
    pub(super) now: OffsetDateTime,
    read_only: bool,
    system: Option<i64>,
    timeline: Option<String>,
    /// The session.
    pub(super) id: Option<Uuid>,
    /// The time of its end.
    pub(super) ended_at: Option<OffsetDateTime>,
    /// The reason of its end.
    pub(super) end_reason: Option<String>,
}

/// Error of a poll that did not reach the primary.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("the database's host leads to another server than before")]
    ServerChanged,
    #[error(
        "the database server has the timeline {found}, but {known} was seen before: it is a former primary"
    )]
    FormerPrimary { found: String, known: String },
}

impl From<FeedError> for sqlx::Error {
    fn from(error: FeedError) -> Self {
        Self::Io(std::io::Error::other(error))
    }
}

impl Feed {
    /// Creates a feed, which connects on its first use.
    pub(super) fn new(address: Address, sql: FeedSql, mode: StatementMode, changes: ServerChanges) -> Self {
        let state = FeedState { connection: None, primary: None, is_read_only: false, has_identity: true };
        Self { address, sql, mode, changes, state: Mutex::new(state) }
    }

    /// Returns the sessions that ended `since`, and the age of the connection at the call: the host name may have moved
    /// since then. There is at least one row.
    pub(super) async fn fetch(&self, since: EndedSince) -> Result<(Vec<FeedRow>, Duration), sqlx::Error> {
        let called_at = Instant::now();
        let mut state = self.state.lock().await;
        let connection = self.connection(&mut state).await?;
        let (rows, opened_at) = self.fetch_on(connection, &mut state, since).await?;
        Ok((rows, called_at.saturating_duration_since(opened_at)))
    }

    /// Checks that the host name leads to the known primary, by a connection that is opened after `time`.
    ///
    /// Callers share connections, of which one is opened within [`MAX_CONNECTION_AGE`].
    pub(super) async fn check_since(&self, time: Instant) -> Result<(), sqlx::Error> {
        loop {
            let mut state = self.state.lock().await;
            let Some(opened_at) = state.connection.as_ref().map(|last| last.opened_at) else {
                let connection = self.connect().await?;
                return self.fetch_on(connection, &mut state, EndedSince::time(END_OF_TIME)).await.map(drop);
            };
            if opened_at >= time {
                return Ok(());
            }
            drop(state);
            sleep_until(opened_at + MAX_CONNECTION_AGE).await;
            let mut state = self.state.lock().await;
            if let Some(last) = state.connection.take_if(|last| last.opened_at == opened_at) {
                last.close().await;
            }
        }
    }

    /// Reads the feed on a connection, which is kept if it leads to the primary.
    async fn fetch_on(
        &self,
        mut connection: FeedConnection,
        state: &mut FeedState,
        since: EndedSince,
    ) -> Result<(Vec<FeedRow>, Instant), sqlx::Error> {
        // If the caller gives up, the connection is dropped with this future.
        let rows = match self.query(&mut connection.raw, since, state.has_identity).await {
            Err(error) if state.has_identity && is_unsupported(&error) => {
                connection = self.connect().await?;
                let rows = self.query(&mut connection.raw, since, false).await?;
                let error = self.address.describe(&error);
                tracing::warn!(
                    error,
                    "cannot read the identity of the database server: a failover may go unnoticed"
                );
                state.has_identity = false;
                rows
            }
            rows => rows?,
        };
        self.check(state, rows.first().ok_or(sqlx::Error::RowNotFound)?)?;
        let opened_at = connection.opened_at;
        state.connection = Some(connection);
        Ok((rows, opened_at))
    }

    /// Closes the connection.
    pub(super) async fn close(&self) {
        if let Some(connection) = self.state.lock().await.connection.take() {
            connection.close().await;
        }
    }

    /// Returns the last connection if it was opened just now, otherwise a new one.
    async fn connection(&self, state: &mut FeedState) -> Result<FeedConnection, sqlx::Error> {
        match state.connection.take() {
            Some(last) if last.opened_at.elapsed() < MAX_CONNECTION_AGE => Ok(last),
            Some(last) => {
                last.close().await;
                self.connect().await
            }
            None => self.connect().await,
        }
    }

    async fn connect(&self) -> Result<FeedConnection, sqlx::Error> {
        let opened_at = Instant::now();
        let raw = with_timeout(ACQUIRE_TIMEOUT, self.address.connect()).await?;
        Ok(FeedConnection { raw, opened_at })
    }

    async fn query(
        &self,
        connection: &mut PgConnection,
        since: EndedSince,
        has_identity: bool,
    ) -> Result<Vec<FeedRow>, sqlx::Error> {
        let sql = if has_identity { &self.sql.list } else { &self.sql.list_without_identity };
        let query = PreparedQuery::new(sqlx::query(sql).bind(since.time).bind(since.session_time), false)?;
        if self.mode.wraps_statements {
            begin(connection).await?;
        }
        let rows = connection.fetch_all(query).await?;
        if self.mode.wraps_statements {
            commit(connection).await?;
        }
        rows.iter().map(FeedRow::from_row).collect()
    }

    /// Checks that a row is from the primary. Otherwise the other connections are suspect.
    fn check(&self, state: &mut FeedState, row: &FeedRow) -> Result<(), sqlx::Error> {
        if row.read_only {
            if !std::mem::replace(&mut state.is_read_only, true) {
                self.changes.record();
            }
            return Err(read_only_error());
        }
        state.is_read_only = false;
        let (Some(system), Some(timeline)) = (row.system, row.timeline.clone()) else { return Ok(()) };
        let found = ServerIdentity { system, timeline };
        let result = state.check_identity(&found);
        if result.is_err() {
            self.changes.record();
        }
        result.map_err(sqlx::Error::from)
    }
}

impl FeedState {
    fn check_identity(&mut self, found: &ServerIdentity) -> Result<(), FeedError> {
        let seen_at = Instant::now();
        let Some(primary) = &mut self.primary else {
            self.primary = Some(Primary { identity: found.clone(), seen_at });
            return Ok(());
        };
        if primary.identity == *found {
            primary.seen_at = seen_at;
            return Ok(());
        }
        let known = &primary.identity;
        let is_earlier = known.system == found.system && known.timeline > found.timeline;
        if is_earlier && primary.seen_at.elapsed() < FORMER_PRIMARY_TIMEOUT {
            let (found, known) = (found.timeline.clone(), known.timeline.clone());
            return Err(FeedError::FormerPrimary { found, known });
        }
        tracing::warn!(former = %known, %found, "database server changed");
        *primary = Primary { identity: found.clone(), seen_at };
        Err(FeedError::ServerChanged)
    }
}

impl FeedConnection {
    async fn close(self) {
        // Closing sends a message, which a silent network may block.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.raw.close()).await;
    }
}

/// Returns `true` if the server lacks a function, or the role may not call it.
fn is_unsupported(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("42883" | "42501" | "0A000"))
}

statements! {
    /// The statements of the feed.
    struct FeedSql {
        list: LIST_ENDED_SINCE,
        list_without_identity: LIST_ENDED_SINCE_WITHOUT_IDENTITY,
    }
}

/// The statement of the feed, with expressions for the system identifier and the timeline.
macro_rules! list_ended_since {
    ($system:literal, $timeline:literal) => {
        concat!(
            "SELECT store.now, store.read_only, store.system, store.timeline, \
             session.id, session.ended_at, session.end_reason \
             FROM (SELECT statement_timestamp() AS now, \
             pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS read_only, ",
            $system,
            " AS system, ",
            $timeline,
            " AS timeline) AS store LEFT JOIN {namespace}sessions AS session ON session.end_recorded_at >= $1 \
             OR session.ended_at >= $2 AND session.end_recorded_at IS NOT NULL"
        )
    };
}

/// Every role may call these functions. The control file names the timeline of the last checkpoint, which may
/// be from before a promotion; the name of the present WAL segment begins with that of the server.
const LIST_ENDED_SINCE: &str = list_ended_since!(
    "(SELECT system_identifier FROM pg_control_system())",
    "CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END"
);

/// For databases that are compatible with PostgreSQL, but have no WAL of their own.
const LIST_ENDED_SINCE_WITHOUT_IDENTITY: &str = list_ended_since!("NULL::bigint", "NULL::text");

/// No session ends after it.
const END_OF_TIME: OffsetDateTime = datetime!(9999-12-31 0:00 UTC);

/// Maximum age of a connection at the start of a poll. Less than the poll interval, so that each poll has a
/// new one, except those that follow at once, as after a notification.
const MAX_CONNECTION_AGE: Duration = Duration::from_millis(100);

/// Time without the known primary after which a server with an earlier timeline is accepted, as after the
/// restore of a disk.
const FORMER_PRIMARY_TIMEOUT: Duration = Duration::from_secs(60);

/// Timeout for closing a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(system: i64, timeline: &str) -> ServerIdentity {
        ServerIdentity { system, timeline: timeline.to_owned() }
    }

    /// B6: a poll counts only if it reached the primary.
    #[tokio::test(start_paused = true)]
    async fn changed_identity_fails_one_poll_and_an_earlier_timeline_all() {
        let mut state =
            FeedState { connection: None, primary: None, is_read_only: false, has_identity: true };
        let (former, promoted) = (identity(7, "00000009"), identity(7, "0000000A"));
        assert!(state.check_identity(&former).is_ok());
        assert!(state.check_identity(&former).is_ok());
        assert!(matches!(state.check_identity(&promoted), Err(FeedError::ServerChanged)));
        assert!(state.check_identity(&promoted).is_ok());
        for _ in 0..2 {
            assert!(matches!(state.check_identity(&former), Err(FeedError::FormerPrimary { .. })));
        }
        assert!(state.check_identity(&promoted).is_ok());
        assert!(matches!(state.check_identity(&identity(8, "00000001")), Err(FeedError::ServerChanged)));
        assert!(state.check_identity(&identity(8, "00000001")).is_ok());

        assert!(matches!(state.check_identity(&identity(8, "00000002")), Err(FeedError::ServerChanged)));
        tokio::time::advance(FORMER_PRIMARY_TIMEOUT).await;
        assert!(matches!(state.check_identity(&identity(8, "00000001")), Err(FeedError::ServerChanged)));
        assert!(state.check_identity(&identity(8, "00000001")).is_ok());
    }
}
