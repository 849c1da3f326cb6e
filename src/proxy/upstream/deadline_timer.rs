//! A timer that is used again and again.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// Waits for something, but not for ever.
///
/// To set a timer costs more than to ask whether it has gone off. So one that is set for too early is
/// left as it is, and set anew if it goes off: a connection that is in use sets it once in a while, not
/// once for each request.
#[derive(Default)]
pub(super) struct DeadlineTimer(Option<Pin<Box<Sleep>>>);

impl DeadlineTimer {
    /// `None` if the deadline comes first.
    pub(super) async fn timeout_at<F: Future>(
        &mut self,
        deadline: Instant,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_over(deadline, cx).map(|()| None),
        })
        .await
    }

    fn poll_over(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
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
    async fn it_ends_at_each_deadline() {
        let (mut patience, began) = (DeadlineTimer::default(), Instant::now());
        for (seconds, then) in [(10, 10), (5, 15), (20, 35), (1, 36)] {
            let deadline = Instant::now() + Duration::from_secs(seconds);
            assert_eq!(patience.timeout_at(deadline, pin!(pending::<()>())).await, None);
            assert_eq!(began.elapsed().as_secs(), then);
        }
        let soon = pin!(tokio::time::sleep(Duration::from_secs(1)));
        assert!(patience.timeout_at(Instant::now() + Duration::from_secs(2), soon).await.is_some());
    }
}
