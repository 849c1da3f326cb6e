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
    /// Time before the theft in which no use was confirmed.
    uncertain_before: Duration,
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
        let uncertain_before = thief.lab.events.uncertain();
        Some(Self {
            session,
            kind,
            thief,
            since,
            uncertain_before,
            next_visit: since,
            visits: JoinSet::new(),
        })
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
            let uncertain = lab.events.uncertain() - self.uncertain_before;
            if self.since.elapsed() > deadline + uncertain {
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
            let (_, jar) = thief.cookies.now();
            let now = thief.lab.session_time.now_millis();
            if !(is_brief && jar.would_confirm_use(thief.lab.options.grace, now)) {
                thief.request(plan).await;
            }
        });
    }

    /// Waits until the theft is detected or the run ends.
    async fn wait_until_detected(&self, lab: &Lab) {
        let is_stolen = || matches!(lab.events.status(self.session), Some(SessionStatus::Stolen(_)));
        while is_stolen() && lab.pause(Duration::from_millis(50)).await {}
    }

    /// Checks that every ready gateway rejects both copies a second after the detection, and from then on.
    async fn check_rejected(&self, victim: &Browser, caught: Instant) {
        sleep_until(caught + REVOCATION_TIMEOUT).await;
        let lab = &victim.client.lab;
        let jars = [victim.client.cookies.now().1, self.thief.cookies.now().1];
        let stolen = StolenCookies {
            session: self.session,
            jars: jars.into_iter().filter(|jar| jar.session() == Some(self.session)).collect(),
        };
        for replica in 0..lab.deployment.replicas() {
            stolen.check_rejected_by(lab, replica).await;
        }
        tokio::spawn(stolen.watch(Arc::clone(lab)));
    }
}

/// The copies of the cookies of a session that was terminated.
struct StolenCookies {
    session: Uuid,
    jars: Vec<Jar>,
}

impl StolenCookies {
    /// Checks until the access tokens have expired, since a gateway that is restarted must learn of the termination.
    async fn watch(self, lab: Arc<Lab>) {
        let until = Instant::now() + lab.options.access_ttl;
        while Instant::now() < until && lab.pause(WATCH_INTERVAL).await {
            for replica in 0..lab.deployment.replicas() {
                if lab.deployment.is_ready(replica).await && self.status(&lab, replica).await == Some(200) {
                    // Unless it was restarted after it was ready.
                    return self.check_rejected_by(&lab, replica).await;
                }
            }
        }
    }

    /// Checks that a gateway rejects the cookies once it is ready. Before that it may not know the termination.
    async fn check_rejected_by(&self, lab: &Lab, replica: usize) {
        let until = Instant::now() + READY_TIMEOUT;
        while Instant::now() < until {
            if lab.deployment.is_ready(replica).await {
                match self.status(lab, replica).await {
                    Some(401) => return,
                    Some(200) => return lab.events.record_late_acceptance(self.session, replica),
                    _ => {}
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends the copies to a gateway. Returns the status of an accepted copy, otherwise the common status, if there
    /// is one.
    async fn status(&self, lab: &Lab, replica: usize) -> Option<u16> {
        let request = HttpRequest::get("/app/page");
        let mut statuses = Vec::new();
        for jar in &self.jars {
            let to = lab.deployment.public(replica);
            let response = request.send(to, &jar.header(), "checker", ConnectionFault::Nowhere).await.ok()?;
            statuses.push(response.status);
        }
        let accepted = statuses.iter().find(|status| **status == 200);
        let first = statuses.first().filter(|first| statuses.iter().all(|status| status == *first));
        accepted.or(first).copied()
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

/// Time between two checks that the cookies are rejected.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Timeout for a restarted gateway to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
