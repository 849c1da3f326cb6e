//! Worker threads, each with a single-threaded runtime, its own connections and its own service.
//!
//! A request is handled on one core and needs no synchronization with others.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_util::future::join_all;
use ipnet::IpNet;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::accept::{AcceptGroup, Acceptor};
use super::admission::{FreePlaces, ThreadAdmission};
use super::connection_registry::ConnectionRegistry;
use super::http_service::HttpService;
use super::limits::ServerLimits;
use super::socket::Listener;
use super::tls::Certificate;

/// Pool of worker threads that serve requests beside the runtime that starts them.
///
/// All threads accept from the same listening sockets. A thread serves the connections that it accepts,
/// unless it has more than twice as many as the least loaded thread, which then gets the connection. Each
/// thread has its own instance of a service, created by a factory.
///
/// ```
/// # async fn example() -> std::io::Result<()> {
/// use sekisho::server::{ServerLimits, WorkerThreads};
/// use axum::{Router, routing::get};
///
/// let workers = WorkerThreads::start(2, ServerLimits::default())?;
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// workers.serve(listener, None, || Router::new().route("/", get("welcome")))?;
///
/// // Stops accepting, and waits for the requests in flight.
/// workers.drain().await;
/// // Stops the threads, and with them any background tasks that the requests have spawned.
/// workers.join().await;
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
/// ```
#[derive(Debug)]
pub struct WorkerThreads {
    threads: Vec<Worker>,
    stop: watch::Sender<bool>,
}

struct Worker {
    registry: Arc<ConnectionRegistry>,
    accept_loops: mpsc::UnboundedSender<AcceptLoop>,
    is_drained: watch::Receiver<bool>,
    /// Dropping the sender ends the thread.
    _shutdown: oneshot::Sender<()>,
    handle: JoinHandle<()>,
}

type AcceptLoop = Pin<Box<dyn Future<Output = ()> + Send>>;

impl WorkerThreads {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    ///
    /// Returns an error if a thread or its runtime cannot be created.
    pub fn start(count: usize, limits: ServerLimits) -> io::Result<Self> {
        let count = count.max(1);
        let stop = watch::Sender::new(false);
        let start = |(index, admission): (usize, ThreadAdmission)| {
            let registry = ConnectionRegistry::new(index.to_string(), limits, admission);
            Worker::start(index, registry, stop.subscribe())
        };
        let admissions = ThreadAdmission::for_threads(count, &limits);
        let threads = admissions.into_iter().enumerate().map(start).collect::<io::Result<_>>()?;
        Ok(Self { threads, stop })
    }

