//! The run on one database, from its setup to the final comparison with the database.

use std::sync::Arc;

use futures_util::future::join_all;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::browser::{Browser, FIRST_PASSWORD};
use crate::deployment::Deployment;
use crate::error::LabError;
use crate::event_log::{Counters, Finding, SessionStatus, is_expiry};
use crate::lab::Lab;
use crate::options::Options;
use crate::postgres::Postgres;
use crate::{faults, thief, upstream};

/// Result of a run.
pub(crate) struct Outcome {
    pub(crate) title: String,
    pub(crate) counters: Counters,
    pub(crate) findings: Vec<Finding>,
    /// Log lines of the gateways about the sessions in the findings.
    pub(crate) log: Vec<String>,
}

/// A run that is set up: all gateways are ready and every browser is signed in.
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
        let deployment = Deployment::start(options, upstream::start().await?, None, 1).await?;
        let lab = Arc::new(Lab::new(deployment, options.clone(), seed, stop));
        Self::sign_in_all(lab, "SQLite, 1 gateway".to_owned(), None).await
    }

    pub(crate) async fn on_postgres(
        options: &Options,
        seed: u64,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, LabError> {
        let postgres = Postgres::start(options.postgres.as_deref(), options.faketime_library()?).await?;
        let (upstream, url) = (upstream::start().await?, postgres.url());
        let deployment = Deployment::start(options, upstream, Some(&url), options.replicas).await?;
        let lab = Arc::new(Lab::new(deployment, options.clone(), seed, stop));
        let title = format!("PostgreSQL, {} gateways", options.replicas);
        Self::sign_in_all(lab, title, Some(postgres)).await
    }

    async fn sign_in_all(lab: Arc<Lab>, title: String, postgres: Option<Postgres>) -> Result<Self, LabError> {
        let names = |kind, count| (0..count).map(move |nth| format!("{kind}-{nth}"));
        let browsers = names("browser", lab.options.browsers).map(|name| Browser::new(&lab, name));
        let victims = names("victim", lab.options.victims).map(|name| Browser::new(&lab, name));
        let (mut browsers, mut victims): (Vec<_>, Vec<_>) = (browsers.collect(), victims.collect());
        let emails = browsers.iter().chain(&victims).map(|browser| browser.email.as_str());
        lab.deployment.import_users(emails, FIRST_PASSWORD).await?;
        join_all(browsers.iter_mut().chain(&mut victims).map(Browser::sign_in)).await;
        Ok(Self { lab, title, browsers, victims, postgres })
    }

    /// Runs until the stop signal and cleans up.
    pub(crate) async fn finish(self) -> Result<Outcome, LabError> {
        let Self { lab, title, browsers, victims, postgres } = self;
        let mut actors: JoinSet<_> = browsers.into_iter().map(Browser::browse).collect();
        victims.into_iter().for_each(|victim| drop(actors.spawn(thief::run_victim(victim))));
        let seen = run_faults_and_actors(&lab, actors, postgres.as_ref()).await;
        let outcome = seen.map(|()| Outcome::of(&lab, title));
        // The gateways must stop before their database.
        for replica in 0..lab.deployment.replicas() {
            lab.deployment.kill(replica).await?;
        }
        if let Some(postgres) = postgres {
            postgres.drop_database().await?;
        }
        outcome
    }
}

impl Outcome {
    fn of(lab: &Lab, title: String) -> Self {
        let findings = lab.events.findings();
        let sessions: Vec<_> =
            findings.iter().filter_map(|finding| Some(finding.session?.to_string())).collect();
        let uncertain = lab.deployment.log_lines(|line| line.contains("is_certain=false")).len();
        lab.events.count(|counters| counters.uncertain_starts = uncertain as u64);
        let log = lab.deployment.log_lines(|line| sessions.iter().any(|session| line.contains(session)));
        Self { title, counters: lab.events.counters(), findings, log }
    }
}

async fn run_faults_and_actors(
    lab: &Lab,
    actors: JoinSet<()>,
    postgres: Option<&Postgres>,
) -> Result<(), LabError> {
    let server = postgres.and_then(Postgres::temporary_server);
    let injected = tokio::try_join!(
        faults::kill_gateways(lab, server),
        faults::restart_store(lab, server),
        faults::step_clocks(lab, server)
    );
    injected.map_err(|error| error.after(&lab.events.last_faults()))?;
    actors.join_all().await;
    if lab.events.counters().rotated == 0 {
        lab.events
            .record_error(None, "no session was refreshed: the machine is too slow or the run too short");
    }
    compare(lab).await
}

/// A row of `sekisho session list`.
#[derive(Deserialize)]
struct Row {
    id: Uuid,
    state: String,
}

/// Checks that the database agrees with the expected status of each session: active sessions are live, and
/// exactly the detected thefts ended with token reuse.
async fn compare(lab: &Lab) -> Result<(), LabError> {
    let list = lab.deployment.run(&["session", "list", "--ended", "--json", "--limit", "4000000000"]).await?;
    let rows: Vec<Row> = serde_json::from_str(&list).map_err(|error| LabError::Command {
        what: "sekisho session list".to_owned(),
        output: error.to_string(),
    })?;
    let mut known = lab.events.sessions();
    for Row { id, state } in rows {
        let status = known.remove(&id);
        let is_expected = match status {
            Some(SessionStatus::Active) if is_expiry(&state) => lab.events.may_have_expired(id),
            Some(SessionStatus::Active) => state == "live",
            Some(SessionStatus::Detected(_)) => state == "reuse_detected",
            Some(SessionStatus::Stolen(_) | SessionStatus::Ended) => true,
            // Sessions are unknown if the response to the sign-in was lost.
            Some(SessionStatus::SigningOut) | None => state != "reuse_detected",
        };
        if !is_expected {
            lab.events.record_error(
                Some(id),
                format_args!("session {id}: expected {status:?}, found {state} in the database"),
            );
        }
    }
    for (id, status) in known {
        lab.events.record_error(
            Some(id),
            format_args!("session {id}: expected {status:?}, found none in the database"),
        );
    }
    Ok(())
}
