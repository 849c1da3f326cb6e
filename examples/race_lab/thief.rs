//! A browser that is stolen from, and the thief with a copy of its cookies.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use crate::browser::Browser;
use crate::client::{Client, Plan};
use crate::cookies::{Cookies, Jar};
use crate::lab::Lab;
use crate::ledger::Standing;
use crate::wire::{Ask, Cut};

/// How a thief uses its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// At times of its own.
    NowAndThen,
    /// Whenever the victim asks.
    Along,
    /// A little before the victim asks.
    Ahead,
    /// Whenever the victim asks, but each access token only while it is young.
    Brief,
}

/// Is robbed time and again until the run ends. Between thefts it is an honest browser.
pub(crate) async fn be_robbed(mut victim: Browser) {
    let lab = Arc::clone(&victim.client.lab);
    while lab.goes_on() {
        let honest = lab.disk_every + victim.random.up_to(lab.options.access_ttl / 2);
        victim.browse_until(Some(Instant::now() + honest)).await;
        victim.settle().await;
        let Some(mut theft) = Theft::begin(&mut victim) else { continue };
        theft.go_on(&mut victim).await;
    }
    victim.settle().await;
}

/// A theft under way.
struct Theft {
    session: Uuid,
    style: Style,
    thief: Arc<Client>,
    since: Instant,
    next_visit: Instant,
    visits: JoinSet<()>,
}

impl Theft {
    /// Copies the cookies of a victim that is signed in.
    fn begin(victim: &mut Browser) -> Option<Self> {
        let lab = Arc::clone(&victim.client.lab);
        let (_, jar) = victim.client.cookies.now();
        let session = jar.session()?;
        let since = Instant::now();
        if !lab.goes_on() || !lab.ledger.becomes(session, Standing::Stolen(since)) {
            return None;
        }
        let style = Style::ALL[victim.random.below(Style::ALL.len())];
        lab.ledger.count(|tally| tally.thefts += 1);
        lab.ledger.note(session, format_args!("stolen, to be used {style}"));
        let name = victim.client.name.replace("victim", "thief");
        let cookies = Cookies::new(lab.disk_every);
        cookies.copy(jar);
        let thief = Arc::new(Client { lab, cookies, name });
        Some(Self { session, style, thief, since, next_visit: since, visits: JoinSet::new() })
    }

    /// Both use their cookies until the thief is caught, or should have been.
    async fn go_on(&mut self, victim: &mut Browser) {
        let lab = Arc::clone(&victim.client.lab);
        let patience = lab.options.access_ttl * LIFETIMES;
        loop {
            match lab.ledger.standing(self.session) {
                Some(Standing::Stolen(_)) => {}
                Some(Standing::Caught(at)) => {
                    victim.settle().await;
                    self.visits.shutdown().await;
                    return self.confirm(victim, at).await;
                }
                // It ended in a way that it should not have, which was counted.
                _ => return,
            }
            if self.since.elapsed() > patience {
                return lab.ledger.missed(self.session, self.style);
            }
            if !lab.goes_on() {
                return lab.ledger.count(|tally| tally.open_thefts += 1);
            }
            // Nobody rests: a theft is to be caught while both are active.
            let pause = victim.pause().min(lab.options.access_ttl);
            let burst = Instant::now() + pause;
            self.plan_visits(victim, burst);
            tokio::select! {
                () = sleep_until(burst) => victim.burst(),
                () = self.is_over(&lab) => {}
            }
        }
    }

    /// When the thief comes, if the victim's next burst is at that time.
    fn plan_visits(&mut self, victim: &mut Browser, burst: Instant) {
        let lab = Arc::clone(&victim.client.lab);
        let shift = victim.random.up_to(lab.options.access_ttl / 100);
        match self.style {
            Style::NowAndThen => {
                while self.next_visit < burst {
                    self.visit(victim, self.next_visit);
                    let ttl = lab.options.access_ttl;
                    self.next_visit += victim.random.between(ttl / 15, ttl * 3 / 2);
                }
            }
            Style::Ahead => self.visit(victim, burst - shift),
            Style::Along | Style::Brief => self.visit(victim, burst + shift),
        }
    }

    /// The thief asks once, at that moment. Its answers are never lost.
    fn visit(&mut self, victim: &mut Browser, at: Instant) {
        let (thief, brief) = (Arc::clone(&self.thief), self.style == Style::Brief);
        let plan = Plan { cut: Cut::Nowhere, crash: None, ..victim.request(Duration::ZERO) };
        self.visits.spawn(async move {
            sleep_until(at).await;
            if !(brief && thief.cookies.now().1.is_lasting(thief.lab.options.grace)) {
                thief.ask(plan).await;
            }
        });
    }

    /// Returns when the thief is caught, or the run ends.
    async fn is_over(&self, lab: &Lab) {
        let stolen = || matches!(lab.ledger.standing(self.session), Some(Standing::Stolen(_)));
        while stolen() && lab.pause(Duration::from_millis(50)).await {}
    }

    /// A second after the catch, no gateway that is ready may accept either copy.
    async fn confirm(&self, victim: &Browser, caught: Instant) {
        sleep_until(caught + HEARD_WITHIN).await;
        let lab = &victim.client.lab;
        let jars = [victim.client.cookies.now().1, self.thief.cookies.now().1];
        for replica in 0..lab.site.replicas() {
            for jar in jars.iter().filter(|jar| jar.session() == Some(self.session)) {
                self.must_be_refused(lab, replica, jar).await;
            }
        }
    }

    /// A gateway that is not ready says itself that it may not have heard; then it is asked again.
    async fn must_be_refused(&self, lab: &Lab, replica: usize, jar: &Jar) {
        let ask = Ask::get("/app/page");
        let until = Instant::now() + ASKED_FOR;
        while Instant::now() < until {
            if lab.site.is_ready(replica).await {
                let answer = ask.send(lab.site.public(replica), &jar.header(), "checker", Cut::Nowhere).await;
                match answer.map(|answer| answer.status) {
                    Ok(401) => return,
                    Ok(200) => return lab.ledger.accepted_after(self.session, replica),
                    _ => {}
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Style {
    const ALL: [Self; 4] = [Self::NowAndThen, Self::Along, Self::Ahead, Self::Brief];
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NowAndThen => "now and then",
            Self::Along => "along with its owner",
            Self::Ahead => "a little ahead of its owner",
            Self::Brief => "each token only while it is young",
        })
    }
}

/// How many lifetimes of an access token a thief may go on at most, its victim being active.
const LIFETIMES: u32 = 20;

/// Within this every gateway has heard of an end.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// How long a gateway that comes back is waited for.
const ASKED_FOR: Duration = Duration::from_secs(20);
