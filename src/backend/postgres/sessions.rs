//! Sessions in PostgreSQL.

use async_trait::async_trait;
use secrecy::ExposeSecret;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::{Postgres, QueryBuilder};
use time::OffsetDateTime;
use uuid::Uuid;

use super::notify::notify_replicas;
use super::pool::Transaction;
use super::statements::SessionSql;
use super::{PostgresStore, audit, conflict, with_write_timeout};
use crate::backend::sql::rows::{SessionRow, corrupt_session, ended_session};
use crate::backend::sql::{MAX_TERMINATIONS, Sql, count_to_i64, push_filter, terminate_in_batches};
use crate::identity::{Claims, Subject};
use crate::models::audit::AuditEntry;
use crate::models::session::{EndReason, Session, SessionId};
use crate::models::user::UserId;
use crate::services::store::{
    EndedSessions, EndedSince, InsertOutcome, NewSession, Rotation, SessionFilter, SessionStore,
    SessionTermination, SessionUse, StoreError, TokenUse,
};

#[async_trait]
impl SessionStore for PostgresStore {
    async fn insert_session(&self, new: &NewSession<'_>) -> Result<InsertOutcome, StoreError> {
        if new.hashed_password.is_some() && !self.tables.has_users() {
            return Ok(InsertOutcome::Refused);
        }
        with_write_timeout(async {
            let mut tx = self.pool.begin().await?;
            if !self.tables.has_users() {
                lock_subject(&mut tx, &new.session.subject).await?;
            }
            if !insert(&mut tx, &self.sql.sessions, new).await? {
                return Ok(InsertOutcome::Refused);
            }
            audit::insert(&mut tx, &self.sql.audit, &AuditEntry::login(new.session)).await?;
            let ended = evict_sessions(&mut tx, &self.sql.sessions, new).await?;
            tx.commit().await?;
            notify_replicas(&self.pool, &self.channel, !ended.is_empty()).await;
            Ok(InsertOutcome::Inserted { terminated: ended })
        })
        .await
    }

    async fn rotate(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        let Some(query) = advance_query(&self.sql.sessions.rotate, rotation) else { return Ok(None) };
        let row = query.bind(rotation.max_rotated_at).fetch_optional(&self.relaxed).await?;
        row.map(Session::try_from).transpose()
    }

    async fn catch_up(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        let Some(query) = advance_query(&self.sql.sessions.catch_up, rotation) else { return Ok(None) };
        let row = query.fetch_optional(&self.relaxed).await?;
        row.map(Session::try_from).transpose()
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        let start = self.statement_start();
        let row: Option<Row> =
            sqlx::query_as(&self.sql.sessions.find).bind(id.0).fetch_optional(&self.pool).await?;
        if row.is_none() {
            self.check_primary(start).await?;
        }
        row.map(Session::try_from).transpose()
    }

    async fn confirm_generation(&self, tokens: &[TokenUse]) -> Result<Vec<Session>, StoreError> {
        let sessions: Vec<Uuid> = tokens.iter().map(|token| token.session.0).collect();
        let generations: Vec<i64> = tokens.iter().map(|token| token.generation.into()).collect();
        let tokens: Vec<Uuid> = tokens.iter().map(|token| token.token.0).collect();
        let query = sqlx::query(&self.sql.sessions.confirm).bind(&sessions).bind(&generations).bind(&tokens);
        query.execute(&self.relaxed).await?;
        // Every generation is confirmed at this point, by this token or by another one.
        let query = sqlx::query_as::<_, Row>(&self.sql.sessions.confirmed_by_other);
        let query = query.bind(&sessions).bind(&generations).bind(&tokens);
        let rows = query.fetch_all(&self.pool).await?;
        rows.into_iter().map(Session::try_from).collect()
    }

