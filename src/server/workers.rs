//! The serving threads: each has a runtime, connections and a service of its own, so that a request
//! needs no other core.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;

use axum::body::Body;
use futures_util::future::join_all;
use http::{Request, Response};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tower::Service;

use super::accept::{AcceptGroup, Acceptor};
use super::connection_registry::ConnectionRegistry;
use super::limits::ServerLimits;
use super::tls::Certificate;

/// Threads that serve, beside those of the runtime that they are started on.
///
/// All accept from the same listening sockets, and each serves what it accepts, unless it has more than
/// twice as many connections as another: then that one gets it. Of a service each thread has one of its
/// own, which the factory makes.
///
/// ```
/// # async fn example() -> std::io::Result<()> {
/// use sekisho::server::{ServerLimits, ServingThreads};
/// use axum::{Router, routing::get};
///
/// let threads = ServingThreads::start(2, ServerLimits::default())?;
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// threads.serve(listener, None, || Router::new().route("/", get("welcome")))?;
/// // Requests are served, until:
/// threads.drain().await;
/// // What is under way has ended; what it has begun in the background goes on until the threads end.
/// threads.join().await;
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
/// ```
#[derive(Debug)]
pub struct WorkerThreads {
    threads: Vec<Thread>,
    stop: watch::Sender<bool>,
}

struct Thread {
    connections: Arc<ConnectionRegistry>,
    /// What it is to do until it stops.
    jobs: mpsc::UnboundedSender<Job>,
    drained: watch::Receiver<bool>,
    /// Dropped, the thread ends.
    _end: oneshot::Sender<()>,
    handle: JoinHandle<()>,
}

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

impl WorkerThreads {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    ///
    /// If the system has none to give.
    pub fn start(count: usize, limits: ServerLimits) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let everywhere = Arc::new(AtomicUsize::new(0));
        let count = count.max(1);
        let start = |thread: usize| {
            let connections =
                ConnectionRegistry::new(thread.to_string(), limits, count, Arc::clone(&everywhere));
            Thread::start(thread, connections, stopped.clone())
        };
        let threads = (0..count).map(start).collect::<io::Result<_>>()?;
        Ok(Self { threads, stop })
    }

    /// Serves `listener`, over TLS if there is a certificate.
    ///
    /// # Errors
    ///
    /// If the listening socket can't be shared.
    pub fn serve<F, S>(
        &self,
        listener: TcpListener,
        certificate: Option<Arc<Certificate>>,
        factory: F,
    ) -> io::Result<()>
    where
        F: Fn() -> S + Send + Sync + 'static,
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        listener.set_nonblocking(true)?;
        let listeners: Vec<_> =
            self.threads.iter().map(|_| listener.try_clone()).collect::<io::Result<_>>()?;
        let factory = Arc::new(factory);
        let connections: Arc<[_]> =
            self.threads.iter().map(|thread| Arc::clone(&thread.connections)).collect();
        let (others, given): (Vec<_>, Vec<_>) = listeners.iter().map(|_| mpsc::unbounded_channel()).unzip();
        for (mine, (listener, given)) in listeners.into_iter().zip(given).enumerate() {
            let sharers =
                AcceptGroup { mine, connections: Arc::clone(&connections), given, others: others.clone() };
            let (certificate, factory) = (certificate.clone(), Arc::clone(&factory));
            let stopped = self.stopped();
            let job = async move {
                let acceptor = Acceptor { certificate, service: factory(), sharers };
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => acceptor.run(listener, stopped).await,
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "a thread can't listen");
                    }
                }
            };
            // A thread that has ended serves nobody.
            let _ = self.threads[mine].jobs.send(Box::pin(job));
        }
        Ok(())
    }

    /// From now on these are the limits: for connections that there are as far as time and numbers go, for
    /// new ones altogether.
    pub fn set_limits(&self, limits: ServerLimits) {
        for thread in &self.threads {
            thread.connections.set_limits(limits);
        }
    }

    /// Stops listening, and lets what is under way end, for as long as the limits have it.
    pub async fn drain(&self) {
        self.stop.send_replace(true);
        let drained = self.threads.iter().map(|thread| {
            let mut drained = thread.drained.clone();
            // An error means that the thread is gone.
            async move { _ = drained.wait_for(|drained| *drained).await }
        });
        join_all(drained).await;
    }

    /// Ends the threads, and with them whatever still runs on them.
    pub async fn join(self) {
        // For those that were never told to stop.
        drop(self.stop);
        let handles: Vec<_> = self.threads.into_iter().map(|thread| thread.handle).collect();
        let joined = tokio::task::spawn_blocking(|| {
            for handle in handles {
                // Its panic was reported where it happened.
                let _ = handle.join();
            }
        });
        let _ = joined.await;
    }

    fn stopped(&self) -> impl Future<Output = ()> + use<> {
        let mut stopped = self.stop.subscribe();
        // An error means that nobody can say so any longer, which is a reason to stop too.
        async move { _ = stopped.wait_for(|stopped| *stopped).await }
    }
}

impl Thread {
    fn start(
        number: usize,
        connections: Arc<ConnectionRegistry>,
        mut stopped: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (jobs, mut new_jobs) = mpsc::unbounded_channel::<Job>();
        let (tell_drained, drained) = watch::channel(false);
        let (end, mut ended) = oneshot::channel::<()>();
        let kept = Arc::clone(&connections);
        let serve = async move {
            tokio::spawn(ConnectionRegistry::run_reaper(Arc::downgrade(&kept)));
            let mut running = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    Some(job) = new_jobs.recv() => { running.spawn(job); }
                    _ = stopped.wait_for(|stopped| *stopped) => break,
                }
            }
            while let Ok(job) = new_jobs.try_recv() {
                running.spawn(job);
            }
            running.join_all().await;
            tokio::select! {
                () = kept.drain() => {}
                // Nobody waits for that.
                _ = &mut ended => return,
            }
            tell_drained.send_replace(true);
            let _ = ended.await;
        };
        let name = format!("serving-{number}");
        let thread = std::thread::Builder::new().name(name).spawn(move || runtime.block_on(serve))?;
        Ok(Self { connections, jobs, drained, _end: end, handle: thread })
    }
}

impl std::fmt::Debug for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Thread").field("open", &self.connections.open()).finish_non_exhaustive()
    }
}
