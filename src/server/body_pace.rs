//! The minimum rate of a request body.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Enforces a minimum rate while a body is awaited from the client.
///
/// Only the time counts in which the service waits for the body. The timer is allocated on the first wait.
pub(super) struct BodyPace {
    /// Bytes per second, at least 1.
    min_rate: u64,
    received: u64,
    /// Sum of all waits that have ended.
    waited: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl BodyPace {
    /// Creates the state of a new body. A rate of 0 is no minimum.
    pub(super) fn new(min_rate: u32) -> Option<Self> {
        (min_rate > 0).then(|| Self {
            min_rate: min_rate.into(),
            received: 0,
            waited: Duration::ZERO,
            waiting_since: None,
            timer: None,
        })
    }

    /// Records that the body is awaited. Ready once it is too slow.
    pub(super) fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let remaining = self.remaining();
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now())));
        if self.waiting_since.is_none() {
            let now = Instant::now();
            self.waiting_since = Some(now);
            timer.as_mut().reset(now + remaining);
        }
        timer.as_mut().poll(cx)
    }

    /// Records that a part of the body has arrived.
    pub(super) fn record(&mut self, bytes: usize) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
        self.received = self.received.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Returns the time for which the next part may be awaited.
    fn remaining(&self) -> Duration {
        let at_min_rate = Duration::from_millis(self.received.saturating_mul(1_000) / self.min_rate);
        GRACE.saturating_add(at_min_rate).saturating_sub(self.waited).min(MAX_WAIT)
    }
}

/// Waiting time after which the minimum rate applies.
const GRACE: Duration = Duration::from_secs(10);

/// Limit of a single wait. Other timeouts are shorter.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{sleep, timeout};

    use super::*;

    async fn is_too_slow(pace: &mut BodyPace, within: Duration) -> bool {
        timeout(within, poll_fn(|cx| pace.poll_too_slow(cx))).await.is_ok()
    }

    /// A1: a body of one byte every ten seconds was read to its end.
    #[tokio::test(start_paused = true)]
    async fn dripping_body_is_too_slow() {
        let mut pace = BodyPace::new(240).expect("a minimum rate");
        assert!(!is_too_slow(&mut pace, Duration::from_secs(9)).await);
        pace.record(1);
        assert!(is_too_slow(&mut pace, Duration::from_secs(2)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn steady_body_is_accepted() {
        let mut pace = BodyPace::new(240).expect("a minimum rate");
        for _ in 0..100 {
            assert!(!is_too_slow(&mut pace, Duration::from_secs(1)).await);
            pace.record(250);
        }
        // The time in which the service does not read does not count.
        sleep(Duration::from_secs(1_000)).await;
        assert!(!is_too_slow(&mut pace, Duration::from_secs(9)).await);
    }

    #[test]
    fn rate_of_zero_is_no_minimum() {
        assert!(BodyPace::new(0).is_none());
    }
}
