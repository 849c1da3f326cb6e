//! The tokens of a session, from sign-in to its end.
//!
//! [`Tokens`] joins the parts: [`jwt`](super::jwt) signs and checks access tokens,
//! [`refresh_token`] computes refresh tokens, [`rotation`](super::rotation)
//! decides, a [`SessionStore`] keeps the one row. It is the layer's
//! [`TokenService`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;
use time::OffsetDateTime;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::crypto;
use super::deferred_writes::{self, DeferredWrites, FlushNeeded};
use super::jwt::{AccessToken, AccessTokens};
use super::keys::{Algorithm, KeyError, KeyRing, SharedKeys};
use super::memory::MemoryStore;
use super::refresh::RefreshResult;
use super::refresh_token;
use super::revocations::RevocationList;
use super::single_flight::{REMEMBERED, SingleFlight};
use super::store::{
    InsertOutcome, NewSession, SessionFilter, SessionStore, SessionTermination, StoreError, TokenUse,
};
use super::upstream_token_cache::UpstreamTokenCache;
use super::verified_token_cache::{CachedToken, VerifiedTokenCache};
use crate::client_info::ClientInfo;
use crate::clock::{Clock, SystemClock, micros};
use crate::identity::{Identity, Roles};
use crate::layer::{
    RefreshError, RefreshRequest, RefreshedSession, SessionActiveFuture, TokenService, Verified, VerifyError,
};
use crate::models::audit::{AuditEntry, AuditEvent};
use crate::models::session::{EndReason, Session, SessionEnd, SessionId, SessionKind, TokenId};
use crate::models::user::UserId;
use crate::request_context::with_current_context;
use crate::session_event::{SessionEndFuture, SessionEndWatcher, SessionEvent};

/// How long sessions and their tokens live.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// How long an access token lives.
    pub access_ttl: Duration,
    /// How long a session lives after its last access token.
    pub idle_ttl: Duration,
    /// How long a session lives at most.
    pub absolute_ttl: Duration,
    /// How long old tokens count as still under way; see [`rotation`](super::rotation).
    pub grace: Duration,
    /// How many sessions a user may have; the oldest ends.
    pub max_per_user: u32,
    /// Whether valid access tokens are refused while it is unknown which sessions have ended.
    pub refuse_on_store_loss: bool,
}

impl Default for SessionSettings {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            access_ttl: Duration::from_secs(15 * 60),
            idle_ttl: 14 * DAY,
            absolute_ttl: 90 * DAY,
            grace: Duration::from_secs(60),
            max_per_user: 50,
            refuse_on_store_loss: false,
        }
    }
}

/// Issues, checks, renews and ends. Cheap to clone.
///
/// ```
/// use std::sync::Arc;
///
/// use sekisho::clock::{Clock, ManualClock};
/// use sekisho::client_info::ClientInfo;
/// use sekisho::session_event::SessionEvent;
/// use sekisho::layer::{RefreshRequest, TokenService, VerifyError};
/// use sekisho::services::jwt::AccessTokens;
/// use sekisho::services::keys::{Algorithm, KeyRing, SharedKeys};
/// use sekisho::services::memory::MemoryStore;
/// use sekisho::services::token::{SessionSettings, SignIn, Tokens};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let clock = Arc::new(ManualClock::default());
/// let keys = Arc::new(SharedKeys::new(KeyRing::generate(Algorithm::Hs256, clock.now())?));
/// let (store, settings) = (Arc::new(MemoryStore::default()), SessionSettings::default());
/// let lifetime = settings.access_ttl;
/// let tokens = Tokens::new(store, keys, AccessTokens::default(), settings, clock.clone());
///
/// let ann = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse()?;
/// let issued = tokens.sign_in(SignIn::new(ann, "ann@example.org")).await?.renewal;
/// let verified = tokens.verify(&issued.access_token)?;
/// assert_eq!(&*verified.identity.email, "ann@example.org");
///
/// clock.advance(2 * lifetime);
/// assert_eq!(tokens.verify(&issued.access_token), Err(VerifyError::Expired));
/// let request = RefreshRequest {
///     refresh_token: issued.refresh_token,
///     access_token: Some(issued.access_token),
///     of: None,
///     client: Client::default(),
/// };
/// let renewed = tokens.refresh(request.clone()).await?;
/// assert_eq!(renewed.event, SessionEvent::Rotated);
/// assert!(tokens.verify(&renewed.access_token).is_ok());
///
/// // The answer was lost: asking again gives the same refresh token.
/// let again = tokens.refresh(request).await?;
/// assert_eq!(again.event, SessionEvent::Replayed);
/// assert_eq!(again.refresh_token, renewed.refresh_token);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tokens {
    pub(super) inner: Arc<TokensInner>,
}

