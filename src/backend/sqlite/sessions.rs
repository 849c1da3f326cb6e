//! Sessions in SQLite.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::ExposeSecret;
use sqlx::query::QueryAs;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{FromRow, QueryBuilder, Sqlite};
use time::OffsetDateTime;
use uuid::Uuid;

use super::statements::{SessionSql, StoreSql};
use super::{Durability, Micros, SqliteStore, WriteScope, audit, conflict, micros};
use crate::backend::sql::rows::{
    SessionRow, corrupt_session, ended_session, session_client, session_subject,
};
use crate::backend::sql::{MAX_TERMINATIONS, Sql, count_to_i64, push_filter, terminate_in_batches};
use crate::client_info::ClientInfo;
use crate::clock::{Clock, SystemClock};
use crate::identity::{Claims, Subject};
use crate::models::audit::AuditEntry;
use crate::models::session::{EndReason, Session, SessionEnd, SessionId};
use crate::models::user::UserId;
use crate::services::store::{
    EndedSessions, EndedSince, InsertOutcome, NewSession, Rotation, SessionFilter, SessionStore,
    SessionTermination, SessionUse, StoreError, TokenUse,
};

#[async_trait]
impl SessionStore for SqliteStore {
    async fn insert_session(&self, new: &NewSession<'_>) -> Result<InsertOutcome, StoreError> {
        if new.hashed_password.is_some() && !self.tables.has_users() {
            return Ok(InsertOutcome::Refused);
        }
        let session = new.session.clone();
        let hash = new.hashed_password.cloned();
        let replaces = new.replaces;
        let max_per_user = new.max_per_user;
        let sql = Arc::clone(&self.sql);
        self.write(Durability::Flushed, move |tx| {
            Box::pin(async move {
                let hashed_password = hash.as_ref();
                let new = NewSession { session: &session, hashed_password, replaces, max_per_user };
                if !insert(tx, &sql.sessions, &new).await? {
                    return Ok(InsertOutcome::Refused);
                }
                audit::insert(tx, &sql.audit, &AuditEntry::login(&session)).await?;
                let ended = evict_sessions(tx, &sql, &new).await?;
                Ok(InsertOutcome::Inserted { terminated: ended })
            })
        })
        .await
    }

    async fn rotate(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        let Some(query) = advance_query(&self.sql.sessions.rotate, rotation) else { return Ok(None) };
        self.fetch(query.bind(micros(rotation.max_rotated_at))).await
    }

    async fn catch_up(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        let Some(query) = advance_query(&self.sql.sessions.catch_up, rotation) else { return Ok(None) };
        self.fetch(query).await
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        let row: Option<Row> =
            sqlx::query_as(&self.sql.sessions.find).bind(id.0).fetch_optional(&self.readers).await?;
        row.map(Session::try_from).transpose()
    }

    async fn confirm_generation(&self, tokens: &[TokenUse]) -> Result<Vec<Session>, StoreError> {
        let tokens = tokens.to_vec();
        let sql = Arc::clone(&self.sql);
        let reused = self.write(Durability::Relaxed, move |tx| {
            Box::pin(async move {
                let mut reused = Vec::new();
                for token in &tokens {
                    confirm(tx, &sql.sessions, token).await?;
                    reused.extend(confirmed_by_other(tx, &sql.sessions, token).await?);
                }
                Ok(reused)
            })
        });
        let mut reused: Vec<Session> = reused.await?;
        reused.sort_by_key(|session| session.id);
        reused.dedup_by_key(|session| session.id);
        Ok(reused)
    }

