//! [`Tokens`]: the tokens of sessions, from sign-in to termination. [`TokensBuilder`] creates them.
//!
//! | part | module |
//! |---|---|
//! | access tokens, refresh tokens | [`jwt`], [`refresh_token`] |
//! | refresh: when to rotate, replay or terminate | `refresh`, [`rotation`](super::rotation) |
//! | terminated sessions | [`Revocations`] |
//! | the database | [`SessionStore`] |
//! | audit entries outside of sessions | [`AuditLog`] |
//! | tokens for upstreams | [`UpstreamTokens`] |

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;

use secrecy::SecretString;
use serde::Serialize;

use super::audit_log::AuditLog;
pub use super::build_error::{BuildError, OpenTokensError};
use super::deferred_writes::DeferredWrites;
use super::jwt::{self, AccessTokens, JwtSettings};
use super::keys::{KeyRing, SharedKeys};
use super::purge::Purge;
use super::refresh::Refresher;
use super::refresh_token;
use super::revocations::Revocations;
pub use super::session_settings::SessionSettings;
use super::session_tasks;
use super::single_flight::{RESULT_TTL, SingleFlight};
use super::store::{
    InsertOutcome, NewSession, SessionFilter, SessionStore, SessionTermination, StoreError, TokenUse, WakeFn,
};
use super::store_runtime::{StoreRuntime, run_detached};
use super::token_cache::verified::{CachedToken, VerifiedTokenCache};
pub use super::token_issuer::{IssuedSession, SessionRequest, SignInError};
use super::token_issuer::{TokenIssuer, identity};
pub use super::tokens_builder::TokensBuilder;
use super::upstream_tokens::UpstreamTokens;
use crate::client_info::ClientInfo;
use crate::clock::{Clock, micros};
use crate::identity::{Claims, Identity, InvalidClaims, Subject};
use crate::layer::{
    RefreshError, RefreshRequest, RefreshedSession, SessionActiveFuture, TokenService, Verified, VerifyError,
};
use crate::models::session::{EndReason, Session, SessionEnd, SessionId, SessionKind};
use crate::session_event::{SessionEndFuture, SessionEndWatcher, SessionEvent, SessionUseRecorder};

/// Issues, verifies, refreshes and terminates sessions and their tokens. Cheap to clone.
///
/// It implements the layer's [`TokenService`]. [`Tokens::builder`] sets keys, store and lifetimes.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use sekisho::clock::ManualClock;
/// use sekisho::layer::{RefreshRequest, TokenService, VerifyError};
/// use sekisho::services::token::{SessionRequest, Tokens};
/// use sekisho::session_event::SessionEvent;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let clock = Arc::new(ManualClock::default());
/// let tokens = Tokens::builder().clock(clock.clone()).build()?;
///
/// let user_id = 42_i64;
/// let issued = tokens.sign_in(SessionRequest::new(user_id, "ann@example.org")).await?.tokens;
/// let verified = tokens.verify(&issued.access_token)?;
/// assert_eq!(verified.identity.subject.parse(), Ok(user_id));
/// assert_eq!(&*verified.identity.email, "ann@example.org");
///
/// clock.advance(Duration::from_secs(30 * 60));
/// assert_eq!(tokens.verify(&issued.access_token), Err(VerifyError::Expired));
/// let request = RefreshRequest {
///     refresh_token: issued.refresh_token,
///     access_token: Some(issued.access_token),
///     ..RefreshRequest::default()
/// };
/// let refreshed = tokens.refresh(request.clone()).await?;
/// assert_eq!(refreshed.event, SessionEvent::Rotated);
/// assert!(tokens.verify(&refreshed.access_token).is_ok());
///
/// // If the response is lost, another refresh yields the same refresh token.
/// let again = tokens.refresh(request).await?;
/// assert_eq!(again.event, SessionEvent::Replayed);
/// assert_eq!(again.refresh_token, refreshed.refresh_token);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tokens {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    store: Arc<dyn SessionStore>,
    pub(super) issuer: Arc<TokenIssuer>,
    refresher: Arc<Refresher>,
    revocations: Arc<Revocations>,
    deferred: DeferredWrites,
    audit: AuditLog,
    upstream: Arc<UpstreamTokens>,
    verified: VerifiedTokenCache,
    /// None of them holds these tokens, so that they end with the last clone.
    tasks: Mutex<JoinSet<()>>,
}

