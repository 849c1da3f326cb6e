//! The session store of the model: rows, unflushed writes, passwords and the audit log.
//!
//! It behaves as the real stores do, which [`differential_store`](super::differential_store) tests, unless
//! it has a [`Mutation`]. A crash loses its last rotations.

use std::collections::BTreeSet;
use std::time::Duration;

use secrecy::SecretString;
use sekisho::client_info::ClientInfo;
use sekisho::identity::{Claims, Roles, Subject};
use sekisho::models::audit::{AuditEntry, AuditEvent};
use sekisho::models::session::{AccessTokenRef, EndReason, Session, SessionId, SessionKind, TokenId};
use sekisho::models::user::{PasswordOrigin, Role, User, UserId};
use sekisho::services::store::SessionTermination;
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

use super::script::Mutation;

/// Start of the model's time.
const EPOCH: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

/// Returns the time `ms` milliseconds after [`EPOCH`].
pub(super) fn at(ms: i64) -> OffsetDateTime {
    EPOCH + time::Duration::milliseconds(ms)
}

/// Number of users.
pub(super) const USERS: usize = 2;

/// Returns the id of a user.
pub(super) fn user_id(number: usize) -> UserId {
    UserId(Uuid::from_u128(number as u128 + 1))
}

/// Returns a user with the initial password.
pub(super) fn user(number: usize) -> User {
    User {
        id: user_id(number),
        email: format!("{number}@example.com"),
        name: None,
        hashed_password: hash(0),
        password_origin: PasswordOrigin::Own,
        role: Role::User,
        disabled_at: None,
        created_at: at(0),
    }
}

/// Returns a stand-in for the hash of a password.
pub(super) fn hash(password: u32) -> SecretString {
    format!("$2b$12${password}").into()
}

/// Returns the id of the session at this index.
pub(super) fn session_id(place: usize) -> SessionId {
    SessionId(Uuid::from_u128(place as u128 + 1))
}

/// A session row with the model's own observations.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) session: Session,
    /// True time of its termination.
    pub(super) ended: Option<i64>,
    /// True times of its creation and of its last two refreshes, the latest first.
    pub(super) created: i64,
    pub(super) refreshed: [i64; 2],
    /// Number of the password that it was created with, or that kept it.
    pub(super) password: u32,
    /// True if its tokens were stolen.
    pub(super) stolen: bool,
    /// Latest generation in use, and the time of its first use.
    pub(super) first_use: Option<(u32, OffsetDateTime)>,
    /// Times of its refreshes and other uses, each with the expiry before it.
    expiries_before: Vec<(i64, OffsetDateTime)>,
    /// Idle expiry after the last recorded use, unless a crash has undone it.
    pub(super) promised_expiry: Option<OffsetDateTime>,
    /// Generations created by rotations that no crash has undone.
    created_generations: BTreeSet<u32>,
    /// A generation that was created twice.
    pub(super) duplicated_generation: Option<u32>,
}

/// A write that a crash can undo.
#[derive(Debug)]
struct Unflushed {
    at: i64,
    place: usize,
    before: Session,
    /// The audit entry of a termination.
    entry: Option<usize>,
}

/// A session to insert and its conditions.
#[derive(Clone, Debug)]
pub(super) struct New {
    pub(super) session: Session,
    /// The password that the user must still have.
    pub(super) password: Option<u32>,
    pub(super) replaces: Option<usize>,
    pub(super) max_per_user: u32,
}

/// A conditional update, like the real stores' [`Rotation`](sekisho::services::store::Rotation).
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) place: usize,
    pub(super) from: u32,
    pub(super) now: OffsetDateTime,
    pub(super) max_rotated_at: OffsetDateTime,
    pub(super) asked_by: Option<AccessTokenRef>,
    pub(super) idle_expires_at: OffsetDateTime,
    pub(super) client: ClientInfo,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) rows: Vec<Row>,
    /// Number of password changes of each user.
    pub(super) passwords: [u32; USERS],
    pub(super) audit: Vec<AuditEntry>,
    mutation: Option<Mutation>,
    unflushed: Vec<Unflushed>,
}

impl Row {
    /// Returns `true` if the session had expired at `now` before a refresh or another use since `t`.
    pub(super) fn had_expired(&self, t: i64, now: OffsetDateTime) -> bool {
        let mut recent = self.expiries_before.iter().rev().take_while(|(used, _)| *used >= t);
        recent.any(|(_, expiry)| *expiry <= now)
    }
}

impl Store {
    pub(super) fn with_mutation(mutation: Option<Mutation>) -> Self {
        Self { mutation, ..Self::default() }
    }

    /// Inserts a session if its user still has the password, and evicts others. Returns the ended sessions.
    pub(super) fn insert(&mut self, t: i64, new: New) -> Option<Vec<usize>> {
        let password = self.present_password(&new.session.subject);
        let refused = new.password.is_some_and(|password_then| password_then != password);
        if refused && self.mutation != Some(Mutation::SignInIgnoresPasswordChange) {
            return None;
        }
        let ended = self.evict_sessions(t, &new);
        let New { mut session, password: made_with, .. } = new;
        self.audit.push(AuditEntry::login(&session));
        session.client.request_id = None;
        self.rows.push(Row {
            expiries_before: Vec::new(),
            promised_expiry: None,
            session,
            ended: None,
            created: t,
            refreshed: [t; 2],
            password: made_with.unwrap_or(password),
            stolen: false,
            first_use: None,
            created_generations: BTreeSet::new(),
            duplicated_generation: None,
        });
        Some(ended)
    }

