//! A renewal: boarding a flight, its leader's looks at the store, and what its followers make of it.

use sekisho::services::rotation::{AccompanyingAccessToken, Decision, PresentedToken, within_grace};

use super::*;
use crate::model::script::Fault;
use crate::model::store::{Step, session_id};

impl World<'_> {
    fn presented(&self, ask: usize) -> Option<PresentedToken> {
        let cookies = self.asking[ask].cookies?;
        let readable = self.is_readable(cookies.access, self.clock(ask));
        let beside =
            AccompanyingAccessToken { token: cookies.access.reference(), generation: cookies.generation };
        Some(PresentedToken {
            session: session_id(cookies.session),
            generation: cookies.generation,
            kind: self.settings.rules.kind(),
            access_token: readable.then_some(beside),
        })
    }

    /// A token from the future is none.
    pub(super) fn is_readable(&self, access: Access, clock: i64) -> bool {
        access.issued * 1_000 <= clock + self.settings.grace / 4
    }

    pub(super) fn board(&mut self, ask: usize) {
        let (replica, clock) = (self.replica(ask), self.clock(ask));
        let Some(cookies) = self.asking[ask].cookies else { return };
        self.asking[ask].attempts += 1;
        if self.asking[ask].attempts > ATTEMPTS {
            return self.fail(ask);
        }
        let remembered = REMEMBERED.min(self.settings.grace);
        let flights = &mut self.flights;
        self.replicas[replica].flights.retain(|&number| {
            let flight = &flights[number];
            let old = flight.landed.as_ref().is_some_and(|(landed, _)| clock - landed > remembered);
            flight.listed && !old
        });
        let same = |flight: &Flight| {
            flight.cookies.session == cookies.session && flight.cookies.generation == cookies.generation
        };
        let listed = self.replicas[replica].flights.iter().copied().find(|&number| same(&flights[number]));
        match listed {
            Some(number) if flights[number].landed.is_some() => self.share(number, ask),
            Some(number) => self.flights[number].passengers.push(ask),
            None => self.start_flight(replica, ask, cookies),
        }
    }

    fn start_flight(&mut self, replica: usize, ask: usize, cookies: Cookies) {
        let number = self.flights.len();
        self.flights.push(Flight {
            leader: ask,
            cookies,
            passengers: Vec::new(),
            began: at(self.clock(ask)),
            attempts: 0,
            boot: self.replicas[replica].life,
            listed: true,
            landed: None,
        });
        self.replicas[replica].flights.push(number);
        self.step(number);
    }

    /// The leader's next look at the store.
    fn step(&mut self, number: usize) {
        let leader = self.flights[number].leader;
        let now = at(self.clock(leader));
        let flight = &mut self.flights[number];
        flight.began = now;
        flight.attempts += 1;
        if flight.attempts > ATTEMPTS {
            return self.land(number, None);
        }
        let store = self.asking[leader].plan.store;
        let young = self.settings.rules.wait_for_the_grace()
            && self
                .presented(leader)
                .is_some_and(|presented| within_grace(&presented, now, self.settings.grace()));
        self.after(store, if young { Event::Read(number) } else { Event::Rotate(number) });
    }

    /// Whether the store does what this flight asks, and whether it says so.
    fn store_answers(&mut self, number: usize) -> (bool, bool) {
        let fault = self.asking[self.flights[number].leader].plan.fault;
        let does = !self.is_down() && fault != Some(Fault::Refused);
        let says = does && fault != Some(Fault::Unheard);
        if !does {
            self.see(Seen::StoreRefused);
        } else if !says {
            self.see(Seen::StoreUnheard);
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
        let wait = self.settings.rules.wait_for_the_grace();
        let row = if does { self.store.rotate(self.now, &step, wait) } else { None };
        if row.is_some() {
            self.see(Seen::Rotated);
        }
        self.check_successors(step.place);
        match row {
            _ if !says || self.is_lost(number) => self.land(number, None),
            Some(row) => self.land(number, Some(Resolved::Live(Rc::new(row), SessionEvent::Rotated))),
            None => {
                let store = self.asking[self.flights[number].leader].plan.store;
                self.after(store, Event::Read(number));
            }
        }
    }

    fn check_successors(&mut self, place: usize) {
        if let Some(generation) = self.store.rows[place].made_twice {
            self.break_with(|| format!("generation {generation} of session {place} was made twice"));
        }
    }

    pub(super) fn read(&mut self, number: usize) {
        if self.is_lost(number) || !self.store_answers(number).1 {
            return self.land(number, None);
        }
        let Flight { leader, cookies, began, .. } = self.flights[number];
        let row = self.store.rows[cookies.session].session.clone();
        let decision = self.decide(leader, &row, began);
        let store = self.asking[leader].plan.store;
        match decision {
            Some(Decision::Replay) => {
                self.land(number, Some(Resolved::Live(Rc::new(row), SessionEvent::Replayed)));
            }
            Some(Decision::CatchUp { .. }) => self.after(store, Event::CatchUp(number)),
            Some(Decision::Reuse(_)) => self.after(store, Event::EndByReuse(number)),
            Some(Decision::Ended { event, .. }) => self.land(number, Some(Resolved::Over(event))),
            Some(Decision::Rotate) => self.step(number),
            other => self.break_with(|| format!("decided {other:?}")),
        }
    }

    fn decide(&self, ask: usize, row: &Session, now: OffsetDateTime) -> Option<Decision> {
        let presented = self.presented(ask)?;
        let place = self.asking[ask].cookies?.session;
        let first_use = self.store.rows[place].first_use;
        let first_use = first_use.filter(|&(generation, _)| generation == row.generation).map(|(_, at)| at);
        Some(self.settings.rules.decide(Some(row), first_use, &presented, now, self.settings.grace()))
    }

    pub(super) fn catch_up(&mut self, number: usize) {
        let (does, says) = self.store_answers(number);
        let step = self.update(number);
        let row = if does { self.store.catch_up(self.now, &step) } else { None };
        self.check_successors(step.place);
        match row {
            _ if !says || self.is_lost(number) => self.land(number, None),
            Some(row) => self.land(number, Some(Resolved::Live(Rc::new(row), SessionEvent::CaughtUp))),
            None => self.step(number),
        }
    }

    pub(super) fn end_by_reuse(&mut self, number: usize) {
        let (does, says) = self.store_answers(number);
        let Flight { leader, cookies, began, .. } = self.flights[number];
        let replica = (!self.is_lost(number) && says).then(|| self.replica(leader));
        let ended = does && self.end_as_reuse(replica, cookies.session, began, Seen::ReuseAtRenewal);
        match replica {
            None => self.land(number, None),
            Some(_) if ended => self.land(number, Some(Resolved::Over(SessionEvent::ReuseDetected))),
            Some(_) => self.step(number),
        }
    }

    fn land(&mut self, number: usize, found: Option<Resolved>) {
        if self.is_lost(number) {
            return;
        }
        let leader = self.flights[number].leader;
        let clock = self.clock(leader);
        let flight = &mut self.flights[number];
        let passengers = std::mem::take(&mut flight.passengers);
        flight.listed &= found.is_some();
        flight.landed = found.clone().map(|found| (clock, found));
        match found {
            Some(Resolved::Live(row, event)) => self.hand_out(leader, &row, event),
            Some(Resolved::Over(event)) => self.refuse(leader, event),
            None => self.fail(leader),
        }
        for passenger in passengers {
            match &self.flights[number].landed {
                Some(_) => self.share(number, passenger),
                None => self.fail(passenger),
            }
        }
    }

    /// A follower's part: the leader's row, judged with its own tokens.
    fn share(&mut self, number: usize, ask: usize) {
        let plan = &self.asking[ask].plan;
        let hung_up = plan.hang_up.is_some_and(|patience| self.now > self.asking[ask].sent + patience);
        if hung_up {
            self.see(Seen::HungUp);
            self.asking[ask].done = true;
            return;
        }
        self.see(Seen::Shared);
        let Some((_, found)) = self.flights[number].landed.clone() else { return self.fail(ask) };
        let row = match found {
            Resolved::Over(event) => return self.refuse(ask, event),
            Resolved::Live(row, _) => row,
        };
        if !self.settings.rules.judge_followers() {
            return self.hand_out(ask, &row, SessionEvent::Replayed);
        }
        let now = at(self.clock(ask));
        match self.decide(ask, &row, now) {
            Some(Decision::Replay) => self.hand_out(ask, &row, SessionEvent::Replayed),
            Some(Decision::Rotate | Decision::CatchUp { .. }) => {
                self.flights[number].listed = false;
                self.board(ask);
            }
            Some(Decision::Ended { event, .. }) => self.refuse(ask, event),
            Some(Decision::Reuse(_)) => self.end_by_follower(number, ask, now),
            other => self.break_with(|| format!("a follower was decided {other:?}")),
        }
    }

    /// A follower's tokens show a second jar.
    fn end_by_follower(&mut self, number: usize, ask: usize, now: OffsetDateTime) {
        let (replica, cookies) = (self.replica(ask), self.flights[number].cookies);
        if self.is_down() {
            return self.fail(ask);
        }
        if self.end_as_reuse(Some(replica), cookies.session, now, Seen::ReuseAmongSharers) {
            return self.refuse(ask, SessionEvent::ReuseDetected);
        }
        // Another end was faster, and its reason stands: the row will say which.
        self.flights[number].listed = false;
        self.board(ask);
    }

    pub(super) fn mint(&mut self, ask: usize, session: usize, row: &Session) -> Cookies {
        self.tokens += 1;
        let clock = self.clock(ask);
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

    fn hand_out(&mut self, ask: usize, row: &Session, event: SessionEvent) {
        let Some(Cookies { session, .. }) = self.asking[ask].cookies else { return };
        if self.asking[ask].done {
            return; // Its patience ran out.
        }
        match event {
            SessionEvent::Replayed => self.see(Seen::Replayed),
            SessionEvent::CaughtUp => self.see(Seen::CaughtUp),
            _ => {}
        }
        let cookies = self.mint(ask, session, row);
        self.asking[ask].reply = Reply::Set(cookies);
        self.asking[ask].minted = self.now;
        self.tell(ask, SessionResponse::Renewed(event), Some(cookies));
        self.accept(ask, true);
    }
}
