//! Injected faults: kills of gateways and restarts of the database.

use std::time::Duration;

use crate::error::LabError;
use crate::lab::Lab;
use crate::postgres::{Server, ShutdownMode};
use crate::random::Random;

/// Kills a gateway at random times and starts it again.
pub(crate) async fn kill_gateways(lab: &Lab) -> Result<(), LabError> {
    let mut random = Random::for_actor(lab.seed, "kills");
    while lab.pause(around(&mut random, lab.options.kill_every)).await {
        let replica = random.below(lab.deployment.replicas());
        lab.events.note_fault(format_args!("kill -9 of gateway {replica}"));
        lab.deployment.kill(replica).await?;
        lab.events.count(|counters| counters.kills += 1);
        lab.deployment.bring_up(replica).await?;
        lab.events.note_fault(format_args!("gateway {replica} is ready"));
    }
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

fn around(random: &mut Random, mean: Duration) -> Duration {
    random.between(mean / 4, mean + mean / 4 * 3)
}
