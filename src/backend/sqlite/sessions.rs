//! Sessions in SQLite.

use std::time::Instant;

use async_trait::async_trait;
use secrecy::ExposeSecret;
use sqlx::query::QueryAs;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{FromRow, QueryBuilder, Sqlite};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Durability, SqliteStore, audit, conflict, from_micros, micros};
use crate::client_info::ClientInfo;
use crate::clock::{Clock, SystemClock};
use crate::identity::Roles;
use crate::models::audit::AuditEntry;
use crate::models::session::{
    AccessTokenRef, EndReason, Session, SessionEnd, SessionId, SessionKind, TokenId,
};
use crate::models::user::UserId;
use crate::services::store::{
    InsertOutcome, NewSession, Rotation, SessionFilter, SessionStore, SessionTermination, StoreError,
    TokenUse,
};

#[async_trait]
impl SessionStore for SqliteStore {
    async fn insert_session(&self, new: &NewSession<'_>) -> Result<InsertOutcome, StoreError> {
        let (session, hash) = (new.session.clone(), new.hashed_password.cloned());
        let (replaces, max_per_user) = (new.replaces, new.max_per_user);
        self.write(Durability::Flushed, move |tx| {
            Box::pin(async move {
                let hashed_password = hash.as_ref();
                let new = NewSession { session: &session, hashed_password, replaces, max_per_user };
                if !insert(tx, &new).await? {
                    return Ok(InsertOutcome::Refused);
                }
                audit::insert(tx, &AuditEntry::login(&session)).await?;
                let ended = evict_sessions(tx, &new).await?;
                Ok(InsertOutcome::Inserted { terminated: ended })
            })
        })
        .await
    }

    async fn rotate(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        let Some(query) = advance(ROTATE, rotation) else { return Ok(None) };
        self.fetch(query.bind(micros(rotation.max_rotated_at))).await
    }

    async fn catch_up(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        let Some(query) = advance(CATCH_UP, rotation) else { return Ok(None) };
        self.fetch(query).await
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        let query = sqlx::query_as::<_, Row>(FIND).bind(id.0);
        let row = query.fetch_optional(&self.readers).await.map_err(StoreError::unavailable)?;
        row.map(Session::try_from).transpose()
    }

    async fn confirm_generation(&self, tokens: &[TokenUse]) -> Result<Vec<Session>, StoreError> {
        let tokens = tokens.to_vec();
        let settled_before = self.write(Durability::Relaxed, |tx| {
            Box::pin(async move {
                let mut settled_before = Vec::new();
                for token in &tokens {
                    settle_one(tx, token).await?;
                    settled_before.extend(settled_by_another(tx, token).await?);
                }
                Ok(settled_before)
            })
        });
        let mut settled_before: Vec<Session> = settled_before.await?;
        settled_before.sort_by_key(|session| session.id);
        settled_before.dedup_by_key(|session| session.id);
        Ok(settled_before)
    }

