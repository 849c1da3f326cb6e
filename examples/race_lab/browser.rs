//! A browser with several tabs, whose user occasionally signs out or changes the password.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::client::{Client, Plan};
use crate::cookies::{Claims, Cookies};
use crate::event_log::SessionStatus;
use crate::http_client::{ConnectionFault, HttpRequest};
use crate::lab::Lab;
use crate::random::Random;

/// A browser with its user.
pub(crate) struct Browser {
    pub(crate) client: Arc<Client>,
    pub(crate) random: Random,
    pub(crate) email: String,
    /// The password. If the response to a change was lost, also the other possible one.
    passwords: Vec<String>,
    requests: JoinSet<()>,
}

impl Browser {
    /// Creates the browser of a user with [`FIRST_PASSWORD`].
    pub(crate) fn new(lab: &Arc<Lab>, name: String) -> Self {
        let random = Random::for_actor(lab.seed, &name);
        let email = format!("{name}@lab.example");
        let passwords = vec![FIRST_PASSWORD.to_owned()];
        let cookies = Cookies::new(lab.disk_interval);
        let client = Arc::new(Client { lab: Arc::clone(lab), cookies, name });
        Self { client, random, email, passwords, requests: JoinSet::new() }
    }

    /// Browses until the run ends, then checks that it is still signed in.
    pub(crate) async fn browse(mut self) {
        self.browse_until(None).await;
        self.check_signed_in().await;
    }

