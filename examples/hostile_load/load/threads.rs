//! Threads with a runtime of their own.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;

/// A thread with a runtime, so that its tasks do not delay those of other threads. Dropping it aborts them.
pub(super) struct RuntimeThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RuntimeThread {
    pub(super) fn start(name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<Self> {
        Self::start_on(runtime::Builder::new_current_thread().enable_all().build()?, name, work)
    }

    /// Starts a runtime whose tasks run on several threads.
    pub(super) fn start_parallel(
        name: &str,
        threads: usize,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
        Self::start_on(runtime, name, work)
    }

    fn start_on(
        runtime: Runtime,
        name: &str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = work => {}
                    // An error means that the sender was dropped.
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for RuntimeThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            // The panic has been printed.
            std::process::abort();
        }
    }
}
