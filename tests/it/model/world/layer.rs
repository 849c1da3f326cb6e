//! What the layer does with a request: look at its access token, have the session renewed, let the
//! request go on or refuse it.

use super::*;

impl World<'_> {
    pub(super) fn replica(&self, ask: usize) -> usize {
        self.asking[ask].plan.replica % self.replicas.len()
    }

    /// The clock of the replica that was asked.
    pub(super) fn clock(&self, ask: usize) -> i64 {
        self.now + self.replicas[self.replica(ask)].clock
    }

    pub(super) fn arrive(&mut self, ask: usize) {
        let replica = self.replica(ask);
        self.asking[ask].boot = self.replicas[replica].life;
        if matches!(self.asking[ask].purpose, Purpose::SignIn | Purpose::SignOut) {
            return self.accept(ask, false);
        }
        let Some(cookies) = self.asking[ask].cookies else { return };
        self.note_first_use(cookies, ask);
        let clock = self.clock(ask);
        let access = cookies.access;
        let valid = self.is_readable(access, clock) && clock < access.expires * 1_000 + self.settings.leeway;
        if let (true, Some(&event)) = (valid, self.replicas[replica].ended.get(&cookies.session)) {
            return self.refuse(ask, event);
        }
        if valid && self.feed_is_lost() {
            self.see(Seen::FeedLost);
            if self.settings.refuse_on_store_loss {
                return self.fail(ask);
            }
        }
        if valid {
            self.note_lasting(replica, cookies, clock);
        }
        let due = clock >= access.expires * 1_000 - (access.expires - access.issued) * 100;
        if valid && !due {
            return self.pass(ask);
        }
        self.asking[ask].held = valid;
        if valid {
            self.after(PATIENCE, Event::Patience(ask));
        }
        self.board(ask);
    }

    pub(super) fn lose_patience(&mut self, ask: usize) {
        if !self.asking[ask].done && !self.is_dead(ask) {
            self.see(Seen::PatienceLost);
            self.pass(ask);
        }
    }

    /// It goes on with its access token.
    fn pass(&mut self, ask: usize) {
        self.tell(ask, SessionResponse::Passed, None);
        self.accept(ask, true);
    }

    /// Whether nobody knows any more what has ended. The last complete answer may have been asked for a
    /// while before the store went down.
    fn feed_is_lost(&self) -> bool {
        self.now > self.down.0 + FEED - POLL && self.now < self.down.1 + POLL
    }

    /// Whether the replica has crashed since the request reached it.
    pub(super) fn is_dead(&self, ask: usize) -> bool {
        self.asking[ask].boot != self.replicas[self.replica(ask)].life
    }

    pub(super) fn is_lost(&self, number: usize) -> bool {
        let Flight { leader, boot, .. } = self.flights[number];
        boot != self.replicas[self.replica(leader)].life
    }

    /// The request goes on; `by_session`: because its session lives.
    pub(super) fn accept(&mut self, ask: usize, by_session: bool) {
        let user = self.user(ask);
        let asking = &mut self.asking[ask];
        asking.done = true;
        asking.password = self.store.passwords[user];
        if let (true, Some(cookies)) = (by_session, asking.cookies) {
            self.check_accepted(ask, cookies.session);
        }
        let asking = &self.asking[ask];
        let event = if asking.purpose == Purpose::Page { Event::Leave(ask) } else { Event::Handle(ask) };
        self.after(asking.plan.upstream, event);
    }

    /// Nothing is accepted once every replica must have heard of the end, but for what was checked
    /// before and has waited for its renewal or the store since.
    fn check_accepted(&mut self, ask: usize, session: usize) {
        let row = &self.store.rows[session];
        let bound = FEED + PATIENCE + self.asking[ask].plan.store;
        if row.ended.is_some_and(|ended| self.now > ended + bound) && !self.feed_is_lost() {
            self.break_with(|| format!("session {session} was accepted after its end"));
        } else if at(self.clock(ask)) > row.session.absolute_expires_at + ms(self.settings.leeway + bound) {
            self.break_with(|| format!("session {session} was accepted after its absolute expiry"));
        }
    }

    pub(super) fn refuse(&mut self, ask: usize, event: SessionEvent) {
        if std::mem::replace(&mut self.asking[ask].done, true) {
            return;
        }
        self.tell(ask, SessionResponse::Refused(event), None);
        let Some(cookies) = self.asking[ask].cookies else { return };
        let (row, now) = (&self.store.rows[cookies.session], at(self.clock(ask)));
        // A replica whose clock is behind may renew what this one saw expire.
        let expired = event == SessionEvent::IdleExpired && row.expiry_before <= now;
        let lives = row.session.termination(now).is_none() && !expired;
        let reason = row.session.end.map(|end| end.reason.event());
        if lives && self.asking[ask].who != self.thief() {
            self.break_with(|| {
                format!("session {} lives, and its browser was told {event}", cookies.session)
            });
        } else if reason.is_some_and(|reason| reason != event) && !is_expiry(event) {
            self.break_with(|| {
                format!("session {} ended by {reason:?}, and its browser was told {event}", cookies.session)
            });
        }
    }

    /// Nothing was decided: what the access token is still good for, or 503.
    pub(super) fn fail(&mut self, ask: usize) {
        if !self.asking[ask].done && self.asking[ask].held {
            self.pass(ask);
        }
        self.asking[ask].done = true;
        self.tell(ask, SessionResponse::Unavailable, None);
    }
}

/// One that was seen at one replica need not have been written down by any.
fn is_expiry(event: SessionEvent) -> bool {
    matches!(event, SessionEvent::IdleExpired | SessionEvent::AbsoluteExpired)
}
