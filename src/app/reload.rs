//! What changes while the program runs: the stacks, one for each serving thread, and the terms by which
//! they are built.
//!
//! A request takes its thread's stack as it stands, without a lock and without touching what other
//! threads touch. New [`ReloadableConfig`] put a new stack in the place of each; whoever is under way keeps the one
//! that he began with. A thread's connections to upstreams stay, for they aren't part of the terms.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use axum::body::Body;
use http::Request;

use super::cors_csrf::{CorsCsrf, CorsCsrfFuture};
use super::dispatcher::ProxyStacks;
use super::forward_auth::ForwardAuthService;
use super::public::PublicStack;
use super::request_recorder::RecorderFuture;
use super::stack::{ReloadableConfig, StackBuilder};
use crate::proxy::Routes;

/// The program's public side, as it is now.
pub(super) struct ReloadableStacks {
    plan: StackBuilder,
    verify: Option<ForwardAuthService>,
    now: Mutex<Current>,
}

struct Current {
    terms: ReloadableConfig,
    faces: Vec<Weak<ThreadStack>>,
}

/// What one thread shows to clients.
pub(super) struct ThreadStack {
    stack: ArcSwap<PublicStack>,
    proxied: ProxyStacks,
    live: Arc<ReloadableStacks>,
}

impl ReloadableStacks {
    pub(super) fn new(plan: StackBuilder, terms: ReloadableConfig) -> Arc<Self> {
        let verify = terms.verify.clone().map(ForwardAuthService::new);
        Arc::new(Self { plan, verify, now: Mutex::new(Current { terms, faces: Vec::new() }) })
    }

    /// How terms are made of a configuration.
    pub(super) fn plan(&self) -> &StackBuilder {
        &self.plan
    }

    /// The answers to other proxies, if they may ask.
    pub(super) fn verify(&self) -> Option<ForwardAuthService> {
        self.verify.clone()
    }

    /// The routes that are in force.
    pub(super) fn routes(&self) -> Routes {
        self.now().terms.routes.clone()
    }

    /// A face with this way to upstreams.
    pub(super) fn new_thread_stack(self: &Arc<Self>, proxied: ProxyStacks) -> Arc<ThreadStack> {
        let mut now = self.now();
        let stack = ArcSwap::from_pointee(self.plan.build_stack(&now.terms, proxied.clone()));
        let face = Arc::new(ThreadStack { stack, proxied, live: Arc::clone(self) });
        now.faces.push(Arc::downgrade(&face));
        face
    }

    /// From now on requests meet these terms.
    pub(super) fn apply(&self, terms: ReloadableConfig) {
        let mut now = self.now();
        if let (Some(verify), Some(router)) = (&self.verify, &terms.verify) {
            verify.replace(router.clone());
        }
        now.terms = terms;
        let Current { terms, faces } = &mut *now;
        faces.retain(|face| {
            let Some(face) = face.upgrade() else { return false };
            face.stack.store(Arc::new(self.plan.build_stack(terms, face.proxied.clone())));
            true
        });
    }

    fn now(&self) -> MutexGuard<'_, Current> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThreadStack {
    /// Lets a request in that arrives now. It meets the stack as it stands, which is borrowed, not
    /// cloned: nothing that requests share is counted up and down.
    pub(super) fn let_in(&self, request: Request<Body>) -> RecorderFuture<CorsCsrfFuture> {
        self.stack.load().call_with(request, CorsCsrf::call)
    }

    /// One for another thread.
    pub(super) fn for_thread(&self) -> Arc<Self> {
        self.live.new_thread_stack(self.proxied.for_thread())
    }
}
