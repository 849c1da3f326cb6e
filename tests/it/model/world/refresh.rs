//! Refreshes: joining a flight, the store calls of its leader, and the decisions of its followers.

use sekisho::services::rotation::{AccompanyingAccessToken, Decision, PresentedToken, within_grace};

use super::*;
use crate::model::script::Fault;
use crate::model::store::{Step, session_id};

impl World<'_> {
    fn presented(&self, request: usize) -> Option<PresentedToken> {
        let cookies = self.requests[request].cookies?;
        let beside =
            AccompanyingAccessToken { token: cookies.access.reference(), generation: cookies.generation };
        Some(PresentedToken {
            session: session_id(cookies.session),
            generation: cookies.generation,
            kind: self.settings.rules.kind(),
            access_token: Some(beside),
        })
    }

    /// Returns `true` unless the token was issued too far in the future.
    pub(super) fn is_readable(&self, access: Access, clock: i64) -> bool {
        access.issued * 1_000 <= clock + self.settings.grace / 4
    }

    pub(super) fn join_flight(&mut self, request: usize) {
        let (replica, clock) = (self.replica(request), self.clock(request));
        let Some(cookies) = self.requests[request].cookies else { return };
        self.requests[request].attempts += 1;
        if self.requests[request].attempts > MAX_ATTEMPTS {
            return self.fail(request);
        }
        let remembered = RESULT_TTL.min(self.settings.grace);
        let flights = &mut self.flights;
        self.replicas[replica].flights.retain(|&number| {
            let flight = &flights[number];
            let old = flight.completed.as_ref().is_some_and(|(completed, _)| clock - completed > remembered);
            flight.is_joinable && !old
        });
        let same = |flight: &Flight| {
            flight.cookies.session == cookies.session && flight.cookies.generation == cookies.generation
        };
        let existing = self.replicas[replica].flights.iter().copied().find(|&number| same(&flights[number]));
        match existing {
            Some(number) if flights[number].completed.is_some() => self.share(number, request),
            Some(number) => self.flights[number].followers.push(request),
            None => self.start_flight(replica, request, cookies),
        }
    }

    fn start_flight(&mut self, replica: usize, request: usize, cookies: Cookies) {
        let number = self.flights.len();
        self.flights.push(Flight {
            leader: request,
            cookies,
            followers: Vec::new(),
            began: at(self.clock(request)),
            attempts: 0,
            replica_life: self.replicas[replica].life,
            is_joinable: true,
            completed: None,
        });
        self.replicas[replica].flights.push(number);
        self.step(number);
    }

    /// Schedules the leader's next store call.
    fn step(&mut self, number: usize) {
        let leader = self.flights[number].leader;
        let now = at(self.clock(leader));
        let flight = &mut self.flights[number];
        flight.began = now;
        flight.attempts += 1;
        if flight.attempts > MAX_ATTEMPTS {
            return self.complete(number, None);
        }
        let store = self.requests[leader].plan.store;
        let young = self.settings.rules.waits_for_grace()
            && self
                .presented(leader)
                .is_some_and(|presented| within_grace(&presented, now, self.settings.grace()))
            || self.is_clock_uncertain(leader, now);
        self.after(store, if young { Event::Read(number) } else { Event::Rotate(number) });
    }

    /// Returns whether the store executes a call of this flight, and whether its result arrives.
    fn store_answers(&mut self, number: usize) -> (bool, bool) {
        let fault = self.requests[self.flights[number].leader].plan.fault;
        let does = !self.is_down() && fault != Some(Fault::NotExecuted);
        let says = does && fault != Some(Fault::ResultLost);
        if !does {
            self.record(CoverageEvent::StoreRefused);
        } else if !says {
            self.record(CoverageEvent::StoreResultLost);
        }
        (does, says)
    }

    fn update(&self, number: usize) -> Step {
        let Flight { leader, cookies, began, .. } = self.flights[number];
        Step {
            place: cookies.session,
            from: cookies.generation,
            now: began,
            max_rotated_at: began - self.settings.grace(),
            asked_by: self
                .presented(leader)
                .and_then(|presented| presented.access_token)
                .map(|beside| beside.token),
            idle_expires_at: began + ms(self.settings.access_ttl + self.settings.idle_ttl),
            client: ClientInfo::default(),
        }
    }

    pub(super) fn rotate(&mut self, number: usize) {
        let (does, says) = self.store_answers(number);
        let step = self.update(number);
        let wait = self.settings.rules.waits_for_grace();
        let row = if does { self.store.rotate(self.now, &step, wait) } else { None };
        if row.is_some() {
            self.record(CoverageEvent::Rotated);
        }
        self.check_successors(step.place);
        match row {
            _ if !says || self.has_crashed(number) => self.complete(number, None),
            Some(row) => self.complete(number, Some(Resolved::Live(Rc::new(row), SessionEvent::Rotated))),
            None => {
                let store = self.requests[self.flights[number].leader].plan.store;
                self.after(store, Event::Read(number));
            }
        }
    }

    fn check_successors(&mut self, place: usize) {
        if let Some(generation) = self.store.rows[place].duplicated_generation {
            self.violate(|| format!("generation {generation} of session {place} was created twice"));
        }
    }

    pub(super) fn read(&mut self, number: usize) {
        if self.has_crashed(number) || !self.store_answers(number).1 {
            return self.complete(number, None);
        }
        let Flight { leader, cookies, began, .. } = self.flights[number];
        let row = self.store.rows[cookies.session].session.clone();
        let decision = self.decide(leader, &row, began);
        let store = self.requests[leader].plan.store;
        match decision {
            Some(Decision::Replay) => {
                let row = Session { generation: row.generation.max(cookies.generation), ..row };
                self.complete(number, Some(Resolved::Live(Rc::new(row), SessionEvent::Replayed)));
            }
            Some(Decision::CatchUp { .. }) => self.after(store, Event::CatchUp(number)),
            Some(Decision::Reuse(_)) => self.after(store, Event::EndByReuse(number)),
            Some(Decision::Ended { event, .. }) => self.complete(number, Some(Resolved::Over(event))),
            Some(Decision::Rotate) if self.is_clock_uncertain(leader, began) => {
                self.after(store, Event::Rotate(number));
            }
            Some(Decision::Rotate) => self.step(number),
            other => self.violate(|| format!("unexpected decision {other:?}")),
        }
    }

    fn decide(&self, request: usize, row: &Session, now: OffsetDateTime) -> Option<Decision> {
        let presented = self.presented(request)?;
        let place = self.requests[request].cookies?.session;
        let first_use = self.store.rows[place].first_use;
        let first_use = first_use.filter(|&(generation, _)| generation == row.generation).map(|(_, at)| at);
        let decision =
            self.settings.rules.decide(Some(row), first_use, &presented, now, self.settings.grace());
        let is_uncertain = self.is_clock_uncertain(request, now) && row.settled_by.is_none();
        Some(if decision == Decision::Rotate && is_uncertain { Decision::Replay } else { decision })
    }

    pub(super) fn catch_up(&mut self, number: usize) {
        let (does, says) = self.store_answers(number);
        let step = self.update(number);
        let row = if does { self.store.catch_up(self.now, &step) } else { None };
        self.check_successors(step.place);
        match row {
            _ if !says || self.has_crashed(number) => self.complete(number, None),
            Some(row) => self.complete(number, Some(Resolved::Live(Rc::new(row), SessionEvent::CaughtUp))),
            None => self.step(number),
        }
    }

    pub(super) fn end_by_reuse(&mut self, number: usize) {
        let (does, says) = self.store_answers(number);
        let Flight { leader, cookies, began, .. } = self.flights[number];
        let replica = (!self.has_crashed(number) && says).then(|| self.replica(leader));
        let ended = does && self.end_as_reuse(replica, cookies.session, began, CoverageEvent::ReuseAtRefresh);
        match replica {
            None => self.complete(number, None),
            Some(_) if ended => self.complete(number, Some(Resolved::Over(SessionEvent::ReuseDetected))),
            Some(_) => self.step(number),
        }
    }

    fn complete(&mut self, number: usize, found: Option<Resolved>) {
        if self.has_crashed(number) {
            return;
        }
        let leader = self.flights[number].leader;
        let clock = self.clock(leader);
        let flight = &mut self.flights[number];
        let followers = std::mem::take(&mut flight.followers);
        flight.is_joinable &= found.is_some();
        flight.completed = found.clone().map(|found| (clock, found));
        match found {
            Some(Resolved::Live(row, event)) => self.issue(leader, &row, event),
            Some(Resolved::Over(event)) => self.reject(leader, event),
            None => self.fail(leader),
        }
        for follower in followers {
            match &self.flights[number].completed {
                Some(_) => self.share(number, follower),
                None => self.fail(follower),
            }
        }
    }

    /// Decides about a follower by the leader's row and the follower's tokens.
    fn share(&mut self, number: usize, request: usize) {
        let plan = &self.requests[request].plan;
        let has_disconnected =
            plan.disconnect.is_some_and(|patience| self.now > self.requests[request].sent + patience);
        if has_disconnected {
            self.record(CoverageEvent::ClientDisconnected);
            self.requests[request].done = true;
            return;
        }
        self.record(CoverageEvent::Shared);
        let Some((_, found)) = self.flights[number].completed.clone() else { return self.fail(request) };
        let row = match found {
            Resolved::Over(event) => return self.reject(request, event),
            Resolved::Live(row, _) => row,
        };
        if !self.settings.rules.decides_followers_separately() {
            return self.issue(request, &row, SessionEvent::Replayed);
        }
        let now = at(self.clock(request));
        match self.decide(request, &row, now) {
            Some(Decision::Replay) => self.issue(request, &row, SessionEvent::Replayed),
            Some(Decision::Rotate | Decision::CatchUp { .. }) => {
                self.flights[number].is_joinable = false;
                self.join_flight(request);
            }
            Some(Decision::Ended { event, .. }) => self.reject(request, event),
            Some(Decision::Reuse(_)) => self.end_by_follower(number, request, now),
            other => self.violate(|| format!("unexpected decision {other:?} for a follower")),
        }
    }

    /// Terminates the session because a follower's tokens show concurrent clients.
    fn end_by_follower(&mut self, number: usize, request: usize, now: OffsetDateTime) {
        let (replica, cookies) = (self.replica(request), self.flights[number].cookies);
        if self.is_down() {
            return self.fail(request);
        }
        if self.end_as_reuse(Some(replica), cookies.session, now, CoverageEvent::ReuseByFollower) {
            return self.reject(request, SessionEvent::ReuseDetected);
        }
        // Another termination came first. Its reason is in the row.
        self.flights[number].is_joinable = false;
        self.join_flight(request);
    }

    pub(super) fn mint(&mut self, request: usize, session: usize, row: &Session) -> Cookies {
        self.tokens += 1;
        let clock = self.clock(request);
        let part = (self.tokens.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as i64 % 1_001;
        let lifetime =
            self.settings.access_ttl - self.settings.access_ttl * self.settings.jitter * part / 1_000_000;
        let absolute = (row.absolute_expires_at - at(0)).whole_milliseconds() as i64;
        let access = Access {
            id: self.tokens,
            issued: clock.div_euclid(1_000),
            expires: (clock + lifetime).min(absolute).div_euclid(1_000),
        };
        Cookies { session, generation: row.generation, access }
    }

    fn issue(&mut self, request: usize, row: &Session, event: SessionEvent) {
        let Some(Cookies { session, .. }) = self.requests[request].cookies else { return };
        if event == SessionEvent::Replayed {
            self.record_replay(self.replica(request), session);
        }
        if self.requests[request].done {
            // The refresh timed out.
            return;
        }
        match event {
            SessionEvent::Replayed => self.record(CoverageEvent::Replayed),
            SessionEvent::CaughtUp => self.record(CoverageEvent::CaughtUp),
            _ => {}
        }
        let cookies = self.mint(request, session, row);
        self.requests[request].cookie_change = CookieChange::Set(cookies);
        self.requests[request].minted = self.now;
        self.record_response(request, SessionResponse::Renewed(event), Some(cookies));
        self.accept(request, true);
    }
}
