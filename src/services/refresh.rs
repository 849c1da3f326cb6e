//! Renewing a session: read the tokens, board the flight, do what [`decide`] says.

use std::collections::HashMap;
use std::sync::Arc;

use time::OffsetDateTime;

use super::deferred_writes::{self, Batch};
use super::refresh_token::{self, RefreshTokenError};
use super::rotation::{
    AccompanyingAccessToken, Decision, PresentedToken, Reuse, decide, is_concurrent_use, within_grace,
};
use super::single_flight::{Key, Outcome};
use super::store::{Rotation, SessionTermination, StoreError, TokenUse};
use super::token::{IssuedSession, TokensInner};
use crate::client_info::ClientInfo;
use crate::layer::{RefreshError, RefreshRequest};
use crate::models::audit::{AuditEntry, AuditEvent};
use crate::models::session::{EndReason, Session, SessionId, SessionKind};
use crate::session_event::SessionEvent;

/// How often a lost race is looked at again before the store counts as not answering.
const ATTEMPTS: usize = 4;

/// What a flight found out about one generation of a session.
#[derive(Clone, Debug)]
pub(super) enum RefreshResult {
    /// The session goes on: its row, and how.
    Live(Arc<Session>, SessionEvent),
    /// The session is over, or isn't one.
    Over { event: SessionEvent, since: Option<OffsetDateTime> },
}

/// What one look at the row came to.
enum AttemptResult {
    Done(RefreshResult),
    /// Another replica was faster: look again.
    LostRace,
}

impl TokensInner {
    pub(super) async fn renew(
        self: Arc<Self>,
        request: RefreshRequest,
        kind: SessionKind,
    ) -> Result<IssuedSession, RefreshError> {
        let presented = self.read(&request, kind)?;
        let client = &request.client;
        for _ in 0..ATTEMPTS {
            let resolved = match self.board(presented, client).await {
                // A store that is down is not asked again for the same request.
                Outcome::Led(None) | Outcome::Shared(None, _) | Outcome::Refused => {
                    return Err(RefreshError::Unavailable);
                }
                Outcome::Shared(Some(RefreshResult::Live(row, _)), number) => {
                    self.follow_leader(row, number, presented, client).await?
                }
                Outcome::Led(resolved) | Outcome::Shared(resolved, _) => resolved,
            };
            match resolved {
                Some(RefreshResult::Live(session, event)) => return self.answer(&session, event),
                Some(RefreshResult::Over { event, since }) => {
                    return Err(self.refuse(presented, event, since, client));
                }
                None => {}
            }
        }
        Err(RefreshError::Unavailable)
    }

    /// Reads both tokens, before any database work.
    fn read(
        self: &Arc<Self>,
        request: &RefreshRequest,
        kind: SessionKind,
    ) -> Result<PresentedToken, RefreshError> {
        let refused = |event| RefreshError::Over { event, clear: false };
        let token =
            refresh_token::parse(&self.keys.load(), &request.refresh_token).map_err(|error| match error {
                RefreshTokenError::UnknownKey(number) => {
                    self.keys.notice_unknown();
                    self.note_unknown(AuditEntry {
                        key_number: Some(number),
                        ..AuditEntry::new(self.clock.now(), AuditEvent::UnknownKey, request.client.clone())
                    });
                    refused(SessionEvent::UnknownKey)
                }
                _ => refused(SessionEvent::Malformed),
            })?;
        if request.of.is_some_and(|session| session != token.session) {
            return Err(refused(SessionEvent::Malformed));
        }
        let beside = request
            .access_token
            .as_deref()
            .and_then(|access| self.read_access(access))
            .filter(|access| access.identity.session == token.session)
            .map(|access| AccompanyingAccessToken {
                token: access.reference(),
                generation: access.generation,
            });
        Ok(PresentedToken {
            session: token.session,
            generation: token.generation,
            kind,
            access_token: beside,
        })
    }

