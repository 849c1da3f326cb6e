//! A stress test: real gateways, killed repeatedly, under browsers with network faults and thieves.
//!
//! ```text
//! cargo build --release --bin sekisho --example race_lab
//! target/release/examples/race_lab --for 10m --clock-steps 5s
//! ```
//!
//! `tests/it/model/` checks the rotation rules on a simulated clock, with millions of events. The race lab
//! runs `sekisho serve` as separate processes on a SQLite file and on a PostgreSQL server at the same time,
//! over loopback sockets. It prints a table, and fails if an honest user was
//! signed out or a theft was not detected.
//!
//! # Model
//!
//! - **Browsers** with several tabs and one cookie jar. Tabs send requests together to any gateway, often
//!   when the access token expires. Users sign out and in, and change their password.
//! - **Lost responses.** A fifth of the connections break: soon after the request was sent, within the
//!   response head, or within its body (then the cookies are stored, as browsers do).
//! - **Browser crashes**, often just after a refresh. The browser restarts with the cookies of its last disk
//!   write.
//! - **Gateway and database crashes.** Gateways are killed at random times and started again. The PostgreSQL
//!   server is restarted, half of the times as in a crash, so that it loses its last refreshes. It runs with
//!   the default settings for durability.
//! - **Clocks that step**, with `--clock-steps`. libfaketime sets the wall clocks of the gateways and of the
//!   PostgreSQL server while they run: of one gateway, of all, or of the database, by a few seconds, up to an hour
//!   or up to 30 days, in both directions. The lab waits until the log or `clock_timestamp()` shows the step.
//! - **Cold starts**, with `--clock-steps`. One of five kills is a power cut: all gateways are killed and their
//!   machines get new boot ids, so that they cannot tell how long they were stopped. The clock by which session time
//!   starts is set ahead of or behind session time by a step. The boot id is set by a mount, as root or where user
//!   namespaces are allowed.
//! - **Thieves** with a copy of the cookies of further browsers, the victims. They use it at random times,
//!   together with the victim, shortly before it, or only while each token is young.
//!
//! # Counters
//!
//! - *False sign-outs*: a 401 for a session that was neither signed out nor stolen.
//! - *Missed*: a theft that is not detected for 20 access token lifetimes while the victim is active. The time from
//!   a cold start until the gateways confirm uses again does not count.
//! - *Expired by a cold start*: a session that received `idle_expired` or `absolute_expired`, and of which no request
//!   was accepted since the last cold start. A clock that was set ahead while no gateway ran may do that. Any other
//!   expiry is a false sign-out, since the lifetimes are days and the run takes minutes, and so is any other event.
//! - *Accepted after detection*: stolen cookies that a gateway accepts more than a second after the
//!   detection, until the access tokens expire, although its `/readyz` reports that its revocation list is current.
//! - Any other finding, such as cookies cleared by another status than 401.
//!
//! At the end, the expected status of every session is compared with `sekisho session list`.
//!
//! A 503 that keeps the cookies is allowed, since the database may be unavailable.
//!
//! # Scale and limits
//!
//! Lifetimes are short, so that a run of ten minutes has many of them. The other times are scaled with the
//! grace *G*: a browser writes its cookies to disk every *G*/2 (30 s of 60 s), and a response must arrive
//! within *G*/4 of its request. With 2·*G*/4 + *G*/2 = *G*, no honest browser can restart with cookies whose
//! successor is confirmed. Later responses count as lost, but their requests may still be in flight at a
//! gateway, which that sum does not cover. So a sign-out within 15 s of such a request is counted separately;
//! a slow machine needs a longer `--grace`.
//!
//! The seed determines the actions and their order, but not their timing, so that no two runs are the same.
//! All processes share the boot clock of one machine; the model covers clock skew.

mod browser;
mod client;
mod cookies;
mod deployment;
mod error;
mod event_log;
mod faults;
mod figures;
mod http_client;
mod lab;
mod machine;
mod options;
mod postgres;
mod random;
mod run;
mod session_time;
mod table;
mod thief;
mod upstream;