impl Tokens {
    /// Creates the tokens of sessions in `store`, signed with `keys`, without a check of the settings.
    /// [`builder`](Self::builder) checks them.
    ///
    /// They may be used on any runtime. Store calls run on the runtime that is current here, if there
    /// is one.
    #[must_use]
    pub fn new(
        store: Arc<dyn SessionStore>,
        keys: Arc<SharedKeys>,
        access: AccessTokens,
        settings: SessionSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let runtime = StoreRuntime::current();
        // Beyond the grace period a shared result could contradict the row.
        let flights = SingleFlight::new(RESULT_TTL.min(settings.grace), Arc::clone(&clock));
        let leeway = access.settings().leeway;
        // The list has to go back as far as any token is accepted.
        let access_ttl = settings.access_ttl.max(access.settings().access_ttl);
        let horizon = SessionSettings { access_ttl, ..settings.clone() };
        let revocations = Revocations::new(store.clone(), clock.clone(), flights.clone(), &horizon, leeway);
        let revocations = Arc::new(revocations);
        let deferred = DeferredWrites::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            Arc::clone(&revocations),
            runtime.clone(),
            settings.clone(),
        );
        let audit = AuditLog::new(Arc::clone(&store), Arc::clone(&clock), deferred.clone());
        let issuer = Arc::new(TokenIssuer { keys, access, clock, settings });
        let refresher = Arc::new(Refresher {
            issuer: Arc::clone(&issuer),
            store: Arc::clone(&store),
            flights,
            revocations: Arc::clone(&revocations),
            deferred: deferred.clone(),
            runtime,
        });
        let upstream = Arc::new(UpstreamTokens::new(Arc::clone(&issuer)));
        let verified = VerifiedTokenCache::new();
        let tasks = Mutex::default();
        let inner =
            Inner { store, issuer, refresher, revocations, deferred, audit, upstream, verified, tasks };
        Self { inner: Arc::new(inner) }
    }

    /// Creates a session and issues its tokens.
    ///
    /// No other method inserts a session. The session that it replaces is terminated, and so are the
    /// user's oldest sessions of the same kind beyond [`SessionSettings::max_per_user`]. A sign-in that has begun runs to
    /// completion, also if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`SignInError::Refused`] if the user has changed since the password was checked, and
    /// [`SignInError::TokenTooLong`] if roles and claims are too long for a cookie.
    pub async fn sign_in(&self, request: SessionRequest<'_>) -> Result<IssuedSession, SignInError> {
        let issuer = &self.inner.issuer;
        let now = issuer.clock.now();
        let session = issuer.new_session(&request, now)?;
        let tokens = issuer.issue_checked(&session, now)?;
        let inner = Arc::clone(&self.inner);
        let hashed_password = request.hashed_password.cloned();
        let replaces = request.replaces;
        let inserted = run_detached(async move { inner.insert(session, hashed_password, replaces).await });
        let session = inserted.await?.ok_or(SignInError::Refused)?;
        Ok(IssuedSession { session, tokens })
    }

    /// Replaces the application's own claims of a session, with a value that serializes as a JSON object, or
    /// as `null` for none. Returns `false` if the session does not exist or has ended.
    ///
    /// The new claims hold from the next refresh. Access tokens from before keep the earlier ones until they
    /// expire, at most [`SessionSettings::access_ttl`] later.
    ///
    /// ```
    /// # use sekisho::services::token::{SessionRequest, Tokens, UpdateClaimsError};
    /// # use serde_json::json;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tokens = Tokens::in_memory()?;
    /// let request = SessionRequest::new(42, "ann@example.org").with_claims(&json!({"plan": "free"}))?;
    /// let session = tokens.sign_in(request).await?.session.id;
    /// assert!(tokens.update_claims(session, &json!({"plan": "team"})).await?);
    ///
    /// let too_long = json!({"notes": "x".repeat(512)});
    /// let error = tokens.update_claims(session, &too_long).await;
    /// assert!(matches!(error, Err(UpdateClaimsError::Invalid(_))));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`UpdateClaimsError`] if the claims are invalid or too long, or the store fails. In the last case they
    /// may have been replaced or not.
    pub async fn update_claims<C: Serialize + ?Sized>(
        &self,
        session: SessionId,
        claims: &C,
    ) -> Result<bool, UpdateClaimsError> {
        let claims = Claims::new(claims)?;
        let Inner { store, issuer, refresher, .. } = &*self.inner;
        let now = issuer.clock.now();
        let Some(row) = store.find_session(session).await? else { return Ok(false) };
        issuer.issue_checked(&Session { claims: claims.clone(), ..row }, now)?;
        let updated = store.set_claims(session, &claims, now).await?;
        // Refreshes of the last seconds share a row with the earlier claims.
        refresher.flights.forget_sessions(&[session]);
        Ok(updated)
    }

    /// Refreshes the session of a refresh token of this kind.
    ///
    /// A refresh that has begun runs to completion, also if the future is dropped.
    ///
    /// # Errors
    ///
    /// As [`TokenService::refresh`].
    pub async fn refresh_session(
        &self,
        request: RefreshRequest,
        kind: SessionKind,
    ) -> Result<IssuedSession, RefreshError> {
        self.inner.refresher.refresh(request, kind).await
    }

    /// Returns the identity of the browser session that this request would refresh, without refreshing it.
    ///
    /// # Errors
    ///
    /// As [`TokenService::refresh`], but a session is not terminated because its token was used twice.
    pub async fn identify_without_refresh(&self, request: &RefreshRequest) -> Result<Identity, RefreshError> {
        let Inner { refresher, issuer, .. } = &*self.inner;
        let session = refresher.find_session(request, SessionKind::Browser).await?;
        // The access token, which this would be the expiry of, is not valid.
        Ok(identity(&session, issuer.clock.now()))
    }

    /// Returns the session of these tokens if their signature is valid, even if they have expired or
    /// were replaced. The refresh token takes precedence.
    #[must_use]
    pub fn identify_session(
        &self,
        refresh_token: Option<&str>,
        access_token: Option<&str>,
    ) -> Option<SessionId> {
        let issuer = &self.inner.issuer;
        let keys = issuer.keys.load();
        let refresh = refresh_token.and_then(|token| refresh_token::parse(&keys, token).ok());
        refresh
            .map(|token| token.session)
            .or_else(|| issuer.read_access(access_token?).map(|token| token.identity.session))
    }

    /// Returns `true` for an access token, a refresh token or an upstream token that one of the present keys has signed,
    /// expired or not.
    #[must_use]
    pub fn has_issued(&self, token: &str) -> bool {
        let keys = self.inner.issuer.keys.load();
        let is_verified =
            || self.inner.verified.find(token, &keys, self.inner.issuer.clock.now_micros()).is_some();
        jwt::has_own_header(&keys, token) && (is_verified() || jwt::is_signed_by(&keys, token))
            || refresh_token::parse(&keys, token).is_ok()
    }

    /// Returns the row of a session.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn find(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.inner.store.find_session(id).await
    }

    /// Returns the user's sessions that have neither ended nor expired, the most recently refreshed first.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use sekisho::{SessionRequest, Tokens};
    ///
    /// let tokens = Tokens::in_memory()?;
    /// let ann = 42;
    /// let phone = tokens.sign_in(SessionRequest::new(ann, "ann@example.org")).await?.session;
    ///
    /// let sessions = tokens.sessions_of(ann).await?;
    /// assert_eq!(sessions[0].id, phone.id);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn sessions_of(&self, user: impl Into<Subject>) -> Result<Vec<Session>, StoreError> {
        self.inner.store.live_sessions(&user.into(), self.inner.issuer.clock.now()).await
    }

    /// Ends a session on behalf of `client`. Returns `false` if there is none, or it has ended before.
    ///
    /// It runs to completion, also if the future is dropped. The session's access tokens are refused at once, at other
    /// replicas once their revocation poller has learned of it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use sekisho::client_info::ClientInfo;
    /// use sekisho::layer::{TokenService, VerifyError};
    /// use sekisho::models::session::EndReason;
    /// use sekisho::session_event::SessionEvent;
    /// use sekisho::{SessionRequest, Tokens};
    ///
    /// let tokens = Tokens::in_memory()?;
    /// let ann = 42;
    /// let issued = tokens.sign_in(SessionRequest::new(ann, "ann@example.org")).await?;
    ///
    /// let by = ClientInfo::default();
    /// assert!(tokens.end(issued.session.id, EndReason::LoggedOut, &by).await?);
    /// let verified = tokens.verify(&issued.tokens.access_token);
    /// assert_eq!(verified, Err(VerifyError::Ended(SessionEvent::LoggedOut)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store fails. The session may then have ended or not.
    pub async fn end(
        &self,
        id: SessionId,
        reason: EndReason,
        client: &ClientInfo,
    ) -> Result<bool, StoreError> {
        let inner = Arc::clone(&self.inner);
        let termination = self.termination(reason, client);
        run_detached(async move {
            let terminated = inner.revocations.terminate(id, &termination).await?;
            if !terminated {
                // Another replica may have terminated it, or an earlier call whose result was lost.
                let row = inner.store.find_session(id).await?;
                if let Some(end) = row.and_then(|session| session.end) {
                    inner.revocations.mark_terminated(&[id], end);
                }
            }
            Ok(terminated)
        })
        .await
    }

    /// Ends all sessions of a user on behalf of `client`, but `except`, and returns their ids.
    ///
    /// After a change of the password, a sign-in that has checked the former one may still create a session. Look at the
    /// user again after [`sign_in`](Self::sign_in), and [`end`](Self::end) the session if the password is another.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use sekisho::client_info::ClientInfo;
    /// use sekisho::models::session::EndReason;
    /// use sekisho::{SessionRequest, Tokens};
    ///
    /// let tokens = Tokens::in_memory()?;
    /// let ann = 42;
    /// let phone = tokens.sign_in(SessionRequest::new(ann, "ann@example.org")).await?.session;
    /// let laptop = tokens.sign_in(SessionRequest::new(ann, "ann@example.org")).await?.session;
    ///
    /// // "Sign out all other devices", on the laptop.
    /// let by = ClientInfo::default();
    /// let ended = tokens.end_all(ann, Some(laptop.id), EndReason::LoggedOut, &by).await?;
    /// assert_eq!(ended, [phone.id]);
    /// // The account is closed.
    /// let ended = tokens.end_all(ann, None, EndReason::UserDeleted, &by).await?;
    /// assert_eq!(ended, [laptop.id]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store fails. The sessions may then have ended or not.
    pub async fn end_all(
        &self,
        user: impl Into<Subject>,
        except: Option<SessionId>,
        reason: EndReason,
        client: &ClientInfo,
    ) -> Result<Vec<SessionId>, StoreError> {
        let user = user.into();
        let filter = match except {
            Some(kept) => SessionFilter::UserExcept(user, kept),
            None => SessionFilter::User(user),
        };
        self.end_matching(&filter, reason, client).await
    }

    /// Ends these sessions on behalf of `client`. Returns those that exist and had not ended before.
    ///
    /// The store is called a few times, however many there are. It runs to completion, also if the future is dropped.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use sekisho::client_info::ClientInfo;
    /// use sekisho::models::session::EndReason;
    /// use sekisho::{SessionRequest, Tokens};
    ///
    /// let tokens = Tokens::in_memory()?;
    /// let ann = 42;
    /// let session = tokens.sign_in(SessionRequest::new(ann, "ann@example.org")).await?.session;
    ///
    /// let by = ClientInfo::default();
    /// let ended = tokens.end_list(vec![session.id], EndReason::Revoked, &by).await?;
    /// assert_eq!(ended, [session.id]);
    /// assert!(tokens.end_list(vec![session.id], EndReason::Revoked, &by).await?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store fails. The sessions may then have ended or not.
    pub async fn end_list(
        &self,
        ids: Vec<SessionId>,
        reason: EndReason,
        client: &ClientInfo,
    ) -> Result<Vec<SessionId>, StoreError> {
        let inner = Arc::clone(&self.inner);
        let termination = self.termination(reason, client);
        run_detached(async move {
            let mut terminated = Vec::new();
            for batch in ids.chunks(MAX_LIST_LEN) {
                terminated.extend(inner.store.end_session_list(batch, &termination).await?);
            }
            inner.revocations.mark_terminated(&terminated, termination.end());
            // As in `end`. The poller finds those that are not read here.
            let others = ids.iter().copied().filter(|id| !terminated.contains(id));
            let others: Vec<_> = others.take(MAX_READS).collect();
            for id in others {
                let row = inner.store.find_session(id).await?;
                if let Some(end) = row.and_then(|session| session.end) {
                    inner.revocations.mark_terminated(&[id], end);
                }
            }
            Ok(terminated)
        })
        .await
    }

    /// Ends all sessions that match `filter` on behalf of `client`, and returns their ids.
    ///
    /// It runs to completion, also if the future is dropped.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use sekisho::client_info::ClientInfo;
    /// use sekisho::models::session::EndReason;
    /// use sekisho::services::store::SessionFilter;
    /// use sekisho::{SessionRequest, Tokens};
    ///
    /// let tokens = Tokens::in_memory()?;
    /// let ann = 42;
    /// tokens.sign_in(SessionRequest::new(ann, "ann@example.org")).await?;
    ///
    /// // Everyone signs in again.
    /// let ended = tokens.end_matching(&SessionFilter::All, EndReason::Revoked, &ClientInfo::default()).await?;
    /// assert_eq!(ended.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store fails. The sessions may then have ended or not.
    pub async fn end_matching(
        &self,
        filter: &SessionFilter,
        reason: EndReason,
        client: &ClientInfo,
    ) -> Result<Vec<SessionId>, StoreError> {
        let inner = Arc::clone(&self.inner);
        let termination = self.termination(reason, client);
        let filter = filter.clone();
        run_detached(async move {
            let terminated = inner.store.end_sessions(&filter, &termination).await?;
            inner.revocations.mark_terminated(&terminated, termination.end());
            Ok(terminated)
        })
        .await
    }

    /// Returns a termination at the present time, for store transactions that also terminate sessions.
    #[must_use]
    pub fn termination(&self, reason: EndReason, client: &ClientInfo) -> SessionTermination {
        SessionTermination::new(self.inner.issuer.clock.now(), reason, client.clone())
    }

    /// Writes the deferred writes to the store now. Call it before the program exits.
    ///
    /// # Errors
    ///
    /// If the store fails. The writes stay in the buffer.
    pub async fn flush_deferred(&self) -> Result<(), StoreError> {
        self.inner.deferred.flush().await
    }

    /// Ends the tasks that [`TokensBuilder::open`] has started, and writes the deferred writes to the store. Call it
    /// before the program exits.
    ///
    /// # Errors
    ///
    /// If the store fails. Then the deferred writes are lost.
    pub async fn stop(&self) -> Result<(), StoreError> {
        let mut tasks = std::mem::take(&mut *self.inner.tasks.lock());
        tasks.shutdown().await;
        self.inner.deferred.close();
        self.flush_deferred().await
    }

    /// Spawns the tasks that keep the sessions correct: the purge, the poller and the listener of ended sessions, and a
    /// log line while session time is uncertain.
    pub(crate) fn spawn_session_tasks<F>(
        &self,
        tasks: &mut JoinSet<()>,
        purge: Purge,
        listen: impl FnOnce(WakeFn) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        session_tasks::spawn(tasks, &self.inner.revocations, &self.inner.issuer, purge, listen);
    }

    /// Keeps tasks until [`stop`](Self::stop), or until the last clone is dropped.
    pub(super) fn own_tasks(&self, tasks: JoinSet<()>) {
        *self.inner.tasks.lock() = tasks;
    }

    /// The settings of access tokens.
    pub(super) fn access_settings(&self) -> &JwtSettings {
        self.inner.issuer.access.settings()
    }

    /// Number of deferred writes dropped since the start because the buffer was full.
    #[must_use]
    pub fn dropped_writes(&self) -> u64 {
        self.inner.deferred.dropped()
    }

    /// Returns `true` if session time was set lately to a time that may be too late. Until durations are certain,
    /// sessions are replayed instead of rotated, and no use is confirmed.
    #[must_use]
    pub fn is_time_uncertain(&self) -> bool {
        let issuer = &self.inner.issuer;
        issuer.is_confirmation_uncertain(issuer.clock.now_micros())
    }

    /// The sessions terminated recently, and their poller.
    #[must_use]
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.inner.revocations
    }

    /// The audit log.
    #[must_use]
    pub fn audit(&self) -> &AuditLog {
        &self.inner.audit
    }

    /// The tokens for upstreams.
    #[must_use]
    pub fn upstream(&self) -> &Arc<UpstreamTokens> {
        &self.inner.upstream
    }

    /// The signing keys.
    #[must_use]
    pub fn keys(&self) -> &Arc<SharedKeys> {
        &self.inner.issuer.keys
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &SessionSettings {
        &self.inner.issuer.settings
    }

    /// Verifies an access token that is not in this thread's cache, and caches it.
    fn verify_uncached(&self, access_token: &str, keys: &KeyRing) -> Result<CachedToken, VerifyError> {
        let Inner { issuer, verified, .. } = &*self.inner;
        let now = issuer.clock.now();
        let token = issuer.access.verify(keys, access_token, now).inspect_err(|error| {
            if *error == VerifyError::UnknownKey {
                issuer.keys.notify_unknown_key();
            }
        })?;
        let cached = CachedToken::new(token, issuer.settings.grace);
        verified.insert(access_token, keys, micros(now), &cached);
        Ok(cached)
    }
}