    async fn board(
        self: &Arc<Self>,
        presented: PresentedToken,
        client: &ClientInfo,
    ) -> Outcome<RefreshResult> {
        let (leader, client) = (Arc::clone(self), client.clone());
        let clock = Arc::clone(&self.clock);
        self.flights
            .join(key(presented), move || clock.now(), move || async move {
                leader.resolve(presented, &client).await.inspect_err(log_store_error).ok()
            })
            .await
    }

    /// The leader's part: asks the store until the race is decided.
    async fn resolve(
        self: &Arc<Self>,
        presented: PresentedToken,
        client: &ClientInfo,
    ) -> Result<RefreshResult, StoreError> {
        for _ in 0..ATTEMPTS {
            if let AttemptResult::Done(resolved) = self.step(presented, client).await? {
                return Ok(resolved);
            }
        }
        Err(StoreError::unavailable(std::io::Error::other("the row kept changing under a renewal")))
    }

    /// The conditional update first, since that is what is due nearly always; the row is read only
    /// where the update did not take place.
    async fn step(
        self: &Arc<Self>,
        presented: PresentedToken,
        client: &ClientInfo,
    ) -> Result<AttemptResult, StoreError> {
        let now = self.clock.now();
        if !within_grace(&presented, now, self.settings.grace) && presented.generation < u32::MAX {
            let rotation = self.rotation(presented, client, now);
            if let Some(row) = self.store.rotate(&rotation).await? {
                return Ok(AttemptResult::Done(RefreshResult::Live(Arc::new(row), SessionEvent::Rotated)));
            }
        }
        let row = self.store.find_session(presented.session).await?.map(Arc::new);
        let decision = decide(row.as_deref(), &presented, now, self.settings.grace);
        self.apply_decision(decision, row, presented, client, now).await
    }

    /// A follower's part: the leader's row, judged with the follower's own tokens. `None` means that
    /// what is remembered no longer answers the question.
    async fn follow_leader(
        self: &Arc<Self>,
        row: Arc<Session>,
        number: u64,
        presented: PresentedToken,
        client: &ClientInfo,
    ) -> Result<Option<RefreshResult>, RefreshError> {
        let now = self.clock.now();
        let decision = decide(Some(&row), &presented, now, self.settings.grace);
        if matches!(decision, Decision::Rotate | Decision::CatchUp { .. }) {
            self.flights.forget(key(presented), number);
            return Ok(None);
        }
        let step = self.apply_decision(decision, Some(row), presented, client, now).await;
        match step.inspect_err(log_store_error) {
            Ok(AttemptResult::Done(resolved)) => Ok(Some(resolved)),
            Ok(AttemptResult::LostRace) => {
                // Somebody else has ended the session: what is remembered is no longer true.
                self.flights.forget(key(presented), number);
                Ok(None)
            }
            Err(_) => Err(RefreshError::Unavailable),
        }
    }

    async fn apply_decision(
        self: &Arc<Self>,
        decision: Decision,
        row: Option<Arc<Session>>,
        presented: PresentedToken,
        client: &ClientInfo,
        now: OffsetDateTime,
    ) -> Result<AttemptResult, StoreError> {
        let over = |event, since| Ok(AttemptResult::Done(RefreshResult::Over { event, since }));
        match (decision, row) {
            (Decision::Replay, Some(row)) => {
                Ok(AttemptResult::Done(RefreshResult::Live(row, SessionEvent::Replayed)))
            }
            (Decision::CatchUp { lost }, _) => self.catch_up(lost, presented, client, now).await,
            (Decision::Ended { event, since }, _) => over(event, Some(since)),
            (Decision::Exhausted, _) => self.end(presented, EndReason::Exhausted, client, now).await,
            (Decision::Reuse(reuse), Some(row)) => {
                warn_of_reuse(&row, presented, reuse, client);
                self.end(presented, EndReason::ReuseDetected, client, now).await
            }
            (Decision::WrongKind, _) => over(SessionEvent::Malformed, None),
            (Decision::Rotate, _) => Ok(AttemptResult::LostRace),
            (Decision::Unknown | Decision::Replay | Decision::Reuse(_), _) => {
                over(SessionEvent::UnknownSession, None)
            }
        }
    }

