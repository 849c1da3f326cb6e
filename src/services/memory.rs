//! An in-memory store, for tests, examples and trials with a single process.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use super::store::{
    AuditStore, EndedSessions, EndedSince, InsertOutcome, MovieQuery, MovieSort, MovieStore, NewSession,
    PasswordChange, PersistentStore, Rotation, SessionFilter, SessionStore, SessionTermination, SessionUse,
    SettingStore, StoreError, TokenUse, UserStore,
};
use crate::client_info::ClientInfo;
use crate::clock::{Clock, SystemClock};
use crate::identity::{Claims, Subject};
use crate::models::audit::AuditEntry;
use crate::models::movie::{Movie, MovieDetails, MovieId};
use crate::models::session::{EndReason, Session, SessionEnd, SessionId};
use crate::models::user::{PasswordOrigin, Role, User, UserId};

/// A store of all tables in memory. Clones share the tables.
///
/// One lock protects them. It is never held across an `await`.
///
/// ```
/// use sekisho::services::memory::MemoryStore;
/// use sekisho::services::store::SettingStore;
///
/// # tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
/// let store = MemoryStore::default();
/// let clone = store.clone();
/// assert_eq!(store.get_or_insert_setting("issuer", "sekisho").await?, "sekisho");
/// assert_eq!(clone.get_or_insert_setting("issuer", "another").await?, "sekisho");
/// # Ok::<(), sekisho::services::store::StoreError>(()) }).expect("the store does not fail");
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    sessions: HashMap<SessionId, Session>,
    /// The terminated sessions, in the order of their terminations.
    terminated: BTreeMap<i64, SessionId>,
    last_termination: i64,
    audit: VecDeque<AuditEntry>,
    users: HashMap<UserId, User>,
    movies: BTreeMap<MovieId, MovieDetails>,
    last_movie: i64,
    settings: HashMap<String, String>,
}

impl MemoryStore {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock()
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn insert_session(&self, new: &NewSession<'_>) -> Result<InsertOutcome, StoreError> {
        let mut tables = self.tables();
        if !tables.is_sign_in_allowed(new) {
            return Ok(InsertOutcome::Refused);
        }
        if tables.sessions.contains_key(&new.session.id) {
            return Err(StoreError::Conflict("id"));
        }
        let terminated = tables.evict_sessions(new);
        tables.insert_session(new.session);
        Ok(InsertOutcome::Inserted { terminated })
    }

    async fn rotate(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        let is_due = |session: &Session| {
            session.generation == rotation.from_generation && session.rotated_at <= rotation.max_rotated_at
        };
        Ok(self.tables().advance(rotation, is_due))
    }

    async fn catch_up(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        Ok(self.tables().advance(rotation, |session| session.generation < rotation.from_generation))
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        Ok(self.tables().sessions.get(&id).cloned())
    }

    async fn confirm_generation(&self, tokens: &[TokenUse]) -> Result<Vec<Session>, StoreError> {
        let mut tables = self.tables();
        let mut conflicting = BTreeMap::new();
        for token in tokens {
            let Some(session) = tables.sessions.get_mut(&token.session) else { continue };
            if session.end.is_some() || session.generation != token.generation {
                continue;
            }
            if *session.settled_by.get_or_insert(token.token) != token.token {
                conflicting.insert(session.id, session.clone());
            }
        }
        Ok(conflicting.into_values().collect())
    }

    async fn record_uses(&self, uses: &[SessionUse], now: OffsetDateTime) -> Result<(), StoreError> {
        let mut tables = self.tables();
        for used in uses {
            let Some(session) = tables.sessions.get_mut(&used.session) else { continue };
            session.replays += used.replays;
            if session.termination(now).is_none() {
                let idle_expires_at = used.idle_expires_at.min(session.absolute_expires_at);
                session.idle_expires_at = session.idle_expires_at.max(idle_expires_at);
            }
        }
        Ok(())
    }

    async fn set_claims(
        &self,
        id: SessionId,
        claims: &Claims,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let live = tables.sessions.get_mut(&id).filter(|session| session.termination(now).is_none());
        Ok(live.map(|session| session.claims.clone_from(claims)).is_some())
    }

