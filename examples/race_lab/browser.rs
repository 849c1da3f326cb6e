//! An honest browser: several tabs, one jar, and a user who now and then signs out or changes the
//! password.

use std::sync::Arc;
use std::time::Duration;

use sekisho::clock::{Clock, SystemClock};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::client::{Client, Plan};
use crate::cookies::{Claims, Cookies};
use crate::lab::Lab;
use crate::ledger::Standing;
use crate::random::Random;
use crate::wire::{Ask, Cut};

/// A browser and its user.
pub(crate) struct Browser {
    pub(crate) client: Arc<Client>,
    pub(crate) random: Random,
    pub(crate) email: String,
    /// The password; and if the answer to its change was lost, the one that it may be instead.
    passwords: Vec<String>,
    requests: JoinSet<()>,
}

impl Browser {
    /// A browser of a user with [`FIRST_PASSWORD`].
    pub(crate) fn new(lab: &Arc<Lab>, name: String) -> Self {
        let random = Random::of_actor(lab.seed, &name);
        let (email, passwords) = (format!("{name}@lab.example"), vec![FIRST_PASSWORD.to_owned()]);
        let cookies = Cookies::new(lab.disk_every);
        let client = Arc::new(Client { lab: Arc::clone(lab), cookies, name });
        Self { client, random, email, passwords, requests: JoinSet::new() }
    }

    /// Browses until the run ends, then asks a last time whether it is signed in.
    pub(crate) async fn browse(mut self) {
        self.browse_until(None).await;
        self.ask_at_last().await;
    }

    /// Browses for a while, or until the run ends.
    pub(crate) async fn browse_until(&mut self, until: Option<Instant>) {
        let over = |until: Option<Instant>| until.is_some_and(|until| Instant::now() >= until);
        while self.lab().goes_on() && !over(until) {
            if !self.is_signed_in() {
                self.sign_in().await;
            }
            let pause = self.pause();
            if !self.lab().pause(pause).await {
                return;
            }
            match self.random.below(60) {
                0 => self.client.crash(),
                1 => self.sign_out().await,
                2 | 3 => self.change_password().await,
                _ => self.burst(),
            }
        }
    }

    /// Some tabs ask, at nearly the same moment.
    pub(crate) fn burst(&mut self) {
        let tabs = usize::from(self.lab().options.tabs);
        let together = self.random.one_in(2);
        for _ in 0..=self.random.below(tabs) {
            let after = if together { Duration::ZERO } else { self.random.up_to(self.lab().way / 4) };
            let plan = self.request(after);
            let client = Arc::clone(&self.client);
            self.requests.spawn(async move {
                client.ask(plan).await;
            });
        }
        while self.requests.try_join_next().is_some() {}
    }

    /// How long until the next burst: often short, or to the moment when the access token expires or
    /// may be renewed, or a rest.
    pub(crate) fn pause(&mut self) -> Duration {
        let (ttl, grace) = (self.lab().options.access_ttl, self.lab().options.grace);
        let claims = self.client.cookies.now().1.claims();
        match self.random.below(20) {
            0..=9 => self.random.up_to(grace / 2),
            10..=14 => self.random.between(grace / 2, grace + grace / 4),
            15..=18 => claims.map_or(grace, |claims| until_expiry(claims, ttl, self.random.one_in(2))),
            _ => self.random.between(ttl, ttl * 2),
        }
    }

    /// Signs in, once nothing of the last session is under way: its cookies would come over the new
    /// ones.
    pub(crate) async fn sign_in(&mut self) {
        self.settle().await;
        while self.lab().goes_on() {
            if let Some(session) = self.session() {
                self.lab().ledger.becomes(session, Standing::Leaving);
            }
            let body = json!({ "email": self.email, "password": self.passwords[0] });
            let cut = self.cut(10);
            let plan = Plan { cut, ..self.plain(Ask::post("/auth/login", &body)) };
            let arrived = self.client.exchange(&plan).await;
            match arrived.as_ref().map(|arrived| arrived.answer.status) {
                Some(200) => {
                    arrived.iter().for_each(|arrived| self.client.keep(arrived));
                    if let Some(session) = self.session() {
                        self.lab().ledger.signed_in(session, &self.client.name);
                    }
                    return;
                }
                Some(401) => self.passwords.rotate_left(1),
                _ => sleep(RETRY).await,
            }
        }
    }

    /// Waits until no request is under way.
    pub(crate) async fn settle(&mut self) {
        while self.requests.join_next().await.is_some() {}
    }

    /// The session of its cookies.
    pub(crate) fn session(&self) -> Option<Uuid> {
        self.client.cookies.now().1.session()
    }