    /// Ends the replaced session and the oldest sessions beyond the user's limit.
    fn evict_sessions(&mut self, t: i64, new: &New) -> Vec<usize> {
        let New { session, replaces, max_per_user, .. } = new;
        let is_active = |row: &Row| {
            row.session.subject == session.subject && row.session.termination(session.created_at).is_none()
        };
        let mut others: Vec<usize> = (0..self.rows.len())
            .filter(|&place| Some(place) != *replaces && is_active(&self.rows[place]))
            .collect();
        others.sort_by_key(|&place| (self.rows[place].session.created_at, session_id(place)));
        let room = max_per_user.saturating_sub(1) as usize;
        let displaced = others.len().saturating_sub(room);
        let ending = |reason| SessionTermination::new(session.created_at, reason, session.client.clone());
        let mut ended = Vec::new();
        ended.extend(replaces.filter(|&replaced| self.end(t, replaced, &ending(EndReason::LoggedOut))));
        ended.extend(
            others[..displaced]
                .iter()
                .copied()
                .filter(|&oldest| self.end(t, oldest, &ending(EndReason::Displaced))),
        );
        ended
    }

    /// Returns the row of a new session without inserting it.
    pub(super) fn new_session(
        &self,
        user: usize,
        kind: SessionKind,
        now: OffsetDateTime,
        idle: Duration,
        absolute: Duration,
    ) -> Session {
        Session {
            id: session_id(self.rows.len()),
            subject: user_id(user).into(),
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
            client: ClientInfo::default(),
            claims: Claims::default(),
        }
    }

    pub(super) fn rotate(&mut self, t: i64, step: &Step, wait: bool) -> Option<Session> {
        let is_unconditional = self.mutation == Some(Mutation::UnconditionalRotation);
        let due = |row: &Session| {
            is_unconditional
                || row.generation == step.from && (!wait || row.rotated_at <= step.max_rotated_at)
        };
        self.advance(t, step, due)
    }

    pub(super) fn catch_up(&mut self, t: i64, step: &Step) -> Option<Session> {
        self.advance(t, step, |row| row.generation < step.from)
    }

    fn advance(&mut self, t: i64, step: &Step, due: impl Fn(&Session) -> bool) -> Option<Session> {
        let row = self.rows.get_mut(step.place)?;
        let session = &mut row.session;
        if session.termination(step.now).is_some() || !due(session) {
            return None;
        }
        self.unflushed.push(Unflushed { at: t, place: step.place, before: session.clone(), entry: None });
        row.expiries_before.push((t, session.expires_at()));
        row.refreshed = [t, row.refreshed[0]];
        session.generation = step.from + 1;
        session.rotated_at = step.now;
        session.asked_by = step.asked_by;
        session.settled_by = None;
        session.rotations += 1;
        session.idle_expires_at = step.idle_expires_at.min(session.absolute_expires_at);
        session.client = ClientInfo { request_id: None, ..step.client.clone() };
        if !row.created_generations.insert(session.generation) {
            row.duplicated_generation = Some(session.generation);
        }
        Some(session.clone())
    }

    /// Confirms the use of a generation. Returns `true` if another token had confirmed it.
    pub(super) fn confirm(&mut self, t: i64, place: usize, generation: u32, token: TokenId) -> bool {
        let session = &mut self.rows[place].session;
        if session.end.is_some() || session.generation != generation {
            return false;
        }
        if session.settled_by.is_none() {
            self.unflushed.push(Unflushed { at: t, place, before: session.clone(), entry: None });
        }
        *session.settled_by.get_or_insert(token) != token
    }

    /// Records a use of a session at `now` or shortly before, which postpones its idle expiry.
    pub(super) fn record_use(
        &mut self,
        t: i64,
        place: usize,
        idle_expires_at: OffsetDateTime,
        now: OffsetDateTime,
    ) {
        let row = &mut self.rows[place];
        let before = row.session.clone();
        let idle_expires_at = idle_expires_at.min(before.absolute_expires_at);
        if before.termination(now).is_some() || idle_expires_at <= before.idle_expires_at {
            return;
        }
        row.promised_expiry = Some(idle_expires_at);
        if self.mutation != Some(Mutation::UsesIgnored) {
            row.expiries_before.push((t, before.expires_at()));
            row.session.idle_expires_at = idle_expires_at;
            self.unflushed.push(Unflushed { at: t, place, before, entry: None });
        }
    }

