//! Refreshes a session: parses the tokens, joins the single flight, applies the [`Decision`].

pub(super) mod outcome;

use std::sync::Arc;

use time::OffsetDateTime;

use self::outcome::RefreshOutcome;
use super::deferred_writes::DeferredWrites;
use super::refresh_token::{self, RefreshTokenError};
use super::revocations::Revocations;
use super::rotation::{AccompanyingAccessToken, Decision, PresentedToken, Reuse, decide, within_grace};
use super::single_flight::{Key, Outcome, SingleFlight};
use super::store::{Rotation, SessionStore, SessionTermination, StoreError};
use super::store_runtime::StoreRuntime;
use super::token_issuer::{IssuedSession, TokenIssuer};
use crate::client_info::ClientInfo;
use crate::layer::{RefreshError, RefreshRequest};
use crate::models::audit::{AuditEntry, AuditEvent};
use crate::models::session::{EndReason, Session, SessionKind};
use crate::session_event::SessionEvent;

/// Number of attempts before a refresh whose row keeps changing fails.
const MAX_ATTEMPTS: usize = 4;

/// Refreshes sessions.
pub(super) struct Refresher {
    pub(super) issuer: Arc<TokenIssuer>,
    pub(super) store: Arc<dyn SessionStore>,
    pub(super) flights: SingleFlight<RefreshOutcome>,
    pub(super) revocations: Arc<Revocations>,
    pub(super) deferred: DeferredWrites,
    pub(super) runtime: StoreRuntime,
}

/// One attempt to refresh a session with a presented token.
struct Attempt<'a> {
    refresher: &'a Refresher,
    presented: PresentedToken,
    client: &'a ClientInfo,
    now: OffsetDateTime,
}

/// Result of an [`Attempt`]. It is `None` if another replica changed the row first.
type AttemptResult = Result<Option<RefreshOutcome>, StoreError>;

impl Refresher {
    /// Refreshes the session of a refresh token on the store's runtime.
    pub(super) async fn refresh(
        self: &Arc<Self>,
        request: RefreshRequest,
        kind: SessionKind,
    ) -> Result<IssuedSession, RefreshError> {
        let refreshed = self.runtime.run(Arc::clone(self).refresh_here(request, kind)).await;
        refreshed.unwrap_or(Err(RefreshError::Unavailable))
    }

    async fn refresh_here(
        self: Arc<Self>,
        request: RefreshRequest,
        kind: SessionKind,
    ) -> Result<IssuedSession, RefreshError> {
        let presented = self.parse(&request, kind)?;
        let client = &request.client;
        for _ in 0..MAX_ATTEMPTS {
            let lead = || Arc::clone(&self).lead(presented, client.clone());
            let outcome = match self.flights.join(key(presented), lead).await {
                // A failed call is not repeated for the same request.
                Outcome::Leader(None) | Outcome::Follower(None, _) | Outcome::Rejected => {
                    return Err(RefreshError::Unavailable);
                }
                Outcome::Follower(Some(RefreshOutcome::Live(row, _)), number) => {
                    self.attempt(presented, client).follow(row, number).await?
                }
                Outcome::Leader(outcome) | Outcome::Follower(outcome, _) => outcome,
            };
            match outcome {
                Some(RefreshOutcome::Live(session, event)) => return self.issue(&session, event),
                Some(RefreshOutcome::Ended { event, since }) => {
                    return Err(self.attempt(presented, client).reject(event, since));
                }
                None => {}
            }
        }
        Err(RefreshError::Unavailable)
    }

    /// Returns the row of the session that a refresh token would refresh. Changes nothing, whatever the token.
    pub(super) async fn find_session(
        self: &Arc<Self>,
        request: &RefreshRequest,
        kind: SessionKind,
    ) -> Result<Session, RefreshError> {
        let presented = self.parse(request, kind)?;
        let refresher = Arc::clone(self);
        let find = async move { refresher.store.find_session(presented.session).await };
        let found = self.runtime.run(find).await.map_err(StoreError::unavailable).flatten();
        let row = found.inspect_err(log_store_error).map_err(|_| RefreshError::Unavailable)?;
        let event = match (self.attempt(presented, &request.client).decide(row.as_ref()), row) {
            (Decision::Ended { event, .. }, _) => event,
            (Decision::WrongKind, _) => SessionEvent::Malformed,
            // The next request that would refresh the session terminates it.
            (Decision::Reuse(_), _) => SessionEvent::Missing,
            (_, Some(row)) => return Ok(row),
            (_, None) => SessionEvent::UnknownSession,
        };
        Err(RefreshError::SessionEnded { event, clear_cookies: false })
    }