impl Inner {
    /// Inserts a session, and lists those that it terminates. Returns `None` if the user may not sign in.
    async fn insert(
        &self,
        session: Session,
        hashed_password: Option<SecretString>,
        replaces: Option<SessionId>,
    ) -> Result<Option<Session>, StoreError> {
        let new = NewSession {
            session: &session,
            hashed_password: hashed_password.as_ref(),
            replaces,
            max_per_user: self.issuer.settings.max_per_user,
        };
        let InsertOutcome::Inserted { terminated } = self.store.insert_session(&new).await? else {
            return Ok(None);
        };
        for id in terminated {
            let reason = if replaces == Some(id) { EndReason::LoggedOut } else { EndReason::Displaced };
            self.revocations.mark_terminated(&[id], SessionEnd { at: session.created_at, reason });
        }
        Ok(Some(session))
    }
}

/// Deferred writes end with the tokens.
impl Drop for Inner {
    fn drop(&mut self) {
        self.deferred.close();
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
        let Inner { issuer, revocations, deferred, verified, .. } = &*self.inner;
        let now = issuer.clock.now_micros();
        let keys = issuer.keys.load();
        let token = match verified.find(access_token, &keys, now) {
            Some(token) => token,
            None => self.verify_uncached(access_token, &keys)?,
        };
        let session = token.identity.session;
        if let Some(end) = revocations.find(session) {
            return Err(VerifyError::Ended(end.reason.event()));
        }
        if issuer.settings.refuse_on_store_loss && revocations.is_stale() {
            return Err(VerifyError::Unavailable);
        }
        if token.confirms_generation(now) && !issuer.is_confirmation_uncertain(now) {
            let confirmed = TokenUse { session, generation: token.generation, token: token.id };
            deferred.record_token_use(confirmed, client);
        }
        Ok(Verified { refresh_due: token.is_due(now), identity: token.identity })
    }

