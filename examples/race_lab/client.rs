//! Whoever holds cookies: asks some gateway, keeps what the answer sets, and tells the ledger.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::cookies::{Claims, Cookies, Jar, clears};
use crate::lab::Lab;
use crate::wire::{Answer, Ask, Cut, NoAnswer};

/// A browser, or a thief.
pub(crate) struct Client {
    pub(crate) lab: Arc<Lab>,
    pub(crate) cookies: Cookies,
    pub(crate) name: String,
}

/// One request, as it was planned.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) after: Duration,
    /// The gateway that is asked first.
    pub(crate) replica: usize,
    pub(crate) ask: Ask,
    pub(crate) cut: Cut,
    /// An answer's head that takes longer counts as lost.
    pub(crate) within: Duration,
    /// If this renews the session, the browser crashes so long after the answer.
    pub(crate) crash: Option<Duration>,
}

/// An answer that arrived in time.
pub(crate) struct Arrived {
    pub(crate) answer: Answer,
    took: Duration,
    life: u32,
    /// The session whose cookies were sent.
    session: Option<Uuid>,
}

impl Client {
    /// Asks for a page. Returns the status, if an answer came.
    pub(crate) async fn ask(&self, plan: Plan) -> Option<u16> {
        sleep(plan.after).await;
        let arrived = self.exchange(&plan).await?;
        self.keep(&arrived);
        if let Some(session) = arrived.session {
            self.judge(session, &arrived, &plan.ask.path);
        }
        if let Some(after) = plan.crash.filter(|_| is_renewal(arrived.answer.event()))
            && self.lab.pause(after).await
        {
            self.crash();
        }
        let status = arrived.answer.status;
        arrived.answer.body().await;
        Some(status)
    }

    /// Sends the request, to the next gateway if one can't be reached, and waits for the answer's
    /// head.
    pub(crate) async fn exchange(&self, plan: &Plan) -> Option<Arrived> {
        let lab = &self.lab;
        for attempt in 0..TRIES {
            let replica = (plan.replica + attempt) % lab.site.replicas();
            let (life, jar) = self.cookies.now();
            let cookies = jar.header();
            let sent = Instant::now();
            let sending = plan.ask.send(lab.site.public(replica), &cookies, &self.name, plan.cut);
            let answer = timeout(plan.within, sending).await;
            let took = sent.elapsed();
            let answer = answer.ok().filter(|_| took < plan.within);
            if let Some(Err(NoAnswer::Unreachable)) = answer {
                sleep(PAUSE).await;
                continue;
            }
            self.note(&jar, replica, plan, answer.as_ref(), took);
            let session = jar.session();
            return answer?.ok().map(|answer| Arrived { answer, took, life, session });
        }
        None
    }

    /// Keeps the cookies that the answer sets.
    pub(crate) fn keep(&self, arrived: &Arrived) {
        self.cookies.keep(arrived.life, arrived.answer.header("set-cookie"));
    }

    /// The browser crashes, and comes back with what its disk has.
    pub(crate) fn crash(&self) {
        if self.cookies.crash() {
            self.lab.ledger.count(|tally| tally.browser_crashes += 1);
            if let Some(claims) = self.cookies.now().1.claims() {
                let (name, generation, token) = (&self.name, claims.generation, claims.jti);
                self.lab.ledger.note(
                    claims.sid,
                    format_args!("{name}: crashed, back with generation {generation}, token {token}"),
                );
            }
        }
    }

    /// Counts what came of a request, and writes it down for its session.
    fn note(
        &self,
        jar: &Jar,
        replica: usize,
        plan: &Plan,
        answer: Option<&Result<Answer, NoAnswer>>,
        took: Duration,
    ) {
        let ledger = &self.lab.ledger;
        ledger.count(|tally| match answer {
            Some(Ok(_)) => tally.answers += 1,
            Some(Err(NoAnswer::Cut)) => tally.cut += 1,
            Some(Err(_)) => tally.broken += 1,
            None => tally.late += 1,
        });
        let Some(Claims { sid, generation, jti, .. }) = jar.claims() else { return };
        let came = match answer {
            Some(Ok(answer)) => format!("{} {}", answer.status, answer.event()),
            Some(Err(no_answer)) => format!("{no_answer:?}"),
            None => "too late".to_owned(),
        };
        let (name, path) = (&self.name, &plan.ask.path);
        ledger.note(
            sid,
            format_args!(
                "{name}: {path} at gateway {replica} with generation {generation}, token {jti}: {came} after {took:.0?}"
            ),
        );
        if answer.is_none() {
            ledger.late(sid);
        }
    }

    fn judge(&self, session: Uuid, arrived: &Arrived, path: &str) {
        let (ledger, answer) = (&self.lab.ledger, &arrived.answer);
        let event = answer.event();
        match answer.status {
            200..=299 => self.count_latency(arrived, path),
            401 => ledger.refused(session, &self.name, event),
            503 => ledger.count(|tally| tally.unavailable += 1),
            403 if path == "/auth/password" => {}
            status => ledger.wrong(Some(session), format_args!("{path} was answered with {status} {event}")),
        }
        let cleared = answer.header("set-cookie").any(clears);
        if cleared && answer.status != 401 && path != "/auth/logout" {
            ledger.wrong(Some(session), format_args!("{} cleared the cookies", answer.status));
        }
    }

    fn count_latency(&self, arrived: &Arrived, path: &str) {
        let event = arrived.answer.event();
        self.lab.ledger.count(|tally| {
            match event {
                "rotated" => tally.rotated += 1,
                "replayed" => tally.replayed += 1,
                "caught_up" => tally.caught_up += 1,
                _ => {}
            }
            // Elsewhere the time is the upstream's.
            if path == "/auth/session" {
                let times = if is_renewal(event) { &mut tally.renewing } else { &mut tally.checking };
                times.push(arrived.took);
            }
        });
    }
}

fn is_renewal(event: &str) -> bool {
    matches!(event, "rotated" | "replayed" | "caught_up")
}

/// How often a request is sent until some gateway can be reached.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(25);