    /// Ends a session and flushes its audit entry. Returns `true` if it was not ended before.
    pub(super) fn end(&mut self, t: i64, place: usize, ending: &SessionTermination) -> bool {
        let Row { session, ended, .. } = &mut self.rows[place];
        if session.end.is_some() && self.mutation != Some(Mutation::RepeatedEnd) {
            return false;
        }
        session.end = Some(ending.end());
        *ended = Some(t);
        let is_unaudited =
            self.mutation == Some(Mutation::UnauditedReuse) && ending.reason == EndReason::ReuseDetected;
        if !is_unaudited {
            let client = session.client.clone();
            self.audit.push(ending.audit_entry(
                session.id,
                session.subject.clone(),
                session.generation,
                client,
            ));
        }
        true
    }

    /// Ends all sessions of a user except `keep`, and returns them.
    pub(super) fn end_user_sessions(
        &mut self,
        t: i64,
        user: &Subject,
        keep: Option<usize>,
        ending: &SessionTermination,
    ) -> Vec<usize> {
        let mut sessions: Vec<usize> = (0..self.rows.len())
            .filter(|&place| Some(place) != keep && self.rows[place].session.subject == *user)
            .collect();
        sessions.retain(|&place| self.end(t, place, ending));
        sessions
    }

    /// Changes the password if `old` is the present one, and ends all sessions of the user except `keep`.
    /// Returns the ended sessions.
    pub(super) fn change_password(
        &mut self,
        t: i64,
        user: usize,
        old: Option<u32>,
        keep: Option<usize>,
        ending: &SessionTermination,
    ) -> Option<Vec<usize>> {
        if old.is_some_and(|old| old != self.passwords[user]) {
            return None;
        }
        self.passwords[user] += 1;
        let kept = keep.map(|keep| &mut self.rows[keep]);
        if let Some(kept) = kept.filter(|kept| kept.session.subject == user_id(user).into()) {
            kept.password = self.passwords[user];
        }
        self.audit.push(ending.user_audit_entry(user_id(user)));
        Some(self.end_user_sessions(t, &user_id(user).into(), keep, ending))
    }

    /// Ends sessions that had expired at `by`, and returns them. A crash can undo it.
    pub(super) fn end_expired(&mut self, t: i64, by: OffsetDateTime) -> Vec<usize> {
        let mut ended = Vec::new();
        for place in 0..self.rows.len() {
            let before = self.rows[place].session.clone();
            let Some((event, at)) = before.termination(by).filter(|_| before.end.is_none()) else { continue };
            let reason = EndReason::from_word(event.as_str()).expect("an end reason");
            self.end(t, place, &SessionTermination::new(at, reason, ClientInfo::default()));
            self.unflushed.push(Unflushed { at: t, place, before, entry: Some(self.audit.len() - 1) });
            ended.push(place);
        }
        ended
    }

    /// Undoes the unflushed writes of the last `lost` milliseconds, and returns their number. Flushed
    /// terminations stay.
    pub(super) fn crash(&mut self, t: i64, lost: i64) -> u64 {
        let mut forgotten = 0;
        while let Some(last) = self.unflushed.pop_if(|last| last.at > t - lost) {
            let row = &mut self.rows[last.place];
            if last.before.generation != row.session.generation {
                row.created_generations.remove(&row.session.generation);
            }
            let end = match last.entry {
                Some(entry) => {
                    self.audit.remove(entry);
                    row.ended = None;
                    None
                }
                None => row.session.end,
            };
            row.session = Session { end, ..last.before };
            // The time of the refresh before is not known.
            row.refreshed = [row.created; 2];
            forgotten += 1;
        }
        for row in &mut self.rows {
            row.promised_expiry = None;
        }
        if self.mutation == Some(Mutation::AuditUnflushed) {
            self.audit.retain(|entry| entry.at <= at(t - lost));
        }
        self.unflushed.clear();
        forgotten
    }

    /// Returns the first error in the audit log, which must have one entry for the start of each session, one
    /// for each termination with the row's reason and time, and one for each password change.
    pub(super) fn audit_error(&self) -> Option<String> {
        let changes = self.audit.iter().filter(|entry| entry.session.is_none()).count();
        let changed: u32 = self.passwords.iter().sum();
        if changes != changed as usize {
            return Some(format!("expected {changed} password changes in the audit, found {changes}"));
        }
        (0..self.rows.len()).find_map(|place| {
            let trail = self.audit.iter().filter(|entry| entry.session == Some(session_id(place)));
            let (logins, ends): (Vec<_>, Vec<_>) = trail.partition(|entry| entry.event == AuditEvent::Login);
            let ends: Vec<_> = ends.iter().map(|entry| (entry.event, entry.at)).collect();
            let end = self.rows[place].session.end;
            let expected: Vec<_> = end.iter().map(|end| (AuditEvent::Ended(end.reason), end.at)).collect();
            (logins.len() != 1 || ends != expected).then(|| {
                let begun = logins.len();
                format!("session {place} has {begun} logins and the ends {ends:?} in the audit, and the end {end:?} in its row")
            })
        })
    }

    fn present_password(&self, user: &Subject) -> u32 {
        let number =
            (0..USERS).find(|&number| Subject::from(user_id(number)) == *user).expect("a user of the model");
        self.passwords[number]
    }
}
