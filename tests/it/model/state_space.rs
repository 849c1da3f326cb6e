//! Every order of events in a small model: one browser with two requests in flight, two replicas, up to
//! four generations, and a store that may lose its last rotation.
//!
//! Time advances in quarters of the grace. A request is decided within one, its response arrives within
//! one or never, cookies are on disk within two, and one is left for clock skew.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use sekisho::models::session::{AccessTokenRef, Session, SessionKind, TokenId};
use sekisho::services::rotation::{
    AccompanyingAccessToken, Decision, PresentedToken, confirmation_age, decide,
};
use uuid::Uuid;

use super::store::{Store, at, session_id};

/// A quarter of the grace, in milliseconds.
const TICK: i64 = 15_000;
const GRACE: Duration = Duration::from_secs(60);
/// Lifetime of an access token in quarters of the grace, the shortest valid one.
const LIFETIME: i8 = 8;
const TO_DISK: i8 = 2;
const LAST_GENERATION: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Token {
    id: u8,
    issued: i8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct CookieJar {
    generation: u8,
    access: Token,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Row {
    generation: u8,
    rotated: i8,
    asked_by: Option<Token>,
    settled_by: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    /// To a replica. `orphan` is true if the browser has crashed since.
    There {
        replica: u8,
        orphan: bool,
    },
    Back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Message {
    way: Way,
    jar: CookieJar,
    /// Time at which it must have arrived or been lost.
    until: i8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    now: i8,
    row: Row,
    /// The row before a rotation that may not be on disk, and the time until which it can be lost.
    before: Option<(Row, i8)>,
    jar: CookieJar,
    disk: CookieJar,
    disk_due: Option<i8>,
    messages: [Option<Message>; 2],
}

/// Clock offset of the second replica, and the time to stop at.
#[derive(Clone, Copy, Debug)]
struct World {
    ahead: i8,
    horizon: i8,
}

/// The browser was signed out.
#[derive(Debug)]
struct SignedOut;

impl State {
    fn new() -> Self {
        let jar = CookieJar { generation: 1, access: Token { id: 0, issued: 0 } };
        let row = Row { generation: 1, rotated: 0, asked_by: None, settled_by: None };
        Self { now: 0, row, before: None, jar, disk: jar, disk_due: None, messages: [None; 2] }
    }

    /// Returns an id that is not in use.
    fn fresh_id(&self) -> u8 {
        let in_row = |row: Row| [row.asked_by.map(|token| token.id), row.settled_by];
        let used = [Some(self.jar.access.id), Some(self.disk.access.id)]
            .into_iter()
            .chain(in_row(self.row))
            .chain(self.before.into_iter().flat_map(|(row, _)| in_row(row)))
            .chain(self.messages.iter().map(|message| message.map(|message| message.jar.access.id)));
        let used: Vec<u8> = used.flatten().collect();
        (0..).find(|id| !used.contains(id)).unwrap()
    }

    fn tick(mut self, world: World) -> Option<Self> {
        let overdue = self.messages.iter().flatten().any(|message| message.until <= self.now);
        if overdue || self.now >= world.horizon {
            return None;
        }
        self.now += 1;
        if self.disk_due.is_some_and(|due| due <= self.now) {
            self.disk = self.jar;
            self.disk_due = None;
        }
        self.before = self.before.filter(|(_, until)| self.now <= *until);
        Some(self)
    }

    /// Sends a request to `replica`.
    fn ask(mut self, replica: u8, world: World) -> Option<Result<Self, SignedOut>> {
        let clock = self.now + world.ahead * replica as i8;
        let CookieJar { generation, access } = self.jar;
        let age = clock - access.issued;
        if age >= LIFETIME {
            let free = self.messages.iter().position(Option::is_none)?;
            if generation == LAST_GENERATION {
                return None;
            }
            let way = Way::There { replica, orphan: false };
            self.messages[free] = Some(Message { way, jar: self.jar, until: self.now + 1 });
            return Some(Ok(self));
        }
        let lasting = reference(access).older_than(confirmation_age(GRACE), at(i64::from(clock) * TICK));
        if !lasting || self.row.generation != generation || self.row.settled_by == Some(access.id) {
            return None;
        }
        // Another token has confirmed the generation: concurrent clients.
        Some(if self.row.settled_by.replace(access.id).is_some() { Err(SignedOut) } else { Ok(self) })
    }

    /// Delivers a message.
    fn receive(
        mut self,
        place: usize,
        world: World,
        template: &mut Session,
    ) -> Option<Result<Self, SignedOut>> {
        let message = self.messages[place].take()?;
        match message.way {
            Way::Back => {
                self.jar = message.jar;
                self.disk_due.get_or_insert(self.now + TO_DISK);
            }
            Way::There { replica, orphan } => {
                let clock = self.now + world.ahead * replica as i8;
                if !self.renew(message.jar, clock, template) {
                    return Some(Err(SignedOut));
                }
                if !orphan {
                    let access = Token { id: self.fresh_id(), issued: clock };
                    let jar = CookieJar { generation: self.row.generation, access };
                    self.messages[place] = Some(Message { way: Way::Back, jar, until: self.now + 1 });
                }
            }
        }
        Some(Ok(self))
    }

    /// Refreshes the session. Returns `false` if the browser is signed out.
    fn renew(&mut self, jar: CookieJar, clock: i8, template: &mut Session) -> bool {
        template.generation = self.row.generation.into();
        template.rotated_at = at(i64::from(self.row.rotated) * TICK);
        template.asked_by = self.row.asked_by.map(reference);
        template.settled_by = self.row.settled_by.map(token_id);
        let generation = jar.generation.into();
        let presented = PresentedToken {
            session: session_id(0),
            generation,
            kind: SessionKind::Browser,
            access_token: Some(AccompanyingAccessToken { token: reference(jar.access), generation }),
        };
        match decide(Some(template), &presented, at(i64::from(clock) * TICK), GRACE) {
            Decision::Replay => true,
            Decision::Rotate | Decision::CatchUp { .. } => {
                self.before = Some((self.row, self.now + 1));
                self.row = Row {
                    generation: jar.generation + 1,
                    rotated: clock,
                    asked_by: Some(jar.access),
                    settled_by: None,
                };
                true
            }
            _ => false,
        }
    }

    /// The store crashes and loses its last rotation.
    fn forget(mut self) -> Option<Self> {
        (self.row, _) = self.before.take()?;
        Some(self)
    }

    /// The browser restarts with the cookies on its disk. Its requests stay in flight.
    fn crash(mut self) -> Self {
        (self.jar, self.disk_due) = (self.disk, None);
        for slot in &mut self.messages {
            *slot = slot.and_then(|message| match message.way {
                Way::There { replica, .. } => {
                    Some(Message { way: Way::There { replica, orphan: true }, ..message })
                }
                Way::Back => None,
            });
        }
        self
    }

    fn lose(mut self, place: usize) -> Option<Self> {
        self.messages[place].take().map(|_| self)
    }
}

fn token_id(id: u8) -> TokenId {
    TokenId(Uuid::from_u128(id.into()))
}

fn reference(token: Token) -> AccessTokenRef {
    AccessTokenRef { id: token_id(token.id), issued_at: at(i64::from(token.issued) * TICK) }
}

/// Returns the number of states, or a state from which the next event signs the browser out.
fn explore(world: World) -> Result<usize, State> {
    let long = Duration::from_secs(1_000_000);
    let mut template = Store::default().new_session(0, SessionKind::Browser, at(0), long, long);
    let mut seen = HashSet::from([State::new()]);
    let mut queue = VecDeque::from([State::new()]);
    while let Some(state) = queue.pop_front() {
        let certain = [state.tick(world), state.forget(), Some(state.crash()), state.lose(0), state.lose(1)];
        let next = certain.into_iter().flatten().map(Ok);
        let judged = [
            state.ask(0, world),
            state.ask(1, world),
            state.receive(0, world, &mut template),
            state.receive(1, world, &mut template),
        ];
        for next in next.chain(judged.into_iter().flatten()) {
            let next = next.map_err(|SignedOut| state)?;
            if seen.insert(next) {
                queue.push_back(next);
            }
        }
    }
    Ok(seen.len())
}

#[test]
fn no_order_of_events_signs_browser_out() {
    for ahead in [0, 1] {
        let states = explore(World { ahead, horizon: 18 }).unwrap();
        assert!(states > 50_000, "{states}");
    }
}

#[test]
fn clock_skew_beyond_the_grace_signs_browser_out() {
    assert!(explore(World { ahead: 4, horizon: 18 }).is_err());
}