pub(super) struct TokensInner {
    pub(super) store: Arc<dyn SessionStore>,
    pub(super) keys: Arc<SharedKeys>,
    pub(super) access: AccessTokens,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: SessionSettings,
    pub(super) flights: SingleFlight<RefreshResult>,
    pub(super) notes: DeferredWrites,
    pub(super) ends: RevocationList,
    verified: VerifiedTokenCache,
    minted: UpstreamTokenCache,
    /// Where these tokens were made, and where their work with the store is done.
    runtime: Option<Handle>,
}

/// A user who has proved who it is, and for whom a session is to be made.
#[derive(Clone, Debug)]
pub struct SessionRequest<'a> {
    /// The user.
    pub user: UserId,
    /// The user's address.
    pub email: &'a str,
    /// What the user may do.
    pub roles: Roles,
    /// What the session is for.
    pub kind: SessionKind,
    /// Where the sign-in comes from.
    pub client: ClientInfo,
    /// The hash that the password was checked against. If given, the user must still have it, and
    /// be enabled, when the session is made; applications that bring their own users give none.
    pub hashed_password: Option<&'a SecretString>,
    /// The session whose tokens came with the sign-in: it ends.
    pub replaces: Option<SessionId>,
}

impl<'a> SessionRequest<'a> {
    /// A browser's session for a user without roles, of which nothing else is known. Name what else
    /// there is: `SessionRequest { roles, ..SessionRequest::new(user, email) }`.
    #[must_use]
    pub fn new(user: UserId, email: &'a str) -> Self {
        Self {
            user,
            email,
            roles: Roles::default(),
            kind: SessionKind::Browser,
            client: ClientInfo::default(),
            hashed_password: None,
            replaces: None,
        }
    }
}

/// A session's row and fresh tokens for it.
#[derive(Clone, Debug)]
pub struct IssuedSession {
    /// The row.
    pub session: Session,
    /// The tokens, and by which event they came; a sign-in has none.
    pub tokens: RefreshedSession,
}

