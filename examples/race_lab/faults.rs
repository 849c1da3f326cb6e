//! Injected faults: kills of gateways, restarts of the database, and steps of wall clocks.

use std::time::Duration;

use futures_util::future::try_join_all;
use sekisho::services::rotation::confirmation_age;

use crate::error::LabError;
use crate::lab::Lab;
use crate::postgres::{Server, ShutdownMode};
use crate::random::Random;

/// Kills a gateway at random times and starts it again. If clocks step, some of the times all are killed.
pub(crate) async fn kill_gateways(lab: &Lab, server: Option<&Server>) -> Result<(), LabError> {
    let mut random = Random::for_actor(lab.seed, "kills");
    while lab.pause(around(&mut random, lab.options.kill_every)).await {
        if lab.options.clock_steps.is_some() && random.one_in(COLD_START_ONE_IN) {
            restart_machines(lab, server, &mut random).await?;
            continue;
        }
        let replica = random.below(lab.deployment.replicas());
        lab.events.note_fault(format_args!("kill -9 of gateway {replica}"));
        lab.deployment.kill(replica).await?;
        lab.events.count(|counters| counters.kills += 1);
        lab.deployment.bring_up(replica).await?;
        lab.events.note_fault(format_args!("gateway {replica} is ready"));
    }
    Ok(())
}

/// Kills all gateways, and sets the clock by which session time starts: ahead of or behind session time.
async fn restart_machines(lab: &Lab, server: Option<&Server>, random: &mut Random) -> Result<(), LabError> {
    let seconds = random_step(random, lab.options.grace);
    lab.events
        .note_fault(format_args!("restart of all machines, with a clock {seconds:+} s from session time"));
    lab.deployment.kill_machines().await?;
    lab.events.record_cold_start();
    lab.session_time.record_cold_start();
    set_reference_clock(lab, server, seconds).await?;
    try_join_all((0..lab.deployment.replicas()).map(|replica| lab.deployment.bring_up(replica))).await?;
    let confirmation_age = confirmation_age(lab.options.grace) + Duration::from_secs(1);
    lab.events.record_end_of_cold_start(confirmation_age);
    lab.events.note_fault("all gateways are ready");
    Ok(())
}

/// Restarts the database server at random times, half of them as in a crash.
pub(crate) async fn restart_store(lab: &Lab, server: Option<&Server>) -> Result<(), LabError> {
    let Some(server) = server else { return Ok(()) };
    let mut random = Random::for_actor(lab.seed, "restarts");
    while lab.pause(around(&mut random, lab.options.restart_every)).await {
        let mode = if random.one_in(2) { ShutdownMode::Fast } else { ShutdownMode::Immediate };
        lab.events.note_fault(format_args!("restart of the database, {mode:?}"));
        server.restart(mode).await?;
        lab.events.count(|counters| counters.store_restarts += 1);
        lab.events.note_fault("the database is ready");
    }
    Ok(())
}

/// Steps the wall clock of a gateway, of all gateways or of the database at random times, if clocks step.
pub(crate) async fn step_clocks(lab: &Lab, server: Option<&Server>) -> Result<(), LabError> {
    let Some(interval) = lab.options.clock_steps else { return Ok(()) };
    let mut random = Random::for_actor(lab.seed, "clocks");
    let replicas = lab.deployment.replicas();
    while lab.pause(around(&mut random, interval)).await {
        let seconds = random_step(&mut random, lab.options.grace);
        let chosen = random.below(replicas + 2);
        match server {
            Some(server) if chosen > replicas => {
                lab.events.note_fault(format_args!("step of the database's clock by {seconds:+} s"));
                server.set_clock(|clock| clock.step(seconds)).await?;
                lab.events.count(|counters| counters.database_clock_steps += 1);
            }
            _ if chosen < replicas => step_gateway_clock(lab, chosen, seconds).await?,
            _ => drop(
                try_join_all((0..replicas).map(|replica| step_gateway_clock(lab, replica, seconds))).await?,
            ),
        }
    }
    Ok(())
}

/// Steps the wall clock of a gateway and waits until its log shows it.
async fn step_gateway_clock(lab: &Lab, replica: usize, seconds: i64) -> Result<(), LabError> {
    let Some(clock) = lab.deployment.clock(replica) else { return Ok(()) };
    lab.events.note_fault(format_args!("step of the clock of gateway {replica} by {seconds:+} s"));
    clock.step(seconds)?;
    lab.deployment.wait_for_clock(replica).await?;
    lab.events.count(|counters| counters.gateway_clock_steps += 1);
    Ok(())
}

/// Sets the clock of the database, which with SQLite is that of the gateway, relative to session time.
async fn set_reference_clock(lab: &Lab, server: Option<&Server>, seconds: i64) -> Result<(), LabError> {
    let offset = lab.session_time.ahead_seconds() + seconds;
    match (server, lab.deployment.clock(0)) {
        (Some(server), _) => server.set_clock(|clock| clock.set(offset)).await,
        (None, Some(clock)) => clock.set(offset),
        (None, None) => Ok(()),
    }
}

/// Returns a random number of seconds: half of the times around the grace, else up to an hour or 30 days.
fn random_step(random: &mut Random, grace: Duration) -> i64 {
    let max = match random.below(4) {
        0 | 1 => grace * 3,
        2 => HOUR,
        _ => 30 * 24 * HOUR,
    };
    let seconds = random.between(Duration::from_secs(1), max).as_secs().cast_signed();
    if random.one_in(2) { -seconds } else { seconds }
}

fn around(random: &mut Random, mean: Duration) -> Duration {
    random.between(mean / 4, mean + mean / 4 * 3)
}

/// One of so many kills is a restart of all machines. More would leave too little time in which thefts are detected.
const COLD_START_ONE_IN: usize = 5;

const HOUR: Duration = Duration::from_secs(3_600);
