//! A reusable timer for deadlines.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that belongs to a connection and serves the deadlines of its requests.
///
/// Resetting a tokio timer costs more than polling it. A timer set for an earlier instant is therefore left
/// in place and reset when it fires, so that a busy connection resets it once per timeout, not once per
/// request.
#[derive(Default)]
pub(super) struct DeadlineTimer(Option<Pin<Box<Sleep>>>);

impl DeadlineTimer {
    /// Returns the output of `future`, or `None` if the deadline passes first.
    pub(super) async fn timeout_at<F: Future>(
        &mut self,
        deadline: Instant,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_elapsed(deadline, cx).map(|()| None),
        })
        .await
    }

    fn poll_elapsed(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timer_is_reused_for_earlier_and_later_deadlines() {
        let mut timer = DeadlineTimer::default();
        let started = Instant::now();
        for (seconds, elapsed) in [(10, 10), (5, 15), (20, 35), (1, 36)] {
            let deadline = Instant::now() + Duration::from_secs(seconds);
            assert_eq!(timer.timeout_at(deadline, pin!(pending::<()>())).await, None);
            assert_eq!(started.elapsed().as_secs(), elapsed);
        }
        let future = pin!(tokio::time::sleep(Duration::from_secs(1)));
        assert!(timer.timeout_at(Instant::now() + Duration::from_secs(2), future).await.is_some());
    }
}