    async fn count_replays(&self, counts: &[(SessionId, u64)]) -> Result<(), StoreError> {
        let counts = counts.to_vec();
        self.write(Durability::Relaxed, |tx| {
            Box::pin(async move {
                for (id, count) in counts {
                    let query = sqlx::query(COUNT_REPLAYS).bind(id.0).bind(clamp(count));
                    query.execute(&mut *tx).await.map_err(StoreError::unavailable)?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn end_session(&self, id: SessionId, ending: &SessionTermination) -> Result<bool, StoreError> {
        let ending = ending.clone();
        self.write(Durability::Flushed, move |tx| Box::pin(async move { end_one(tx, id, &ending).await }))
            .await
    }

    async fn end_sessions(
        &self,
        which: &SessionFilter,
        ending: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        let (began, mut all) = (Instant::now(), Vec::new());
        loop {
            // Of the time at which it happens: others look for what ended lately.
            let at = if all.is_empty() { ending.at } else { ending.at + began.elapsed() };
            let (which, ending) = (*which, SessionTermination { at, ..ending.clone() });
            let some = self.write(Durability::Flushed, move |tx| {
                Box::pin(async move { end_which(tx, &which, &ending, Some(MOST_AT_ONCE)).await })
            });
            let ended = some.await?;
            let last = ended.len() < MOST_AT_ONCE as usize;
            all.extend(ended);
            if last {
                return Ok(all);
            }
        }
    }

    async fn live_sessions(&self, user: UserId, now: OffsetDateTime) -> Result<Vec<Session>, StoreError> {
        let query = sqlx::query_as::<_, Row>(LIVE).bind(user.0).bind(micros(now));
        let rows = query.fetch_all(&self.readers).await.map_err(StoreError::unavailable)?;
        rows.into_iter().map(Session::try_from).collect()
    }

    async fn list_sessions(
        &self,
        which: &SessionFilter,
        live_at: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<Session>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(LIST);
        push_which(&mut query, which);
        if let Some(now) = live_at {
            query.push(" AND ended_at IS NULL AND idle_expires_at > ").push_bind(micros(now));
            query.push(" AND absolute_expires_at > ").push_bind(micros(now));
        }
        query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(i64::from(limit));
        let rows = query.build_query_as::<Row>().fetch_all(&self.readers).await;
        rows.map_err(StoreError::unavailable)?.into_iter().map(Session::try_from).collect()
    }

    async fn ended_since(&self, since: OffsetDateTime) -> Result<Vec<(SessionId, SessionEnd)>, StoreError> {
        let query = sqlx::query_as::<_, (Uuid, i64, String)>(ENDED_SINCE).bind(micros(since));
        let rows = query.fetch_all(&self.readers).await.map_err(StoreError::unavailable)?;
        let end = |(id, micros, reason): (Uuid, i64, String)| {
            Ok((SessionId(id), ended(at(micros, "ended_at")?, Some(&reason))?))
        };
        rows.into_iter().map(end).collect()
    }

    async fn end_expired(
        &self,
        from: SessionId,
        most: u32,
        expired_by: OffsetDateTime,
    ) -> Result<Option<SessionId>, StoreError> {
        let query = sqlx::query_as::<_, (Uuid, bool)>(LOOK_FOR_EXPIRED);
        let query = query.bind(from.0).bind(most).bind(micros(expired_by));
        let seen = query.fetch_all(&self.readers).await.map_err(StoreError::unavailable)?;
        let last = seen.last().map(|(id, _)| SessionId(*id));
        let expired: Vec<_> = seen.into_iter().filter(|(_, expired)| *expired).map(|(id, _)| id).collect();
        if !expired.is_empty() {
            // Should a crash undo it, it is done again.
            self.write(Durability::Relaxed, move |tx| {
                Box::pin(async move { end_if_expired(tx, &expired, expired_by).await })
            })
            .await?;
        }
        Ok(last)
    }

    async fn purge_sessions(&self, before: OffsetDateTime, most: u32) -> Result<u64, StoreError> {
        self.execute(Durability::Relaxed, sqlx::query(PURGE).bind(micros(before)).bind(most)).await
    }

    async fn database_time(&self) -> Result<OffsetDateTime, StoreError> {
        // An embedded database has no clock but the machine's.
        Ok(SystemClock.now())
    }
}

impl SqliteStore {
    /// A relaxed write of one statement that returns the row if it changed it.
    async fn fetch(&self, query: Advance) -> Result<Option<Session>, StoreError> {
        let row = self.writer.write_one(Durability::Relaxed, |tx| {
            Box::pin(async move { query.fetch_optional(tx).await.map_err(StoreError::unavailable) })
        });
        row.await?.map(Session::try_from).transpose()
    }
}

/// Inserts the row if its user may sign in; `false` if not.
async fn insert(tx: &mut SqliteConnection, new: &NewSession<'_>) -> Result<bool, StoreError> {
    let session = new.session;
    let query = sqlx::query(INSERT)
        .bind(session.id.0)
        .bind(session.user_id.0)
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
        .bind(clamp(session.rotations))
        .bind(clamp(session.replays))
        .bind(micros(session.idle_expires_at))
        .bind(micros(session.absolute_expires_at))
        .bind(session.end.map(|end| micros(end.at)))
        .bind(session.end.map(|end| end.reason.as_str()))
        .bind(session.client.address.map(|address| address.to_string()))
        .bind(&session.client.user_agent)
        .bind(new.hashed_password.map(|hash| hash.expose_secret()));
    let done = query.execute(tx).await.map_err(|error| conflict(error, "id"))?;
    Ok(done.rows_affected() == 1)
}

/// Ends the session that the new one replaces, and the oldest beyond the user's limit.
async fn evict_sessions(
    tx: &mut SqliteConnection,
    new: &NewSession<'_>,
) -> Result<Vec<SessionId>, StoreError> {
    let at = new.session.created_at;
    let displaced = sqlx::query_scalar::<_, Uuid>(BEYOND_LIMIT)
        .bind(new.session.user_id.0)
        .bind(micros(at))
        .bind(new.session.id.0)
        .bind(new.replaces.map(|id| id.0))
        .bind(i64::from(new.max_per_user.saturating_sub(1)));
    let displaced = displaced.fetch_all(&mut *tx).await.map_err(StoreError::unavailable)?;
    let displaced = displaced.into_iter().map(|id| (SessionId(id), EndReason::Displaced));
    let replaced = new.replaces.map(|id| (id, EndReason::LoggedOut));

    let mut ended = Vec::new();
    for (id, reason) in replaced.into_iter().chain(displaced) {
        let ending = SessionTermination::new(at, reason, new.session.client.clone());
        if end_one(tx, id, &ending).await? {
            ended.push(id);
        }
    }
    Ok(ended)
}

type Advance = QueryAs<'static, Sqlite, Row, SqliteArguments>;

/// The step to the generation after `from`; `None` if there is none.
fn advance(sql: &'static str, rotation: &Rotation<'_>) -> Option<Advance> {
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

async fn settle_one(tx: &mut SqliteConnection, token: &TokenUse) -> Result<(), StoreError> {
    let query =
        sqlx::query(SETTLE).bind(token.session.0).bind(i64::from(token.generation)).bind(token.token.0);
    query.execute(tx).await.map(drop).map_err(StoreError::unavailable)
}

async fn settled_by_another(
    tx: &mut SqliteConnection,
    token: &TokenUse,
) -> Result<Option<Session>, StoreError> {
    let query = sqlx::query_as::<_, Row>(SETTLED_BY_ANOTHER)
        .bind(token.session.0)
        .bind(i64::from(token.generation))
        .bind(token.token.0);
    let row = query.fetch_optional(tx).await.map_err(StoreError::unavailable)?;
    row.map(Session::try_from).transpose()
}

async fn end_one(
    tx: &mut SqliteConnection,
    id: SessionId,
    ending: &SessionTermination,
) -> Result<bool, StoreError> {
    let query = sqlx::query_as::<_, Ended>(END);
    let query = query.bind(id.0).bind(micros(ending.at)).bind(ending.reason.as_str());
    let row = query.fetch_optional(&mut *tx).await.map_err(StoreError::unavailable)?;
    let Some(row) = row else { return Ok(false) };
    audit::insert(tx, &row.entry(ending)?).await?;
    Ok(true)
}

/// Ends each of these that still had expired by then, at the time at which it did.
async fn end_if_expired(
    tx: &mut SqliteConnection,
    ids: &[Uuid],
    by: OffsetDateTime,
) -> Result<(), StoreError> {
    for id in ids {
        let query = sqlx::query_as::<_, Row>(FIND).bind(id);
        let Some(row) = query.fetch_optional(&mut *tx).await.map_err(StoreError::unavailable)? else {
            continue;
        };
        let session = Session::try_from(row)?;
        let over = session.termination(by).filter(|_| session.end.is_none());
        if let Some((event, at)) = over
            && let Some(reason) = EndReason::from_word(event.as_str())
        {
            end_one(tx, session.id, &SessionTermination::new(at, reason, ClientInfo::default())).await?;
        }
    }
    Ok(())
}

pub(super) async fn end_which(
    tx: &mut SqliteConnection,
    which: &SessionFilter,
    ending: &SessionTermination,
    most: Option<u32>,
) -> Result<Vec<SessionId>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("UPDATE sessions SET ended_at = ");
    query.push_bind(micros(ending.at)).push(", end_reason = ").push_bind(ending.reason.as_str());
    query.push(" WHERE id IN (SELECT id FROM sessions WHERE ended_at IS NULL");
    push_which(&mut query, which);
    // All of them, if there is no limit.
    query.push(" LIMIT ").push_bind(most.map_or(-1, i64::from)).push(") RETURNING ").push(ENDED);
    let rows = query.build_query_as::<Ended>().fetch_all(&mut *tx).await.map_err(StoreError::unavailable)?;
    let mut ended = Vec::with_capacity(rows.len());
    for row in rows {
        ended.push(SessionId(row.id));
        audit::insert(tx, &row.entry(ending)?).await?;
    }
    Ok(ended)
}

fn push_which(query: &mut QueryBuilder<Sqlite>, which: &SessionFilter) {
    match which {
        SessionFilter::All => query,
        SessionFilter::User(user) => query.push(" AND user_id = ").push_bind(user.0),
        SessionFilter::UserExcept(user, kept) => {
            query.push(" AND user_id = ").push_bind(user.0).push(" AND id <> ").push_bind(kept.0)
        }
        SessionFilter::SignedBy(key) => query.push(" AND key_number = ").push_bind(i16::from(*key)),
    };
}

/// What the audit tells of a session that has ended.
#[derive(FromRow)]
struct Ended {
    id: Uuid,
    user_id: Uuid,
    generation: i64,
    address: Option<String>,
    user_agent: Option<String>,
}

impl Ended {
    fn entry(self, ending: &SessionTermination) -> Result<AuditEntry, StoreError> {
        let held = self.generation.try_into().map_err(|_| corrupt("generation"))?;
        let holder = client(self.address, self.user_agent)?;
        Ok(ending.audit_entry(SessionId(self.id), UserId(self.user_id), held, holder))
    }
}

fn client(address: Option<String>, user_agent: Option<String>) -> Result<ClientInfo, StoreError> {
    let address = address.map(|text| text.parse()).transpose().map_err(|_| corrupt("address"))?;
    Ok(ClientInfo { address, user_agent, request_id: None })
}

/// A row as the database holds it.
#[derive(FromRow)]
struct Row {
    id: Uuid,
    user_id: Uuid,
    kind: String,
    email: String,
    roles: String,
    generation: i64,
    key_number: i64,
    created_at: i64,
    rotated_at: i64,
    asked_by: Option<Uuid>,
    asked_by_issued_at: Option<i64>,
    settled_by: Option<Uuid>,
    rotations: i64,
    replays: i64,
    idle_expires_at: i64,
    absolute_expires_at: i64,
    ended_at: Option<i64>,
    end_reason: Option<String>,
    address: Option<String>,
    user_agent: Option<String>,
}

impl TryFrom<Row> for Session {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let asked_by = row.asked_by.zip(time(row.asked_by_issued_at, "asked_by_issued_at")?);
        Ok(Self {
            id: SessionId(row.id),
            user_id: UserId(row.user_id),
            kind: SessionKind::from_word(&row.kind).ok_or(corrupt("kind"))?,
            email: row.email,
            roles: Roles::from_list(&row.roles).ok_or(corrupt("roles"))?,
            generation: row.generation.try_into().map_err(|_| corrupt("generation"))?,
            key_number: row.key_number.try_into().map_err(|_| corrupt("key_number"))?,
            created_at: at(row.created_at, "created_at")?,
            rotated_at: at(row.rotated_at, "rotated_at")?,
            asked_by: asked_by.map(|(id, issued_at)| AccessTokenRef { id: TokenId(id), issued_at }),
            settled_by: row.settled_by.map(TokenId),
            rotations: row.rotations.try_into().map_err(|_| corrupt("rotations"))?,
            replays: row.replays.try_into().map_err(|_| corrupt("replays"))?,
            idle_expires_at: at(row.idle_expires_at, "idle_expires_at")?,
            absolute_expires_at: at(row.absolute_expires_at, "absolute_expires_at")?,
            end: end(time(row.ended_at, "ended_at")?, row.end_reason.as_deref())?,
            client: client(row.address, row.user_agent)?,
        })
    }
}

fn end(at: Option<OffsetDateTime>, reason: Option<&str>) -> Result<Option<SessionEnd>, StoreError> {
    at.map(|at| ended(at, reason)).transpose()
}

fn ended(at: OffsetDateTime, reason: Option<&str>) -> Result<SessionEnd, StoreError> {
    let word = reason.ok_or(corrupt("end_reason"))?;
    // A newer program beside this one may know more reasons. The session is over all the same.
    let reason = EndReason::from_word(word).unwrap_or(EndReason::Revoked);
    Ok(SessionEnd { at, reason })
}

fn at(micros: i64, column: &'static str) -> Result<OffsetDateTime, StoreError> {
    from_micros(micros).ok_or(corrupt(column))
}

fn time(micros: Option<i64>, column: &'static str) -> Result<Option<OffsetDateTime>, StoreError> {
    micros.map(|micros| at(micros, column)).transpose()
}

fn corrupt(column: &'static str) -> StoreError {
    StoreError::Corrupt { table: "sessions", column }
}

fn clamp(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// How many sessions one transaction ends when there are ever so many.
const MOST_AT_ONCE: u32 = 1_000;

/// Named one by one: a statement that is prepared with `*` breaks when a newer program adds one.
macro_rules! columns {
    () => {
        "id, user_id, kind, email, roles, generation, key_number, created_at, rotated_at, asked_by, \
         asked_by_issued_at, settled_by, rotations, replays, idle_expires_at, absolute_expires_at, \
         ended_at, end_reason, address, user_agent"
    };
}

/// What `rotate` and `catch_up` have in common: all but which generation the row is at.
macro_rules! advance_where {
    ($condition:literal) => {
        concat!(
            "UPDATE sessions SET generation = $5, settled_by = NULL, rotated_at = $4, asked_by = $6, \
             asked_by_issued_at = $7, key_number = $8, rotations = rotations + 1, \
             idle_expires_at = min($9, absolute_expires_at), address = $10, user_agent = $11 \
             WHERE id = $1 AND kind = $2 AND ended_at IS NULL \
             AND idle_expires_at > $4 AND absolute_expires_at > $4 AND ",
            $condition,
            " RETURNING ",
            columns!()
        )
    };
}

/// One statement decides and inserts. The write lock keeps a change of password out until it is
/// committed, and such a change then ends this session too. The role counts as the password does:
/// a sign-in must not outrun the loss of a role.
const INSERT: &str = concat!(
    "INSERT INTO sessions (",
    columns!(),
    ") SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20 \
     WHERE $21 IS NULL OR EXISTS (SELECT 1 FROM users \
     WHERE id = $2 AND hashed_password = $21 AND role = $5 AND disabled_at IS NULL)"
);

const BEYOND_LIMIT: &str = "SELECT id FROM sessions \
    WHERE user_id = $1 AND ended_at IS NULL AND idle_expires_at > $2 AND absolute_expires_at > $2 \
    AND id <> $3 AND ($4 IS NULL OR id <> $4) \
    ORDER BY created_at DESC, id DESC LIMIT -1 OFFSET $5";

const ROTATE: &str = advance_where!("generation = $3 AND rotated_at <= $12");

const CATCH_UP: &str = advance_where!("generation < $3");

const FIND: &str = concat!("SELECT ", columns!(), " FROM sessions WHERE id = $1");

const SETTLE: &str = "UPDATE sessions SET settled_by = $3 \
    WHERE id = $1 AND generation = $2 AND settled_by IS NULL AND ended_at IS NULL";

const SETTLED_BY_ANOTHER: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM sessions WHERE id = $1 AND generation = $2 AND settled_by <> $3 AND ended_at IS NULL"
);

const COUNT_REPLAYS: &str = "UPDATE sessions SET replays = replays + $2 WHERE id = $1";

/// The columns of [`Ended`].
const ENDED: &str = "id, user_id, generation, address, user_agent";

const END: &str = "UPDATE sessions SET ended_at = $2, end_reason = $3 WHERE id = $1 AND ended_at IS NULL \
    RETURNING id, user_id, generation, address, user_agent";

const LOOK_FOR_EXPIRED: &str = "SELECT id, ended_at IS NULL AND min(idle_expires_at, absolute_expires_at) <= $3 \
    FROM sessions WHERE id > $1 ORDER BY id LIMIT $2";

const PURGE: &str = "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE ended_at < $1 ORDER BY ended_at LIMIT $2)";

const LIVE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM sessions WHERE user_id = $1 AND ended_at IS NULL \
     AND idle_expires_at > $2 AND absolute_expires_at > $2 ORDER BY rotated_at DESC, id DESC"
);

const ENDED_SINCE: &str = "SELECT id, ended_at, end_reason FROM sessions WHERE ended_at >= $1";

const LIST: &str = concat!("SELECT ", columns!(), " FROM sessions WHERE TRUE");