    async fn end_session(&self, id: SessionId, termination: &SessionTermination) -> Result<bool, StoreError> {
        Ok(self.tables().terminate(id, termination))
    }

    async fn end_session_list(
        &self,
        ids: &[SessionId],
        termination: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        let mut tables = self.tables();
        Ok(ids.iter().copied().filter(|&id| tables.terminate(id, termination)).collect())
    }

    async fn end_sessions(
        &self,
        filter: &SessionFilter,
        termination: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        Ok(self.tables().terminate_matching(filter, termination))
    }

    async fn live_sessions(&self, user: &Subject, now: OffsetDateTime) -> Result<Vec<Session>, StoreError> {
        let mut live = self.tables().matching(&SessionFilter::User(user.clone()), Some(now));
        live.sort_by_key(|session| std::cmp::Reverse((session.rotated_at, session.id)));
        Ok(live)
    }

    async fn list_sessions(
        &self,
        filter: &SessionFilter,
        live_at: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<Session>, StoreError> {
        let mut sessions = self.tables().matching(filter, live_at);
        sessions.sort_by_key(|session| std::cmp::Reverse((session.created_at, session.id)));
        sessions.truncate(limit as usize);
        Ok(sessions)
    }

    async fn ended_since(&self, since: EndedSince) -> Result<EndedSessions, StoreError> {
        let tables = self.tables();
        let position = since.position.unwrap_or(i64::MAX);
        let ended = tables.terminated.iter().filter_map(|(number, id)| {
            let end = tables.sessions.get(id)?.end?;
            (*number > position || end.at >= since.time).then_some((*id, end))
        });
        let position = Some(tables.last_termination);
        let sessions = ended.collect();
        Ok(EndedSessions { store_time: SystemClock.now(), position, age: Duration::ZERO, sessions })
    }

    async fn end_expired(
        &self,
        from: SessionId,
        limit: u32,
        expired_by: OffsetDateTime,
    ) -> Result<Option<SessionId>, StoreError> {
        let mut tables = self.tables();
        let mut ids: Vec<_> = tables.sessions.keys().copied().filter(|id| *id > from).collect();
        ids.sort_unstable();
        ids.truncate(limit as usize);
        for id in &ids {
            let active = tables.sessions.get(id).filter(|session| session.end.is_none());
            if let Some(SessionEnd { at, reason }) = active.and_then(|session| session.expiry(expired_by)) {
                tables.terminate(*id, &SessionTermination::new(at, reason, ClientInfo::default()));
            }
        }
        Ok(ids.last().copied())
    }

    async fn purge_sessions(&self, before: OffsetDateTime, limit: u32) -> Result<u64, StoreError> {
        let mut tables = self.tables();
        let ended = tables.sessions.values().filter(|session| session.end.is_some_and(|end| end.at < before));
        let purged: Vec<_> = ended.take(limit as usize).map(|session| session.id).collect();
        tables.sessions.retain(|id, _| !purged.contains(id));
        tables.terminated.retain(|_, id| !purged.contains(id));
        Ok(purged.len() as u64)
    }

    async fn max_key_number(&self) -> Result<Option<u8>, StoreError> {
        Ok(self.tables().sessions.values().map(|session| session.key_number).max())
    }

    async fn database_time(&self) -> Result<OffsetDateTime, StoreError> {
        Ok(SystemClock.now())
    }
}

#[async_trait]
impl AuditStore for MemoryStore {
    async fn record(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        let mut tables = self.tables();
        entries.iter().for_each(|entry| tables.push_audit(entry.clone()));
        Ok(())
    }

    async fn session_audit(&self, session: SessionId, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let tables = self.tables();
        let matching = tables.audit.iter().filter(|entry| entry.session == Some(session));
        let mut entries: Vec<_> = matching.cloned().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        entries.truncate(limit as usize);
        Ok(entries)
    }

