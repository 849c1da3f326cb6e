//! What happens to the machines: gateways are killed, the store is restarted.

use std::time::Duration;

use crate::error::LabError;
use crate::lab::Lab;
use crate::postgres::{Restart, Server};
use crate::random::Random;

/// Kills some gateway at random moments, and starts it again at once.
pub(crate) async fn kill_gateways(lab: &Lab) -> Result<(), LabError> {
    let mut random = Random::of_actor(lab.seed, "kills");
    while lab.pause(around(&mut random, lab.options.kill_every)).await {
        let replica = random.below(lab.site.replicas());
        lab.ledger.trouble(format_args!("kill -9 of gateway {replica}"));
        lab.site.kill(replica).await?;
        lab.ledger.count(|tally| tally.kills += 1);
        lab.site.bring_up(replica).await?;
        lab.ledger.trouble(format_args!("gateway {replica} is back"));
    }
    Ok(())
}

/// Restarts the database server at random moments, half of the times as in a crash.
pub(crate) async fn restart_store(lab: &Lab, server: Option<&Server>) -> Result<(), LabError> {
    let Some(server) = server else { return Ok(()) };
    let mut random = Random::of_actor(lab.seed, "restarts");
    while lab.pause(around(&mut random, lab.options.restart_every)).await {
        let how = if random.one_in(2) { Restart::Fast } else { Restart::Immediate };
        lab.ledger.trouble(format_args!("restart of the store, {how:?}"));
        server.restart(how).await?;
        lab.ledger.count(|tally| tally.store_restarts += 1);
        lab.ledger.trouble("the store is back");
    }
    Ok(())
}

fn around(random: &mut Random, mean: Duration) -> Duration {
    random.between(mean / 4, mean + mean / 4 * 3)
}