    /// The MAC proves that we issued the token, so the database has lost its last writes: after a
    /// failover, or from a restored backup.
    async fn catch_up(
        self: &Arc<Self>,
        lost: u32,
        presented: PresentedToken,
        client: &ClientInfo,
        now: OffsetDateTime,
    ) -> Result<AttemptResult, StoreError> {
        let Some(row) = self.store.catch_up(&self.rotation(presented, client, now)).await? else {
            return Ok(AttemptResult::LostRace);
        };
        if lost > 1 {
            tracing::warn!(
                session = %presented.session, presented = presented.generation, lost,
                session_event = %SessionEvent::CaughtUp,
                "the database has lost more than one rotation of this session: was it restored from a backup?"
            );
            let entry = AuditEntry {
                user: Some(row.user_id),
                session: Some(row.id),
                presented: Some(presented.generation),
                held: presented.generation.checked_sub(lost),
                ..AuditEntry::new(now, AuditEvent::CaughtUp, client.clone())
            };
            self.schedule_flush(self.notes.push_audit(entry), deferred_writes::DELAY);
        }
        Ok(AttemptResult::Done(RefreshResult::Live(Arc::new(row), SessionEvent::CaughtUp)))
    }

    /// Ends the session; if another request was faster, its reason stands.
    async fn end(
        &self,
        presented: PresentedToken,
        reason: EndReason,
        client: &ClientInfo,
        now: OffsetDateTime,
    ) -> Result<AttemptResult, StoreError> {
        let ending = SessionTermination::new(now, reason, client.clone());
        let ending = SessionTermination { presented: Some(presented.generation), ..ending };
        if self.store.end_session(presented.session, &ending).await? {
            self.note_ended(&[presented.session], ending.end());
            let over = RefreshResult::Over { event: reason.event(), since: Some(now) };
            Ok(AttemptResult::Done(over))
        } else {
            Ok(AttemptResult::LostRace)
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
            max_rotated_at: now - self.settings.grace,
            asked_by: presented.access_token.map(|beside| beside.token),
            key_number: self.keys.load().signing(now).number(),
            idle_expires_at: self.idle_expiry(now),
            client,
        }
    }

