//! A store that lasts as long as its process: for tests, examples and single-node trials.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use super::store::{
    AuditStore, InsertOutcome, MovieQuery, MovieSort, MovieStore, NewSession, PasswordChange, Rotation,
    SessionFilter, SessionStore, SessionTermination, SettingStore, StoreError, TokenUse, UserStore,
};
use crate::client_info::ClientInfo;
use crate::clock::{Clock, SystemClock};
use crate::models::audit::AuditEntry;
use crate::models::movie::{Movie, MovieDetails, MovieId};
use crate::models::session::{EndReason, Session, SessionEnd, SessionId};
use crate::models::user::{Role, User, UserId};

/// Users, sessions, the audit, movies and settings in maps, behind one lock that is never held across an
/// `await`. Clones share them.
///
/// ```
/// use sekisho::services::memory::MemoryStore;
/// use sekisho::services::store::SettingStore;
///
/// # tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
/// let store = MemoryStore::default();
/// let clone = store.clone();
/// assert_eq!(store.settle_setting("issuer", "sekisho").await?, "sekisho");
/// assert_eq!(clone.settle_setting("issuer", "another").await?, "sekisho");
/// # Ok::<(), sekisho::services::store::StoreError>(()) }).expect("an answer");
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    sessions: HashMap<SessionId, Session>,
    audit: VecDeque<AuditEntry>,
    users: HashMap<UserId, User>,
    movies: BTreeMap<MovieId, MovieDetails>,
    last_movie: i64,
    settings: HashMap<String, String>,
}

impl MemoryStore {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn insert_session(&self, new: &NewSession<'_>) -> Result<InsertOutcome, StoreError> {
        let mut tables = self.tables();
        if !tables.may_sign_in(new) {
            return Ok(InsertOutcome::Refused);
        }
        if tables.sessions.contains_key(&new.session.id) {
            return Err(StoreError::Conflict("id"));
        }
        let ended = tables.evict_sessions(new);
        tables.begin(new.session);
        Ok(InsertOutcome::Inserted { terminated: ended })
    }

    async fn rotate(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        let due = |session: &Session| {
            session.generation == rotation.from_generation && session.rotated_at <= rotation.max_rotated_at
        };
        Ok(self.tables().advance(rotation, due))
    }

    async fn catch_up(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        Ok(self.tables().advance(rotation, |session| session.generation < rotation.from_generation))
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        Ok(self.tables().sessions.get(&id).cloned())
    }

    async fn confirm_generation(&self, tokens: &[TokenUse]) -> Result<Vec<Session>, StoreError> {
        let mut tables = self.tables();
        let mut settled_before = BTreeMap::new();
        for token in tokens {
            let Some(session) = tables.sessions.get_mut(&token.session) else { continue };
            if session.end.is_some() || session.generation != token.generation {
                continue;
            }
            if *session.settled_by.get_or_insert(token.token) != token.token {
                settled_before.insert(session.id, session.clone());
            }
        }
        Ok(settled_before.into_values().collect())
    }

    async fn count_replays(&self, counts: &[(SessionId, u64)]) -> Result<(), StoreError> {
        let mut tables = self.tables();
        for (id, count) in counts {
            if let Some(session) = tables.sessions.get_mut(id) {
                session.replays += count;
            }
        }
        Ok(())
    }

    async fn end_session(&self, id: SessionId, ending: &SessionTermination) -> Result<bool, StoreError> {
        Ok(self.tables().end(id, ending))
    }

    async fn end_sessions(
        &self,
        which: &SessionFilter,
        ending: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        Ok(self.tables().end_which(which, ending))
    }

    async fn live_sessions(&self, user: UserId, now: OffsetDateTime) -> Result<Vec<Session>, StoreError> {
        let mut live = self.tables().live(user, now);
        live.sort_by_key(|session| std::cmp::Reverse((session.rotated_at, session.id)));
        Ok(live)
    }