/// Why no session was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignInError {
    /// The user is gone, disabled, or has another password by now.
    #[error("the user may not sign in any more")]
    Refused,
    /// The operating system gave no random bytes.
    #[error("no random bytes")]
    Random,
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Tokens {
    /// Tokens signed with `keys`, for sessions kept in `store`.
    ///
    /// They may be used in any runtime. Work with the store is done in the one in which they were
    /// made, if any.
    #[must_use]
    pub fn new(
        store: Arc<dyn SessionStore>,
        keys: Arc<SharedKeys>,
        access: AccessTokens,
        settings: SessionSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let leeway = access.settings().leeway;
        let ends = RevocationList::new(settings.access_ttl + leeway + settings.grace, settings.grace);
        // Not beyond the grace: by then the row may say otherwise.
        let flights = SingleFlight::new(REMEMBERED.min(settings.grace));
        let inner = TokensInner {
            store,
            keys,
            access,
            clock,
            settings,
            flights,
            notes: DeferredWrites::default(),
            ends,
            verified: VerifiedTokenCache::new(),
            minted: UpstreamTokenCache::new(),
            runtime: Handle::try_current().ok(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Tokens for examples and trials: all settings at their defaults, the sessions and a new key
    /// for HS256 in memory. When the process ends, everybody is signed out.
    ///
    /// # Errors
    ///
    /// If the system gives no random bytes.
    pub fn in_memory() -> Result<Self, KeyError> {
        let keys = KeyRing::generate(Algorithm::Hs256, SystemClock.now())?;
        Ok(Self::new(
            Arc::new(MemoryStore::default()),
            Arc::new(SharedKeys::new(keys)),
            AccessTokens::default(),
            SessionSettings::default(),
            Arc::new(SystemClock),
        ))
    }

    /// Makes a session. Only this inserts one.
    ///
    /// # Errors
    ///
    /// [`SignInError::Refused`] if the user changed since the password was checked.
    pub async fn sign_in(&self, sign_in: SessionRequest<'_>) -> Result<IssuedSession, SignInError> {
        let inner = &self.inner;
        let now = inner.clock.now();
        let session = inner.new_session(&sign_in, now)?;
        let new = NewSession {
            session: &session,
            hashed_password: sign_in.hashed_password,
            replaces: sign_in.replaces,
            max_per_user: inner.settings.max_per_user,
        };
        match inner.store.insert_session(&new).await? {
            InsertOutcome::Refused => Err(SignInError::Refused),
            InsertOutcome::Inserted { terminated: ended } => {
                for id in ended {
                    let replaced = sign_in.replaces == Some(id);
                    let reason = if replaced { EndReason::LoggedOut } else { EndReason::Displaced };
                    inner.note_ended(&[id], SessionEnd { at: session.created_at, reason });
                }
                let renewal = inner.issue(&session, SessionEvent::Rotated, now)?;
                Ok(IssuedSession { session, tokens: renewal })
            }
        }
    }

    /// Renews the session of a refresh token of this kind. What is begun runs to its end, also when
    /// the future is dropped.
    ///
    /// # Errors
    ///
    /// As [`TokenService::refresh`].
    pub async fn refresh_session(
        &self,
        request: RefreshRequest,
        kind: SessionKind,
    ) -> Result<IssuedSession, RefreshError> {
        let renewed = self.inner.on_store_runtime(Arc::clone(&self.inner).renew(request, kind)).await;
        renewed.unwrap_or(Err(RefreshError::Unavailable))
    }

    /// The session that these tokens name, expired and outdated ones too, as long as the signature
    /// holds. The refresh token goes first.
    #[must_use]
    pub fn identify_session(
        &self,
        refresh_token: Option<&str>,
        access_token: Option<&str>,
    ) -> Option<SessionId> {
        let keys = self.inner.keys.load();
        let refresh = refresh_token.and_then(|token| refresh_token::parse(&keys, token).ok());
        refresh
            .map(|token| token.session)
            .or_else(|| self.inner.read_access(access_token?).map(|token| token.identity.session))
    }

    /// The row of a session.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn find(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.inner.store.find_session(id).await
    }

    /// The user's sessions that are neither ended nor expired.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn live_sessions(&self, user: UserId) -> Result<Vec<Session>, StoreError> {
        self.inner.store.live_sessions(user, self.inner.clock.now()).await
    }

    /// Ends a session, at the wish of `by`; `false` if there is none or it has ended already. What is
    /// begun runs to its end, also when the future is dropped.
    ///
    /// # Errors
    ///
    /// If the store does not answer: then nothing is known to have ended.
    pub async fn terminate(
        &self,
        id: SessionId,
        reason: EndReason,
        by: &ClientInfo,
    ) -> Result<bool, StoreError> {
        let (inner, ending) = (Arc::clone(&self.inner), self.termination(reason, by));
        run_detached(async move {
            let ended = inner.store.end_session(id, &ending).await?;
            if ended {
                inner.note_ended(&[id], ending.end());
            } else if let Some(end) = inner.store.find_session(id).await?.and_then(|session| session.end) {
                // By another replica, or by a call of which nobody heard how it ended.
                inner.note_ended(&[id], end);
            }
            Ok(ended)
        })
        .await
    }

    /// Ends some sessions, at the wish of `by`, and returns which. What is begun runs to its end.
    ///
    /// # Errors
    ///
    /// If the store does not answer: then nothing is known to have ended.
    pub async fn terminate_matching(
        &self,
        which: &SessionFilter,
        reason: EndReason,
        by: &ClientInfo,
    ) -> Result<Vec<SessionId>, StoreError> {
        let (inner, which, ending) = (Arc::clone(&self.inner), *which, self.termination(reason, by));
        run_detached(async move {
            let ended = inner.store.end_sessions(&which, &ending).await?;
            inner.note_ended(&ended, ending.end());
            Ok(ended)
        })
        .await
    }

    /// An end at the present time, for the stores' transactions that end sessions along the way.
    #[must_use]
    pub fn termination(&self, reason: EndReason, by: &ClientInfo) -> SessionTermination {
        SessionTermination::new(self.inner.clock.now(), reason, by.clone())
    }

    /// Takes note of sessions that another call has ended in the store: from now on they are refused
    /// here, access tokens included.
    pub fn mark_terminated(&self, ended: &[SessionId], end: SessionEnd) {
        self.inner.note_ended(ended, end);
    }

    /// Loads what has ended lately. A replica does so before it is ready.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn load_revocations(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        inner.ends.load(&*inner.store, &*inner.clock).await.map(drop)
    }

    /// Follows what others end, for ever: within a second it is refused here. Where one process has the
    /// store for itself, and ends sessions through these tokens alone, there is nothing to follow.
    pub async fn run_revocation_poller(self) {
        let inner = &self.inner;
        let follow =
            inner.ends.run_poller(&*inner.store, &*inner.clock, |ended| inner.flights.forget_sessions(ended));
        if inner.settings.refuse_on_store_loss {
            tokio::join!(follow, inner.ends.notify_when_stale());
        } else {
            follow.await;
        }
    }

    /// Makes [`run_revocation_poller`](Self::run_revocation_poller) look at once.
    pub fn poll_now(&self) {
        self.inner.ends.wake();
    }

    /// Whether what other processes end has been unknown here for longer than a second.
    #[must_use]
    pub fn revocations_stale(&self) -> bool {
        self.inner.ends.is_stale()
    }

    /// Writes what was noted for the store and not written yet. Called from time to time by itself;
    /// call it before the program ends.
    ///
    /// # Errors
    ///
    /// If the store does not answer; the notes are kept.
    pub async fn flush_deferred(&self) -> Result<(), StoreError> {
        self.inner.write_notes().await
    }

    /// Writes into the audit that `event` happened to a user, outside of any session.
    ///
    /// # Errors
    ///
    /// If the store does not answer: then it is in no audit.
    pub async fn record(&self, event: AuditEvent, user: UserId, by: &ClientInfo) -> Result<(), StoreError> {
        let entry = AuditEntry::new(self.inner.clock.now(), event, by.clone());
        self.inner.store.record(&[AuditEntry { user: Some(user), ..entry }]).await
    }

    /// Has it written into the audit soon that somebody failed to sign in, as `user` if there is such
    /// a user.
    pub fn note_failed_login(&self, user: Option<UserId>, by: &ClientInfo) {
        let inner = &self.inner;
        let entry = AuditEntry::new(inner.clock.now(), AuditEvent::LoginFailed, by.clone());
        inner.schedule_flush(inner.notes.push_audit(AuditEntry { user, ..entry }), deferred_writes::DELAY);
    }

    /// How many notes were dropped since the start because the store had not answered for long.
    #[must_use]
    pub fn dropped_writes(&self) -> u64 {
        self.inner.notes.lost()
    }

    /// `Bearer` and a token in the user's name, for an upstream that checks tokens of its own
    /// `audience`: the same one as long as the user comes with the same access token. `None` if the key
    /// that signs is for HS256, since an upstream that holds it could make sessions, or if the system
    /// gives no random bytes.
    #[must_use]
    pub fn bearer_for_upstream(&self, identity: &Identity, audience: &str) -> Option<Bytes> {
        let inner = &self.inner;
        let now = inner.clock.now();
        let keys = inner.keys.load();
        if let Some(bearer) = inner.minted.find(identity, audience, &keys, now) {
            return Some(bearer);
        }
        let key = Some(keys.signing(now)).filter(|key| key.algorithm() != Algorithm::Hs256)?;
        let id = TokenId(random_id().ok()?);
        let token = inner.access.mint_for_upstream(key, identity, audience, id, now).ok()?;
        let bearer = Bytes::from(format!("Bearer {token}"));
        inner.minted.remember(identity, audience, &keys, now, &bearer);
        Some(bearer)
    }

    /// The keys in use.
    #[must_use]
    pub fn keys(&self) -> &Arc<SharedKeys> {
        &self.inner.keys
    }

    /// The lifetimes in use.
    #[must_use]
    pub fn settings(&self) -> &SessionSettings {
        &self.inner.settings
    }
}