    fn answer(
        self: &Arc<Self>,
        session: &Session,
        event: SessionEvent,
    ) -> Result<IssuedSession, RefreshError> {
        if event == SessionEvent::Replayed {
            self.schedule_flush(self.notes.replay(session.id), deferred_writes::DELAY);
        }
        let renewal = self.issue(session, event, self.clock.now()).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "no token could be issued");
            RefreshError::Unavailable
        })?;
        Ok(IssuedSession { session: session.clone(), tokens: renewal })
    }

    /// Cookies are cleared only when the session ended more than the grace ago: sooner, a late
    /// answer could wipe a new sign-in.
    fn refuse(
        self: &Arc<Self>,
        presented: PresentedToken,
        event: SessionEvent,
        since: Option<OffsetDateTime>,
        client: &ClientInfo,
    ) -> RefreshError {
        if event == SessionEvent::UnknownSession {
            self.note_unknown(AuditEntry {
                session: Some(presented.session),
                presented: Some(presented.generation),
                ..AuditEntry::new(self.clock.now(), AuditEvent::UnknownSession, client.clone())
            });
        }
        let clear = since.is_some_and(|since| self.clock.now() - since > self.settings.grace);
        tracing::info!(session = %presented.session, session_event = %event, "a session was not renewed");
        RefreshError::Over { event, clear }
    }

    /// Writes the notes, and ends the sessions in which two clients show. What could not be written
    /// is noted again.
    pub(super) async fn write_notes(self: &Arc<Self>) -> Result<(), StoreError> {
        let Batch { lasting, replays } = self.notes.take();
        let settled = self.settle(&lasting).await;
        if settled.is_err() {
            self.schedule_flush(
                self.notes.put_back(Batch { lasting, ..Batch::default() }),
                deferred_writes::RETRY,
            );
        }
        let counted = self.count(&replays).await;
        if counted.is_err() {
            self.schedule_flush(
                self.notes.put_back(Batch { replays, ..Batch::default() }),
                deferred_writes::RETRY,
            );
        }
        let recorded = self.record().await;
        settled.and(counted).and(recorded)
    }

    async fn settle(&self, lasting: &HashMap<TokenUse, ClientInfo>) -> Result<(), StoreError> {
        if lasting.is_empty() {
            return Ok(());
        }
        let tokens: Vec<_> = lasting.keys().copied().collect();
        for row in self.store.confirm_generation(&tokens).await? {
            if is_concurrent_use(&row) {
                let client = lasting.iter().find(|(seen, _)| is_conflicting_use(seen, &row));
                self.terminate_on_reuse(&row, client.map(|(_, client)| client.clone())).await?;
            }
        }
        Ok(())
    }

    async fn terminate_on_reuse(&self, row: &Session, client: Option<ClientInfo>) -> Result<(), StoreError> {
        tracing::warn!(
            session = %row.id, user = %row.user_id, generation = row.generation,
            used_by = ?client, held_by = ?row.client,
            session_event = %SessionEvent::ReuseDetected,
            "two access tokens of one generation are in lasting use: the session ends"
        );
        let ending =
            SessionTermination::new(self.clock.now(), EndReason::ReuseDetected, client.unwrap_or_default());
        let ending = SessionTermination { presented: Some(row.generation), ..ending };
        if self.store.end_session(row.id, &ending).await? {
            self.note_ended(&[row.id], ending.end());
        }
        Ok(())
    }

    async fn record(self: &Arc<Self>) -> Result<(), StoreError> {
        loop {
            let entries = self.notes.take_entries();
            if entries.is_empty() {
                return Ok(());
            }
            if let Err(error) = self.store.record(&entries).await {
                self.schedule_flush(self.notes.put_entries_back(entries), deferred_writes::RETRY);
                return Err(error);
            }
        }
    }

    /// The audit hears of tokens that name nothing here.
    fn note_unknown(self: &Arc<Self>, entry: AuditEntry) {
        self.schedule_flush(self.notes.unknown(entry), deferred_writes::DELAY);
    }

    async fn count(&self, replays: &HashMap<SessionId, u64>) -> Result<(), StoreError> {
        if replays.is_empty() {
            return Ok(());
        }
        let counts: Vec<_> = replays.iter().map(|(&session, &count)| (session, count)).collect();
        self.store.count_replays(&counts).await
    }
}

/// Whether this is the use that shows a second client in the session.
fn is_conflicting_use(seen: &TokenUse, row: &Session) -> bool {
    (seen.session, seen.generation) == (row.id, row.generation) && row.settled_by != Some(seen.token)
}

fn key(presented: PresentedToken) -> Key {
    Key { session: presented.session, generation: presented.generation, kind: presented.kind }
}

fn log_store_error(error: &StoreError) {
    tracing::error!(
        error = error as &dyn std::error::Error,
        session_event = %SessionEvent::StoreUnavailable,
        "the store did not answer a renewal"
    );
}

/// The log tells of both clients, so that an operator can tell the owner from the thief.
fn warn_of_reuse(row: &Session, presented: PresentedToken, reuse: Reuse, client: &ClientInfo) {
    tracing::warn!(
        session = %row.id, user = %row.user_id, ?reuse,
        presented = presented.generation, held = row.generation,
        presented_by = ?client, held_by = ?row.client,
        session_event = %SessionEvent::ReuseDetected,
        "a replaced refresh token came back: the session ends"
    );
}

#[cfg(test)]
mod tests;