    async fn purge_audit(&self, before: OffsetDateTime, limit: u32) -> Result<u64, StoreError> {
        let mut purged = 0;
        self.tables().audit.retain(|entry| {
            let is_kept = entry.at >= before || purged == u64::from(limit);
            purged += u64::from(!is_kept);
            is_kept
        });
        Ok(purged)
    }
}

#[async_trait]
impl UserStore for MemoryStore {
    async fn insert_users(&self, users: &[User]) -> Result<(), StoreError> {
        let mut tables = self.tables();
        for (index, user) in users.iter().enumerate() {
            let mut others = tables.users.values().chain(&users[..index]);
            if let Some(other) = others.find(|other| other.email == user.email || other.id == user.id) {
                return Err(StoreError::Conflict(if other.id == user.id { "id" } else { "email" }));
            }
        }
        tables.users.extend(users.iter().map(|user| (user.id, user.clone())));
        Ok(())
    }

    async fn find_user_by_email(&self, email: &str) -> Result<Option<User>, StoreError> {
        Ok(self.tables().users.values().find(|user| user.email == email).cloned())
    }

    async fn find_user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        Ok(self.tables().users.get(&id).cloned())
    }

    async fn has_users(&self) -> Result<bool, StoreError> {
        Ok(!self.tables().users.is_empty())
    }

    async fn list_users(&self) -> Result<Vec<User>, StoreError> {
        let mut users: Vec<User> = self.tables().users.values().cloned().collect();
        users.sort_by(|a, b| a.email.cmp(&b.email));
        Ok(users)
    }

    async fn rehash(&self, id: UserId, old: &SecretString, new: &SecretString) -> Result<bool, StoreError> {
        Ok(self.tables().set_password(id, Some(old), new))
    }

    async fn change_password(
        &self,
        change: &PasswordChange<'_>,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let mut tables = self.tables();
        if !tables.set_password(change.user, change.old, change.new) {
            return Ok(None);
        }
        Ok(Some(tables.terminate_by_user_change(change.user, &change.sessions(), change.termination)))
    }

    async fn set_role(
        &self,
        id: UserId,
        role: Role,
        termination: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let mut tables = self.tables();
        let Some(user) = tables.users.get_mut(&id) else { return Ok(None) };
        if user.role == role {
            return Ok(Some(Vec::new()));
        }
        user.role = role;
        Ok(Some(tables.terminate_by_user_change(id, &SessionFilter::User(id.into()), termination)))
    }

    async fn disable_user(
        &self,
        id: UserId,
        termination: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let mut tables = self.tables();
        let Some(user) = tables.users.get_mut(&id) else { return Ok(None) };
        user.disabled_at.get_or_insert(termination.at);
        Ok(Some(tables.terminate_by_user_change(id, &SessionFilter::User(id.into()), termination)))
    }

    async fn enable_user(&self, id: UserId) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let Some(user) = tables.users.get_mut(&id) else { return Ok(false) };
        user.disabled_at = None;
        Ok(true)
    }

    async fn delete_user(
        &self,
        id: UserId,
        termination: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let mut tables = self.tables();
        if tables.users.remove(&id).is_none() {
            return Ok(None);
        }
        Ok(Some(tables.terminate_by_user_change(id, &SessionFilter::User(id.into()), termination)))
    }
}

#[async_trait]
impl MovieStore for MemoryStore {
    async fn list_movies(&self, query: &MovieQuery) -> Result<(Vec<Movie>, u64), StoreError> {
        let tables = self.tables();
        let matching = tables.movies.iter().filter(|(_, details)| matches(query, details));
        let mut movies: Vec<Movie> =
            matching.map(|(id, details)| Movie { id: *id, details: details.clone() }).collect();
        movies.sort_by(|a, b| compare(query.sort, a, b));
        if query.descending {
            movies.reverse();
        }
        let total = movies.len() as u64;
        let page = movies.into_iter().skip(query.offset as usize).take(query.limit as usize);
        Ok((page.collect(), total))
    }

    async fn find_movie(&self, id: MovieId) -> Result<Option<Movie>, StoreError> {
        Ok(self.tables().movies.get(&id).map(|details| Movie { id, details: details.clone() }))
    }

    async fn insert_movies(&self, movies: &[MovieDetails]) -> Result<Vec<Movie>, StoreError> {
        let mut tables = self.tables();
        let mut inserted = Vec::with_capacity(movies.len());
        for details in movies {
            tables.last_movie += 1;
            let movie = Movie { id: MovieId(tables.last_movie), details: details.clone() };
            tables.movies.insert(movie.id, details.clone());
            inserted.push(movie);
        }
        Ok(inserted)
    }