    async fn record_uses(&self, uses: &[SessionUse], now: OffsetDateTime) -> Result<(), StoreError> {
        let uses = uses.to_vec();
        let sql = Arc::clone(&self.sql);
        self.write(Durability::Relaxed, move |tx| {
            Box::pin(async move {
                for used in uses {
                    let query = sqlx::query(&sql.sessions.record_use)
                        .bind(used.session.0)
                        .bind(count_to_i64(used.replays));
                    let query = query.bind(micros(used.idle_expires_at)).bind(micros(now));
                    query.execute(&mut *tx).await?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn set_claims(
        &self,
        id: SessionId,
        claims: &Claims,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let query =
            sqlx::query(&self.sql.sessions.set_claims).bind(id.0).bind(claims.as_json().map(str::to_owned));
        Ok(self.execute(Durability::Flushed, query.bind(micros(now))).await? == 1)
    }

    async fn end_session(&self, id: SessionId, termination: &SessionTermination) -> Result<bool, StoreError> {
        let termination = termination.clone();
        let sql = Arc::clone(&self.sql);
        self.write(Durability::Flushed, move |tx| {
            Box::pin(async move { terminate(tx, &sql, id, &termination).await })
        })
        .await
    }

    async fn end_session_list(
        &self,
        ids: &[SessionId],
        termination: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        let ids = ids.to_vec();
        let sql = Arc::clone(&self.sql);
        let termination = termination.clone();
        self.write(Durability::Flushed, move |tx| {
            Box::pin(async move {
                let push_ids = |query: &mut QueryBuilder<Sqlite>| {
                    let mut list = query.push(" AND id IN (").separated(", ");
                    for id in &ids {
                        list.push_bind(id.0);
                    }
                    query.push(")");
                };
                terminate_where(tx, &sql, push_ids, &termination, None).await
            })
        })
        .await
    }

    async fn end_sessions(
        &self,
        filter: &SessionFilter,
        termination: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        let terminate_batch = |termination: SessionTermination| {
            let filter = filter.clone();
            let sql = Arc::clone(&self.sql);
            self.write(Durability::Flushed, move |tx| {
                Box::pin(async move {
                    terminate_matching(tx, &sql, &filter, &termination, Some(MAX_TERMINATIONS)).await
                })
            })
        };
        terminate_in_batches(termination, terminate_batch).await
    }

    async fn live_sessions(&self, user: &Subject, now: OffsetDateTime) -> Result<Vec<Session>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(&self.sql.sessions.list_live)
            .bind(user.as_str())
            .bind(micros(now))
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(Session::try_from).collect()
    }

    async fn list_sessions(
        &self,
        filter: &SessionFilter,
        live_at: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<Session>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(self.sql.sessions.list.as_str());
        push_filter(&mut query, filter);
        if let Some(now) = live_at {
            query.push(" AND ended_at IS NULL AND idle_expires_at > ").push_bind(micros(now));
            query.push(" AND absolute_expires_at > ").push_bind(micros(now));
        }
        query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(i64::from(limit));
        let rows = query.build_query_as::<Row>().fetch_all(&self.readers).await?;
        rows.into_iter().map(Session::try_from).collect()
    }

    async fn ended_since(&self, since: EndedSince) -> Result<EndedSessions, StoreError> {
        self.files.check().map_err(StoreError::unavailable)?;
        let store_time = SystemClock.now();
        // Read first: a session that is terminated in between is returned again.
        let latest: i64 =
            sqlx::query_scalar(&self.sql.sessions.last_audit_id).fetch_one(&self.readers).await?;
        // Ids go back when the file is restored from a backup, or when all entries are purged.
        let position = since.position.filter(|position| *position <= latest);
        let position = position.unwrap_or(latest - MAX_LOOKBACK);
        let query = sqlx::query_as::<_, (Uuid, Micros, String)>(&self.sql.sessions.list_ended_since);
        let query = query.bind(micros(since.time)).bind(position);
        let rows = query.fetch_all(&self.readers).await?;
        let sessions = rows.into_iter().map(ended_session).collect::<Result<_, _>>()?;
        Ok(EndedSessions { store_time, position: Some(latest), age: Duration::ZERO, sessions })
    }

    async fn end_expired(
        &self,
        after: SessionId,
        limit: u32,
        now: OffsetDateTime,
    ) -> Result<Option<SessionId>, StoreError> {
        let query = sqlx::query_as::<_, (Uuid, bool)>(&self.sql.sessions.scan_expired);
        let query = query.bind(after.0).bind(limit).bind(micros(now));
        let scanned = query.fetch_all(&self.readers).await?;
        let last = scanned.last().map(|(id, _)| SessionId(*id));
        let expired: Vec<_> = scanned.into_iter().filter(|(_, expired)| *expired).map(|(id, _)| id).collect();
        if !expired.is_empty() {
            let sql = Arc::clone(&self.sql);
            // An update undone by a crash is repeated.
            self.write(Durability::Relaxed, move |tx| {
                Box::pin(async move { terminate_expired(tx, &sql, &expired, now).await })
            })
            .await?;
        }
        Ok(last)
    }

    async fn purge_sessions(&self, before: OffsetDateTime, limit: u32) -> Result<u64, StoreError> {
        self.execute(
            Durability::Relaxed,
            sqlx::query(&self.sql.sessions.purge).bind(micros(before)).bind(limit),
        )
        .await
    }

    async fn max_key_number(&self) -> Result<Option<u8>, StoreError> {
        let number: Option<i64> =
            sqlx::query_scalar(&self.sql.sessions.max_key_number).fetch_one(&self.readers).await?;
        number.map(|number| number.try_into().map_err(|_| corrupt_session("key_number"))).transpose()
    }

    async fn database_time(&self) -> Result<OffsetDateTime, StoreError> {
        // An embedded database shares the clock of this machine.
        Ok(SystemClock.now())
    }
}

impl SqliteStore {
    /// Runs one relaxed statement and returns the row that it changed.
    async fn fetch(&self, query: AdvanceQuery) -> Result<Option<Session>, StoreError> {
        let row = self.writer.write(Durability::Relaxed, WriteScope::Statement, |tx| {
            Box::pin(async move { Ok(query.fetch_optional(tx).await?) })
        });
        row.await?.map(Session::try_from).transpose()
    }
}

/// Inserts the row unless the user may not sign in. Returns `true` if it was inserted.
async fn insert(
    tx: &mut SqliteConnection,
    sql: &SessionSql,
    new: &NewSession<'_>,
) -> Result<bool, StoreError> {
    let session = new.session;
    let query = sqlx::query(if new.hashed_password.is_some() { &sql.insert_checked } else { &sql.insert })
        .bind(session.id.0)
        .bind(session.subject.as_str())
        .bind(session.kind.as_str())
        .bind(&session.email)
        .bind(session.roles.as_str())
        .bind(i64::from(session.generation))
        .bind(i16::from(session.key_number))
        .bind(micros(session.created_at))
        .bind(micros(session.rotated_at))
        .bind(session.asked_by.map(|token| token.id.0))
        .bind(session.asked_by.map(|token| micros(token.issued_at)))
        .bind(session.settled_by.map(|token| token.0))
        .bind(count_to_i64(session.rotations))
        .bind(count_to_i64(session.replays))
        .bind(micros(session.idle_expires_at))
        .bind(micros(session.absolute_expires_at))
        .bind(session.end.map(|end| micros(end.at)))
        .bind(session.end.map(|end| end.reason.as_str()))
        .bind(session.client.address.map(|address| address.to_string()))
        .bind(&session.client.user_agent)
        .bind(session.claims.as_json());
    let query = match new.hashed_password {
        Some(hash) => {
            query.bind(hash.expose_secret()).bind(UserId::try_from(&session.subject).ok().map(|id| id.0))
        }
        None => query,
    };
    let done = query.execute(tx).await.map_err(|error| conflict(error, "id"))?;
    Ok(done.rows_affected() == 1)
}

/// Terminates the session that the new one replaces, and the oldest ones of its kind beyond the user's limit.
async fn evict_sessions(
    tx: &mut SqliteConnection,
    sql: &StoreSql,
    new: &NewSession<'_>,
) -> Result<Vec<SessionId>, StoreError> {
    let now = new.session.created_at;
    let displaced = sqlx::query_scalar::<_, Uuid>(&sql.sessions.list_beyond_limit)
        .bind(new.session.subject.as_str())
        .bind(micros(now))
        .bind(new.session.id.0)
        .bind(new.replaces.map(|id| id.0))
        .bind(i64::from(new.max_per_user.saturating_sub(1)))
        .bind(new.session.kind.as_str());
    let displaced = displaced.fetch_all(&mut *tx).await?;
    let displaced = displaced.into_iter().map(|id| (SessionId(id), EndReason::Displaced));
    let replaced = new.replaces.map(|id| (id, EndReason::LoggedOut));

    let mut ended = Vec::new();
    for (id, reason) in replaced.into_iter().chain(displaced) {
        let termination = SessionTermination::new(now, reason, new.session.client.clone());
        if terminate(tx, sql, id, &termination).await? {
            ended.push(id);
        }
    }
    Ok(ended)
}

type AdvanceQuery = QueryAs<'static, Sqlite, Row, SqliteArguments>;

/// Builds the update to the generation after `rotation.from_generation`. Returns `None` if that is the last one.
fn advance_query(sql: &Sql, rotation: &Rotation<'_>) -> Option<AdvanceQuery> {
    let next = rotation.from_generation.checked_add(1)?;
    let query = sqlx::query_as(sql)
        .bind(rotation.id.0)
        .bind(rotation.kind.as_str())
        .bind(i64::from(rotation.from_generation))
        .bind(micros(rotation.now))
        .bind(i64::from(next))
        .bind(rotation.asked_by.map(|token| token.id.0))
        .bind(rotation.asked_by.map(|token| micros(token.issued_at)))
        .bind(i16::from(rotation.key_number))
        .bind(micros(rotation.idle_expires_at))
        .bind(rotation.client.address.map(|address| address.to_string()))
        .bind(rotation.client.user_agent.clone());
    Some(query)
}

async fn confirm(tx: &mut SqliteConnection, sql: &SessionSql, token: &TokenUse) -> Result<(), StoreError> {
    let query =
        sqlx::query(&sql.confirm).bind(token.session.0).bind(i64::from(token.generation)).bind(token.token.0);
    query.execute(tx).await?;
    Ok(())
}

async fn confirmed_by_other(
    tx: &mut SqliteConnection,
    sql: &SessionSql,
    token: &TokenUse,
) -> Result<Option<Session>, StoreError> {
    let query = sqlx::query_as::<_, Row>(&sql.confirmed_by_other)
        .bind(token.session.0)
        .bind(i64::from(token.generation))
        .bind(token.token.0);
    let row = query.fetch_optional(tx).await?;
    row.map(Session::try_from).transpose()
}

async fn terminate(
    tx: &mut SqliteConnection,
    sql: &StoreSql,
    id: SessionId,
    termination: &SessionTermination,
) -> Result<bool, StoreError> {
    let query = sqlx::query_as::<_, TerminatedRow>(&sql.sessions.terminate);
    let query = query.bind(id.0).bind(micros(termination.at)).bind(termination.reason.as_str());
    let row = query.fetch_optional(&mut *tx).await?;
    let Some(row) = row else { return Ok(false) };
    audit::insert(tx, &sql.audit, &row.entry(termination)?).await?;
    Ok(true)
}

/// Terminates the sessions that are still expired at `now`, with the time of their expiry.
async fn terminate_expired(
    tx: &mut SqliteConnection,
    sql: &StoreSql,
    ids: &[Uuid],
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    for id in ids {
        let query = sqlx::query_as::<_, Row>(&sql.sessions.find).bind(id);
        let Some(row) = query.fetch_optional(&mut *tx).await? else {
            continue;
        };
        let session = Session::try_from(row)?;
        let expiry = session.expiry(now).filter(|_| session.end.is_none());
        if let Some(SessionEnd { at, reason }) = expiry {
            terminate(tx, sql, session.id, &SessionTermination::new(at, reason, ClientInfo::default()))
                .await?;
        }
    }
    Ok(())
}

pub(super) async fn terminate_matching(
    tx: &mut SqliteConnection,
    sql: &StoreSql,
    filter: &SessionFilter,
    termination: &SessionTermination,
    limit: Option<u32>,
) -> Result<Vec<SessionId>, StoreError> {
    terminate_where(tx, sql, |query| push_filter(query, filter), termination, limit).await
}

/// Terminates the sessions that meet the conditions that `push_conditions` adds.
async fn terminate_where(
    tx: &mut SqliteConnection,
    sql: &StoreSql,
    push_conditions: impl FnOnce(&mut QueryBuilder<Sqlite>),
    termination: &SessionTermination,
    limit: Option<u32>,
) -> Result<Vec<SessionId>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new(sql.sessions.end_chosen.as_str());
    query.push_bind(micros(termination.at)).push(", end_reason = ").push_bind(termination.reason.as_str());
    query.push(sql.sessions.select_chosen.as_str());
    push_conditions(&mut query);
    // A negative limit is no limit.
    query
        .push(" LIMIT ")
        .push_bind(limit.map_or(-1, i64::from))
        .push(") RETURNING ")
        .push(TERMINATED_COLUMNS);
    let rows = query.build_query_as::<TerminatedRow>().fetch_all(&mut *tx).await?;
    let mut ended = Vec::with_capacity(rows.len());
    for row in rows {
        ended.push(SessionId(row.id));
        audit::insert(tx, &sql.audit, &row.entry(termination)?).await?;
    }
    Ok(ended)
}

/// The columns of a terminated session that its audit entry needs.
#[derive(FromRow)]
struct TerminatedRow {
    id: Uuid,
    user_id: String,
    generation: i64,
    address: Option<String>,
    user_agent: Option<String>,
}

impl TerminatedRow {
    fn entry(self, termination: &SessionTermination) -> Result<AuditEntry, StoreError> {
        let generation = self.generation.try_into().map_err(|_| corrupt_session("generation"))?;
        let holder = session_client(self.address, self.user_agent)?;
        let subject = session_subject(self.user_id)?;
        Ok(termination.audit_entry(SessionId(self.id), subject, generation, holder))
    }
}

type Row = SessionRow<Micros, i64>;

/// The columns of [`TerminatedRow`].
const TERMINATED_COLUMNS: &str = "id, user_id, generation, address, user_agent";

/// Number of audit entries that are examined without a position.
const MAX_LOOKBACK: i64 = 10_000;
