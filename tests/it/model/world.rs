//! Browsers, replicas, the store and a thief, event by event, on a clock of its own.
//!
//! Each request goes the way the product has it: the layer looks at the access token, a renewal
//! boards a flight, its leader tries the conditional update, then reads the row and decides;
//! followers are judged with their own tokens.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Duration;

use sekisho::identity::SessionEvent;
use sekisho::models::session::{AccessRef, EndReason, Session, SessionEnd, TokenId};
use sekisho::services::rotation::{Beside, Decision, Presented, is_young};
use time::OffsetDateTime;
use uuid::Uuid;

use super::script::{Action, Fault, Purpose, Request, Script, Settings};
use super::store::{Step, Store, at, session_id};

/// How long a flight's result is shared.
const REMEMBERED: i64 = 5_000;
/// How long a request with a valid token waits for its renewal.
const PATIENCE: i64 = 100;
/// How often a lost race is looked at again.
const ATTEMPTS: u32 = 4;
/// How long an end takes to the last replica.
const FEED: i64 = 1_000;
/// How long a settlement may wait to be written.
const SETTLING: i64 = 1_000;
/// How long a browser keeps cookies from its disk.
pub(super) const DISK: i64 = 30_000;

/// An access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Access {
    id: u128,
    /// In whole seconds, as a JWT has them.
    issued: i64,
    expires: i64,
}

impl Access {
    fn reference(self) -> AccessRef {
        AccessRef { id: TokenId(Uuid::from_u128(self.id)), issued_at: at(self.issued * 1_000) }
    }
}

/// Both cookies: of one session and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cookies {
    session: usize,
    generation: u32,
    access: Access,
}

/// Who holds cookies: a browser, or the thief.
#[derive(Clone, Debug, Default)]
struct Holder {
    jar: Option<Cookies>,
    disk: Option<Cookies>,
    to_disk: bool,
    crash_after: Option<i64>,
    /// Counts its crashes.
    life: u32,
}

/// A request under way.
#[derive(Clone, Debug)]
struct Asking {
    who: usize,
    life: u32,
    purpose: Purpose,
    plan: Request,
    sent: i64,
    cookies: Option<Cookies>,
    /// Its access token is still good.
    held: bool,
    attempts: u32,
    /// The life of the replica that it reached.
    boot: u32,
    /// It went on, or was refused.
    done: bool,
    reply: Reply,
    minted: i64,
    /// The user's password when it was checked.
    password: u32,
}

/// What an answer does to the jar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Nothing,
    Set(Cookies),
    Clear,
}

#[derive(Clone, Debug)]
enum Resolved {
    Live(Rc<Session>),
    Over(SessionEvent),
}

/// A renewal, on behalf of all that ask for the same.
#[derive(Debug)]
struct Flight {
    leader: usize,
    cookies: Cookies,
    passengers: Vec<usize>,
    /// The replica's clock when the leader began.
    began: OffsetDateTime,
    attempts: u32,
    /// The life of its replica.
    boot: u32,
    /// Found by those who come later.
    listed: bool,
    landed: Option<(i64, Resolved)>,
}

#[derive(Debug, Default)]
struct Replica {
    clock: i64,
    /// Counts its crashes.
    life: u32,
    /// Numbers into [`World::flights`].
    flights: Vec<usize>,
    /// Sessions whose end it has heard of.
    ended: Vec<usize>,
    notes: Vec<(usize, u32, TokenId)>,
    writing: bool,
}

/// Ordered only so that the queue can hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Act(usize),
    Send(usize),
    Arrive(usize),
    Patience(usize),
    Rotate(usize),
    Read(usize),
    CatchUp(usize),
    EndByReuse(usize),
    Handle(usize),
    Leave(usize),
    Deliver(usize),
    Settle(usize, u32),
    Heard(usize, usize),
    Disk(usize, u32),
    Crash(usize, u32),
}

/// How a run came out.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// How many events there were.
    pub(super) steps: u64,
    /// The first invariant broken.
    pub(super) broken: Option<String>,
    /// How long after the theft the session ended as reuse.
    pub(super) caught: Option<i64>,
    /// Whether there was a session to steal.
    pub(super) stolen: bool,
    pub(super) rotations: u64,
    pub(super) replays: u64,
    pub(super) catch_ups: u64,
    pub(super) reuses: u64,
    pub(super) ends: u64,
}