    /// Parses both tokens, without any I/O.
    fn parse(&self, request: &RefreshRequest, kind: SessionKind) -> Result<PresentedToken, RefreshError> {
        let rejected = |event| RefreshError::SessionEnded { event, clear_cookies: false };
        let keys = self.issuer.keys.load();
        let token = refresh_token::parse(&keys, &request.refresh_token).map_err(|error| match error {
            RefreshTokenError::UnknownKey(number) => {
                self.issuer.keys.notify_unknown_key();
                let now = self.issuer.clock.now();
                self.deferred.push_unknown_token(AuditEntry {
                    key_number: Some(number),
                    ..AuditEntry::new(now, AuditEvent::UnknownKey, request.client.clone())
                });
                rejected(SessionEvent::UnknownKey)
            }
            RefreshTokenError::Malformed => rejected(SessionEvent::Malformed),
        })?;
        if request.expected_session.is_some_and(|session| session != token.session) {
            return Err(rejected(SessionEvent::Malformed));
        }
        let access_token = request
            .access_token
            .as_deref()
            .and_then(|access| self.issuer.read_access(access))
            .filter(|access| access.identity.session == token.session)
            .map(|access| AccompanyingAccessToken {
                token: access.reference(),
                generation: access.generation,
            });
        Ok(PresentedToken { session: token.session, generation: token.generation, kind, access_token })
    }

    /// The leader's part: retries until an attempt wins or loses for good. Returns `None` if the store
    /// fails.
    async fn lead(self: Arc<Self>, presented: PresentedToken, client: ClientInfo) -> Option<RefreshOutcome> {
        for _ in 0..MAX_ATTEMPTS {
            let result = self.attempt(presented, &client).run().await;
            if let Some(outcome) = result.inspect_err(log_store_error).ok()? {
                return Some(outcome);
            }
        }
        let error = std::io::Error::other("the row changed during every attempt");
        log_store_error(&StoreError::unavailable(error));
        None
    }

    fn attempt<'a>(&'a self, presented: PresentedToken, client: &'a ClientInfo) -> Attempt<'a> {
        Attempt { refresher: self, presented, client, now: self.issuer.clock.now() }
    }

    fn issue(&self, session: &Session, event: SessionEvent) -> Result<IssuedSession, RefreshError> {
        if event == SessionEvent::Replayed {
            self.deferred.record_replay(session.id);
        }
        let tokens = self.issuer.issue(session, event, self.issuer.clock.now()).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot issue tokens");
            RefreshError::Unavailable
        })?;
        Ok(IssuedSession { session: session.clone(), tokens })
    }
}

