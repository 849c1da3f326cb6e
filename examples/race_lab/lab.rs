//! What every actor shares: one site, what is known of it, and the sign to stop.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::ledger::Ledger;
use crate::options::Options;
use crate::site::Site;

/// What every actor shares.
pub(crate) struct Lab {
    pub(crate) site: Site,
    pub(crate) ledger: Ledger,
    pub(crate) options: Options,
    pub(crate) seed: u64,
    /// Within this an answer's cookies are in the browser, counted from the request; later ones
    /// count as lost.
    ///
    /// A quarter of the grace, so that with the disk's half all is well even for a browser that
    /// crashes: see the module page.
    pub(crate) way: Duration,
    /// How often a browser writes its cookies to disk: half the grace.
    pub(crate) disk_every: Duration,
    stop: watch::Receiver<bool>,
}

impl Lab {
    pub(crate) fn new(site: Site, options: Options, seed: u64, stop: watch::Receiver<bool>) -> Self {
        let (way, disk_every) = (options.grace / 4, options.grace / 2);
        Self { site, ledger: Ledger::new(), options, seed, way, disk_every, stop }
    }

    /// Waits; `false` if the run ends meanwhile.
    pub(crate) async fn pause(&self, pause: Duration) -> bool {
        let mut stop = self.stop.clone();
        // An error means that the sender is gone, which is a reason to stop too.
        timeout(pause, stop.wait_for(|stop| *stop)).await.is_err()
    }

    /// Whether the run goes on.
    pub(crate) fn goes_on(&self) -> bool {
        !*self.stop.borrow()
    }
}
