//! Reports of the use of a session by what a client sends on an open connection.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::identity::SessionId;
use crate::session_event::SessionUseRecorder;

/// The recorder of a proxy. Clones are cheap and share it.
#[derive(Clone, Default)]
pub(super) struct SessionUses(Option<Arc<Shared>>);

/// The recorder behind a reference count that only one thread changes, since each upload has a clone.
#[derive(Clone)]
struct Shared {
    recorder: Arc<dyn SessionUseRecorder>,
    interval: Duration,
}

/// Reports the use of one session.
pub(super) struct UseReporter {
    shared: Arc<Shared>,
    session: SessionId,
}

/// Reports the use of a session by an upload, at most once in each interval, and not within the first: the
/// request has shown its own use.
pub(super) struct UploadReporter {
    reporter: UseReporter,
    next_report: Instant,
}

impl SessionUses {
    pub(super) fn new(recorder: Arc<dyn SessionUseRecorder>) -> Self {
        let interval = recorder.interval();
        Self(Some(Arc::new(Shared { recorder, interval })))
    }

    /// Returns the same recorder with a reference count of its own.
    pub(super) fn for_thread(&self) -> Self {
        Self(self.0.as_deref().cloned().map(Arc::new))
    }

    /// Returns the reporter of a session, if there is one and its use is recorded.
    pub(super) fn reporter(&self, session: Option<SessionId>) -> Option<UseReporter> {
        let (shared, session) = self.0.as_ref().zip(session)?;
        Some(UseReporter { shared: Arc::clone(shared), session })
    }
}

impl UseReporter {
    fn report(&self) {
        self.shared.recorder.record_use(self.session);
    }

    /// Reports each time that `used` is set, at most once in each interval, and not within the first. Never
    /// completes.
    ///
    /// Setting `used` wakes no task. The task that sets it must poll this future afterwards.
    pub(super) async fn run(reporter: Option<Self>, used: &AtomicBool) -> Infallible {
        let Some(reporter) = reporter else { return pending().await };
        loop {
            sleep(reporter.shared.interval).await;
            poll_fn(|_| if used.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }).await;
            used.store(false, Ordering::Relaxed);
            reporter.report();
        }
    }
}

impl UploadReporter {
    pub(super) fn new(reporter: UseReporter) -> Self {
        let next_report = Instant::now() + reporter.shared.interval;
        Self { reporter, next_report }
    }

    /// Records that the client has sent data.
    pub(super) fn record_data(&mut self) {
        let now = Instant::now();
        if now >= self.next_report {
            self.next_report = now + self.reporter.shared.interval;
            self.reporter.report();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::test_support::UseCounter;

    const INTERVAL: Duration = UseCounter::INTERVAL;

    /// B10: an upload is a use of its session; a short one adds nothing to its request.
    #[tokio::test(start_paused = true)]
    async fn long_upload_is_reported_once_in_each_interval() {
        let counter = Arc::<UseCounter>::default();
        let uses = SessionUses::new(Arc::clone(&counter) as _).for_thread();
        assert!(uses.reporter(None).is_none());
        let reporter = uses.reporter(Some(UseCounter::SESSION));
        let mut upload = UploadReporter::new(reporter.expect("a session"));
        let mut reports = Vec::new();
        for _ in 0..6 {
            for _ in 0..10 {
                upload.record_data();
                tokio::time::advance(INTERVAL / 20).await;
            }
            reports.push(counter.take());
        }
        assert_eq!(reports, [0, 0, 1, 0, 1, 0]);
    }
}
