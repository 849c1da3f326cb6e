//! A browser whose cookies are stolen, and the thief with the copy.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use crate::browser::Browser;
use crate::client::{Client, Plan};
use crate::cookies::{Cookies, Jar};
use crate::event_log::SessionStatus;
use crate::http_client::{ConnectionFault, HttpRequest};
use crate::lab::Lab;

/// The way a thief uses its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ThiefKind {
    /// At random times.
    Occasional,
    /// Together with the victim.
    Alongside,
    /// Shortly before the victim.
    Ahead,
    /// Together with the victim, but only while the access token is young.
    Brief,
}

/// Runs a browser whose cookies are stolen repeatedly until the run ends.
pub(crate) async fn run_victim(mut victim: Browser) {
    let lab = Arc::clone(&victim.client.lab);
    while lab.is_running() {
        let honest = lab.disk_interval + victim.random.up_to(lab.options.access_ttl / 2);
        victim.browse_until(Some(Instant::now() + honest)).await;
        victim.wait_for_requests().await;
        let Some(mut theft) = Theft::begin(&mut victim) else { continue };
        theft.run(&mut victim).await;
    }
    victim.wait_for_requests().await;
}

/// A theft in progress.
struct Theft {
    session: Uuid,
    kind: ThiefKind,
    thief: Arc<Client>,
    since: Instant,
    next_visit: Instant,
    visits: JoinSet<()>,
}

impl Theft {
    /// Copies the cookies of a signed-in victim.
    fn begin(victim: &mut Browser) -> Option<Self> {
        let lab = Arc::clone(&victim.client.lab);
        let (_, jar) = victim.client.cookies.now();
        let session = jar.session()?;
        let since = Instant::now();
        if !lab.is_running() || !lab.events.set_status(session, SessionStatus::Stolen(since)) {
            return None;
        }
        let kind = ThiefKind::ALL[victim.random.below(ThiefKind::ALL.len())];
        lab.events.count(|counters| counters.thefts += 1);
        lab.events.note(session, format_args!("cookies stolen, to be used {kind}"));
        let name = victim.client.name.replace("victim", "thief");
        let cookies = Cookies::new(lab.disk_interval);
        cookies.copy(jar);
        let thief = Arc::new(Client { lab, cookies, name });
        Some(Self { session, kind, thief, since, next_visit: since, visits: JoinSet::new() })
    }

    /// Lets both use the cookies until the theft is detected or counts as missed.
    async fn run(&mut self, victim: &mut Browser) {
        let lab = Arc::clone(&victim.client.lab);
        let deadline = lab.options.access_ttl * MAX_LIFETIMES;
        loop {
            match lab.events.status(self.session) {
                Some(SessionStatus::Stolen(_)) => {}
                Some(SessionStatus::Detected(at)) => {
                    victim.wait_for_requests().await;
                    self.visits.shutdown().await;
                    return self.check_rejected(victim, at).await;
                }
                // It ended for an unexpected reason, which was counted.
                _ => return,
            }
            if self.since.elapsed() > deadline {
                return lab.events.record_missed_theft(self.session, self.kind);
            }
            if !lab.is_running() {
                return lab.events.count(|counters| counters.open_thefts += 1);
            }
            // Shorter than a lifetime, since a theft must be detected while both are active.
            let pause = victim.pause().min(lab.options.access_ttl);
            let burst = Instant::now() + pause;
            self.plan_visits(victim, burst);
            tokio::select! {
                () = sleep_until(burst) => victim.burst(),
                () = self.wait_until_detected(&lab) => {}
            }
        }
    }

    /// Plans the thief's requests around the victim's next burst.
    fn plan_visits(&mut self, victim: &mut Browser, burst: Instant) {
        let lab = Arc::clone(&victim.client.lab);
        let shift = victim.random.up_to(lab.options.access_ttl / 100);
        match self.kind {
            ThiefKind::Occasional => {
                while self.next_visit < burst {
                    self.visit(victim, self.next_visit);
                    let ttl = lab.options.access_ttl;
                    self.next_visit += victim.random.between(ttl / 15, ttl * 3 / 2);
                }
            }
            ThiefKind::Ahead => self.visit(victim, burst - shift),
            ThiefKind::Alongside | ThiefKind::Brief => self.visit(victim, burst + shift),
        }
    }

    /// Sends a request of the thief at this time. Its response is never lost.
    fn visit(&mut self, victim: &mut Browser, at: Instant) {
        let thief = Arc::clone(&self.thief);
        let is_brief = self.kind == ThiefKind::Brief;
        let plan =
            Plan { fault: ConnectionFault::Nowhere, crash: None, ..victim.plan_request(Duration::ZERO) };
        self.visits.spawn(async move {
            sleep_until(at).await;
            if !(is_brief && thief.cookies.now().1.would_confirm_use(thief.lab.options.grace)) {
                thief.request(plan).await;
            }
        });
    }

    /// Waits until the theft is detected or the run ends.
    async fn wait_until_detected(&self, lab: &Lab) {
        let is_stolen = || matches!(lab.events.status(self.session), Some(SessionStatus::Stolen(_)));
        while is_stolen() && lab.pause(Duration::from_millis(50)).await {}
    }

    /// Checks that every ready gateway rejects both copies a second after the detection.
    async fn check_rejected(&self, victim: &Browser, caught: Instant) {
        sleep_until(caught + REVOCATION_TIMEOUT).await;
        let lab = &victim.client.lab;
        let jars = [victim.client.cookies.now().1, self.thief.cookies.now().1];
        for replica in 0..lab.deployment.replicas() {
            for jar in jars.iter().filter(|jar| jar.session() == Some(self.session)) {
                self.check_rejected_by(lab, replica, jar).await;
            }
        }
    }

    /// Checks that a gateway rejects the cookies once it is ready. Before that it may not know the termination.
    async fn check_rejected_by(&self, lab: &Lab, replica: usize, jar: &Jar) {
        let request = HttpRequest::get("/app/page");
        let until = Instant::now() + READY_TIMEOUT;
        while Instant::now() < until {
            if lab.deployment.is_ready(replica).await {
                let response = request
                    .send(lab.deployment.public(replica), &jar.header(), "checker", ConnectionFault::Nowhere)
                    .await;
                match response.map(|response| response.status) {
                    Ok(401) => return,
                    Ok(200) => return lab.events.record_late_acceptance(self.session, replica),
                    _ => {}
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl ThiefKind {
    const ALL: [Self; 4] = [Self::Occasional, Self::Alongside, Self::Ahead, Self::Brief];
}

impl fmt::Display for ThiefKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Occasional => "at random times",
            Self::Alongside => "together with its owner",
            Self::Ahead => "shortly before its owner",
            Self::Brief => "while each token is young",
        })
    }
}

/// Number of access token lifetimes after which an undetected theft counts as missed.
const MAX_LIFETIMES: u32 = 20;

/// Time within which every gateway knows of a termination.
const REVOCATION_TIMEOUT: Duration = Duration::from_secs(1);

/// Timeout for a restarted gateway to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