    async fn record_uses(&self, uses: &[SessionUse], now: OffsetDateTime) -> Result<(), StoreError> {
        let sessions: Vec<Uuid> = uses.iter().map(|used| used.session.0).collect();
        let replays: Vec<i64> = uses.iter().map(|used| count_to_i64(used.replays)).collect();
        let expiries: Vec<OffsetDateTime> = uses.iter().map(|used| used.idle_expires_at).collect();
        let query = sqlx::query(&self.sql.sessions.record_uses)
            .bind(&sessions)
            .bind(&replays)
            .bind(&expiries)
            .bind(now);
        query.execute(&self.relaxed).await?;
        Ok(())
    }

    async fn set_claims(
        &self,
        id: SessionId,
        claims: &Claims,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let query = sqlx::query(&self.sql.sessions.set_claims).bind(id.0).bind(claims.as_json()).bind(now);
        Ok(self.execute(query).await? == 1)
    }

    async fn end_session(&self, id: SessionId, termination: &SessionTermination) -> Result<bool, StoreError> {
        let start = self.statement_start();
        let (ended, is_known) = with_write_timeout(async {
            let mut tx = self.pool.begin().await?;
            let ended = terminate(&mut tx, &self.sql.sessions, id, termination).await?;
            // The commit of this write also waits until the earlier end of the session has reached the standby.
            let is_known = ended
                || sqlx::query(&self.sql.sessions.touch).bind(id.0).execute(&mut tx).await?.rows_affected()
                    == 1;
            tx.commit().await?;
            notify_replicas(&self.pool, &self.channel, ended).await;
            Ok((ended, is_known))
        })
        .await?;
        if !is_known {
            self.check_primary(start).await?;
        }
        Ok(ended)
    }

    async fn end_session_list(
        &self,
        ids: &[SessionId],
        termination: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        with_write_timeout(async {
            let mut tx = self.pool.begin().await?;
            let push_ids = |query: &mut QueryBuilder<Postgres>| {
                query.push(" AND id = ANY(").push_bind(ids).push(")");
            };
            let ended = terminate_where(&mut tx, &self.sql.sessions, push_ids, termination, None).await?;
            tx.commit().await?;
            notify_replicas(&self.pool, &self.channel, !ended.is_empty()).await;
            Ok(ended)
        })
        .await
    }

    async fn end_sessions(
        &self,
        filter: &SessionFilter,
        termination: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        let terminate_batch = |termination: SessionTermination| {
            with_write_timeout(async move {
                let mut tx = self.pool.begin().await?;
                let ended = terminate_matching(
                    &mut tx,
                    &self.sql.sessions,
                    filter,
                    &termination,
                    Some(MAX_TERMINATIONS),
                )
                .await?;
                tx.commit().await?;
                notify_replicas(&self.pool, &self.channel, !ended.is_empty()).await;
                Ok(ended)
            })
        };
        terminate_in_batches(termination, terminate_batch).await
    }

    async fn live_sessions(&self, user: &Subject, now: OffsetDateTime) -> Result<Vec<Session>, StoreError> {
        let query = sqlx::query_as(&self.sql.sessions.list_live).bind(user.as_str()).bind(now);
        let rows: Vec<Row> = query.fetch_all(&self.pool).await?;
        rows.into_iter().map(Session::try_from).collect()
    }