impl TokenService for Tokens {
    type Refresh = Pin<Box<dyn Future<Output = Result<RefreshedSession, RefreshError>> + Send>>;

    fn verify(&self, access_token: &str) -> Result<Verified, VerifyError> {
        self.verify_with_client(access_token, &ClientInfo::default)
    }

    fn verify_with_client(
        &self,
        access_token: &str,
        client: &dyn Fn() -> ClientInfo,
    ) -> Result<Verified, VerifyError> {
        let inner = &self.inner;
        let now = inner.clock.now_micros();
        let keys = inner.keys.load();
        let token = match inner.verified.find(access_token, &keys, now) {
            Some(token) => token,
            None => inner.check(access_token, &keys)?,
        };
        if let Some(end) = inner.ends.find(token.identity.session) {
            return Err(VerifyError::Ended(end.reason.event()));
        }
        if inner.settings.refuse_on_store_loss && inner.ends.is_stale() {
            return Err(VerifyError::Unavailable);
        }
        inner.record_confirmed_use(&token, now, client);
        Ok(Verified { renew: token.is_due(now), identity: token.identity })
    }

    fn session_end(&self, session: SessionId) -> Option<SessionEvent> {
        self.inner.ends.find(session).map(|end| end.reason.event())
    }

    fn is_session_active(&self, session: SessionId) -> SessionActiveFuture {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            inner.ends.sync().await;
            inner.ends.find(session).is_none()
        })
    }

    fn refresh(&self, request: RefreshRequest) -> Self::Refresh {
        let tokens = self.clone();
        Box::pin(async move {
            let issued = tokens.refresh_session(request, SessionKind::Browser).await?;
            Ok(issued.tokens)
        })
    }
}

