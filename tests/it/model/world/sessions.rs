//! Sign-ins, sign-outs, password changes, other terminations, and confirmed use.

use sekisho::identity::Subject;
use sekisho::services::rotation::confirmation_age;
use sekisho::services::store::SessionTermination;

use super::*;
use crate::model::script::Fault;
use crate::model::store::{New, user_id};

impl World<'_> {
    /// Returns the user of a request.
    pub(super) fn user(&self, request: usize) -> usize {
        self.requests[request].holder % USERS
    }

    pub(super) fn handle(&mut self, request: usize) {
        let InFlightRequest { purpose, cookies, plan, .. } = self.requests[request];
        if self.is_down() || plan.fault == Some(Fault::NotExecuted) || self.is_orphaned(request) {
            return;
        }
        match (purpose, cookies) {
            (Purpose::SignIn, _) => self.sign_in(request, cookies.map(|cookies| cookies.session)),
            (Purpose::SignOut, Some(cookies)) => self.sign_out(request, cookies.session),
            (Purpose::SignOutAll, _) => self.sign_out_everywhere(request),
            (Purpose::ChangePassword, Some(cookies)) => self.change_password(request, cookies.session),
            _ => {}
        }
        self.check_passwords();
        // With a lost result there is no response.
        if plan.fault != Some(Fault::ResultLost) {
            self.after(0, Event::Respond(request));
        }
    }

    /// Returns the replica that receives the result of the store call.
    fn receiving_replica(&self, request: usize) -> Option<usize> {
        (self.requests[request].plan.fault != Some(Fault::ResultLost)).then(|| self.replica(request))
    }

    fn sign_in(&mut self, request: usize, replaces: Option<usize>) {
        let Settings { rules, access_ttl, idle_ttl, absolute_ttl, max_per_user, .. } = *self.settings;
        let (user, password, now) =
            (self.user(request), self.requests[request].password, at(self.clock(request)));
        let (idle, absolute) = (duration(access_ttl + idle_ttl), duration(absolute_ttl));
        let session = self.store.new_session(user, rules.kind(), now, idle, absolute);
        let new = New { session, password: Some(password), replaces, max_per_user };
        let Some(ended) = self.store.insert(self.now, new) else {
            self.record(CoverageEvent::SignInRefused);
            let what = TraceEvent::SignedIn { user, password, replaces, fresh: None };
            return self.record_event(self.replica(request), what);
        };
        self.record(CoverageEvent::SignedIn);
        let place = self.store.rows.len() - 1;
        let row = self.store.rows[place].session.clone();
        let cookies = self.mint(request, place, &row);
        self.requests[request].cookie_change = CookieChange::Set(cookies);
        self.requests[request].minted = self.now;
        let what = TraceEvent::SignedIn { user, password, replaces, fresh: Some(cookies) };
        self.record_event(self.replica(request), what);
        for &place in &ended {
            let replaced = replaces == Some(place);
            self.record(if replaced {
                CoverageEvent::EndedByReplacement
            } else {
                CoverageEvent::EndedByLimit
            });
            self.schedule_polls(place);
            if let Some(replica) = self.receiving_replica(request) {
                self.add_revocation(replica, place);
            }
        }
    }

    fn sign_out(&mut self, request: usize, session: usize) {
        self.record_event(self.replica(request), TraceEvent::SignedOut { session });
        let (receiving_replica, now) = (self.receiving_replica(request), at(self.clock(request)));
        if self.end(receiving_replica, session, EndReason::LoggedOut, now) {
            self.record(CoverageEvent::SignedOut);
        } else if let Some(replica) = receiving_replica {
            // The replica reads the termination that the row already has.
            self.add_revocation(replica, session);
        }
        self.requests[request].cookie_change = CookieChange::Clear;
    }

    fn sign_out_everywhere(&mut self, request: usize) {
        let (user, now) = (self.user(request), at(self.clock(request)));
        self.record_event(self.replica(request), TraceEvent::SignedOutEverywhere { user });
        let ending = SessionTermination::new(now, EndReason::LoggedOut, ClientInfo::default());
        let ended = self.store.end_user_sessions(self.now, &user_id(user).into(), None, &ending);
        self.record_terminations(self.receiving_replica(request), &ended);
        self.record(CoverageEvent::SignedOutEverywhere);
        self.requests[request].cookie_change = CookieChange::Clear;
    }

    fn change_password(&mut self, request: usize, session: usize) {
        let (user, old, now) = (self.user(request), self.requests[request].password, at(self.clock(request)));
        let ending = SessionTermination::new(now, EndReason::PasswordChanged, ClientInfo::default());
        let ended = self.store.change_password(self.now, user, Some(old), Some(session), &ending);
        let what = TraceEvent::PasswordChanged { session, old, done: ended.is_some() };
        self.record_event(self.replica(request), what);
        let Some(ended) = ended else { return self.record(CoverageEvent::PasswordChangeRefused) };
        self.record(CoverageEvent::PasswordChanged);
        self.record_terminations(self.receiving_replica(request), &ended);
    }

    /// Checks that every active session was created with the present password or kept by its change.
    ///
    /// A crash may undo the termination of an expired session, which is not active even so.
    fn check_passwords(&mut self) {
        let password = |user: &Subject| {
            (0..USERS)
                .find(|&number| Subject::from(user_id(number)) == *user)
                .map(|number| self.store.passwords[number])
        };
        let clock = self.replicas.iter().map(|replica| replica.clock).max().unwrap_or(0).max(0);
        let lives =
            |row: &Row| row.ended.is_none() && row.session.termination(at(self.now + clock)).is_none();
        let stale = |row: &Row| lives(row) && Some(row.password) != password(&row.session.subject);
        if let Some(place) = self.store.rows.iter().position(stale) {
            self.violate(|| format!("session {place} is active on an old password"));
        }
    }

    /// Terminates a session. The replica that `receiver` of it rejects its tokens at once.
    fn end(
        &mut self,
        receiver: Option<usize>,
        session: usize,
        reason: EndReason,
        now: OffsetDateTime,
    ) -> bool {
        let ending = SessionTermination::new(now, reason, ClientInfo::default());
        let ended = self.store.end(self.now, session, &ending);
        if ended {
            self.record_terminations(receiver, &[session]);
        } else {
            self.record(CoverageEvent::AlreadyEnded);
        }
        ended
    }

    /// Terminates a session for token reuse, which must have been stolen.
    pub(super) fn end_as_reuse(
        &mut self,
        receiver: Option<usize>,
        session: usize,
        now: OffsetDateTime,
        seen: CoverageEvent,
    ) -> bool {
        if !self.end(receiver, session, EndReason::ReuseDetected, now) {
            return false;
        }
        self.record(seen);
        if !self.store.rows[session].stolen {
            self.violate(|| format!("session {session} was terminated for reuse without a theft"));
        }
        if let Some((_, stolen)) = self.theft.filter(|&(of, _)| of == session) {
            self.outcome.detected_after = Some(self.now - stolen);
        }
        true
    }

    fn record_terminations(&mut self, receiver: Option<usize>, ended: &[usize]) {
        for &place in ended {
            self.schedule_polls(place);
            match self.store.rows[place].session.end.map(|end| end.reason) {
                Some(EndReason::LoggedOut) => self.record(CoverageEvent::EndedBySignOut),
                Some(EndReason::PasswordChanged) => self.record(CoverageEvent::EndedByPassword),
                _ => {}
            }
            if let Some(replica) = receiver {
                self.add_revocation(replica, place);
            }
        }
    }

    /// Schedules a poll of every replica.
    fn schedule_polls(&mut self, session: usize) {
        let is_in_flight = |flight: &&Flight| flight.completed.is_none() && flight.cookies.session == session;
        if self.flights.iter().rev().take(20).any(|flight| is_in_flight(&flight)) {
            self.record(CoverageEvent::EndedDuringRefresh);
        }
        for replica in 0..self.replicas.len() {
            let delay = POLL_INTERVAL - (session as i64 * 337 + replica as i64 * 113) % POLL_INTERVAL;
            self.after(delay, Event::Poll(replica));
        }
    }

    /// Polls the revocations.
    pub(super) fn poll(&mut self, replica: usize) {
        if self.settings.mutation == Some(Mutation::PollerStops) || self.is_stopped() {
            return;
        }
        if self.is_down() {
            let delay = self.down.1 - self.now + 1 + (self.now * 11) % (POLL_INTERVAL - 1);
            return self.after(delay, Event::Poll(replica));
        }
        self.record_event(replica, TraceEvent::Polled);
        self.add_all_revocations(replica);
    }

    /// Adds all terminations that the replica does not know.
    pub(super) fn add_all_revocations(&mut self, replica: usize) {
        for place in 0..self.store.rows.len() {
            let has_ended = self.store.rows[place].session.end.is_some();
            if has_ended && !self.replicas[replica].ended.contains_key(&place) {
                self.add_revocation(replica, place);
            }
        }
    }

    /// Adds a termination to the replica's revocation list.
    ///
    /// The first reason stays, for access tokens that are still valid. Shared results of the session's refreshes
    /// are dropped each time, since a crash of the store may have undone the termination that they name.
    fn add_revocation(&mut self, replica: usize, session: usize) {
        let Some(end) = self.store.rows[session].session.end else { return };
        let Replica { ended, flights, .. } = &mut self.replicas[replica];
        ended.entry(session).or_insert(end.reason.event());
        for &mut number in flights {
            let flight = &mut self.flights[number];
            flight.is_joinable &= flight.cookies.session != session;
        }
    }

    /// Terminates expired sessions, as the hourly purge does. The grace allows for other replicas' clocks.
    pub(super) fn end_expired(&mut self, replica: usize) {
        if self.is_down() || self.is_stopped() {
            return;
        }
        let now = at(self.now + self.replicas[replica].clock);
        self.record_event(replica, TraceEvent::ExpiredEnded);
        for place in self.store.end_expired(self.now, now - self.settings.grace()) {
            self.record(CoverageEvent::EndedByExpiry);
            self.schedule_polls(place);
        }
    }

    pub(super) fn record_first_use(&mut self, cookies: Cookies, request: usize) {
        let now = at(self.clock(request));
        let row = &mut self.store.rows[cookies.session];
        if row.first_use.is_none_or(|(generation, _)| generation < cookies.generation) {
            row.first_use = Some((cookies.generation, now));
        }
    }

    pub(super) fn record_confirmed_use(&mut self, replica: usize, cookies: Cookies, clock: i64) {
        let token = cookies.access.reference();
        let age = confirmation_age(self.settings.grace());
        let is_confirmed =
            token.older_than(age, at(clock)) && !self.is_confirmation_uncertain(replica, at(clock));
        if !self.settings.rules.confirms_use() || !is_confirmed {
            return;
        }
        let note = (cookies.session, cookies.generation, token.id);
        let Replica { deferred, .. } = &mut self.replicas[replica];
        if !deferred.contains(&note) {
            deferred.push(note);
        }
        self.schedule_flush(replica);
    }

    /// Records a use of the session by a replay.
    pub(super) fn record_replay(&mut self, replica: usize, session: usize) {
        let now = at(self.now + self.replicas[replica].clock);
        self.replicas[replica].replayed.insert(session, now);
        self.schedule_flush(replica);
    }

    fn schedule_flush(&mut self, replica: usize) {
        let Replica { flush_pending_since, life, .. } = &mut self.replicas[replica];
        if flush_pending_since.is_none() {
            *flush_pending_since = Some(self.now);
            let event = Event::FlushDeferred(replica, *life);
            let delay = 1 + (self.now * 7 + 13) % MAX_FLUSH_DELAY;
            self.after(delay, event);
        }
    }

    pub(super) fn flush_deferred(&mut self, replica: usize, life: u32) {
        if self.replicas[replica].life != life || self.is_stopped() {
            return;
        }
        if self.is_down() {
            return self.after(MAX_FLUSH_DELAY, Event::FlushDeferred(replica, life));
        }
        if self.replicas[replica].flush_pending_since.take().is_some_and(|since| self.now - since > 900) {
            self.record(CoverageEvent::ConfirmedLate);
        }
        self.record_event(replica, TraceEvent::DeferredFlushed);
        let now = at(self.now + self.replicas[replica].clock);
        let deferred = std::mem::take(&mut self.replicas[replica].deferred);
        let settled: Vec<_> = deferred
            .into_iter()
            .filter(|&(session, generation, token)| self.store.confirm(self.now, session, generation, token))
            .collect();
        for (session, ..) in settled {
            if self.settings.rules.ends_on_concurrent_use(&self.store.rows[session].session) {
                self.end_as_reuse(Some(replica), session, now, CoverageEvent::ReuseAtConfirmation);
            }
        }
        let idle = ms(self.settings.access_ttl + self.settings.idle_ttl);
        for (session, last) in std::mem::take(&mut self.replicas[replica].replayed) {
            self.store.record_use(self.now, session, last + idle, now);
        }
    }
}