    async fn list_sessions(
        &self,
        filter: &SessionFilter,
        live_at: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<Session>, StoreError> {
        let mut query = QueryBuilder::<Postgres>::new(self.sql.sessions.list.as_str());
        push_filter(&mut query, filter);
        if let Some(now) = live_at {
            query.push(" AND ended_at IS NULL AND idle_expires_at > ").push_bind(now);
            query.push(" AND absolute_expires_at > ").push_bind(now);
        }
        query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(i64::from(limit));
        let rows = query.build_query_as::<Row>().fetch_all(&self.pool).await?;
        rows.into_iter().map(Session::try_from).collect()
    }

    async fn ended_since(&self, since: EndedSince) -> Result<EndedSessions, StoreError> {
        let (rows, age) = self.feed.fetch(since).await?;
        let store_time = rows.first().ok_or(sqlx::Error::RowNotFound)?.now;
        let ended = rows
            .into_iter()
            .filter_map(|row| Some((row.id?, row.ended_at?, row.end_reason.unwrap_or_default())));
        let sessions = ended.map(ended_session).collect::<Result<_, _>>()?;
        // Ids of audit entries are not in the order of the commits.
        Ok(EndedSessions { store_time, position: None, age, sessions })
    }

    async fn end_expired(
        &self,
        after: SessionId,
        limit: u32,
        now: OffsetDateTime,
    ) -> Result<Option<SessionId>, StoreError> {
        let query = sqlx::query_scalar::<_, Uuid>(&self.sql.sessions.terminate_expired);
        let query = query.bind(after.0).bind(i64::from(limit)).bind(now);
        with_write_timeout(async {
            let mut tx = self.pool.begin().await?;
            let last = query.fetch_optional(&mut tx).await?;
            tx.commit().await?;
            Ok(last.map(SessionId))
        })
        .await
    }

    async fn purge_sessions(&self, before: OffsetDateTime, limit: u32) -> Result<u64, StoreError> {
        self.execute(sqlx::query(&self.sql.sessions.purge).bind(before).bind(i64::from(limit))).await
    }

    async fn max_key_number(&self) -> Result<Option<u8>, StoreError> {
        let number: Option<i16> =
            sqlx::query_scalar(&self.sql.sessions.max_key_number).fetch_one(&self.pool).await?;
        number.map(|number| number.try_into().map_err(|_| corrupt_session("key_number"))).transpose()
    }

    async fn database_time(&self) -> Result<OffsetDateTime, StoreError> {
        Ok(sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&self.pool).await?)
    }
}

/// Serializes the sign-ins of a user until the commit, so that each counts all earlier sessions. The gateway locks
/// the row of the user instead.
async fn lock_subject(tx: &mut Transaction, subject: &Subject) -> Result<(), StoreError> {
    sqlx::query(LOCK_SUBJECT).bind(subject.as_str()).execute(tx).await?;
    Ok(())
}

/// Inserts the row unless the user may not sign in. Returns `true` if it was inserted.
async fn insert(tx: &mut Transaction, sql: &SessionSql, new: &NewSession<'_>) -> Result<bool, StoreError> {
    let session = new.session;
    let query = sqlx::query(if new.hashed_password.is_some() { &sql.insert_checked } else { &sql.insert })
        .bind(session.id.0)
        .bind(session.subject.as_str())
        .bind(session.kind.as_str())
        .bind(&session.email)
        .bind(session.roles.as_str())
        .bind(i64::from(session.generation))
        .bind(i16::from(session.key_number))
        .bind(session.created_at)
        .bind(session.rotated_at)
        .bind(session.asked_by.map(|token| token.id.0))
        .bind(session.asked_by.map(|token| token.issued_at))
        .bind(session.settled_by.map(|token| token.0))
        .bind(count_to_i64(session.rotations))
        .bind(count_to_i64(session.replays))
        .bind(session.idle_expires_at)
        .bind(session.absolute_expires_at)
        .bind(session.end.map(|end| end.at))
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
    tx: &mut Transaction,
    sql: &SessionSql,
    new: &NewSession<'_>,
) -> Result<Vec<SessionId>, StoreError> {
    let now = new.session.created_at;
    let displaced = sqlx::query_scalar::<_, Uuid>(&sql.list_beyond_limit)
        .bind(new.session.subject.as_str())
        .bind(now)
        .bind(new.session.id.0)
        .bind(new.replaces.map(|id| id.0))
        .bind(i64::from(new.max_per_user.saturating_sub(1)))
        .bind(new.session.kind.as_str());
    let displaced = displaced.fetch_all(&mut *tx).await?;
    let displaced = displaced.into_iter().map(|id| (SessionId(id), EndReason::Displaced));
    let replaced = new.replaces.map(|id| (id, EndReason::LoggedOut));

    let mut victims: Vec<_> = replaced.into_iter().chain(displaced).collect();
    victims.sort_unstable_by_key(|(id, _)| *id);
    let mut ended = Vec::new();
    for (id, reason) in victims {
        let termination = SessionTermination::new(now, reason, new.session.client.clone());
        if terminate(tx, sql, id, &termination).await? {
            ended.push(id);
        }
    }
    Ok(ended)
}