impl SessionEndWatcher for Tokens {
    fn watch(&self, session: SessionId) -> SessionEndFuture {
        let inner = Arc::clone(&self.inner);
        // Before it is asked what is known: an end that comes in between is told.
        let mut watcher = inner.ends.watchers().add(session);
        Box::pin(async move {
            if let Some(end) = inner.ends.find(session) {
                return end.reason.event();
            }
            tokio::select! {
                event = watcher.recv() => event,
                event = inner.ends.watchers().wait_until_expired(session, || inner.find(session), &*inner.clock) => event,
            }
        })
    }
}

/// Has work done by the process, whoever waits for it: what the store was told must be known here too.
async fn run_detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::spawn(with_current_context(work)).await.map_err(StoreError::unavailable)?
}

impl TokensInner {
    /// Fresh tokens for a session: an access token of their own, and the refresh token of the
    /// current generation, which is the same however often it is computed.
    pub(super) fn issue(
        &self,
        session: &Session,
        event: SessionEvent,
        now: OffsetDateTime,
    ) -> Result<RefreshedSession, SignInError> {
        let keys = self.keys.load();
        let signing = keys.signing(now);
        let id = TokenId(random_id()?);
        let minted = self.access.mint(signing, session, id, now);
        let (access_token, expires_at) = minted.map_err(|_| SignInError::Random)?;
        let refresh_key = keys.by_number(session.key_number).unwrap_or(signing);
        Ok(RefreshedSession {
            identity: identity(session, expires_at),
            access_token,
            refresh_token: refresh_token::mint(refresh_key, session.id, session.generation),
            max_age: (session.expires_at() - now).try_into().unwrap_or_default(),
            // Before the generation can settle, the cookies must have travelled, and half a minute must
            // have passed for the disk and a quarter of the grace for clocks. Handed out after a
            // quarter of the grace, they would have no time left for the way: the model shows it.
            fresh_for: self.settings.grace / 6,
            event,
        })
    }