    /// Serves `listener` on all threads, over TLS if there is a certificate.
    ///
    /// # Errors
    ///
    /// Returns an error if the listening socket cannot be shared between the threads.
    pub fn serve<F, S>(
        &self,
        listener: impl Into<Listener>,
        certificate: Option<Arc<Certificate>>,
        factory: F,
    ) -> io::Result<()>
    where
        F: Fn() -> S + Send + Sync + 'static,
        S: HttpService,
    {
        let listener = listener.into();
        let Listener { has_proxy_protocol, passes_rejections, .. } = listener;
        let listeners: Vec<_> =
            self.threads.iter().map(|_| listener.try_clone()).collect::<io::Result<_>>()?;
        let factory = Arc::new(factory);
        let registries: Arc<[_]> = self.threads.iter().map(|thread| Arc::clone(&thread.registry)).collect();
        let (senders, receivers): (Vec<_>, Vec<_>) =
            listeners.iter().map(|_| mpsc::unbounded_channel()).unzip();
        for (index, (listener, transferred)) in listeners.into_iter().zip(receivers).enumerate() {
            let registries = Arc::clone(&registries);
            let group = AcceptGroup { index, registries, transferred, senders: senders.clone() };
            let certificate = certificate.clone();
            let factory = Arc::clone(&factory);
            let stopped = self.stopped();
            let accept_loop = async move {
                let service = factory();
                let acceptor =
                    Acceptor { certificate, service, passes_rejections, group, has_proxy_protocol };
                match listener.register() {
                    Ok(listener) => acceptor.run(listener, stopped).await,
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(thread = index, error, "cannot register listener");
                    }
                }
            };
            // Fails if the thread has ended.
            let _ = self.threads[index].accept_loops.send(Box::pin(accept_loop));
        }
        Ok(())
    }

    /// Replaces the limits.
    ///
    /// New connections use all of the new limits. For existing connections only the limit on requests in flight,
    /// the idle, header and write timeouts and the drain timeout change.
    pub fn set_limits(&self, limits: ServerLimits) {
        for thread in &self.threads {
            thread.registry.set_limits(limits);
        }
    }

    /// Sets the networks of front proxies, which [`ServerLimits::connections_per_client`] does not limit.
    pub fn set_exempt_peers(&self, networks: Vec<IpNet>) {
        // The threads share the limits.
        if let Some(thread) = self.threads.first() {
            thread.registry.admission.set_exempt_peers(networks);
        }
    }

    /// Returns the free places of the threads, for [`ClientShares`](super::ClientShares::set_free_places).
    #[must_use]
    pub fn free_places(&self) -> Option<FreePlaces> {
        self.threads.first().map(|thread| thread.registry.admission.free_places())
    }

    /// Stops accepting, and waits until all connections are closed or the drain timeout expires.
    pub async fn drain(&self) {
        self.stop.send_replace(true);
        let drained = self.threads.iter().map(|thread| {
            let mut is_drained = thread.is_drained.clone();
            // An error means that the thread has ended.
            async move { _ = is_drained.wait_for(|is_drained| *is_drained).await }
        });
        join_all(drained).await;
    }

    /// Ends the threads and everything that still runs on them.
    pub async fn join(self) {
        // Stops the threads that were not drained.
        drop(self.stop);
        let handles: Vec<_> = self.threads.into_iter().map(|thread| thread.handle).collect();
        let joined = tokio::task::spawn_blocking(|| {
            for handle in handles {
                // The panic hook has already reported a panic.
                let _ = handle.join();
            }
        });
        let _ = joined.await;
    }

    fn stopped(&self) -> impl Future<Output = ()> + use<> {
        let mut stop = self.stop.subscribe();
        // An error means that `WorkerThreads` was dropped, which stops the threads as well.
        async move { _ = stop.wait_for(|stop| *stop).await }
    }
}

impl Worker {
    fn start(
        index: usize,
        registry: Arc<ConnectionRegistry>,
        stop: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (accept_loops, new_loops) = mpsc::unbounded_channel();
        let (drained_sender, is_drained) = watch::channel(false);
        let (shutdown_sender, mut shutdown) = oneshot::channel::<()>();
        let thread_registry = Arc::clone(&registry);
        let run = async move {
            tokio::spawn(ConnectionRegistry::run_reaper(Arc::downgrade(&thread_registry)));
            run_accept_loops(new_loops, stop).await;
            tokio::select! {
                () = thread_registry.drain() => {}
                // `join` without `drain`.
                _ = &mut shutdown => return,
            }
            drained_sender.send_replace(true);
            let _ = shutdown.await;
        };
        let name = format!("worker-{index}");
        let handle = std::thread::Builder::new().name(name).spawn(move || runtime.block_on(run))?;
        Ok(Self { registry, accept_loops, is_drained, _shutdown: shutdown_sender, handle })
    }
}

/// Runs accept loops until `stop` is set and all of them have ended.
async fn run_accept_loops(
    mut new_loops: mpsc::UnboundedReceiver<AcceptLoop>,
    mut stop: watch::Receiver<bool>,
) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(accept_loop) = new_loops.recv() => { running.spawn(accept_loop); }
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    while let Ok(accept_loop) = new_loops.try_recv() {
        running.spawn(accept_loop);
    }
    running.join_all().await;
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("open", &self.registry.open()).finish_non_exhaustive()
    }
}
