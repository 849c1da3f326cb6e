//! The layer: checks the access token, refreshes the session, and accepts or rejects the request.

use super::*;

impl World<'_> {
    pub(super) fn replica(&self, request: usize) -> usize {
        self.requests[request].plan.replica % self.replicas.len()
    }

    /// Returns the clock of the request's replica.
    pub(super) fn clock(&self, request: usize) -> i64 {
        self.now + self.replicas[self.replica(request)].clock
    }

    pub(super) fn arrive(&mut self, request: usize) {
        if self.is_stopped() {
            return;
        }
        let replica = self.replica(request);
        self.requests[request].replica_life = self.replicas[replica].life;
        if matches!(self.requests[request].purpose, Purpose::SignIn | Purpose::SignOut) {
            return self.accept(request, false);
        }
        let Some(cookies) = self.requests[request].cookies else { return };
        self.record_first_use(cookies, request);
        let clock = self.clock(request);
        let access = cookies.access;
        let valid = self.is_readable(access, clock) && clock < access.expires * 1_000 + self.settings.leeway;
        if let (true, Some(&event)) = (valid, self.replicas[replica].ended.get(&cookies.session)) {
            return self.reject(request, event);
        }
        if valid && self.revocations_are_stale() {
            self.record(CoverageEvent::RevocationsStale);
            if self.settings.refuse_on_store_loss {
                return self.fail(request);
            }
        }
        if valid {
            self.record_confirmed_use(replica, cookies, clock);
        }
        let due = clock >= access.expires * 1_000 - (access.expires - access.issued) * 100;
        let is_explicit = self.requests[request].purpose == Purpose::Refresh;
        if valid && !due && !is_explicit {
            return self.pass(request);
        }
        self.requests[request].has_valid_token = valid && !is_explicit;
        if self.requests[request].has_valid_token {
            self.after(REFRESH_TIMEOUT, Event::RefreshTimeout(request));
        }
        self.join_flight(request);
    }

    pub(super) fn time_out_refresh(&mut self, request: usize) {
        if !self.requests[request].done && !self.is_orphaned(request) {
            self.record(CoverageEvent::RefreshTimedOut);
            self.pass(request);
        }
    }

    /// Accepts the request with its access token.
    fn pass(&mut self, request: usize) {
        self.record_response(request, SessionResponse::Passed, None);
        self.accept(request, true);
    }

    /// Returns `true` if revocation lists are stale. The last complete poll may have started before the outage.
    fn revocations_are_stale(&self) -> bool {
        self.now > self.down.0 + MAX_REVOCATION_DELAY - POLL_INTERVAL
            && self.now < self.down.1 + POLL_INTERVAL
    }

    /// Returns `true` if the replica has crashed since the request arrived.
    pub(super) fn is_orphaned(&self, request: usize) -> bool {
        self.requests[request].replica_life != self.replicas[self.replica(request)].life
    }

    pub(super) fn has_crashed(&self, number: usize) -> bool {
        let Flight { leader, replica_life, .. } = self.flights[number];
        replica_life != self.replicas[self.replica(leader)].life
    }

    /// Accepts a request. `by_session` is true if that requires an active session.
    pub(super) fn accept(&mut self, request: usize, by_session: bool) {
        let user = self.user(request);
        let in_flight = &mut self.requests[request];
        in_flight.done = true;
        in_flight.password = self.store.passwords[user];
        if let (true, Some(cookies)) = (by_session, in_flight.cookies) {
            self.check_accepted(request, cookies.session);
        }
        let in_flight = &self.requests[request];
        let event = match in_flight.purpose {
            Purpose::Page | Purpose::Refresh => Event::Respond(request),
            _ => Event::Handle(request),
        };
        self.after(in_flight.plan.upstream, event);
    }

    /// Checks that no request is accepted once every replica must know of the termination, except for one that
    /// was checked before and has waited for its refresh or the store since.
    fn check_accepted(&mut self, request: usize, session: usize) {
        let row = &self.store.rows[session];
        let bound = MAX_REVOCATION_DELAY + REFRESH_TIMEOUT + self.requests[request].plan.store;
        if row.ended.is_some_and(|ended| self.now > ended + bound) && !self.revocations_are_stale() {
            self.violate(|| format!("session {session} was accepted after its end"));
        } else if at(self.clock(request)) > row.session.absolute_expires_at + ms(self.settings.leeway + bound)
        {
            self.violate(|| format!("session {session} was accepted after its absolute expiry"));
        }
    }

    pub(super) fn reject(&mut self, request: usize, event: SessionEvent) {
        if std::mem::replace(&mut self.requests[request].done, true) {
            return;
        }
        self.record_response(request, SessionResponse::Refused(event), None);
        let Some(cookies) = self.requests[request].cookies else { return };
        if event == SessionEvent::IdleExpired && self.requests[request].holder != self.thief() {
            self.record(CoverageEvent::RejectedAsIdle);
        }
        self.check_expiry(cookies.session, event);
        let (row, now) = (&self.store.rows[cookies.session], at(self.clock(request)));
        // A replica whose clock is behind may refresh a session that has expired for this one.
        let expired =
            event == SessionEvent::IdleExpired && row.had_expired(self.now - MAX_REJECTION_DELAY, now);
        let was_promised = row.promised_expiry.is_some_and(|expiry| now + self.settings.grace() < expiry);
        let idled_out = event == SessionEvent::IdleExpired && was_promised && !expired;
        if idled_out && self.requests[request].holder != self.thief() {
            return self.violate(|| format!("session {} was used, and idled out", cookies.session));
        }
        let is_active = row.session.termination(now).is_none() && !expired;
        let reason = row.session.end.map(|end| end.reason.event());
        if is_active && self.requests[request].holder != self.thief() {
            self.violate(|| {
                format!("session {} is active, and its browser received {event}", cookies.session)
            });
        } else if reason.is_some_and(|reason| reason != event) && !is_expiry(event) {
            self.violate(|| {
                format!("session {} ended by {reason:?}, and its browser received {event}", cookies.session)
            });
        }
    }

    /// Checks that a session does not expire early by the true time, unless all replicas have started at an
    /// uncertain time since its last refresh.
    fn check_expiry(&mut self, session: usize, event: SessionEvent) {
        let row = &self.store.rows[session];
        let Settings { access_ttl, idle_ttl, absolute_ttl, grace, .. } = *self.settings;
        let (since, lifetime) = match event {
            // A replica whose clock is behind may have refreshed a session that has expired for this one.
            SessionEvent::IdleExpired => (row.refreshed[1], access_ttl + idle_ttl),
            SessionEvent::AbsoluteExpired => (row.created, absolute_ttl),
            _ => return,
        };
        let is_certain = self.clocks.uncertain_start.is_none_or(|start| start < since);
        if is_certain && self.settings.mutation.is_none() && self.now - since + 2 * grace < lifetime {
            self.violate(|| format!("session {session} received {event} early"));
        }
    }

    /// Handles a failed refresh: accepts a valid access token, else responds 503.
    pub(super) fn fail(&mut self, request: usize) {
        if !self.requests[request].done && self.requests[request].has_valid_token {
            self.pass(request);
        }
        self.requests[request].done = true;
        self.record_response(request, SessionResponse::Unavailable, None);
    }
}

/// Maximum time from the read of a row until a request is rejected by it.
const MAX_REJECTION_DELAY: i64 = 30_000;

/// Returns `true` for an expiry, which a replica may report before it is written.
fn is_expiry(event: SessionEvent) -> bool {
    matches!(event, SessionEvent::IdleExpired | SessionEvent::AbsoluteExpired)
}
