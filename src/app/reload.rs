//! Replaces the stacks when the configuration changes.
//!
//! Every worker thread has its own stack. A request loads its thread's stack without a lock and without
//! writing to memory that other threads use. A reload replaces the stack of every thread. Requests in flight
//! keep the stack they started on, and the threads keep their connections to upstreams.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use axum::body::Body;
use http::{Request, Response};
use parking_lot::Mutex;
use tower::Service;

use super::browser_errors::BrowserErrorsFuture;
use super::cors_csrf::CorsCsrfFuture;
use super::dispatcher::DispatchFuture;
use super::error::AppError;
use super::forward_auth::ForwardAuthService;
use super::proxy_stacks::ProxyStacks;
use super::request_recorder::RecorderFuture;
use super::stack::{PublicStack, ReloadableConfig, StackBuilder};
use crate::config::Config;
use crate::proxy::Routes;

/// The service of the public listener. Cheap to clone.
///
/// Every request is handled by the stack in force when it arrives. See [`App::apply`](super::App::apply).
#[derive(Clone)]
pub struct PublicService(Arc<ThreadStack>);

/// The stack of one worker thread.
struct ThreadStack {
    stack: ArcSwap<PublicStack>,
    proxies: ProxyStacks,
    stacks: Arc<ReloadableStacks>,
}

/// The stacks of all worker threads, and the configuration in force.
pub(super) struct ReloadableStacks {
    builder: StackBuilder,
    forward_auth: Option<ForwardAuthService>,
    current: Mutex<Current>,
}

struct Current {
    config: ReloadableConfig,
    threads: Vec<Weak<ThreadStack>>,
}

impl PublicService {
    /// Returns a service for another thread, with its own stack and its own connections to upstreams.
    #[must_use]
    pub fn for_thread(&self) -> Self {
        self.0.stacks.new_thread_stack(self.0.proxies.for_thread())
    }
}

impl Service<Request<Body>> for PublicService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = RecorderFuture<BrowserErrorsFuture<CorsCsrfFuture<DispatchFuture>>>;

    /// The stack is always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Cloning counts references that only this thread touches.
        PublicStack::clone(&self.0.stack.load()).call(request)
    }
}

impl ReloadableStacks {
    pub(super) fn new(builder: StackBuilder, config: ReloadableConfig) -> Arc<Self> {
        let forward_auth = config.forward_auth.clone().map(ForwardAuthService::new);
        let current = Mutex::new(Current { config, threads: Vec::new() });
        Arc::new(Self { builder, forward_auth, current })
    }

    /// Returns the service of `verify.listen`, if that is configured.
    pub(super) fn forward_auth(&self) -> Option<ForwardAuthService> {
        self.forward_auth.clone()
    }

    /// Returns the routes in force.
    pub(super) fn routes(&self) -> Routes {
        self.current.lock().config.routes.clone()
    }

    /// Builds the stack of another thread.
    pub(super) fn new_thread_stack(self: &Arc<Self>, proxies: ProxyStacks) -> PublicService {
        let mut current = self.current.lock();
        let stack = ArcSwap::from_pointee(self.builder.build_stack(&current.config, proxies.clone()));
        let thread = Arc::new(ThreadStack { stack, proxies, stacks: Arc::clone(self) });
        current.threads.push(Arc::downgrade(&thread));
        PublicService(thread)
    }

    /// Checks the reloadable settings of `config`.
    pub(super) fn prepare(&self, config: &Config) -> Result<ReloadableConfig, AppError> {
        self.builder.prepare(config, &self.routes())
    }

    /// Puts `config` into force for all requests that arrive later.
    pub(super) fn apply(&self, config: ReloadableConfig) {
        let mut current = self.current.lock();
        self.builder.pages.replace(config.pages.clone());
        if let (Some(service), Some(router)) = (&self.forward_auth, &config.forward_auth) {
            service.replace(router.clone());
        }
        current.threads.retain(|thread| {
            let Some(thread) = thread.upgrade() else { return false };
            thread.stack.store(Arc::new(self.builder.build_stack(&config, thread.proxies.clone())));
            true
        });
        current.config = config;
    }
}
