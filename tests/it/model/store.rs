//! The store of the model: rows, what is not on disk yet, the users' passwords, and the audit.
//!
//! It does what the product's stores do (a test in [`twin`](super::twin) holds them together), and
//! forgets its last rotations when it crashes. With a [`Mutation`] it does not.

use std::collections::BTreeSet;
use std::time::Duration;

use secrecy::SecretString;
use sekisho::client_info::ClientInfo;
use sekisho::identity::Roles;
use sekisho::models::audit::{AuditEntry, AuditEvent};
use sekisho::models::session::{AccessTokenRef, EndReason, Session, SessionId, SessionKind, TokenId};
use sekisho::models::user::{Role, User, UserId};
use sekisho::services::store::SessionTermination;
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

use super::script::Mutation;

/// The model's first millisecond.
const EPOCH: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

/// That many milliseconds after the model's first.
pub(super) fn at(ms: i64) -> OffsetDateTime {
    EPOCH + time::Duration::milliseconds(ms)
}

/// How many users there are.
pub(super) const USERS: usize = 2;

/// One of the users.
pub(super) fn user_id(number: usize) -> UserId {
    UserId(Uuid::from_u128(number as u128 + 1))
}

/// The user of this number as the product knows it, with the first password.
pub(super) fn user(number: usize) -> User {
    User {
        id: user_id(number),
        email: format!("{number}@example.com"),
        name: None,
        hashed_password: hash(0),
        role: Role::User,
        disabled_at: None,
        created_at: at(0),
    }
}

/// What the product keeps of a password.
pub(super) fn hash(password: u32) -> SecretString {
    format!("$2b$12${password}").into()
}

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

/// What may not be on disk yet.
#[derive(Debug)]
struct Unflushed {
    at: i64,
    place: usize,
    before: Session,
    /// The entry of the audit that goes with it, if it is an end.
    entry: Option<usize>,
}

/// A session to insert, and on which conditions.
#[derive(Clone, Debug)]
pub(super) struct New {
    pub(super) session: Session,
    /// The password that its user must have.
    pub(super) password: Option<u32>,
    pub(super) replaces: Option<usize>,
    pub(super) max_per_user: u32,
}

/// A conditional update, as the product has it.
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
    /// How often each user has changed it.
    pub(super) passwords: [u32; USERS],
    pub(super) audit: Vec<AuditEntry>,
    defect: Option<Mutation>,
    unflushed: Vec<Unflushed>,
}

impl Store {
    pub(super) fn with(defect: Option<Mutation>) -> Self {
        Self { defect, ..Self::default() }
    }

    /// Inserts a session if its user still has that password, and ends those that give way to it.
    /// Returns which.
    pub(super) fn insert(&mut self, t: i64, new: New) -> Option<Vec<usize>> {
        let password = self.password_of(new.session.user_id);
        let refused = new.password.is_some_and(|password_then| password_then != password);
        if refused && self.defect != Some(Mutation::SignInOutrunsPassword) {
            return None;
        }
        let ended = self.make_way(t, &new);
        let New { mut session, password: made_with, .. } = new;
        self.audit.push(AuditEntry::login(&session));
        session.client.request_id = None;
        self.rows.push(Row {
            expiry_before: session.expires_at(),
            session,
            ended: None,
            password: made_with.unwrap_or(password),
            stolen: false,
            first_use: None,
            made: BTreeSet::new(),
            made_twice: None,
        });
        Some(ended)
    }