    /// Checks an access token that this thread does not remember, and has it remembered.
    fn check(&self, access_token: &str, keys: &KeyRing) -> Result<CachedToken, VerifyError> {
        let now = self.clock.now();
        let token = self.access.verify(keys, access_token, now).inspect_err(|error| {
            if *error == VerifyError::UnknownKey {
                self.keys.notice_unknown();
            }
        })?;
        let good = CachedToken::new(token, self.settings.grace);
        self.verified.remember(access_token, keys, micros(now), &good);
        Ok(good)
    }

    /// The access token if it is one of ours, expired or not.
    pub(super) fn read_access(&self, access_token: &str) -> Option<AccessToken> {
        self.access.read(&self.keys.load(), access_token, self.clock.now())
    }

    pub(super) fn note_ended(&self, ended: &[SessionId], end: SessionEnd) {
        self.ends.add(ended.iter().map(|&session| (session, end)), self.clock.now());
        self.flights.forget_sessions(ended);
    }

    pub(super) fn idle_expiry(&self, now: OffsetDateTime) -> OffsetDateTime {
        now + self.settings.access_ttl + self.settings.idle_ttl
    }

    /// Notes a token that is in use longer than the grace after its issue: it settles its
    /// generation.
    fn record_confirmed_use(
        self: &Arc<Self>,
        token: &CachedToken,
        now: i64,
        client: &dyn Fn() -> ClientInfo,
    ) {
        if token.is_lasting(now) && deferred_writes::first_use_on_thread(token.id) {
            let seen =
                TokenUse { session: token.identity.session, generation: token.generation, token: token.id };
            self.schedule_flush(self.notes.record_token_use(seen, client()), deferred_writes::DELAY);
        }
    }

    /// Starts the writer of notes after `delay`, if one is needed and there is a runtime to run it.
    pub(super) fn schedule_flush(self: &Arc<Self>, needed: FlushNeeded, delay: Duration) {
        if !needed.0 {
            return;
        }
        let Some(runtime) = self.runtime.clone().or_else(|| Handle::try_current().ok()) else {
            self.notes.defer_flush();
            return;
        };
        let inner = Arc::clone(self);
        runtime.spawn(async move {
            tokio::time::sleep(delay).await;
            if let Err(error) = inner.write_notes().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "notes wait for the store");
            }
        });
    }

    async fn find(&self, session: SessionId) -> Result<Option<Session>, StoreError> {
        let store = Arc::clone(&self.store);
        let found = self.on_store_runtime(async move { store.find_session(session).await }).await;
        found.map_err(StoreError::unavailable)?
    }

    /// Has work with the store done in the runtime in which these tokens were made, so that the store's
    /// connections live there alone, and not with threads that serve requests. It fails if that runtime
    /// is going away.
    async fn on_store_runtime<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        match &self.runtime {
            Some(home) if Handle::current().id() != home.id() => home.spawn(with_current_context(work)).await,
            _ => Ok(work.await),
        }
    }

    fn new_session(&self, sign_in: &SessionRequest<'_>, now: OffsetDateTime) -> Result<Session, SignInError> {
        let absolute_expires_at = now + self.settings.absolute_ttl;
        Ok(Session {
            id: SessionId(random_id()?),
            user_id: sign_in.user,
            kind: sign_in.kind,
            email: sign_in.email.to_owned(),
            roles: sign_in.roles.clone(),
            generation: 1,
            key_number: self.keys.load().signing(now).number(),
            created_at: now,
            rotated_at: now,
            asked_by: None,
            settled_by: None,
            rotations: 0,
            replays: 0,
            idle_expires_at: self.idle_expiry(now).min(absolute_expires_at),
            absolute_expires_at,
            end: None,
            client: sign_in.client.clone(),
        })
    }
}

fn identity(session: &Session, expires_at: OffsetDateTime) -> Identity {
    Identity {
        subject: session.user_id.to_string().into(),
        session: session.id,
        email: session.email.as_str().into(),
        roles: session.roles.clone(),
        expires_at,
    }
}

fn random_id() -> Result<Uuid, SignInError> {
    crypto::random_id().map_err(|_| SignInError::Random)
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