impl Attempt<'_> {
    /// Tries the conditional update first, since it nearly always succeeds. The row is read only if it
    /// does not.
    async fn run(&self) -> AttemptResult {
        let is_due = !within_grace(&self.presented, self.now, self.refresher.issuer.settings.grace)
            && !self.is_clock_uncertain()
            && self.presented.generation < u32::MAX;
        if is_due && let Some(outcome) = self.rotate().await? {
            return Ok(Some(outcome));
        }
        let row = self.refresher.store.find_session(self.presented.session).await?.map(Arc::new);
        self.apply(self.decide(row.as_deref()), row).await
    }

    async fn rotate(&self) -> AttemptResult {
        let row = self.refresher.store.rotate(&self.rotation()).await?;
        Ok(row.map(|row| RefreshOutcome::Live(Arc::new(row), SessionEvent::Rotated)))
    }

    /// Decides by the row. While the clock is uncertain, a generation is not rotated unless it is confirmed: the
    /// rotation before may be too recent. A confirmed one is not replayed, since it must have one access token.
    fn decide(&self, row: Option<&Session>) -> Decision {
        let grace = self.refresher.issuer.settings.grace;
        let is_confirmed = row.is_some_and(|row| row.settled_by.is_some());
        match decide(row, &self.presented, self.now, grace) {
            Decision::Rotate if self.is_clock_uncertain() && !is_confirmed => Decision::Replay,
            decision => decision,
        }
    }

    fn is_clock_uncertain(&self) -> bool {
        self.refresher.issuer.is_clock_uncertain(self.now)
    }

    /// A follower's part: decides on the leader's row with the follower's own tokens. Returns `None`
    /// if the shared result is outdated.
    async fn follow(&self, row: Arc<Session>, number: u64) -> Result<Option<RefreshOutcome>, RefreshError> {
        let flights = &self.refresher.flights;
        let decision = self.decide(Some(&row));
        let result = match decision {
            Decision::Rotate | Decision::CatchUp { .. } => Ok(None),
            // `None` if another replica terminated the session after the leader read its row.
            _ => self.apply(decision, Some(row)).await,
        };
        let outcome = result.inspect_err(log_store_error).map_err(|_| RefreshError::Unavailable)?;
        if outcome.is_none() {
            flights.forget(key(self.presented), number);
        }
        Ok(outcome)
    }

    async fn apply(&self, decision: Decision, row: Option<Arc<Session>>) -> AttemptResult {
        let ended = |event, since| Ok(Some(RefreshOutcome::Ended { event, since }));
        match (decision, row) {
            (Decision::Replay, Some(row)) => {
                Ok(Some(RefreshOutcome::Live(self.with_presented_generation(row), SessionEvent::Replayed)))
            }
            (Decision::CatchUp { lost }, _) => self.catch_up(lost).await,
            (Decision::Ended { event, since }, _) => ended(event, Some(since)),
            (Decision::Exhausted, _) => self.terminate(EndReason::Exhausted).await,
            (Decision::Reuse(reuse), Some(row)) => {
                self.warn_of_reuse(&row, reuse);
                self.terminate(EndReason::ReuseDetected).await
            }
            (Decision::WrongKind, _) => ended(SessionEvent::Malformed, None),
            (Decision::Rotate, _) if self.is_clock_uncertain() => self.rotate().await,
            (Decision::Rotate, _) => Ok(None),
            (Decision::Unknown | Decision::Replay | Decision::Reuse(_), _) => {
                ended(SessionEvent::UnknownSession, None)
            }
        }
    }

    /// Returns the row with the presented generation if that is later: the database has lost its last writes.
    fn with_presented_generation(&self, row: Arc<Session>) -> Arc<Session> {
        let generation = self.presented.generation;
        if generation <= row.generation {
            return row;
        }
        Arc::new(Session { generation, ..Session::clone(&row) })
    }

    /// Moves a row that is behind the presented token to the generation after it.
    ///
    /// The MAC proves that this service issued the token, so the database has lost its last writes: in
    /// a failover, or because a backup was restored.
    async fn catch_up(&self, lost: u32) -> AttemptResult {
        let Some(row) = self.refresher.store.catch_up(&self.rotation()).await? else { return Ok(None) };
        if lost > 1 {
            let presented = self.presented.generation;
            tracing::warn!(
                session = %row.id, presented, lost,
                session_event = %SessionEvent::CaughtUp,
                "database rolled back: it has lost more than one rotation of this session"
            );
            self.refresher.deferred.push_audit(AuditEntry {
                user: Some(row.subject.clone()),
                session: Some(row.id),
                presented: Some(presented),
                held: presented.checked_sub(lost),
                ..AuditEntry::new(self.now, AuditEvent::CaughtUp, self.client.clone())
            });
        }
        Ok(Some(RefreshOutcome::Live(Arc::new(row), SessionEvent::CaughtUp)))
    }

    /// Terminates the session, unless another request has done so first.
    async fn terminate(&self, reason: EndReason) -> AttemptResult {
        let termination = SessionTermination {
            presented: Some(self.presented.generation),
            ..SessionTermination::new(self.now, reason, self.client.clone())
        };
        let terminated = self.refresher.revocations.terminate(self.presented.session, &termination).await?;
        Ok(terminated.then(|| RefreshOutcome::Ended { event: reason.event(), since: Some(self.now) }))
    }

    fn rotation(&self) -> Rotation<'_> {
        let Refresher { issuer, .. } = self.refresher;
        Rotation {
            id: self.presented.session,
            kind: self.presented.kind,
            from_generation: self.presented.generation,
            now: self.now,
            max_rotated_at: self.now - issuer.settings.grace,
            asked_by: self.presented.access_token.map(|access| access.token),
            key_number: issuer.signing_key_number(self.now),
            idle_expires_at: issuer.settings.idle_expiry(self.now),
            client: self.client,
        }
    }

    /// Returns the error of an ended session.
    ///
    /// Cookies are cleared only if the session ended longer ago than the grace period. Before that, a
    /// late response could delete the cookies of a new sign-in.
    fn reject(&self, event: SessionEvent, since: Option<OffsetDateTime>) -> RefreshError {
        let session = self.presented.session;
        if event == SessionEvent::UnknownSession {
            self.refresher.deferred.push_unknown_token(AuditEntry {
                session: Some(session),
                presented: Some(self.presented.generation),
                ..AuditEntry::new(self.now, AuditEvent::UnknownSession, self.client.clone())
            });
        }
        let grace = self.refresher.issuer.settings.grace;
        let clear_cookies = since.is_some_and(|since| self.now - since > grace);
        tracing::info!(%session, session_event = %event, "session refresh rejected");
        RefreshError::SessionEnded { event, clear_cookies }
    }

    /// Logs both clients, so that an operator can distinguish the owner from the thief.
    fn warn_of_reuse(&self, row: &Session, reuse: Reuse) {
        tracing::warn!(
            session = %row.id, user = %row.subject, reuse = reuse.as_str(),
            presented = self.presented.generation, held = row.generation,
            presented_by = %self.client, held_by = %row.client,
            session_event = %SessionEvent::ReuseDetected,
            "session terminated: a replaced refresh token was presented"
        );
    }
}

fn key(presented: PresentedToken) -> Key {
    Key { session: presented.session, generation: presented.generation, kind: presented.kind }
}

fn log_store_error(error: &StoreError) {
    tracing::error!(
        error = error as &dyn std::error::Error,
        session_event = %SessionEvent::StoreUnavailable,
        "session refresh failed: the store is unavailable"
    );
}

#[cfg(test)]
mod tests;