    fn session_end(&self, session: SessionId) -> Option<SessionEvent> {
        self.inner.revocations.find(session).map(|end| end.reason.event())
    }

    fn is_session_active(&self, session: SessionId) -> SessionActiveFuture {
        let revocations = Arc::clone(&self.inner.revocations);
        Box::pin(async move {
            revocations.sync().await;
            revocations.find(session).is_none()
        })
    }

    fn refresh(&self, request: RefreshRequest) -> Self::Refresh {
        let refresher = Arc::clone(&self.inner.refresher);
        Box::pin(async move {
            let issued = refresher.refresh(request, SessionKind::Browser).await?;
            Ok(issued.tokens)
        })
    }
}

impl SessionEndWatcher for Tokens {
    fn watch(&self, session: SessionId) -> SessionEndFuture {
        self.inner.revocations.watch(session)
    }
}

impl SessionUseRecorder for Tokens {
    fn record_use(&self, session: SessionId) {
        self.inner.deferred.record_session_use(session);
    }

    fn interval(&self) -> Duration {
        self.settings().use_interval()
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("settings", self.settings()).finish_non_exhaustive()
    }
}

/// Reason why the claims of a session were not replaced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateClaimsError {
    /// The value is not valid as claims.
    #[error(transparent)]
    Invalid(#[from] InvalidClaims),
    /// The session's access token would be too long for a cookie, or cannot be signed.
    #[error(transparent)]
    Token(SignInError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<SignInError> for UpdateClaimsError {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Store(error) => Self::Store(error),
            error => Self::Token(error),
        }
    }
}

/// Maximum number of sessions that one call of the store terminates by their ids.
const MAX_LIST_LEN: usize = 1_000;

/// Maximum number of rows that are read after the termination of a list.
const MAX_READS: usize = 2;

#[cfg(test)]
mod tests;