    async fn update_movie(&self, movie: &Movie) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let Some(details) = tables.movies.get_mut(&movie.id) else { return Ok(false) };
        details.clone_from(&movie.details);
        Ok(true)
    }

    async fn delete_movie(&self, id: MovieId) -> Result<bool, StoreError> {
        Ok(self.tables().movies.remove(&id).is_some())
    }
}

#[async_trait]
impl SettingStore for MemoryStore {
    async fn get_or_insert_setting(&self, name: &str, value: &str) -> Result<String, StoreError> {
        let mut tables = self.tables();
        Ok(tables.settings.entry(name.to_owned()).or_insert_with(|| value.to_owned()).clone())
    }

    async fn replace_setting(&self, name: &str, old: &str, new: &str) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let value = tables.settings.get_mut(name).filter(|value| *value == old);
        Ok(value.map(|value| new.clone_into(value)).is_some())
    }

    async fn set_setting(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.tables().settings.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    async fn list_settings(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        let tables = self.tables();
        let matching = tables.settings.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(matching.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    async fn delete_setting(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.tables().settings.remove(name).is_some())
    }
}

/// For tests of programs that use another store: its sessions end with it.
impl PersistentStore for MemoryStore {}

impl Tables {
    fn is_sign_in_allowed(&self, new: &NewSession<'_>) -> bool {
        let Some(hash) = new.hashed_password else { return true };
        let user = UserId::try_from(&new.session.subject).ok().and_then(|id| self.users.get(&id));
        user.is_some_and(|user| {
            user.hashed_password.expose_secret() == hash.expose_secret()
                && user.role.as_str() == new.session.roles.as_str()
                && user.disabled_at.is_none()
        })
    }

    /// Terminates the session that the new one replaces, and the oldest of its kind beyond the user's limit.
    fn evict_sessions(&mut self, new: &NewSession<'_>) -> Vec<SessionId> {
        let at = new.session.created_at;
        let mut others = self.matching(&SessionFilter::User(new.session.subject.clone()), Some(at));
        others.retain(|session| session.kind == new.session.kind && Some(session.id) != new.replaces);
        others.sort_by_key(|session| std::cmp::Reverse((session.created_at, session.id)));
        let beyond = others.iter().skip(new.max_per_user.saturating_sub(1) as usize);
        let displaced = beyond.map(|session| (session.id, EndReason::Displaced));
        let replaced = new.replaces.map(|id| (id, EndReason::LoggedOut));
        let evicted: Vec<_> = replaced.into_iter().chain(displaced).collect();
        let mut terminated = Vec::new();
        for (id, reason) in evicted {
            if self.terminate(id, &SessionTermination::new(at, reason, new.session.client.clone())) {
                terminated.push(id);
            }
        }
        terminated
    }

    fn advance(&mut self, rotation: &Rotation<'_>, is_due: impl Fn(&Session) -> bool) -> Option<Session> {
        let generation = rotation.from_generation.checked_add(1)?;
        let session = self.sessions.get_mut(&rotation.id)?;
        if session.kind != rotation.kind || session.termination(rotation.now).is_some() || !is_due(session) {
            return None;
        }
        session.generation = generation;
        session.key_number = rotation.key_number;
        session.rotated_at = rotation.now;
        session.asked_by = rotation.asked_by;
        session.settled_by = None;
        session.rotations += 1;
        session.idle_expires_at = rotation.idle_expires_at.min(session.absolute_expires_at);
        session.client = stored_client(rotation.client);
        Some(session.clone())
    }

    /// Adds an audit entry, and drops the oldest at capacity.
    fn push_audit(&mut self, entry: AuditEntry) {
        if self.audit.len() == AUDIT_CAPACITY {
            self.audit.pop_front();
        }
        self.audit.push_back(entry);
    }

    fn insert_session(&mut self, session: &Session) {
        self.push_audit(AuditEntry::login(session));
        let session = Session { client: stored_client(&session.client), ..session.clone() };
        if session.end.is_some() {
            self.number_termination(session.id);
        }
        self.sessions.insert(session.id, session);
    }

    fn number_termination(&mut self, id: SessionId) {
        self.last_termination += 1;
        self.terminated.insert(self.last_termination, id);
    }

    fn terminate(&mut self, id: SessionId, termination: &SessionTermination) -> bool {
        let Some(session) = self.sessions.get_mut(&id).filter(|session| session.end.is_none()) else {
            return false;
        };
        session.end = Some(termination.end());
        let (subject, client) = (session.subject.clone(), session.client.clone());
        let entry = termination.audit_entry(id, subject, session.generation, client);
        self.push_audit(entry);
        self.number_termination(id);
        true
    }

    fn terminate_matching(
        &mut self,
        filter: &SessionFilter,
        termination: &SessionTermination,
    ) -> Vec<SessionId> {
        let matching = self.sessions.values().filter(|session| matches_filter(filter, session));
        let mut ids: Vec<_> = matching.map(|session| session.id).collect();
        ids.retain(|&id| self.terminate(id, termination));
        ids
    }

    /// Terminates sessions because their user was changed, with an audit entry of the user.
    fn terminate_by_user_change(
        &mut self,
        user: UserId,
        filter: &SessionFilter,
        termination: &SessionTermination,
    ) -> Vec<SessionId> {
        self.push_audit(termination.user_audit_entry(user));
        self.terminate_matching(filter, termination)
    }

    /// Returns the sessions that match `filter` and are live at `live_at`, if given.
    fn matching(&self, filter: &SessionFilter, live_at: Option<OffsetDateTime>) -> Vec<Session> {
        let is_live = |session: &&Session| live_at.is_none_or(|now| session.termination(now).is_none());
        let matching = self.sessions.values().filter(|session| matches_filter(filter, session));
        matching.filter(is_live).cloned().collect()
    }

    fn set_password(&mut self, id: UserId, old: Option<&SecretString>, new: &SecretString) -> bool {
        let Some(user) = self.users.get_mut(&id) else { return false };
        if old.is_some_and(|old| old.expose_secret() != user.hashed_password.expose_secret()) {
            return false;
        }
        user.hashed_password = new.clone();
        user.password_origin = PasswordOrigin::Own;
        true
    }
}

/// Maximum number of audit entries. The memory of a process is limited.
const AUDIT_CAPACITY: usize = 10_000;

/// The part of a client that a session's row stores.
fn stored_client(client: &ClientInfo) -> ClientInfo {
    ClientInfo { request_id: None, ..client.clone() }
}

fn matches_filter(filter: &SessionFilter, session: &Session) -> bool {
    match filter {
        SessionFilter::All => true,
        SessionFilter::User(user) => session.subject == *user,
        SessionFilter::UserExcept(user, kept) => session.subject == *user && session.id != *kept,
        SessionFilter::SignedBy(key) => session.key_number == *key,
    }
}

fn matches(query: &MovieQuery, details: &MovieDetails) -> bool {
    let contains = |text: &str, part: &Option<String>| {
        part.as_ref().is_none_or(|part| text.to_lowercase().contains(&part.to_lowercase()))
    };
    contains(&details.title, &query.title)
        && contains(&details.director, &query.director)
        && query.year.is_none_or(|year| year == details.year)
}

/// Compares by the sort key, then by id. `None` is less than any number.
fn compare(sort: MovieSort, a: &Movie, b: &Movie) -> std::cmp::Ordering {
    let (x, y) = (&a.details, &b.details);
    let order = match sort {
        MovieSort::Director => x.director.to_lowercase().cmp(&y.director.to_lowercase()),
        MovieSort::Id => std::cmp::Ordering::Equal,
        MovieSort::Rating => x.rating.partial_cmp(&y.rating).unwrap_or(std::cmp::Ordering::Equal),
        MovieSort::Runtime => x.runtime_minutes.cmp(&y.runtime_minutes),
        MovieSort::Title => x.title.to_lowercase().cmp(&y.title.to_lowercase()),
        MovieSort::Year => x.year.cmp(&y.year),
    };
    order.then(a.id.cmp(&b.id))
}
