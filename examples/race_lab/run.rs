//! One database's run, from its set-up to the last comparison with what the database says.

use std::sync::Arc;

use futures_util::future::join_all;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::browser::{Browser, FIRST_PASSWORD};
use crate::error::LabError;
use crate::lab::Lab;
use crate::ledger::{Finding, Standing, Tally};
use crate::options::Options;
use crate::postgres::Postgres;
use crate::site::Site;
use crate::{thief, trouble, upstream};

/// How a run came out.
pub(crate) struct Outcome {
    pub(crate) title: String,
    pub(crate) tally: Tally,
    pub(crate) findings: Vec<Finding>,
    /// What the gateways said of the sessions in the findings.
    pub(crate) log: Vec<String>,
}

/// A run that is set up: all gateways serve, and every browser is signed in.
pub(crate) struct Run {
    pub(crate) lab: Arc<Lab>,
    title: String,
    browsers: Vec<Browser>,
    victims: Vec<Browser>,
    postgres: Option<Postgres>,
}

impl Run {
    pub(crate) async fn on_sqlite(
        options: &Options,
        seed: u64,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, LabError> {
        let site = Site::start(options, upstream::start().await?, None, 1).await?;
        let lab = Arc::new(Lab::new(site, options.clone(), seed, stop));
        Self::sign_all_in(lab, "SQLite, 1 gateway".to_owned(), None).await
    }

    pub(crate) async fn on_postgres(
        options: &Options,
        seed: u64,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, LabError> {
        let postgres = Postgres::start(options.postgres.as_deref()).await?;
        let (upstream, url) = (upstream::start().await?, postgres.url());
        let site = Site::start(options, upstream, Some(&url), options.replicas).await?;
        let lab = Arc::new(Lab::new(site, options.clone(), seed, stop));
        let title = format!("PostgreSQL, {} gateways", options.replicas);
        Self::sign_all_in(lab, title, Some(postgres)).await
    }

    async fn sign_all_in(lab: Arc<Lab>, title: String, postgres: Option<Postgres>) -> Result<Self, LabError> {
        let names = |kind, count| (0..count).map(move |nth| format!("{kind}-{nth}"));
        let browsers = names("browser", lab.options.browsers).map(|name| Browser::new(&lab, name));
        let victims = names("victim", lab.options.victims).map(|name| Browser::new(&lab, name));
        let (mut browsers, mut victims): (Vec<_>, Vec<_>) = (browsers.collect(), victims.collect());
        let emails = browsers.iter().chain(&victims).map(|browser| browser.email.as_str());
        lab.site.import_users(emails, FIRST_PASSWORD).await?;
        join_all(browsers.iter_mut().chain(&mut victims).map(Browser::sign_in)).await;
        Ok(Self { lab, title, browsers, victims, postgres })
    }

    /// Runs until it is told to stop, and leaves nothing behind.
    pub(crate) async fn finish(self) -> Result<Outcome, LabError> {
        let Self { lab, title, browsers, victims, postgres } = self;
        let mut actors: JoinSet<_> = browsers.into_iter().map(Browser::browse).collect();
        victims.into_iter().for_each(|victim| drop(actors.spawn(thief::be_robbed(victim))));
        let seen = see_to_the_end(&lab, actors, postgres.as_ref()).await;
        let outcome = seen.map(|()| Outcome::of(&lab, title));
        // The gateways go before their database does.
        for replica in 0..lab.site.replicas() {
            lab.site.kill(replica).await?;
        }
        if let Some(postgres) = postgres {
            postgres.drop_database().await?;
        }
        outcome
    }
}

impl Outcome {
    fn of(lab: &Lab, title: String) -> Self {
        let findings = lab.ledger.findings();
        let sessions: Vec<_> =
            findings.iter().filter_map(|finding| Some(finding.session?.to_string())).collect();
        let log = lab.site.log_lines(|line| sessions.iter().any(|session| line.contains(session)));
        Self { title, tally: lab.ledger.tally(), findings, log }
    }
}

async fn see_to_the_end(lab: &Lab, actors: JoinSet<()>, postgres: Option<&Postgres>) -> Result<(), LabError> {
    let server = postgres.and_then(Postgres::own);
    let (killed, restarted) = tokio::join!(trouble::kill_gateways(lab), trouble::restart_store(lab, server));
    killed.and(restarted)?;
    actors.join_all().await;
    if lab.ledger.tally().rotated == 0 {
        lab.ledger
            .wrong(None, "nothing was renewed, so nothing is shown: too slow a machine, or too short a run");
    }
    compare(lab).await
}

/// A row of `sekisho session list`.
#[derive(Deserialize)]
struct Row {
    id: Uuid,
    state: String,
}

/// Whoever the lab takes for signed in must be so in the database; no session may have ended as
/// reused but those that were stolen; and these must have.
async fn compare(lab: &Lab) -> Result<(), LabError> {
    let list = lab.site.run(&["session", "list", "--ended", "--json", "--limit", "4000000000"]).await?;
    let rows: Vec<Row> = serde_json::from_str(&list).map_err(|error| LabError::Command {
        what: "sekisho session list".to_owned(),
        said: error.to_string(),
    })?;
    let mut known = lab.ledger.sessions();
    for Row { id, state } in rows {
        let standing = known.remove(&id);
        let right = match standing {
            Some(Standing::Live) => state == "live",
            Some(Standing::Caught(_)) => state == "reuse_detected",
            Some(Standing::Stolen(_) | Standing::Over) => true,
            // Unknown are those whose sign-in was not heard of.
            Some(Standing::Leaving) | None => state != "reuse_detected",
        };
        if !right {
            lab.ledger.wrong(
                Some(id),
                format_args!("to the lab session {id} is {standing:?}, to the database {state}"),
            );
        }
    }
    for (id, standing) in known {
        lab.ledger
            .wrong(Some(id), format_args!("to the lab session {id} is {standing:?}, the database has none"));
    }
    Ok(())
}