    /// Ends the session that the new one replaces, and the oldest beyond the user's limit.
    fn make_way(&mut self, t: i64, new: &New) -> Vec<usize> {
        let New { session, replaces, max_per_user, .. } = new;
        let lives = |row: &Row| {
            row.session.user_id == session.user_id && row.session.termination(session.created_at).is_none()
        };
        let mut others: Vec<usize> = (0..self.rows.len())
            .filter(|&place| Some(place) != *replaces && lives(&self.rows[place]))
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

    /// A new session's row, not inserted yet.
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
            user_id: user_id(user),
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
        }
    }

    pub(super) fn rotate(&mut self, t: i64, step: &Step, wait: bool) -> Option<Session> {
        let careless = self.defect == Some(Mutation::RotationUnconditional);
        let due = |row: &Session| {
            careless || row.generation == step.from && (!wait || row.rotated_at <= step.max_rotated_at)
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
        row.expiry_before = session.expires_at();
        session.generation = step.from + 1;
        session.rotated_at = step.now;
        session.asked_by = step.asked_by;
        session.settled_by = None;
        session.rotations += 1;
        session.idle_expires_at = step.idle_expires_at.min(session.absolute_expires_at);
        session.client = ClientInfo { request_id: None, ..step.client.clone() };
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
            self.unflushed.push(Unflushed { at: t, place, before: session.clone(), entry: None });
        }
        *session.settled_by.get_or_insert(token) != token
    }

    /// Whether this call ended it. An end is on disk at once, and its entry in the audit with it.
    pub(super) fn end(&mut self, t: i64, place: usize, ending: &SessionTermination) -> bool {
        let Row { session, ended, .. } = &mut self.rows[place];
        if session.end.is_some() && self.defect != Some(Mutation::EndsAgain) {
            return false;
        }
        session.end = Some(ending.end());
        *ended = Some(t);
        let silent = self.defect == Some(Mutation::SilentReuse) && ending.reason == EndReason::ReuseDetected;
        if !silent {
            let (held, holder) = (session.generation, session.client.clone());
            self.audit.push(ending.audit_entry(session.id, session.user_id, held, holder));
        }
        true
    }

    /// Ends all of a user's sessions but `store_cookies`. Returns which.
    pub(super) fn end_all_of(
        &mut self,
        t: i64,
        user: UserId,
        keep: Option<usize>,
        ending: &SessionTermination,
    ) -> Vec<usize> {
        let mut named: Vec<usize> = (0..self.rows.len())
            .filter(|&place| Some(place) != keep && self.rows[place].session.user_id == user)
            .collect();
        named.retain(|&place| self.end(t, place, ending));
        named
    }

    /// Sets the user's next password if `old` is still the present one, and ends all of the user's
    /// sessions but `store_cookies`. Returns which.
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
        if let Some(kept) = kept.filter(|kept| kept.session.user_id == user_id(user)) {
            kept.password = self.passwords[user];
        }
        self.audit.push(ending.user_audit_entry(user_id(user)));
        Some(self.end_all_of(t, user_id(user), keep, ending))
    }

    /// Ends what had expired by then. A crash may undo it, entries and all. Returns which.
    pub(super) fn end_expired(&mut self, t: i64, by: OffsetDateTime) -> Vec<usize> {
        let mut ended = Vec::new();
        for place in 0..self.rows.len() {
            let before = self.rows[place].session.clone();
            let Some((event, at)) = before.termination(by).filter(|_| before.end.is_none()) else { continue };
            let reason = EndReason::from_word(event.as_str()).expect("an end");
            self.end(t, place, &SessionTermination::new(at, reason, ClientInfo::default()));
            self.unflushed.push(Unflushed { at: t, place, before, entry: Some(self.audit.len() - 1) });
            ended.push(place);
        }
        ended
    }

    /// Forgets what was not flushed in the last `lost` milliseconds. Returns how many writes. What
    /// ended for good stays so.
    pub(super) fn crash(&mut self, t: i64, lost: i64) -> u64 {
        let mut forgotten = 0;
        while let Some(last) = self.unflushed.pop_if(|last| last.at > t - lost) {
            let row = &mut self.rows[last.place];
            if last.before.generation != row.session.generation {
                row.made.remove(&row.session.generation);
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
            forgotten += 1;
        }
        if self.defect == Some(Mutation::AuditUnflushed) {
            self.audit.retain(|entry| entry.at <= at(t - lost));
        }
        self.unflushed.clear();
        forgotten
    }

    /// What is wrong with the audit: it has one entry for the beginning of each session, one for each
    /// end with the row's own reason and time, and one for each change of a password.
    pub(super) fn audit_is_wrong(&self) -> Option<String> {
        let changes = self.audit.iter().filter(|entry| entry.session.is_none()).count();
        let changed: u32 = self.passwords.iter().sum();
        if changes != changed as usize {
            return Some(format!("{changes} changes of passwords were audited, of {changed}"));
        }
        (0..self.rows.len()).find_map(|place| {
            let trail = self.audit.iter().filter(|entry| entry.session == Some(session_id(place)));
            let (logins, ends): (Vec<_>, Vec<_>) = trail.partition(|entry| entry.event == AuditEvent::Login);
            let ends: Vec<_> = ends.iter().map(|entry| (entry.event, entry.at)).collect();
            let end = self.rows[place].session.end;
            let expected: Vec<_> = end.iter().map(|end| (AuditEvent::Ended(end.reason), end.at)).collect();
            (logins.len() != 1 || ends != expected).then(|| {
                let begun = logins.len();
                format!("session {place} began {begun} times and ended by {ends:?} in the audit, by {end:?} in its row")
            })
        })
    }

    fn password_of(&self, user: UserId) -> u32 {
        let number = (0..USERS).find(|&number| user_id(number) == user).expect("one of the users");
        self.passwords[number]
    }
}
