//! Rows of the tables and their conversion to models.
//!
//! The databases store times and small integers in columns of different types, which are parameters.

use sqlx::FromRow;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::client_info::ClientInfo;
use crate::identity::{Claims, Roles, Subject};
use crate::models::audit::{AuditEntry, AuditEvent};
use crate::models::session::{
    AccessTokenRef, EndReason, Session, SessionEnd, SessionId, SessionKind, TokenId,
};
use crate::services::store::StoreError;

/// A row of `audit`, with times of the type `T` and key numbers of the type `K`.
#[derive(FromRow)]
pub(in crate::backend) struct AuditRow<T, K> {
    at: T,
    event: String,
    user_id: Option<String>,
    session_id: Option<Uuid>,
    presented: Option<i64>,
    held: Option<i64>,
    key_number: Option<K>,
    address: Option<String>,
    user_agent: Option<String>,
    request_id: Option<String>,
    holder_address: Option<String>,
    holder_user_agent: Option<String>,
}

impl<T, K> TryFrom<AuditRow<T, K>> for AuditEntry
where
    T: TryInto<OffsetDateTime>,
    K: TryInto<u8>,
{
    type Error = StoreError;

    fn try_from(row: AuditRow<T, K>) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::Corrupt { table: "audit", column };
        let generation =
            |number: Option<i64>, column| number.map(u32::try_from).transpose().map_err(|_| corrupt(column));
        let address = |text: Option<String>, column| {
            text.map(|text| text.parse()).transpose().map_err(|_| corrupt(column))
        };
        let key_number = row.key_number.map(K::try_into).transpose();
        Ok(Self {
            at: row.at.try_into().map_err(|_| corrupt("at"))?,
            event: AuditEvent::from_word(&row.event).ok_or(corrupt("event"))?,
            user: row.user_id.map(Subject::new).transpose().map_err(|_| corrupt("user_id"))?,
            session: row.session_id.map(SessionId),
            presented: generation(row.presented, "presented")?,
            held: generation(row.held, "held")?,
            key_number: key_number.map_err(|_| corrupt("key_number"))?,
            by: ClientInfo {
                address: address(row.address, "address")?,
                user_agent: row.user_agent,
                request_id: row.request_id,
            },
            holder: ClientInfo {
                address: address(row.holder_address, "holder_address")?,
                user_agent: row.holder_user_agent,
                request_id: None,
            },
        })
    }
}

/// A row of `sessions`, with times of the type `T` and key numbers of the type `K`.
#[derive(FromRow)]
pub(in crate::backend) struct SessionRow<T, K> {
    id: Uuid,
    user_id: String,
    kind: String,
    email: String,
    roles: String,
    generation: i64,
    key_number: K,
    created_at: T,
    rotated_at: T,
    asked_by: Option<Uuid>,
    asked_by_issued_at: Option<T>,
    settled_by: Option<Uuid>,
    rotations: i64,
    replays: i64,
    idle_expires_at: T,
    absolute_expires_at: T,
    ended_at: Option<T>,
    end_reason: Option<String>,
    address: Option<String>,
    user_agent: Option<String>,
    claims: Option<String>,
}

impl<T, K> TryFrom<SessionRow<T, K>> for Session
where
    T: TryInto<OffsetDateTime>,
    K: TryInto<u8>,
{
    type Error = StoreError;

    fn try_from(row: SessionRow<T, K>) -> Result<Self, StoreError> {
        let corrupt = corrupt_session;
        let time = |at: T, column| at.try_into().map_err(|_| corrupt(column));
        let issued_at = row.asked_by_issued_at.map(|at| time(at, "asked_by_issued_at")).transpose()?;
        let asked_by = row.asked_by.zip(issued_at);
        let end = row.ended_at.map(|at| session_end(at, row.end_reason.as_deref()));
        Ok(Self {
            id: SessionId(row.id),
            subject: session_subject(row.user_id)?,
            kind: SessionKind::from_word(&row.kind).ok_or(corrupt("kind"))?,
            email: row.email,
            roles: Roles::from_list(&row.roles).map_err(|_| corrupt("roles"))?,
            generation: row.generation.try_into().map_err(|_| corrupt("generation"))?,
            key_number: row.key_number.try_into().map_err(|_| corrupt("key_number"))?,
            created_at: time(row.created_at, "created_at")?,
            rotated_at: time(row.rotated_at, "rotated_at")?,
            asked_by: asked_by.map(|(id, issued_at)| AccessTokenRef { id: TokenId(id), issued_at }),
            settled_by: row.settled_by.map(TokenId),
            rotations: row.rotations.try_into().map_err(|_| corrupt("rotations"))?,
            replays: row.replays.try_into().map_err(|_| corrupt("replays"))?,
            idle_expires_at: time(row.idle_expires_at, "idle_expires_at")?,
            absolute_expires_at: time(row.absolute_expires_at, "absolute_expires_at")?,
            end: end.transpose()?,
            client: session_client(row.address, row.user_agent)?,
            claims: session_claims(row.claims.as_deref())?,
        })
    }
}

/// Reads the end of a session from the columns `id`, `ended_at` and `end_reason`.
pub(in crate::backend) fn ended_session<T: TryInto<OffsetDateTime>>(
    (id, at, reason): (Uuid, T, String),
) -> Result<(SessionId, SessionEnd), StoreError> {
    Ok((SessionId(id), session_end(at, Some(&reason))?))
}

/// Reads the user of a session from its column `user_id`.
pub(in crate::backend) fn session_subject(text: String) -> Result<Subject, StoreError> {
    Subject::new(text).map_err(|_| corrupt_session("user_id"))
}

fn session_claims(json: Option<&str>) -> Result<Claims, StoreError> {
    let Some(json) = json else { return Ok(Claims::default()) };
    Claims::from_json(json).map_err(|_| corrupt_session("claims"))
}

/// Reads the client of a session from its columns `address` and `user_agent`.
pub(in crate::backend) fn session_client(
    address: Option<String>,
    user_agent: Option<String>,
) -> Result<ClientInfo, StoreError> {
    let address = address.map(|text| text.parse()).transpose().map_err(|_| corrupt_session("address"))?;
    Ok(ClientInfo { address, user_agent, request_id: None })
}

/// Creates the error for an invalid value in a column of `sessions`.
pub(in crate::backend) fn corrupt_session(column: &'static str) -> StoreError {
    StoreError::Corrupt { table: "sessions", column }
}

fn session_end(at: impl TryInto<OffsetDateTime>, reason: Option<&str>) -> Result<SessionEnd, StoreError> {
    let at = at.try_into().map_err(|_| corrupt_session("ended_at"))?;
    let word = reason.ok_or(corrupt_session("end_reason"))?;
    // A newer program on the same database may write reasons unknown here. The session is terminated
    // all the same.
    let reason = EndReason::from_word(word).unwrap_or(EndReason::Revoked);
    Ok(SessionEnd { at, reason })
}