    async fn list_sessions(
        &self,
        which: &SessionFilter,
        live_at: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<Session>, StoreError> {
        let tables = self.tables();
        let listed = |session: &&Session| live_at.is_none_or(|now| session.termination(now).is_none());
        let named = tables.sessions.values().filter(|session| names(which, session)).filter(listed);
        let mut sessions: Vec<Session> = named.cloned().collect();
        sessions.sort_by_key(|session| std::cmp::Reverse((session.created_at, session.id)));
        sessions.truncate(limit as usize);
        Ok(sessions)
    }

    async fn ended_since(&self, since: OffsetDateTime) -> Result<Vec<(SessionId, SessionEnd)>, StoreError> {
        let tables = self.tables();
        let ended = tables.sessions.values().filter_map(|session| Some((session.id, session.end?)));
        Ok(ended.filter(|(_, end)| end.at >= since).collect())
    }

    async fn end_expired(
        &self,
        from: SessionId,
        most: u32,
        expired_by: OffsetDateTime,
    ) -> Result<Option<SessionId>, StoreError> {
        let mut tables = self.tables();
        let mut seen: Vec<_> = tables.sessions.keys().copied().filter(|id| *id > from).collect();
        seen.sort_unstable();
        seen.truncate(most as usize);
        for id in &seen {
            let expired = tables.sessions.get(id).filter(|session| session.end.is_none());
            if let Some(ending) = expired.and_then(|session| expiry(session, expired_by)) {
                tables.end(*id, &ending);
            }
        }
        Ok(seen.last().copied())
    }

    async fn purge_sessions(&self, before: OffsetDateTime, most: u32) -> Result<u64, StoreError> {
        let mut tables = self.tables();
        let ended = tables.sessions.values().filter(|session| session.end.is_some_and(|end| end.at < before));
        let purged: Vec<_> = ended.take(most as usize).map(|session| session.id).collect();
        tables.sessions.retain(|id, _| !purged.contains(id));
        Ok(purged.len() as u64)
    }

    async fn database_time(&self) -> Result<OffsetDateTime, StoreError> {
        Ok(SystemClock.now())
    }
}

#[async_trait]
impl AuditStore for MemoryStore {
    async fn record(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        let mut tables = self.tables();
        entries.iter().for_each(|entry| tables.write_down(entry.clone()));
        Ok(())
    }

    async fn session_audit(&self, session: SessionId, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let tables = self.tables();
        let named = tables.audit.iter().filter(|entry| entry.session == Some(session));
        let mut entries: Vec<_> = named.cloned().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        entries.truncate(limit as usize);
        Ok(entries)
    }

