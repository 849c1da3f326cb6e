//! Rows and audit entries of the real store: their loss in a crash, and their comparison with the model.

use std::collections::HashMap;

use sekisho::client_info::ClientInfo;
use sekisho::models::audit::{AuditEntry, AuditEvent};
use sekisho::models::session::{AccessTokenRef, EndReason, Session, SessionEnd, SessionId, TokenId};
use sekisho::services::store::{AuditStore, NewSession, SessionFilter, SessionStore};
use time::OffsetDateTime;

use super::{RealServices, now};
use crate::model::store::{Store, at};

/// A row before a write that a crash can undo.
pub(super) struct Unflushed {
    at: i64,
    before: Session,
    ended: bool,
}

/// Description of a difference.
pub(super) type Difference = String;

impl RealServices {
    /// Runs `act` and records the rows that it changes without a flush.
    pub(super) fn unflushed<T>(&mut self, at: i64, act: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.rows();
        let result = act(self);
        for (id, after) in self.rows() {
            let Some(before) = before.get(&id) else { continue };
            let expired =
                |end: SessionEnd| matches!(end.reason, EndReason::IdleExpired | EndReason::AbsoluteExpired);
            let ended = before.end.is_none() && after.end.is_some_and(expired);
            let written =
                |row: &Session| (row.generation, row.rotations, row.settled_by, row.idle_expires_at);
            if ended || written(before) != written(&after) {
                self.unflushed.push(Unflushed { at, before: before.clone(), ended });
            }
        }
        result
    }

    /// Undoes unflushed writes after this time.
    pub(super) fn crash_store(&mut self, after: i64) {
        let mut rows = self.rows();
        let mut trail: Vec<_> = rows.keys().flat_map(|&id| self.trail(id)).collect();
        while let Some(last) = self.unflushed.pop_if(|last| last.at > after) {
            let row = rows.get_mut(&last.before.id).unwrap();
            let end = row.end.filter(|_| !last.ended);
            if last.ended {
                trail.retain(|entry| entry.session != Some(row.id) || entry.event == AuditEvent::Login);
            }
            *row = Session { end, ..last.before };
        }
        self.unflushed.clear();
        now(async {
            let (store, all, far) = (&self.store, SessionFilter::All, at(i64::from(u32::MAX)));
            let ending = self.replicas[0].tokens.termination(EndReason::Revoked, &ClientInfo::default());
            store.end_sessions(&all, &ending).await.unwrap();
            store.purge_sessions(far, u32::MAX).await.unwrap();
            for session in rows.values() {
                let new =
                    NewSession { session, hashed_password: None, replaces: None, max_per_user: u32::MAX };
                store.insert_session(&new).await.unwrap();
            }
            store.purge_audit(far, u32::MAX).await.unwrap();
            store.record(&trail).await.unwrap();
        });
    }

    fn rows(&self) -> HashMap<SessionId, Session> {
        let rows = now(self.store.list_sessions(&SessionFilter::All, None, u32::MAX)).unwrap();
        rows.into_iter().map(|row| (row.id, row)).collect()
    }

    fn trail(&self, id: SessionId) -> Vec<AuditEntry> {
        now(self.store.session_audit(id, 1_000)).unwrap()
    }

    pub(super) fn compare(&self, model: &Store) -> Result<(), Difference> {
        for (place, row) in model.rows.iter().enumerate() {
            self.compare_row(&row.session, place)?;
            let trail = self.trail(self.sessions[place]);
            let product = trail.iter().filter(|entry| entry.event != AuditEvent::CaughtUp);
            let model = model.audit.iter().filter(|entry| entry.session == Some(row.session.id));
            differ(&format!("the audit of session {place}"), &events(model), &events(product))?;
        }
        Ok(())
    }

    pub(super) fn compare_row(&self, model: &Session, place: usize) -> Result<(), Difference> {
        let product = now(self.store.find_session(self.sessions[place])).unwrap().unwrap();
        let model_id = |id: TokenId| self.ids.get(&id).copied();
        let asked_by =
            product.asked_by.and_then(|token| Some(AccessTokenRef { id: model_id(token.id)?, ..token }));
        let product = Session {
            id: model.id,
            email: model.email.clone(),
            roles: model.roles.clone(),
            client: model.client.clone(),
            replays: model.replays,
            asked_by,
            // Of two tokens in one batch, either may confirm the use.
            settled_by: if product.end.is_some() {
                model.settled_by
            } else {
                product.settled_by.and_then(model_id)
            },
            ..product
        };
        differ(&format!("the row of session {place}"), model, &product)
    }
}

pub(super) fn differ<T: PartialEq + std::fmt::Debug>(
    what: &str,
    model: &T,
    product: &T,
) -> Result<(), Difference> {
    if model == product {
        Ok(())
    } else {
        Err(format!("{what}: the model {model:?}, the real services {product:?}"))
    }
}

/// Returns times and events, sorted, since the replicas' clocks differ.
fn events<'a>(trail: impl Iterator<Item = &'a AuditEntry>) -> Vec<(OffsetDateTime, &'static str)> {
    let mut events: Vec<_> = trail.map(|entry| (entry.at, entry.event.as_str())).collect();
    events.sort_unstable();
    events
}
