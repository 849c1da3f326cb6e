//! The state shared by all browsers and thieves.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::deployment::Deployment;
use crate::event_log::EventLog;
use crate::options::Options;
use crate::session_time::SessionTime;

/// The state shared by all browsers and thieves of a deployment.
pub(crate) struct Lab {
    pub(crate) deployment: Deployment,
    pub(crate) events: EventLog,
    pub(crate) session_time: SessionTime,
    pub(crate) options: Options,
    pub(crate) seed: u64,
    /// Timeout for a response, from the request on. Later responses count as lost.
    ///
    /// A quarter of the grace: see the scale in the crate's documentation.
    pub(crate) response_timeout: Duration,
    /// Interval of a browser's disk writes, half the grace.
    pub(crate) disk_interval: Duration,
    stop: watch::Receiver<bool>,
}

impl Lab {
    pub(crate) fn new(
        deployment: Deployment,
        options: Options,
        seed: u64,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let response_timeout = options.grace / 4;
        let disk_interval = options.grace / 2;
        Self {
            deployment,
            events: EventLog::new(),
            session_time: SessionTime::default(),
            options,
            seed,
            response_timeout,
            disk_interval,
            stop,
        }
    }

    /// Waits. Returns `false` if the run ends meanwhile.
    pub(crate) async fn pause(&self, pause: Duration) -> bool {
        let mut stop = self.stop.clone();
        // An error means that the sender was dropped, which also ends the run.
        timeout(pause, stop.wait_for(|stop| *stop)).await.is_err()
    }

    /// Returns `true` until the run ends.
    pub(crate) fn is_running(&self) -> bool {
        !*self.stop.borrow()
    }
}
