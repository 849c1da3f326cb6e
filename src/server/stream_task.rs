//! The requests of HTTP/2, which hyper runs as tasks of their own.
//!
//! A task that waits until its client takes more can be ended from outside only by dropping it, and that
//! resets its stream. The others of its connection may be someone else's, behind a proxy that speaks
//! HTTP/2 to us, and go on.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use hyper::rt::Executor;
use pin_project_lite::pin_project;

use crate::identity::HangUp;

/// Spawns them.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamTasks;

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for StreamTasks {
    fn execute(&self, task: F) {
        tokio::spawn(StreamTask { task, end: None });
    }
}

/// Lets `hang_up` end the task in which this is called.
pub(super) fn ends_by(hang_up: &HangUp) {
    let end = Arc::<End>::default();
    NEW_END.set(Some(Arc::clone(&end)));
    hang_up.how(move || {
        end.is_now.store(true, Release);
        end.task.wake();
    });
}

thread_local! {
    /// From [`ends_by`] to the task that is being polled.
    static NEW_END: Cell<Option<Arc<End>>> = const { Cell::new(None) };
}

#[derive(Default)]
struct End {
    is_now: AtomicBool,
    task: AtomicWaker,
}

impl End {
    fn is_now(&self, cx: &Context<'_>) -> bool {
        self.task.register(cx.waker());
        self.is_now.load(Acquire)
    }
}

pin_project! {
    struct StreamTask<F> {
        #[pin]
        task: F,
        // Once there is one.
        end: Option<Arc<End>>,
    }
}

impl<F: Future> Future for StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.end.as_ref().is_some_and(|end| end.is_now(cx)) {
            return Poll::Ready(());
        }
        let polled = this.task.poll(cx).map(|_| ());
        if let Some(end) = NEW_END.take() {
            end.task.register(cx.waker());
            *this.end = Some(end);
        }
        polled
    }
}
