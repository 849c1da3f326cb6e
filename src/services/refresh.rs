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

/// Result of one attempt to change a row.
enum Attempt {
    Done(RefreshOutcome),
    /// Another replica changed the row first.
    LostRace,
}

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
            let outcome = match self.join_flight(presented, client).await {
                // A failed call is not repeated for the same request.
                Outcome::Leader(None) | Outcome::Follower(None, _) | Outcome::Rejected => {
                    return Err(RefreshError::Unavailable);
                }
                Outcome::Follower(Some(RefreshOutcome::Live(row, _)), number) => {
                    self.follow_leader(row, number, presented, client).await?
                }
                Outcome::Leader(outcome) | Outcome::Follower(outcome, _) => outcome,
            };
            match outcome {
                Some(RefreshOutcome::Live(session, event)) => return self.issue(&session, event),
                Some(RefreshOutcome::Ended { event, since }) => {
                    return Err(self.reject(presented, event, since, client));
                }
                None => {}
            }
        }
        Err(RefreshError::Unavailable)
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

    async fn join_flight(
        self: &Arc<Self>,
        presented: PresentedToken,
        client: &ClientInfo,
    ) -> Outcome<RefreshOutcome> {
        let leader = Arc::clone(self);
        let client = client.clone();
        let clock = Arc::clone(&self.issuer.clock);
        let lead =
            move || async move { leader.lead(presented, &client).await.inspect_err(log_store_error).ok() };
        self.flights.join(key(presented), move || clock.now(), lead).await
    }

    /// The leader's part: retries until an attempt wins or loses for good.
    async fn lead(
        &self,
        presented: PresentedToken,
        client: &ClientInfo,
    ) -> Result<RefreshOutcome, StoreError> {
        for _ in 0..MAX_ATTEMPTS {
            if let Attempt::Done(outcome) = self.attempt(presented, client).await? {
                return Ok(outcome);
            }
        }
        Err(StoreError::unavailable(std::io::Error::other("the row changed during every attempt")))
    }

    /// Tries the conditional update first, since it nearly always succeeds. The row is read only if it
    /// does not.
    async fn attempt(&self, presented: PresentedToken, client: &ClientInfo) -> Result<Attempt, StoreError> {
        let now = self.issuer.clock.now();
        let grace = self.issuer.settings.grace;
        if !within_grace(&presented, now, grace) && presented.generation < u32::MAX {
            let rotation = self.rotation(presented, client, now);
            if let Some(row) = self.store.rotate(&rotation).await? {
                return Ok(Attempt::Done(RefreshOutcome::Live(Arc::new(row), SessionEvent::Rotated)));
            }
        }
        let row = self.store.find_session(presented.session).await?.map(Arc::new);
        let decision = decide(row.as_deref(), &presented, now, grace);
        self.apply(decision, row, presented, client, now).await
    }

    /// A follower's part: decides on the leader's row with the follower's own tokens. Returns `None`
    /// if the shared result is outdated.
    async fn follow_leader(
        &self,
        row: Arc<Session>,
        number: u64,
        presented: PresentedToken,
        client: &ClientInfo,
    ) -> Result<Option<RefreshOutcome>, RefreshError> {
        let now = self.issuer.clock.now();
        let decision = decide(Some(&row), &presented, now, self.issuer.settings.grace);
        if matches!(decision, Decision::Rotate | Decision::CatchUp { .. }) {
            self.flights.forget(key(presented), number);
            return Ok(None);
        }
        let attempt = self.apply(decision, Some(row), presented, client, now).await;
        match attempt.inspect_err(log_store_error) {
            Ok(Attempt::Done(outcome)) => Ok(Some(outcome)),
            Ok(Attempt::LostRace) => {
                // Another replica terminated the session after the leader read its row.
                self.flights.forget(key(presented), number);
                Ok(None)
            }
            Err(_) => Err(RefreshError::Unavailable),
        }
    }

    async fn apply(
        &self,
        decision: Decision,
        row: Option<Arc<Session>>,
        presented: PresentedToken,
        client: &ClientInfo,
        now: OffsetDateTime,
    ) -> Result<Attempt, StoreError> {
        let ended = |event, since| Ok(Attempt::Done(RefreshOutcome::Ended { event, since }));
        match (decision, row) {
            (Decision::Replay, Some(row)) => {
                Ok(Attempt::Done(RefreshOutcome::Live(row, SessionEvent::Replayed)))
            }
            (Decision::CatchUp { lost }, _) => self.catch_up(lost, presented, client, now).await,
            (Decision::Ended { event, since }, _) => ended(event, Some(since)),
            (Decision::Exhausted, _) => self.terminate(presented, EndReason::Exhausted, client, now).await,
            (Decision::Reuse(reuse), Some(row)) => {
                warn_of_reuse(&row, presented, reuse, client);
                self.terminate(presented, EndReason::ReuseDetected, client, now).await
            }
            (Decision::WrongKind, _) => ended(SessionEvent::Malformed, None),
            (Decision::Rotate, _) => Ok(Attempt::LostRace),
            (Decision::Unknown | Decision::Replay | Decision::Reuse(_), _) => {
                ended(SessionEvent::UnknownSession, None)
            }
        }
    }

    /// Moves a row that is behind the presented token to the generation after it.
    ///
    /// The MAC proves that this service issued the token, so the database has lost its last writes: in
    /// a failover, or because a backup was restored.
    async fn catch_up(
        &self,
        lost: u32,
        presented: PresentedToken,
        client: &ClientInfo,
        now: OffsetDateTime,
    ) -> Result<Attempt, StoreError> {
        let Some(row) = self.store.catch_up(&self.rotation(presented, client, now)).await? else {
            return Ok(Attempt::LostRace);
        };
        if lost > 1 {
            tracing::warn!(
                session = %presented.session, presented = presented.generation, lost,
                session_event = %SessionEvent::CaughtUp,
                "database rolled back: it has lost more than one rotation of this session"
            );
            self.deferred.push_audit(AuditEntry {
                user: Some(row.user_id),
                session: Some(row.id),
                presented: Some(presented.generation),
                held: presented.generation.checked_sub(lost),
                ..AuditEntry::new(now, AuditEvent::CaughtUp, client.clone())
            });
        }
        Ok(Attempt::Done(RefreshOutcome::Live(Arc::new(row), SessionEvent::CaughtUp)))
    }

    /// Terminates the session, unless another request has done so first.
    async fn terminate(
        &self,
        presented: PresentedToken,
        reason: EndReason,
        client: &ClientInfo,
        now: OffsetDateTime,
    ) -> Result<Attempt, StoreError> {
        let termination = SessionTermination {
            presented: Some(presented.generation),
            ..SessionTermination::new(now, reason, client.clone())
        };
        if self.revocations.terminate(presented.session, &termination).await? {
            Ok(Attempt::Done(RefreshOutcome::Ended { event: reason.event(), since: Some(now) }))
        } else {
            Ok(Attempt::LostRace)
        }
    }

    fn rotation<'a>(
        &self,
        presented: PresentedToken,
        client: &'a ClientInfo,
        now: OffsetDateTime,
    ) -> Rotation<'a> {
        Rotation {
            id: presented.session,
            kind: presented.kind,
            from_generation: presented.generation,
            now,
            max_rotated_at: now - self.issuer.settings.grace,
            asked_by: presented.access_token.map(|access| access.token),
            key_number: self.issuer.keys.load().signing(now).number(),
            idle_expires_at: self.issuer.idle_expiry(now),
            client,
        }
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

    /// Returns the error of an ended session.
    ///
    /// Cookies are cleared only if the session ended longer ago than the grace period. Before that, a
    /// late response could delete the cookies of a new sign-in.
    fn reject(
        &self,
        presented: PresentedToken,
        event: SessionEvent,
        since: Option<OffsetDateTime>,
        client: &ClientInfo,
    ) -> RefreshError {
        let now = self.issuer.clock.now();
        if event == SessionEvent::UnknownSession {
            self.deferred.push_unknown_token(AuditEntry {
                session: Some(presented.session),
                presented: Some(presented.generation),
                ..AuditEntry::new(now, AuditEvent::UnknownSession, client.clone())
            });
        }
        let clear_cookies = since.is_some_and(|since| now - since > self.issuer.settings.grace);
        tracing::info!(session = %presented.session, session_event = %event, "session refresh rejected");
        RefreshError::SessionEnded { event, clear_cookies }
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

/// Logs both clients, so that an operator can distinguish the owner from the thief.
fn warn_of_reuse(row: &Session, presented: PresentedToken, reuse: Reuse, client: &ClientInfo) {
    tracing::warn!(
        session = %row.id, user = %row.user_id, ?reuse,
        presented = presented.generation, held = row.generation,
        presented_by = ?client, held_by = ?row.client,
        session_event = %SessionEvent::ReuseDetected,
        "session terminated: a replaced refresh token was presented"
    );
}

#[cfg(test)]
mod tests;
