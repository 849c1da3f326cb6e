//! The store of the model: rows, what is not on disk yet, one user's password, and the audit.
//!
//! It does what [`MemoryStore`](sekisho::services::memory::MemoryStore) does (a test in
//! [`twin`](super::twin) holds them together), and forgets its last rotations when it crashes.

use std::collections::BTreeSet;
use std::time::Duration;

use sekisho::identity::{Client, Roles};
use sekisho::models::session::{AccessRef, EndReason, Session, SessionEnd, SessionId, SessionKind, TokenId};
use sekisho::models::user::UserId;
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

/// The model's first millisecond.
const EPOCH: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

/// That many milliseconds after the model's first.
pub(super) fn at(ms: i64) -> OffsetDateTime {
    EPOCH + time::Duration::milliseconds(ms)
}

/// The user of every session.
pub(super) const USER: UserId = UserId(Uuid::from_u128(7));

/// The session at this place among the rows.
pub(super) fn session_id(place: usize) -> SessionId {
    SessionId(Uuid::from_u128(place as u128 + 1))
}

/// A row, and what only the model knows of it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) session: Session,
    /// When it ended, by the true time.
    pub(super) ended: Option<i64>,
    /// How many reasons were audited.
    pub(super) audited: u32,
    /// Which password it was made with, or kept by.
    pub(super) password: u32,
    /// Whether a thief has had a copy of its tokens.
    pub(super) stolen: bool,
    /// The generation first seen in use last, and when.
    pub(super) first_use: Option<(u32, OffsetDateTime)>,
    /// When it would have expired without its last renewal.
    pub(super) expiry_before: OffsetDateTime,
    /// The generations that a rotation has made and no crash undone.
    made: BTreeSet<u32>,
    /// Generations that were made twice.
    pub(super) made_twice: Option<u32>,
}

/// A rotation or settlement that may not be on disk.
#[derive(Debug)]
struct Unflushed {
    at: i64,
    place: usize,
    before: Session,
}

/// A conditional update, as the product has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) place: usize,
    pub(super) from: u32,
    pub(super) now: OffsetDateTime,
    pub(super) last_rotated_by: OffsetDateTime,
    pub(super) asked_by: Option<AccessRef>,
    pub(super) idle_expires_at: OffsetDateTime,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) rows: Vec<Row>,
    pub(super) password: u32,
    unflushed: Vec<Unflushed>,
}

impl Store {
    /// Inserts a session if `password` is still the user's, and ends the one it replaces.
    pub(super) fn insert(
        &mut self,
        t: i64,
        session: Session,
        password: u32,
        replaces: Option<usize>,
    ) -> Option<usize> {
        if password != self.password {
            return None;
        }
        let created_at = session.created_at;
        if let Some(replaced) = replaces {
            self.end(t, replaced, SessionEnd { at: created_at, reason: EndReason::LoggedOut });
        }
        let expiry_before = session.expires_at();
        self.rows.push(Row {
            session,
            expiry_before,
            ended: None,
            audited: 0,
            password,
            stolen: false,
            first_use: None,
            made: BTreeSet::new(),
            made_twice: None,
        });
        Some(self.rows.len() - 1)
    }

    /// A new session's row, not inserted yet.
    pub(super) fn new_session(
        &self,
        kind: SessionKind,
        now: OffsetDateTime,
        idle: Duration,
        absolute: Duration,
    ) -> Session {
        Session {
            id: session_id(self.rows.len()),
            user_id: USER,
            kind,
            email: String::new(),
            roles: Roles::default(),
            generation: 1,
            key_number: 1,
            created_at: now,
            rotated_at: now,
            asked_by: None,
            settled_by: None,
            rotations: 0,
            replays: 0,
            idle_expires_at: (now + idle).min(now + absolute),
            absolute_expires_at: now + absolute,
            end: None,
            client: Client::default(),
        }
    }

    pub(super) fn rotate(&mut self, t: i64, step: &Step, wait: bool) -> Option<Session> {
        let due =
            |row: &Session| row.generation == step.from && (!wait || row.rotated_at <= step.last_rotated_by);
        self.advance(t, step, due)
    }

    pub(super) fn catch_up(&mut self, t: i64, step: &Step) -> Option<Session> {
        self.advance(t, step, |row| row.generation < step.from)
    }

    fn advance(&mut self, t: i64, step: &Step, due: impl Fn(&Session) -> bool) -> Option<Session> {
        let row = self.rows.get_mut(step.place)?;
        let session = &mut row.session;
        if session.over(step.now).is_some() || !due(session) {
            return None;
        }
        self.unflushed.push(Unflushed { at: t, place: step.place, before: session.clone() });
        row.expiry_before = session.expires_at();
        session.generation = step.from + 1;
        session.rotated_at = step.now;
        session.asked_by = step.asked_by;
        session.settled_by = None;
        session.rotations += 1;
        session.idle_expires_at = step.idle_expires_at.min(session.absolute_expires_at);
        if !row.made.insert(session.generation) {
            row.made_twice = Some(session.generation);
        }
        Some(session.clone())
    }

    /// Whether the session had been settled by another token already.
    pub(super) fn settle(&mut self, t: i64, place: usize, generation: u32, token: TokenId) -> bool {
        let session = &mut self.rows[place].session;
        if session.end.is_some() || session.generation != generation {
            return false;
        }
        if session.settled_by.is_none() {
            self.unflushed.push(Unflushed { at: t, place, before: session.clone() });
        }
        *session.settled_by.get_or_insert(token) != token
    }

    /// Whether this call ended it. An end is on disk at once.
    pub(super) fn end(&mut self, t: i64, place: usize, end: SessionEnd) -> bool {
        let row = &mut self.rows[place];
        if row.session.end.is_some() {
            return false;
        }
        row.session.end = Some(end);
        row.ended = Some(t);
        row.audited += 1;
        true
    }

    /// Sets the next password if `old` is still the user's, and ends all sessions but `keep`.
    /// Returns which.
    pub(super) fn change_password(
        &mut self,
        t: i64,
        old: u32,
        keep: Option<usize>,
        at: OffsetDateTime,
    ) -> Option<Vec<usize>> {
        if old != self.password {
            return None;
        }
        self.password += 1;
        if let Some(keep) = keep {
            self.rows[keep].password = self.password;
        }
        let end = SessionEnd { at, reason: EndReason::PasswordChanged };
        let others = (0..self.rows.len()).filter(|&place| Some(place) != keep);
        Some(others.collect::<Vec<_>>().into_iter().filter(|&place| self.end(t, place, end)).collect())
    }

    /// Forgets the rotations and settlements of the last `lost` milliseconds. What ended stays so.
    pub(super) fn crash(&mut self, t: i64, lost: i64) {
        while let Some(last) = self.unflushed.pop_if(|last| last.at > t - lost) {
            let row = &mut self.rows[last.place];
            if last.before.generation != row.session.generation {
                row.made.remove(&row.session.generation);
            }
            row.session = Session { end: row.session.end, ..last.before };
        }
        self.unflushed.clear();
    }
}