use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::LabError;
use crate::lab::Lab;
use crate::options::{Databases, Options};
use crate::run::{Outcome, Run};

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed();
    match run(&options, seed).await {
        Ok((took, outcomes)) => {
            print!("{}", table::table(&outcomes, &options, seed, took));
            report(&outcomes)
        }
        Err(error) => {
            eprintln!("race_lab: {error}");
            ExitCode::from(if matches!(error, LabError::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// Runs on each database at the same time. Returns the duration and the results.
async fn run(options: &Options, seed: u64) -> Result<(Duration, Vec<Outcome>), LabError> {
    options.check()?;
    let mut interrupted = pin!(interrupted()?);
    let (stop, stopped) = watch::channel(false);
    let runs = tokio::select! {
        runs = set_up(options, seed, stopped) => runs?,
        () = &mut interrupted => return Err(LabError::Interrupted),
    };
    let labs: Vec<_> = runs.iter().map(|run| Arc::clone(&run.lab)).collect();
    if options.clock_steps.is_some() && !labs.iter().all(|lab| lab.deployment.has_boot_ids()) {
        eprintln!("race_lab: no start is uncertain, since unshare cannot set boot ids here");
    }
    let mut under_way: JoinSet<_> =
        runs.into_iter().enumerate().map(|(nth, run)| async move { (nth, run.finish().await) }).collect();
    let mut ended = Vec::new();
    let began = Instant::now();
    tokio::select! {
        () = show_progress(options.length, seed, &labs) => {}
        () = interrupted => {}
        // Ends early only with an error.
        Some(early) = under_way.join_next() => ended.extend(early.ok()),
    }
    let took = began.elapsed();
    stop.send_replace(true);
    ended.extend(under_way.join_all().await);
    ended.sort_by_key(|(nth, _)| *nth);
    let outcomes: Result<_, _> = ended.into_iter().map(|(_, outcome)| outcome).collect();
    Ok((took, outcomes?))
}

async fn set_up(options: &Options, seed: u64, stopped: watch::Receiver<bool>) -> Result<Vec<Run>, LabError> {
    let mut runs = Vec::new();
    if options.database != Databases::Postgres {
        runs.push(Run::on_sqlite(options, seed, stopped.clone()).await?);
    }
    if options.database != Databases::Sqlite {
        runs.push(Run::on_postgres(options, seed, stopped).await?);
    }
    Ok(runs)
}

/// Prints the findings with the events before them.
fn report(outcomes: &[Outcome]) -> ExitCode {
    for outcome in outcomes {
        for finding in &outcome.findings {
            let doubt = if finding.is_certain { "" } else { " (not counted)" };
            eprintln!("\n{}{doubt}:{}", outcome.title, finding.what);
            finding.before.iter().for_each(|line| eprintln!("  {line}"));
        }
        if !outcome.log.is_empty() {
            eprintln!("\nLog lines of the gateways about these sessions:");
            outcome.log.iter().for_each(|line| eprintln!("  {line}"));
        }
    }
    let findings = outcomes.iter().flat_map(|outcome| &outcome.findings);
    match findings.filter(|finding| finding.is_certain).count() {
        0 => ExitCode::SUCCESS,
        is_certain => {
            eprintln!("\nrace_lab: {is_certain} unexpected events");
            ExitCode::FAILURE
        }
    }
}

/// Waits for `length` and shows progress on a terminal.
async fn show_progress(length: Duration, seed: u64, labs: &[Arc<Lab>]) {
    let bar = ProgressBar::new(length.as_secs());
    if let Ok(style) = ProgressStyle::with_template("{elapsed}/{len} s  {msg}") {
        bar.set_style(style);
    }
    let began = Instant::now();
    while began.elapsed() < length {
        let each: Vec<_> = labs.iter().map(|lab| table::progress(lab)).collect();
        bar.set_position(began.elapsed().as_secs());
        bar.set_message(format!("seed {seed}: {}", each.join("; ")));
        tokio::time::sleep(Duration::from_millis(500).min(length)).await;
    }
    bar.finish_and_clear();
}

/// Returns a future that completes on SIGINT or SIGTERM, so that the lab stops its processes before it exits.
fn interrupted() -> Result<impl Future<Output = ()>, LabError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(LabError::io("listen for signals"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(LabError::io("listen for signals"))?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