/// See the [module](self).
pub(super) struct World<'a> {
    script: &'a Script,
    settings: &'a Settings,
    now: i64,
    queue: BinaryHeap<Reverse<(i64, u64, Event)>>,
    queued: u64,
    store: Store,
    down_until: i64,
    replicas: Vec<Replica>,
    /// The browsers, and the thief last.
    holders: Vec<Holder>,
    asking: Vec<Asking>,
    flights: Vec<Flight>,
    tokens: u128,
    theft: Option<(usize, i64)>,
    brief: bool,
    outcome: Outcome,
}

impl<'a> World<'a> {
    /// Runs a script to its end, or to the first invariant that breaks.
    pub(super) fn run(script: &'a Script) -> Outcome {
        let settings = &script.settings;
        let clocks = settings.clocks.iter();
        let mut world = Self {
            script,
            settings,
            now: 0,
            queue: BinaryHeap::new(),
            queued: 0,
            store: Store::default(),
            down_until: 0,
            replicas: clocks.map(|&clock| Replica { clock, ..Replica::default() }).collect(),
            holders: vec![Holder::default(); script.browsers + 1],
            asking: Vec::new(),
            flights: Vec::new(),
            tokens: 0,
            theft: None,
            brief: false,
            outcome: Outcome::default(),
        };
        world.act_next(0);
        while let Some(Reverse((time, _, event))) = world.queue.pop() {
            world.now = time;
            world.outcome.steps += 1;
            world.happen(event);
            if world.outcome.broken.is_some() || world.outcome.caught.is_some() {
                break;
            }
        }
        world.audit();
        world.outcome
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Act(action) => self.act(action),
            Event::Send(ask) => self.send(ask),
            Event::Arrive(ask) => self.arrive(ask),
            Event::Patience(ask) => self.lose_patience(ask),
            Event::Rotate(flight) => self.rotate(flight),
            Event::Read(flight) => self.read(flight),
            Event::CatchUp(flight) => self.catch_up(flight),
            Event::EndByReuse(flight) => self.end_by_reuse(flight),
            Event::Handle(ask) => self.handle(ask),
            Event::Leave(ask) => self.leave(ask),
            Event::Deliver(ask) => self.deliver(ask),
            Event::Settle(replica, life) => self.settle(replica, life),
            Event::Heard(replica, session) => self.hear(replica, session),
            Event::Disk(holder, life) => self.write_disk(holder, life),
            Event::Crash(holder, life) => self.crash(holder, life),
        }
    }

    fn after(&mut self, delay: i64, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse((self.now + delay, self.queued, event)));
    }

    fn break_with(&mut self, what: impl FnOnce() -> String) {
        if self.outcome.broken.is_none() {
            self.outcome.broken = Some(format!("{} ms: {}", self.now, what()));
        }
    }

    // What the script says.

    fn act_next(&mut self, action: usize) {
        if let Some(&(time, _)) = self.script.actions.get(action) {
            self.after(time - self.now, Event::Act(action));
        }
    }

    fn act(&mut self, action: usize) {
        let script = self.script;
        match &script.actions[action].1 {
            Action::Burst { browser, requests } => self.ask_all(*browser, requests),
            Action::Ask { browser, purpose, request } => self.ask(*browser, *purpose, *request),
            Action::Crash { browser } => self.crash(*browser, self.holders[*browser].life),
            Action::CrashAfterRotation { browser, after } => {
                self.holders[*browser].crash_after = Some(*after);
            }
            Action::CrashReplica { replica } => self.crash_replica(*replica % self.replicas.len()),
            Action::CrashStore { lost } => self.store.crash(self.now, *lost),
            Action::StoreDown { until } => self.down_until = *until,
            Action::Steal { browser } => self.steal(*browser),
            Action::Thief { brief, requests } => {
                self.brief = *brief;
                self.ask_all(self.thief(), requests);
            }
        }
        self.act_next(action + 1);
    }

    fn thief(&self) -> usize {
        self.holders.len() - 1
    }

    fn ask_all(&mut self, who: usize, requests: &[Request]) {
        for request in requests {
            self.ask(who, Purpose::Page, *request);
        }
    }

    fn ask(&mut self, who: usize, purpose: Purpose, plan: Request) {
        self.asking.push(Asking {
            who,
            life: self.holders[who].life,
            purpose,
            plan,
            sent: self.now,
            cookies: None,
            held: false,
            attempts: 0,
            boot: 0,
            done: false,
            reply: Reply::Nothing,
            minted: 0,
            password: 0,
        });
        self.after(plan.after, Event::Send(self.asking.len() - 1));
    }

    fn send(&mut self, ask: usize) {
        let (now, brief) = (self.now, self.brief);
        let thief = self.thief();
        let asking = &mut self.asking[ask];
        let holder = &self.holders[asking.who];
        if asking.life != holder.life {
            return;
        }
        asking.sent = now;
        asking.cookies = holder.jar;
        if asking.who == thief
            && brief
            && holder.jar.is_some_and(|cookies| self.settings.lasting(cookies, now))
        {
            return;
        }
        let up = asking.plan.up;
        self.after(up, Event::Arrive(ask));
    }

    fn crash(&mut self, browser: usize, life: u32) {
        let holder = &mut self.holders[browser];
        if holder.life == life {
            *holder = Holder { jar: holder.disk, disk: holder.disk, life: life + 1, ..Holder::default() };
        }
    }

    fn crash_replica(&mut self, replica: usize) {
        let Replica { clock, life, ref ended, .. } = self.replicas[replica];
        // When it is ready again it has loaded all that ended.
        let ended = ended.clone();
        self.replicas[replica] = Replica { clock, life: life + 1, ended, ..Replica::default() };
        for place in 0..self.store.rows.len() {
            if self.store.rows[place].ended.is_some() {
                self.hear(replica, place);
            }
        }
    }

    fn steal(&mut self, browser: usize) {
        let Some(cookies) = self.holders[browser].jar else { return };
        let row = &mut self.store.rows[cookies.session];
        if row.ended.is_none() {
            row.stolen = true;
            self.outcome.stolen = true;
            self.theft.get_or_insert((cookies.session, self.now));
            let thief = self.thief();
            self.holders[thief].jar = Some(cookies);
        }
    }

    // The layer.

    fn replica(&self, ask: usize) -> usize {
        self.asking[ask].plan.replica % self.replicas.len()
    }

    /// The clock of the replica that was asked.
    fn clock(&self, ask: usize) -> i64 {
        self.now + self.replicas[self.replica(ask)].clock
    }

    fn arrive(&mut self, ask: usize) {
        let replica = self.replica(ask);
        self.asking[ask].boot = self.replicas[replica].life;
        if matches!(self.asking[ask].purpose, Purpose::SignIn | Purpose::SignOut) {
            self.asking[ask].password = self.store.password;
            return self.accept(ask, false);
        }
        let Some(cookies) = self.asking[ask].cookies else { return };
        self.note_first_use(cookies, ask);
        let clock = self.clock(ask);
        let access = cookies.access;
        let valid = self.is_readable(access, clock) && clock < access.expires * 1_000 + self.settings.leeway;
        if valid && self.replicas[replica].ended.contains(&cookies.session) {
            return self.refuse(ask, SessionEvent::Missing);
        }
        if valid {
            self.note_lasting(replica, cookies, clock);
        }
        let due = clock >= access.expires * 1_000 - (access.expires - access.issued) * 100;
        if valid && !due {
            return self.accept(ask, true);
        }
        self.asking[ask].held = valid;
        if valid {
            self.after(PATIENCE, Event::Patience(ask));
        }
        self.board(ask);
    }

    fn lose_patience(&mut self, ask: usize) {
        if !self.asking[ask].done && !self.is_dead(ask) {
            self.accept(ask, true);
        }
    }

    /// Whether the replica has crashed since the request reached it.
    fn is_dead(&self, ask: usize) -> bool {
        self.asking[ask].boot != self.replicas[self.replica(ask)].life
    }

    fn is_lost(&self, number: usize) -> bool {
        let Flight { leader, boot, .. } = self.flights[number];
        boot != self.replicas[self.replica(leader)].life
    }

    /// The request goes on; `by_session`: because its session lives.
    fn accept(&mut self, ask: usize, by_session: bool) {
        let asking = &mut self.asking[ask];
        asking.done = true;
        if let (true, Some(cookies)) = (by_session, asking.cookies) {
            asking.password = self.store.password;
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
        if row.ended.is_some_and(|ended| self.now > ended + bound) {
            self.break_with(|| format!("session {session} was accepted after its end"));
        } else if at(self.clock(ask)) > row.session.absolute_expires_at + ms(self.settings.leeway + bound) {
            self.break_with(|| format!("session {session} was accepted after its absolute expiry"));
        }
    }

    fn refuse(&mut self, ask: usize, event: SessionEvent) {
        if self.asking[ask].done {
            return;
        }
        self.asking[ask].done = true;
        let Some(cookies) = self.asking[ask].cookies else { return };
        let (row, now) = (&self.store.rows[cookies.session], at(self.clock(ask)));
        // A replica whose clock is behind may renew what this one saw expire.
        let expired = event == SessionEvent::IdleExpired && row.expiry_before <= now;
        let lives = row.session.over(now).is_none() && !expired;
        if lives && self.asking[ask].who != self.thief() {
            self.break_with(|| {
                format!("session {} lives, and its browser was told {event}", cookies.session)
            });
        }
    }

    /// Nothing was decided: what the access token is still good for, or 503.
    fn fail(&mut self, ask: usize) {
        if !self.asking[ask].done && self.asking[ask].held {
            self.accept(ask, true);
        }
        self.asking[ask].done = true;
    }

    // Renewal.

    fn presented(&self, ask: usize) -> Option<Presented> {
        let cookies = self.asking[ask].cookies?;
        let readable = self.is_readable(cookies.access, self.clock(ask));
        let beside = Beside { token: cookies.access.reference(), generation: cookies.generation };
        Some(Presented {
            session: session_id(cookies.session),
            generation: cookies.generation,
            kind: self.settings.rules.kind(),
            beside: readable.then_some(beside),
        })
    }

    /// A token from the future is none.
    fn is_readable(&self, access: Access, clock: i64) -> bool {
        access.issued * 1_000 <= clock + self.settings.grace / 4
    }

    fn board(&mut self, ask: usize) {
        let (replica, clock) = (self.replica(ask), self.clock(ask));
        let Some(cookies) = self.asking[ask].cookies else { return };
        self.asking[ask].attempts += 1;
        if self.asking[ask].attempts > ATTEMPTS {
            return self.fail(ask);
        }
        let flights = &mut self.flights;
        self.replicas[replica].flights.retain(|&number| {
            let flight = &flights[number];
            let old = flight.landed.as_ref().is_some_and(|(landed, _)| clock - landed > REMEMBERED);
            flight.listed && !old
        });
        let same = |flight: &Flight| {
            flight.cookies.session == cookies.session && flight.cookies.generation == cookies.generation
        };
        let listed = self.replicas[replica].flights.iter().copied().find(|&number| same(&flights[number]));
        match listed {
            Some(number) if flights[number].landed.is_some() => self.share(number, ask),
            Some(number) => flights[number].passengers.push(ask),
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
                .is_some_and(|presented| is_young(&presented, now, self.settings.grace()));
        self.after(store, if young { Event::Read(number) } else { Event::Rotate(number) });
    }

    /// Whether the store does what this flight asks, and whether it says so.
    fn store_answers(&self, number: usize) -> (bool, bool) {
        let flight = &self.flights[number];
        let fault = self.asking[flight.leader].plan.fault;
        let up = self.now >= self.down_until && fault != Some(Fault::Refused);
        (up, up && fault != Some(Fault::Unheard))
    }

    fn update(&self, number: usize) -> Step {
        let Flight { cookies, began, .. } = self.flights[number];
        Step {
            place: cookies.session,
            from: cookies.generation,
            now: began,
            last_rotated_by: began - self.settings.grace(),
            asked_by: Some(cookies.access.reference()),
            idle_expires_at: began + ms(self.settings.access_ttl + self.settings.idle_ttl),
        }
    }

    fn rotate(&mut self, number: usize) {
        let (does, says) = self.store_answers(number);
        let step = self.update(number);
        let wait = self.settings.rules.wait_for_the_grace();
        let row = if does { self.store.rotate(self.now, &step, wait) } else { None };
        self.outcome.rotations += u64::from(row.is_some());
        self.check_successors(step.place);
        match row {
            _ if !says || self.is_lost(number) => self.land(number, None),
            Some(row) => self.land(number, Some(Resolved::Live(Rc::new(row)))),
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

    fn read(&mut self, number: usize) {
        if self.is_lost(number) || !self.store_answers(number).1 {
            return self.land(number, None);
        }
        let Flight { leader, cookies, began, .. } = self.flights[number];
        let row = self.store.rows[cookies.session].session.clone();
        let decision = self.decide(leader, &row, began);
        let store = self.asking[leader].plan.store;
        match decision {
            Some(Decision::Replay) => {
                self.outcome.replays += 1;
                self.land(number, Some(Resolved::Live(Rc::new(row))));
            }
            Some(Decision::CatchUp { .. }) => self.after(store, Event::CatchUp(number)),
            Some(Decision::Reuse(_)) => self.after(store, Event::EndByReuse(number)),
            Some(Decision::Over { event, .. }) => self.land(number, Some(Resolved::Over(event))),
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

    fn catch_up(&mut self, number: usize) {
        let (does, says) = self.store_answers(number);
        let step = self.update(number);
        let row = if does { self.store.catch_up(self.now, &step) } else { None };
        self.outcome.catch_ups += u64::from(row.is_some());
        self.check_successors(step.place);
        match row {
            _ if !says || self.is_lost(number) => self.land(number, None),
            Some(row) => self.land(number, Some(Resolved::Live(Rc::new(row)))),
            None => self.step(number),
        }
    }

    fn end_by_reuse(&mut self, number: usize) {
        let (does, says) = self.store_answers(number);
        let Flight { leader, cookies, began, .. } = self.flights[number];
        let ended = does && self.end(self.replica(leader), cookies.session, EndReason::ReuseDetected, began);
        if !says || self.is_lost(number) {
            self.land(number, None);
        } else if ended {
            self.land(number, Some(Resolved::Over(SessionEvent::ReuseDetected)));
        } else {
            self.step(number);
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
            Some(Resolved::Live(row)) => self.hand_out(leader, &row),
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
            self.asking[ask].done = true;
            return;
        }
        let Some((_, found)) = self.flights[number].landed.clone() else { return self.fail(ask) };
        let row = match found {
            Resolved::Over(event) => return self.refuse(ask, event),
            Resolved::Live(row) => row,
        };
        if !self.settings.rules.judge_followers() {
            return self.hand_out(ask, &row);
        }
        let now = at(self.clock(ask));
        match self.decide(ask, &row, now) {
            Some(Decision::Replay) => {
                self.outcome.replays += 1;
                self.hand_out(ask, &row);
            }
            Some(Decision::Rotate | Decision::CatchUp { .. }) => {
                self.flights[number].listed = false;
                self.board(ask);
            }
            Some(Decision::Over { event, .. }) => self.refuse(ask, event),
            Some(Decision::Reuse(_)) => {
                let session = self.flights[number].cookies.session;
                self.end(self.replica(ask), session, EndReason::ReuseDetected, now);
                self.refuse(ask, SessionEvent::ReuseDetected);
            }
            other => self.break_with(|| format!("a follower was decided {other:?}")),
        }
    }

    fn mint(&mut self, ask: usize, session: usize, row: &Session) -> Cookies {
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

    fn hand_out(&mut self, ask: usize, row: &Session) {
        if self.asking[ask].done {
            return; // Its patience ran out.
        }
        let Some(Cookies { session, .. }) = self.asking[ask].cookies else { return };
        let cookies = self.mint(ask, session, row);
        self.asking[ask].reply = Reply::Set(cookies);
        self.asking[ask].minted = self.now;
        self.accept(ask, true);
    }

    // Sign-in, sign-out, passwords.

    fn handle(&mut self, ask: usize) {
        let (purpose, cookies) = (self.asking[ask].purpose, self.asking[ask].cookies);
        let refused = self.now < self.down_until || self.asking[ask].plan.fault == Some(Fault::Refused);
        if refused || self.is_dead(ask) {
            return;
        }
        let (replica, now) = (self.replica(ask), at(self.clock(ask)));
        match (purpose, cookies) {
            (Purpose::SignIn, _) => self.sign_in(ask, cookies.map(|cookies| cookies.session), now),
            (Purpose::SignOut, Some(cookies)) => {
                self.end(replica, cookies.session, EndReason::LoggedOut, now);
                self.asking[ask].reply = Reply::Clear;
            }
            (Purpose::SignOutAll, _) => {
                for place in 0..self.store.rows.len() {
                    self.end(replica, place, EndReason::LoggedOut, now);
                }
                self.asking[ask].reply = Reply::Clear;
            }
            (Purpose::ChangePassword, Some(cookies)) => self.change_password(ask, cookies.session, now),
            _ => {}
        }
        self.check_passwords();
        self.after(0, Event::Leave(ask));
    }

    fn sign_in(&mut self, ask: usize, replaces: Option<usize>, now: OffsetDateTime) {
        let Settings { rules, access_ttl, idle_ttl, absolute_ttl, .. } = *self.settings;
        let session = self.store.new_session(
            rules.kind(),
            now,
            duration(access_ttl + idle_ttl),
            duration(absolute_ttl),
        );
        let password = self.asking[ask].password;
        let Some(place) = self.store.insert(self.now, session, password, replaces) else { return };
        if let Some(replaced) = replaces {
            self.spread(self.replica(ask), replaced);
        }
        let row = self.store.rows[place].session.clone();
        let cookies = self.mint(ask, place, &row);
        self.asking[ask].reply = Reply::Set(cookies);
        self.asking[ask].minted = self.now;
    }

    fn change_password(&mut self, ask: usize, session: usize, now: OffsetDateTime) {
        let old = self.asking[ask].password;
        let ended = self.store.change_password(self.now, old, Some(session), now);
        for place in ended.into_iter().flatten() {
            self.spread(self.replica(ask), place);
        }
    }

    /// Every session that lives was made with the password of today, or kept by its change.
    fn check_passwords(&mut self) {
        let rows = &self.store.rows;
        let old = rows.iter().position(|row| row.ended.is_none() && row.password != self.store.password);
        if let Some(place) = old {
            self.break_with(|| format!("session {place} lives on a password that was changed"));
        }
    }

    // Ends.

    fn end(&mut self, replica: usize, session: usize, reason: EndReason, now: OffsetDateTime) -> bool {
        if !self.store.end(self.now, session, SessionEnd { at: now, reason }) {
            return false;
        }
        if reason == EndReason::ReuseDetected {
            self.outcome.reuses += 1;
            if !self.store.rows[session].stolen {
                self.break_with(|| format!("session {session} was ended as reuse, and nobody stole it"));
            }
            if let Some((_, stolen)) = self.theft.filter(|&(of, _)| of == session) {
                self.outcome.caught = Some(self.now - stolen);
            }
        }
        self.spread(replica, session);
        true
    }

    /// The replica that ended a session knows at once, the others within the bound.
    fn spread(&mut self, replica: usize, session: usize) {
        self.hear(replica, session);
        for other in 0..self.replicas.len() {
            let delay = FEED - (session as i64 * 337 + other as i64 * 113) % FEED;
            self.after(delay, Event::Heard(other, session));
        }
    }

    fn hear(&mut self, replica: usize, session: usize) {
        let Replica { ended, flights, .. } = &mut self.replicas[replica];
        if !ended.contains(&session) {
            ended.push(session);
        }
        for &mut number in flights {
            let flight = &mut self.flights[number];
            flight.listed &= flight.cookies.session != session;
        }
    }

    // Settling.

    fn note_first_use(&mut self, cookies: Cookies, ask: usize) {
        let now = at(self.clock(ask));
        let row = &mut self.store.rows[cookies.session];
        if row.first_use.is_none_or(|(generation, _)| generation < cookies.generation) {
            row.first_use = Some((cookies.generation, now));
        }
    }

    fn note_lasting(&mut self, replica: usize, cookies: Cookies, clock: i64) {
        let token = cookies.access.reference();
        if !self.settings.rules.settle() || !token.older_than(self.settings.grace(), at(clock)) {
            return;
        }
        let note = (cookies.session, cookies.generation, token.id);
        let Replica { notes, writing, life, .. } = &mut self.replicas[replica];
        if !notes.contains(&note) {
            notes.push(note);
        }
        if !std::mem::replace(writing, true) {
            let event = Event::Settle(replica, *life);
            let delay = (self.now * 7 + 13) % (SETTLING + 1);
            self.after(delay, event);
        }
    }

    fn settle(&mut self, replica: usize, life: u32) {
        if self.replicas[replica].life != life {
            return;
        }
        if self.now < self.down_until {
            return self.after(SETTLING, Event::Settle(replica, life));
        }
        self.replicas[replica].writing = false;
        let now = at(self.now + self.replicas[replica].clock);
        for (session, generation, token) in std::mem::take(&mut self.replicas[replica].notes) {
            let second = self.store.settle(self.now, session, generation, token);
            if second && self.settings.rules.ends_second_jar(&self.store.rows[session].session) {
                self.end(replica, session, EndReason::ReuseDetected, now);
            }
        }
    }

    // Answers.

    fn leave(&mut self, ask: usize) {
        if self.is_dead(ask) {
            return;
        }
        let replica = self.replica(ask);
        let asking = &mut self.asking[ask];
        if let Reply::Set(cookies) = asking.reply {
            let late = self.now > asking.minted + self.settings.grace / 4;
            if late || self.replicas[replica].ended.contains(&cookies.session) {
                asking.reply = Reply::Nothing;
            }
        }
        let hung_up = asking.plan.hang_up.is_some_and(|patience| self.now > asking.sent + patience);
        if !asking.plan.lost && !hung_up && asking.reply != Reply::Nothing {
            let down = asking.plan.down;
            self.after(down, Event::Deliver(ask));
        }
    }

    fn deliver(&mut self, ask: usize) {
        let Asking { who, life, reply, .. } = self.asking[ask];
        let holder = &mut self.holders[who];
        if holder.life != life {
            return;
        }
        let fresh = match reply {
            Reply::Nothing => return,
            Reply::Set(cookies) => Some(cookies),
            Reply::Clear => None,
        };
        let generation = |cookies: Cookies| (cookies.session, cookies.generation);
        let moved = holder.jar.map(generation) != fresh.map(generation);
        holder.jar = fresh;
        let armed = if moved { holder.crash_after.take() } else { None };
        if !std::mem::replace(&mut holder.to_disk, true) {
            self.after(DISK, Event::Disk(who, life));
        }
        if let Some(delay) = armed {
            self.after(delay, Event::Crash(who, life));
        }
    }

    fn write_disk(&mut self, who: usize, life: u32) {
        let holder = &mut self.holders[who];
        if holder.life == life {
            holder.disk = holder.jar;
            holder.to_disk = false;
        }
    }

    /// Every end has one reason.
    fn audit(&mut self) {
        for place in 0..self.store.rows.len() {
            let row = &self.store.rows[place];
            let ended = u32::from(row.session.end.is_some());
            self.outcome.ends += u64::from(ended);
            if row.audited != ended {
                let audited = row.audited;
                self.break_with(|| format!("{audited} reasons were audited for the end of session {place}"));
            }
        }
    }
}

impl Settings {
    pub(super) fn grace(&self) -> Duration {
        duration(self.grace)
    }

    /// A token that is good, and would soon settle its generation: the brief thief lets it be.
    fn lasting(&self, cookies: Cookies, now: i64) -> bool {
        let age = now - cookies.access.issued * 1_000;
        let good = now < cookies.access.expires * 1_000 + self.leeway + self.grace / 4;
        good && age > self.grace / 2
    }
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn ms(ms: i64) -> time::Duration {
    time::Duration::milliseconds(ms)
}
