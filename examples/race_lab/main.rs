//! The proof by force: real gateways, killed time and again, under real browsers' troubles and real
//! thieves.
//!
//! ```text
//! cargo build --release --bin sekisho --example race_lab
//! target/release/examples/race_lab --for 10m
//! ```
//!
//! `tests/it/model/` plays the rules of rotation on a clock of its own, millions of times. This is
//! the other half: `sekisho serve` as separate processes, on a SQLite file and over a PostgreSQL
//! server, both at once; loopback sockets; the machine's own clock. It prints a table, and fails if
//! one honest user was signed out or one thief got away.
//!
//! # What it models
//!
//! - **Browsers** with several tabs and one jar. Tabs ask together, often at the very moment when the
//!   access token expires, and ask whichever gateway. Users sign out and in, and change their password.
//! - **Lost answers.** A fifth of the connections break: soon after the request was sent, within the
//!   answer's head, or within its body (then the cookies are kept, as browsers do).
//! - **Browsers that crash**, often just after a renewal, and come back with the cookies that they last
//!   wrote to disk.
//! - **Gateways** that die by `kill -9` at random moments and are started again; and a PostgreSQL server
//!   that is restarted under them, half of the times as in a crash, so that it has lost its last
//!   renewals. It flushes as a new server does, nothing is turned off.
//! - **Thieves** with a copy of the jar of one of the victims, which are browsers besides the honest
//!   ones. Four kinds: at times of their own, along with their victim, a little ahead of it, and with
//!   each token only while it is young.
//!
//! # What counts
//!
//! - *Signed out falsely*: a 401 for a session that its user has not left and no thief has. Also cookies
//!   that are cleared beside any other status.
//! - *Missed*: a thief that goes on for 20 lifetimes of an access token, its victim being active.
//! - *Accepted after*: a copy that a gateway takes more than a second after the catch, although it says
//!   at `/readyz` that it knows which sessions have ended.
//! - In the end, what the lab believes of every session is compared with `sekisho session list`.
//!
//! A 503 that leaves the cookies alone is allowed: the database was away.
//!
//! # Its scale, and what it can't do
//!
//! Lifetimes are short, so that ten minutes have many, and what the design gives to disk and way is as
//! short: of a grace *G*, a browser writes its cookies every *G*/2 (30 s of 60 s), and an answer must be
//! there within *G*/4 of its request. With 2·*G*/4 + *G*/2 = *G*, no honest browser can come back with
//! cookies whose successor has settled. Later answers count as lost; but their requests may still be under
//! way in a gateway, which that sum doesn't cover. So a sign-out within 15 s of such a request is
//! counted on a line of its own: on a machine this slow, a longer `--grace` is needed to say more.
//!
//! The seed settles who does what in which order. When, and who is faster, is the machine's: a run is not
//! the same twice. All clocks are one; what clocks apart do, the model shows.

mod browser;
mod client;
mod cookies;
mod error;
mod lab;
mod ledger;
mod options;
mod postgres;
mod random;
mod run;
mod site;
mod table;
mod thief;
mod trouble;
mod upstream;
mod wire;

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

/// Runs on each database at the same time. Returns for how long, and what came of it.
async fn run(options: &Options, seed: u64) -> Result<(Duration, Vec<Outcome>), LabError> {
    options.check()?;
    let mut interrupted = pin!(interrupted()?);
    let (stop, stopped) = watch::channel(false);
    let runs = tokio::select! {
        runs = set_up(options, seed, stopped) => runs?,
        () = &mut interrupted => return Err(LabError::Interrupted),
    };
    let labs: Vec<_> = runs.iter().map(|run| Arc::clone(&run.lab)).collect();
    let mut under_way: JoinSet<_> =
        runs.into_iter().enumerate().map(|(nth, run)| async move { (nth, run.finish().await) }).collect();
    let mut ended = Vec::new();
    let began = Instant::now();
    tokio::select! {
        () = show_progress(options.length, seed, &labs) => {}
        () = interrupted => {}
        // Before its time only with an error.
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

/// Says what must not have happened, and what led to it.
fn report(outcomes: &[Outcome]) -> ExitCode {
    for outcome in outcomes {
        for finding in &outcome.findings {
            let doubt = if finding.certain { "" } else { " (not counted)" };
            eprintln!("\n{}{doubt}:{}", outcome.title, finding.what);
            finding.before.iter().for_each(|line| eprintln!("  {line}"));
        }
        if !outcome.log.is_empty() {
            eprintln!("\nWhat the gateways said of these sessions:");
            outcome.log.iter().for_each(|line| eprintln!("  {line}"));
        }
    }
    let findings = outcomes.iter().flat_map(|outcome| &outcome.findings);
    match findings.filter(|finding| finding.certain).count() {
        0 => ExitCode::SUCCESS,
        certain => {
            eprintln!("\nrace_lab: {certain} found that must not happen");
            ExitCode::FAILURE
        }
    }
}

/// A line on a terminal, and nothing elsewhere, for so long.
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

/// Told to stop, it does so in order, for its processes would stay.
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
