//! The requests of HTTP/2, which hyper runs as tasks of their own.
//!
//! A task that waits until its client takes more can be ended from outside only by dropping it, and that
//! resets its stream. The others of its connection may be someone else's, behind a proxy that speaks
//! HTTP/2 to us, and go on.
//!
//! A client that gives one stream no window while others of its connection move holds what the answer
//! holds, up to its upstream. Nothing is written then that could wait, so such a stream has a timer, as long as
//! it waits; most never do.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use crate::response_abort::ResponseAbortHandle;

/// Spawns them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Http2Executor;

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Http2Executor {
    fn execute(&self, task: F) {
        tokio::spawn(Http2StreamTask { task, end: None, waiting: None });
    }
}

/// Lets `hang_up` end the task in which this is called.
pub(super) fn ends_by(hang_up: &ResponseAbortHandle) {
    let end = Arc::<AbortFlag>::default();
    NEW_END.set(Some(Arc::clone(&end)));
    hang_up.on_abort(move || {
        end.is_now.store(true, Release);
        end.task.wake();
    });
}

/// The task in which this is called hands over a piece of its answer, which the client may leave for that
/// long.
pub(super) fn hands_over(patience: Duration) {
    HELD.set(Some(PendingChunk::For(patience)));
}

/// It asks for more: the last piece is taken.
pub(super) fn is_taken() {
    HELD.set(Some(PendingChunk::Nothing));
}

thread_local! {
    /// From [`register_abort`] to the task that is being polled.
    static NEW_END: Cell<Option<Arc<AbortFlag>>> = const { Cell::new(None) };
    /// What the task that is being polled has done last, if anything.
    static HELD: Cell<Option<PendingChunk>> = const { Cell::new(None) };
}

/// What a task has for its client.
#[derive(Clone, Copy)]
enum PendingChunk {
    Nothing,
    /// A piece that may stay that long.
    For(Duration),
}

#[derive(Default)]
struct AbortFlag {
    is_now: AtomicBool,
    task: AtomicWaker,
}

impl AbortFlag {
    fn is_now(&self, cx: &Context<'_>) -> bool {
        self.task.register(cx.waker());
        self.is_now.load(Acquire)
    }
}

pin_project! {
    struct Http2StreamTask<F> {
        #[pin]
        task: F,
        // Once there is one.
        end: Option<Arc<AbortFlag>>,
        // While its client takes nothing.
        waiting: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future> Future for Http2StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.end.as_ref().is_some_and(|end| end.is_now(cx)) {
            return Poll::Ready(());
        }
        HELD.set(None);
        let polled = this.task.poll(cx).map(|_| ());
        if let Some(end) = NEW_END.take() {
            end.task.register(cx.waker());
            *this.end = Some(end);
        }
        if polled.is_pending() {
            match HELD.take() {
                Some(PendingChunk::For(patience)) => reset_timer(this.waiting, patience),
                Some(PendingChunk::Nothing) => *this.waiting = None,
                None => {}
            }
            if is_over(this.waiting, cx) {
                return Poll::Ready(());
            }
        }
        polled
    }
}

fn reset_timer(waiting: &mut Option<Pin<Box<Sleep>>>, patience: Duration) {
    match waiting {
        Some(waiting) => waiting.as_mut().reset(Instant::now() + patience),
        None => *waiting = Some(Box::pin(sleep(patience))),
    }
}

fn is_over(waiting: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    let is_over = waiting.as_mut().is_some_and(|waiting| waiting.as_mut().poll(cx).is_ready());
    if is_over {
        metrics::counter!("sekisho_connections_timed_out_total", "waiting_for" => "stream").increment(1);
    }
    is_over
}