    /// Browses for a while, or until the run ends.
    pub(crate) async fn browse_until(&mut self, until: Option<Instant>) {
        let is_past = |until: Option<Instant>| until.is_some_and(|until| Instant::now() >= until);
        while self.lab().is_running() && !is_past(until) {
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

    /// Sends requests from several tabs at nearly the same time.
    pub(crate) fn burst(&mut self) {
        let tabs = usize::from(self.lab().options.tabs);
        let is_simultaneous = self.random.one_in(2);
        for _ in 0..=self.random.below(tabs) {
            let after = if is_simultaneous {
                Duration::ZERO
            } else {
                self.random.up_to(self.lab().response_timeout / 4)
            };
            let plan = self.plan_request(after);
            let client = Arc::clone(&self.client);
            self.requests.spawn(async move {
                client.request(plan).await;
            });
        }
        while self.requests.try_join_next().is_some() {}
    }

    /// Returns the time until the next burst: often short, or until the access token expires or may be
    /// refreshed, or idle.
    pub(crate) fn pause(&mut self) -> Duration {
        let ttl = self.lab().options.access_ttl;
        let grace = self.lab().options.grace;
        let claims = self.client.cookies.now().1.claims();
        match self.random.below(20) {
            0..=9 => self.random.up_to(grace / 2),
            10..=14 => self.random.between(grace / 2, grace + grace / 4),
            15..=18 => {
                let now = self.lab().session_time.now_millis();
                claims.map_or(grace, |claims| until_expiry(claims, now, ttl, self.random.one_in(2)))
            }
            _ => self.random.between(ttl, ttl * 2),
        }
    }

    /// Signs in after the requests of the last session have finished, since their cookies would overwrite the
    /// new ones.
    pub(crate) async fn sign_in(&mut self) {
        self.wait_for_requests().await;
        while self.lab().is_running() {
            if let Some(session) = self.session() {
                self.lab().events.set_status(session, SessionStatus::SigningOut);
            }
            let body = json!({ "email": self.email, "password": self.passwords[0] });
            let fault = self.random_fault(10);
            let plan = Plan { fault, ..self.plan_without_faults(HttpRequest::post("/auth/login", &body)) };
            let received = self.client.exchange(&plan).await;
            match received.as_ref().map(|received| received.response.status) {
                Some(200) => {
                    let Some(received) = received else { continue };
                    self.client.keep(&received);
                    if let Some(session) = self.session() {
                        self.lab().events.record_sign_in(session, &self.client.name, received.sent);
                    }
                    return;
                }
                Some(401) => self.passwords.rotate_left(1),
                _ => sleep(RETRY_INTERVAL).await,
            }
        }
    }

    /// Waits until no request is in flight.
    pub(crate) async fn wait_for_requests(&mut self) {
        while self.requests.join_next().await.is_some() {}
    }

    /// Returns the session of its cookies.
    pub(crate) fn session(&self) -> Option<Uuid> {
        self.client.cookies.now().1.session()
    }

    pub(crate) fn lab(&self) -> &Lab {
        &self.client.lab
    }

    /// Plans a request, mostly a `GET`, whose connection may break.
    pub(crate) fn plan_request(&mut self, after: Duration) -> Plan {
        let fault = self.random_fault(5);
        // Up to a fifth of the grace. Responses may set cookies for a sixth of it, so some are too late.
        let wait = self.random.up_to(self.lab().options.grace / 5).as_millis();
        let request = match self.random.below(20) {
            0..=9 => HttpRequest::get("/auth/session"),
            10..=13 => HttpRequest::get("/app/page"),
            14..=15 => HttpRequest::get("/app/stream"),
            16..=18 => HttpRequest::get(format!("/app/slow?{wait}")),
            _ => HttpRequest { method: "POST", ..HttpRequest::get("/auth/refresh") },
        };
        let crash = self.random.one_in(25).then(|| self.random.up_to(self.lab().options.grace));
        Plan {
            after,
            fault,
            crash,
            timeout: self.lab().response_timeout,
            ..self.plan_without_faults(request)
        }
    }

    /// Plans a request without faults and with a long timeout, which is safe without concurrent requests.
    fn plan_without_faults(&mut self, request: HttpRequest) -> Plan {
        let replica = self.random.below(16);
        Plan {
            after: Duration::ZERO,
            replica,
            request,
            fault: ConnectionFault::Nowhere,
            timeout: SIGN_IN_TIMEOUT,
            crash: None,
        }
    }

    /// Plans a connection fault with a probability of 1 / `one_in`.
    fn random_fault(&mut self, one_in: usize) -> ConnectionFault {
        if !self.random.one_in(one_in) {
            return ConnectionFault::Nowhere;
        }
        match self.random.below(4) {
            0 => ConnectionFault::InHead,
            1 => ConnectionFault::InBody,
            _ => ConnectionFault::AfterSending(self.random.up_to(Duration::from_millis(15))),
        }
    }

    fn is_signed_in(&self) -> bool {
        let status = self.session().and_then(|session| self.lab().events.status(session));
        matches!(status, Some(SessionStatus::Active | SessionStatus::Stolen(_)))
    }

    async fn sign_out(&mut self) {
        let Some(session) = self.session() else { return };
        self.lab().events.set_status(session, SessionStatus::SigningOut);
        let plan =
            self.plan_without_faults(HttpRequest { method: "POST", ..HttpRequest::get("/auth/logout") });
        while self.lab().is_running() {
            let received = self.client.exchange(&plan).await;
            if let Some(received) = received.filter(|received| received.response.status == 204) {
                self.client.keep(&received);
                self.lab().events.count(|counters| counters.sign_outs += 1);
                return;
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn change_password(&mut self) {
        let new = new_password(&mut self.random);
        let body = json!({ "current_password": self.passwords[0], "new_password": new });
        let plan = Plan {
            timeout: self.lab().response_timeout,
            ..self.plan_without_faults(HttpRequest::post("/auth/password", &body))
        };
        match self.client.request(plan).await {
            Some(200) => {
                self.passwords = vec![new];
                self.lab().events.count(|counters| counters.password_changes += 1);
            }
            Some(403) => self.passwords.rotate_left(1),
            Some(_) => {}
            None => self.passwords.push(new),
        }
    }

    /// Checks after the last fault that a signed-in browser gets a response.
    async fn check_signed_in(&mut self) {
        self.wait_for_requests().await;
        let Some(session) = self.session().filter(|_| self.is_signed_in()) else { return };
        let deadline = Instant::now() + RECOVERY_TIMEOUT;
        while Instant::now() < deadline {
            let plan = self.plan_without_faults(HttpRequest::get("/auth/session"));
            if let Some(200 | 401) = self.client.request(plan).await {
                return;
            }
            sleep(RETRY_INTERVAL).await;
        }
        self.lab().events.record_error(Some(session), "no gateway responded at the end");
    }
}

/// Returns the time until the access token expires, or, if `early`, until it may be refreshed. `now` is in
/// milliseconds.
fn until_expiry(claims: Claims, now: i64, ttl: Duration, early: bool) -> Duration {
    let left = u64::try_from(claims.exp * 1_000 - now).unwrap_or_default();
    let left = Duration::from_millis(left).min(ttl);
    if early { left.saturating_sub(ttl / 12) } else { left }
}

fn new_password(random: &mut Random) -> String {
    format!("{:016x}-{:016x}", random.next(), random.next())
}

/// Initial password of every user.
pub(crate) const FIRST_PASSWORD: &str = "mountain-lantern-over-hakone";

const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Timeout of a sign-in.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for the gateways to recover after the last fault.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);
