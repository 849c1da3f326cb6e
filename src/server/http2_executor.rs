//! Executor for the tasks that hyper spawns for HTTP/2 streams.
//!
//! hyper does not poll a response body while the client's flow-control window is closed, so the body can
//! neither end the stream in that state nor time out. The task that wraps hyper's own does both: it completes,
//! which drops the stream and resets it, when its response is aborted or when a queued chunk is not consumed
//! in time. Other streams of the connection continue; behind a proxy they may belong to other clients.
//!
//! A stream has a timer only while it is blocked, which most never are.

use std::cell::{Cell, OnceCell};
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

/// Spawns each stream's task with an abort flag and a write timeout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Http2Executor;

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Http2Executor {
    fn execute(&self, task: F) {
        let task = Http2StreamTask { task, write_timer: None };
        tokio::spawn(CURRENT_STREAM.scope(StreamSignals::default(), task));
    }
}

/// Resets the current stream when `handle` aborts its response.
pub(super) fn register_abort(handle: &ResponseAbortHandle) {
    let flag = Arc::<AbortFlag>::default();
    let _ = CURRENT_STREAM.try_with(|signals| signals.abort.set(Arc::clone(&flag)));
    handle.on_abort(move || flag.set());
}

/// Records that the current stream's body has produced a chunk, to be consumed within `timeout`.
pub(super) fn chunk_queued(timeout: Duration) {
    let _ = CURRENT_STREAM.try_with(|signals| signals.chunk.set(Some(Chunk::Queued { timeout })));
}

/// Records that hyper has polled the current stream's body again: the previous chunk is consumed.
pub(super) fn chunk_consumed() {
    let _ = CURRENT_STREAM.try_with(|signals| signals.chunk.set(Some(Chunk::Consumed)));
}

tokio::task_local! {
    /// Signals to the stream task that is being polled.
    static CURRENT_STREAM: StreamSignals;
}

/// Signals from a response and its body to the task that sends them.
#[derive(Default)]
struct StreamSignals {
    abort: OnceCell<Arc<AbortFlag>>,
    /// Last event of the current poll.
    chunk: Cell<Option<Chunk>>,
}

#[derive(Clone, Copy)]
enum Chunk {
    Queued { timeout: Duration },
    Consumed,
}

impl StreamSignals {
    fn is_aborted(&self, cx: &Context<'_>) -> bool {
        self.abort.get().is_some_and(|flag| flag.is_set(cx))
    }
}

#[derive(Default)]
struct AbortFlag {
    is_set: AtomicBool,
    task: AtomicWaker,
}

impl AbortFlag {
    fn set(&self) {
        self.is_set.store(true, Release);
        self.task.wake();
    }

    fn is_set(&self, cx: &Context<'_>) -> bool {
        self.task.register(cx.waker());
        self.is_set.load(Acquire)
    }
}

pin_project! {
    struct Http2StreamTask<F> {
        #[pin]
        task: F,
        // Set while a chunk is queued.
        write_timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future> Future for Http2StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if CURRENT_STREAM.with(|signals| signals.is_aborted(cx)) || this.task.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match CURRENT_STREAM.with(|signals| signals.chunk.take()) {
            Some(Chunk::Queued { timeout }) => reset_timer(this.write_timer, timeout),
            Some(Chunk::Consumed) => *this.write_timer = None,
            None => {}
        }
        // Checks the flag again, because this poll may have registered it.
        if is_elapsed(this.write_timer, cx) || CURRENT_STREAM.with(|signals| signals.is_aborted(cx)) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

fn reset_timer(timer: &mut Option<Pin<Box<Sleep>>>, timeout: Duration) {
    match timer {
        Some(timer) => timer.as_mut().reset(Instant::now() + timeout),
        None => *timer = Some(Box::pin(sleep(timeout))),
    }
}

fn is_elapsed(timer: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    let is_elapsed = timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
    if is_elapsed {
        metrics::counter!("sekisho_connections_timed_out_total", "waiting_for" => "stream").increment(1);
    }
    is_elapsed
}