/// Builds the update to the generation after `rotation.from_generation`. Returns `None` if that is the last one.
fn advance_query<'q>(
    sql: &Sql,
    rotation: &'q Rotation<'_>,
) -> Option<QueryAs<'q, Postgres, Row, PgArguments>> {
    let next = rotation.from_generation.checked_add(1)?;
    let query = sqlx::query_as(sql)
        .bind(rotation.id.0)
        .bind(rotation.kind.as_str())
        .bind(i64::from(rotation.from_generation))
        .bind(rotation.now)
        .bind(i64::from(next))
        .bind(rotation.asked_by.map(|token| token.id.0))
        .bind(rotation.asked_by.map(|token| token.issued_at))
        .bind(i16::from(rotation.key_number))
        .bind(rotation.idle_expires_at)
        .bind(rotation.client.address.map(|address| address.to_string()))
        .bind(&rotation.client.user_agent);
    Some(query)
}

async fn terminate(
    tx: &mut Transaction,
    sql: &SessionSql,
    id: SessionId,
    termination: &SessionTermination,
) -> Result<bool, StoreError> {
    let query = sqlx::query(&sql.terminate)
        .bind(termination.at)
        .bind(termination.reason.as_str())
        .bind(termination.presented.map(i64::from))
        .bind(termination.client.address.map(|address| address.to_string()))
        .bind(&termination.client.user_agent)
        .bind(&termination.client.request_id)
        .bind(id.0);
    let done = query.execute(tx).await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn terminate_matching(
    tx: &mut Transaction,
    sql: &SessionSql,
    filter: &SessionFilter,
    termination: &SessionTermination,
    limit: Option<u32>,
) -> Result<Vec<SessionId>, StoreError> {
    terminate_where(tx, sql, |query| push_filter(query, filter), termination, limit).await
}

/// Terminates the sessions that meet the conditions that `push_conditions` adds.
async fn terminate_where(
    tx: &mut Transaction,
    sql: &SessionSql,
    push_conditions: impl FnOnce(&mut QueryBuilder<Postgres>),
    termination: &SessionTermination,
    limit: Option<u32>,
) -> Result<Vec<SessionId>, StoreError> {
    let mut query = QueryBuilder::<Postgres>::new(sql.select_doomed.as_str());
    push_conditions(&mut query);
    query.push(" ORDER BY id LIMIT ").push_bind(limit.map(i64::from));
    query.push(sql.update_doomed.as_str());
    query.push_bind(termination.at).push(", end_reason = ").push_bind(termination.reason.as_str());
    query.push(", end_recorded_at = clock_timestamp()");
    query.push(" FROM doomed WHERE session.id = doomed.id RETURNING session.id, session.user_id, session.generation, session.address, session.user_agent) ");
    query.push(sql.insert_end_entries.as_str());
    query.push_bind(termination.at).push(", ").push_bind(termination.reason.as_str());
    query.push(", user_id, id, ").push_bind(termination.presented.map(i64::from)).push(", generation, ");
    query.push_bind(termination.client.address.map(|address| address.to_string())).push(", ");
    query.push_bind(&termination.client.user_agent).push(", ").push_bind(&termination.client.request_id);
    query.push(", address, user_agent FROM ended RETURNING session_id");
    let ids = query.build_query_scalar::<Uuid>().fetch_all(tx).await?;
    Ok(ids.into_iter().map(SessionId).collect())
}

type Row = SessionRow<OffsetDateTime, i16>;

/// The numbers of these locks are hashes. Equal ones of others only delay.
const LOCK_SUBJECT: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 7235412098125743))";