    pub(crate) fn lab(&self) -> &Lab {
        &self.client.lab
    }

    /// A `GET` or, rarely, something else, which may break off somewhere.
    pub(crate) fn request(&mut self, after: Duration) -> Plan {
        let cut = self.cut(5);
        // Up to a fifth of the grace: so that some take longer than cookies may be handed out.
        let wait = self.random.up_to(self.lab().options.grace / 5).as_millis();
        let ask = match self.random.below(20) {
            0..=9 => Ask::get("/auth/session"),
            10..=13 => Ask::get("/app/page"),
            14..=15 => Ask::get("/app/stream"),
            16..=18 => Ask::get(format!("/app/slow?{wait}")),
            _ => Ask { method: "POST", ..Ask::get("/auth/refresh") },
        };
        let crash = self.random.one_in(25).then(|| self.random.up_to(self.lab().options.grace));
        Plan { after, cut, crash, within: self.lab().way, ..self.plain(ask) }
    }

    /// Nothing goes wrong with it by intention, and it may take long: it comes alone, so that there is
    /// nothing that it could be too late for.
    fn plain(&mut self, ask: Ask) -> Plan {
        let replica = self.random.below(16);
        Plan { after: Duration::ZERO, replica, ask, cut: Cut::Nowhere, within: ALONE, crash: None }
    }

    /// Where the connection breaks, once in so many times.
    fn cut(&mut self, one_in: usize) -> Cut {
        if !self.random.one_in(one_in) {
            return Cut::Nowhere;
        }
        match self.random.below(4) {
            0 => Cut::InHead,
            1 => Cut::InBody,
            _ => Cut::AfterSending(self.random.up_to(Duration::from_millis(15))),
        }
    }

    fn is_signed_in(&self) -> bool {
        let standing = self.session().and_then(|session| self.lab().ledger.standing(session));
        matches!(standing, Some(Standing::Live | Standing::Stolen(_)))
    }

    async fn sign_out(&mut self) {
        let Some(session) = self.session() else { return };
        self.lab().ledger.becomes(session, Standing::Leaving);
        let plan = self.plain(Ask { method: "POST", ..Ask::get("/auth/logout") });
        while self.lab().goes_on() {
            let arrived = self.client.exchange(&plan).await;
            if let Some(arrived) = arrived.filter(|arrived| arrived.answer.status == 204) {
                self.client.keep(&arrived);
                self.lab().ledger.count(|tally| tally.sign_outs += 1);
                return;
            }
            sleep(RETRY).await;
        }
    }

    async fn change_password(&mut self) {
        let new = new_password(&mut self.random);
        let body = json!({ "current_password": self.passwords[0], "new_password": new });
        let plan = Plan { within: self.lab().way, ..self.plain(Ask::post("/auth/password", &body)) };
        match self.client.ask(plan).await {
            Some(200) => {
                self.passwords = vec![new];
                self.lab().ledger.count(|tally| tally.password_changes += 1);
            }
            Some(403) => self.passwords.rotate_left(1),
            Some(_) => {}
            None => self.passwords.push(new),
        }
    }

    /// When all troubles are over, whoever is signed in must be told so.
    async fn ask_at_last(&mut self) {
        self.settle().await;
        let Some(session) = self.session().filter(|_| self.is_signed_in()) else { return };
        let deadline = Instant::now() + AT_LAST;
        while Instant::now() < deadline {
            let plan = self.plain(Ask::get("/auth/session"));
            if let Some(200 | 401) = self.client.ask(plan).await {
                return;
            }
            sleep(RETRY).await;
        }
        self.lab().ledger.wrong(Some(session), "no gateway answered in the end");
    }
}

/// Until the access token expires, or a bit before, when a page may be given the next one already.
fn until_expiry(claims: Claims, ttl: Duration, early: bool) -> Duration {
    let now = SystemClock.now().unix_timestamp_nanos() / 1_000_000;
    let left = u64::try_from(i128::from(claims.exp) * 1_000 - now).unwrap_or_default();
    let left = Duration::from_millis(left).min(ttl);
    if early { left.saturating_sub(ttl / 12) } else { left }
}

fn new_password(random: &mut Random) -> String {
    format!("{:016x}-{:016x}", random.next(), random.next())
}

/// Every user's password until it is changed.
pub(crate) const FIRST_PASSWORD: &str = "mountain-lantern-over-hakone";

const RETRY: Duration = Duration::from_millis(50);

/// How long a sign-in may take.
const ALONE: Duration = Duration::from_secs(10);

/// How long the gateways have to come back, after the last trouble.
const AT_LAST: Duration = Duration::from_secs(30);