    async fn purge_audit(&self, before: OffsetDateTime, most: u32) -> Result<u64, StoreError> {
        let mut purged = 0;
        self.tables().audit.retain(|entry| {
            let kept = entry.at >= before || purged == u64::from(most);
            purged += u64::from(!kept);
            kept
        });
        Ok(purged)
    }
}

#[async_trait]
impl UserStore for MemoryStore {
    async fn insert_users(&self, users: &[User]) -> Result<(), StoreError> {
        let mut tables = self.tables();
        for (at, user) in users.iter().enumerate() {
            let mut others = tables.users.values().chain(&users[..at]);
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
        let which = match change.keep {
            Some(kept) => SessionFilter::UserExcept(change.user, kept),
            None => SessionFilter::User(change.user),
        };
        Ok(Some(tables.end_by_change(change.user, &which, change.ending)))
    }

    async fn set_role(
        &self,
        id: UserId,
        role: Role,
        ending: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let mut tables = self.tables();
        let Some(user) = tables.users.get_mut(&id) else { return Ok(None) };
        if user.role == role {
            return Ok(Some(Vec::new()));
        }
        user.role = role;
        Ok(Some(tables.end_by_change(id, &SessionFilter::User(id), ending)))
    }

    async fn disable_user(
        &self,
        id: UserId,
        ending: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let mut tables = self.tables();
        let Some(user) = tables.users.get_mut(&id) else { return Ok(None) };
        user.disabled_at.get_or_insert(ending.at);
        Ok(Some(tables.end_by_change(id, &SessionFilter::User(id), ending)))
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
        ending: &SessionTermination,
    ) -> Result<Option<Vec<SessionId>>, StoreError> {
        let mut tables = self.tables();
        if tables.users.remove(&id).is_none() {
            return Ok(None);
        }
        Ok(Some(tables.end_by_change(id, &SessionFilter::User(id), ending)))
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
}

impl Tables {
    fn may_sign_in(&self, new: &NewSession<'_>) -> bool {
        let Some(hash) = new.hashed_password else { return true };
        self.users.get(&new.session.user_id).is_some_and(|user| {
            user.hashed_password.expose_secret() == hash.expose_secret()
                && user.role.as_str() == new.session.roles.as_str()
                && user.disabled_at.is_none()
        })
    }

    /// Ends the session that the new one replaces, and the oldest beyond the user's limit.
    fn evict_sessions(&mut self, new: &NewSession<'_>) -> Vec<SessionId> {
        let at = new.session.created_at;
        let mut others = self.live(new.session.user_id, at);
        others.retain(|session| Some(session.id) != new.replaces);
        others.sort_by_key(|session| std::cmp::Reverse((session.created_at, session.id)));
        let beyond = others.iter().skip(new.max_per_user.saturating_sub(1) as usize);
        let displaced = beyond.map(|session| (session.id, EndReason::Displaced));
        let replaced = new.replaces.map(|id| (id, EndReason::LoggedOut));
        let ending: Vec<_> = replaced.into_iter().chain(displaced).collect();
        let mut ended = Vec::new();
        for (id, reason) in ending {
            if self.end(id, &SessionTermination::new(at, reason, new.session.client.clone())) {
                ended.push(id);
            }
        }
        ended
    }

    fn advance(&mut self, rotation: &Rotation<'_>, due: impl Fn(&Session) -> bool) -> Option<Session> {
        let generation = rotation.from_generation.checked_add(1)?;
        let session = self.sessions.get_mut(&rotation.id)?;
        if session.kind != rotation.kind || session.termination(rotation.now).is_some() || !due(session) {
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

    /// What lasts as long as its process is not kept for ever.
    fn write_down(&mut self, entry: AuditEntry) {
        if self.audit.len() == MOST_ENTRIES {
            self.audit.pop_front();
        }
        self.audit.push_back(entry);
    }

    fn begin(&mut self, session: &Session) {
        self.write_down(AuditEntry::login(session));
        let session = Session { client: stored_client(&session.client), ..session.clone() };
        self.sessions.insert(session.id, session);
    }

    fn end(&mut self, id: SessionId, ending: &SessionTermination) -> bool {
        let Some(session) = self.sessions.get_mut(&id).filter(|session| session.end.is_none()) else {
            return false;
        };
        session.end = Some(ending.end());
        let entry = ending.audit_entry(id, session.user_id, session.generation, session.client.clone());
        self.write_down(entry);
        true
    }

    fn end_which(&mut self, which: &SessionFilter, ending: &SessionTermination) -> Vec<SessionId> {
        let named = self.sessions.values().filter(|session| names(which, session));
        let mut ended: Vec<_> = named.map(|session| session.id).collect();
        ended.retain(|&id| self.end(id, ending));
        ended
    }

    /// Ends sessions because the user was changed.
    fn end_by_change(
        &mut self,
        user: UserId,
        which: &SessionFilter,
        ending: &SessionTermination,
    ) -> Vec<SessionId> {
        self.write_down(ending.user_audit_entry(user));
        self.end_which(which, ending)
    }

    fn live(&self, user: UserId, now: OffsetDateTime) -> Vec<Session> {
        let of_user = self.sessions.values().filter(|session| session.user_id == user);
        of_user.filter(|session| session.termination(now).is_none()).cloned().collect()
    }

    fn set_password(&mut self, id: UserId, old: Option<&SecretString>, new: &SecretString) -> bool {
        let Some(user) = self.users.get_mut(&id) else { return false };
        if old.is_some_and(|old| old.expose_secret() != user.hashed_password.expose_secret()) {
            return false;
        }
        user.hashed_password = new.clone();
        true
    }
}

/// How many entries of the audit are kept.
const MOST_ENTRIES: usize = 10_000;

/// How a session ends that had expired by `by`.
fn expiry(session: &Session, by: OffsetDateTime) -> Option<SessionTermination> {
    let (event, at) = session.termination(by)?;
    let reason = EndReason::from_word(event.as_str())?;
    Some(SessionTermination::new(at, reason, ClientInfo::default()))
}

/// What a session's row keeps of a client.
fn stored_client(client: &ClientInfo) -> ClientInfo {
    ClientInfo { request_id: None, ..client.clone() }
}

fn names(which: &SessionFilter, session: &Session) -> bool {
    match *which {
        SessionFilter::All => true,
        SessionFilter::User(user) => session.user_id == user,
        SessionFilter::UserExcept(user, kept) => session.user_id == user && session.id != kept,
        SessionFilter::SignedBy(key) => session.key_number == key,
    }
}

fn matches(query: &MovieQuery, details: &MovieDetails) -> bool {
    let holds = |text: &str, part: &Option<String>| {
        part.as_ref().is_none_or(|part| text.to_lowercase().contains(&part.to_lowercase()))
    };
    holds(&details.title, &query.title)
        && holds(&details.director, &query.director)
        && query.year.is_none_or(|year| year == details.year)
}

/// `None` comes before any number.
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
