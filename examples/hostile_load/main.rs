//! A load test: honest clients beside hostile ones, at a real gateway.
//!
//! ```text
//! scripts/hostile-load --seconds 60 --addresses 200
//! ```
//!
//! [`load`] describes the clients and the bounds. Prints two tables, and fails if a bound is exceeded.

mod load;
mod options;

use std::pin::pin;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::load::{Bounds, LoadError, Report};
use crate::options::Options;

/// One thread for the honest clients. Hostile clients and the upstream have a thread each.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).await {
        Ok(report) => print(&report, &options.bounds()),
        Err(error) => {
            eprintln!("hostile_load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<Report, LoadError> {
    let program = options.program()?;
    let interrupted = pin!(interrupted()?);
    tokio::select! {
        report = load::run(options.settings(), &program) => report,
        () = interrupted => Err(LoadError::Interrupted),
    }
}

fn print(report: &Report, bounds: &Bounds) -> ExitCode {
    print!("{report}");
    let failures = report.failures(bounds);
    for failure in &failures {
        eprintln!("hostile_load: {failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns a future that completes on SIGINT or SIGTERM, so that the gateway is stopped before the exit.
fn interrupted() -> Result<impl Future<Output = ()>, LoadError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(LoadError::io("listen for signals"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(LoadError::io("listen for signals"))?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
