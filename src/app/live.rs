//! What changes while the program runs: the stacks, one for each serving thread, and the terms by which
//! they are built.
//!
//! A request takes its thread's stack as it stands, without a lock and without touching what other
//! threads touch. New [`Terms`] put a new stack in the place of each; whoever is under way keeps the one
//! that he began with. A thread's connections to upstreams stay, for they aren't part of the terms.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use axum::body::Body;
use http::Request;

use super::cross_origin::{CrossOrigin, Passing};
use super::entrance::Entered;
use super::gateway::Proxied;
use super::plan::{Plan, Terms};
use super::public::Stack;
use super::verify::Verify;
use crate::proxy::Routes;

/// The program's public side, as it is now.
pub(super) struct Live {
    plan: Plan,
    verify: Option<Verify>,
    now: Mutex<Now>,
}

struct Now {
    terms: Terms,
    faces: Vec<Weak<Face>>,
}

/// What one thread shows to clients.
pub(super) struct Face {
    stack: ArcSwap<Stack>,
    proxied: Proxied,
    live: Arc<Live>,
}

impl Live {
    pub(super) fn new(plan: Plan, terms: Terms) -> Arc<Self> {
        let verify = terms.verify.clone().map(Verify::new);
        Arc::new(Self { plan, verify, now: Mutex::new(Now { terms, faces: Vec::new() }) })
    }

    /// How terms are made of a configuration.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The answers to other proxies, if they may ask.
    pub(super) fn verify(&self) -> Option<Verify> {
        self.verify.clone()
    }

    /// The routes that are in force.
    pub(super) fn routes(&self) -> Routes {
        self.now().terms.routes.clone()
    }

    /// A face with this way to upstreams.
    pub(super) fn face(self: &Arc<Self>, proxied: Proxied) -> Arc<Face> {
        let mut now = self.now();
        let stack = ArcSwap::from_pointee(self.plan.stack(&now.terms, proxied.clone()));
        let face = Arc::new(Face { stack, proxied, live: Arc::clone(self) });
        now.faces.push(Arc::downgrade(&face));
        face
    }

    /// From now on requests meet these terms.
    pub(super) fn apply(&self, terms: Terms) {
        let mut now = self.now();
        if let (Some(verify), Some(router)) = (&self.verify, &terms.verify) {
            verify.replace(router.clone());
        }
        now.terms = terms;
        let Now { terms, faces } = &mut *now;
        faces.retain(|face| {
            let Some(face) = face.upgrade() else { return false };
            face.stack.store(Arc::new(self.plan.stack(terms, face.proxied.clone())));
            true
        });
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Face {
    /// Lets a request in that arrives now. It meets the stack as it stands, which is borrowed, not
    /// cloned: nothing that requests share is counted up and down.
    pub(super) fn let_in(&self, request: Request<Body>) -> Entered<Passing> {
        self.stack.load().let_in(request, CrossOrigin::pass)
    }

    /// One for another thread.
    pub(super) fn for_thread(&self) -> Arc<Self> {
        self.live.face(self.proxied.for_thread())
    }
}
