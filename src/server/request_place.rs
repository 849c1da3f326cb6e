//! The place of a request with a body in the limit of requests in flight.

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use hyper::body::Incoming;
use parking_lot::Mutex;

use super::admission::{Held, ThreadAdmission};
use super::connection_context::ConnectionContext;
use crate::client_share::ClientShare;
use crate::request_context::RequestContext;

/// The place of a request with a body, held while the gateway or an upstream works on the request.
///
/// The place is given back while the service waits for the body, whose pace the client decides, and taken again
/// when more of it arrives. If too few are free then, the request continues without one, because it has begun.
pub(super) struct RequestPlace {
    pub(super) context: Arc<ConnectionContext>,
    state: AtomicU8,
    /// Owner of the request's part in the numbers of its client, if the service counts clients.
    request: OnceLock<RequestContext>,
    /// The rest of a body that the service has dropped.
    unread: Mutex<Option<Incoming>>,
}

impl RequestPlace {
    /// Wraps a place that the request holds.
    pub(super) fn new(context: &Arc<ConnectionContext>, held: Held) -> Self {
        let state = match held {
            Held::Place => HELD,
            Held::Reserve => HELD_RESERVE,
        };
        Self {
            context: Arc::clone(context),
            state: AtomicU8::new(state),
            request: OnceLock::new(),
            unread: Mutex::default(),
        }
    }

    /// Suspends the part in the numbers of a client together with the place.
    pub(super) fn attach(&self, request: RequestContext) {
        let _ = self.request.set(request);
    }

    /// Gives the place back until more of the body arrives.
    pub(super) fn suspend(&self) {
        let state = self.state.load(Relaxed);
        let Some(held) = held_in(state) else { return };
        if self.replace(state, SUSPENDED) {
            self.admission().end_request(held);
            if let Some(share) = self.share() {
                share.suspend();
            }
        }
    }

    /// Takes the place again, if enough are free.
    pub(super) fn resume(&self) {
        if self.state.load(Relaxed) != SUSPENDED || !self.admission().try_resume_request() {
            return;
        }
        if !self.replace(SUSPENDED, HELD) {
            self.admission().end_request(Held::Place);
        } else if let Some(share) = self.share() {
            share.resume();
        }
    }

    /// Gives the place back for good.
    pub(super) fn release(&self) {
        if let Some(held) = held_in(self.state.swap(RELEASED, Relaxed)) {
            self.admission().end_request(held);
        }
    }

    /// Keeps the rest of a body that the service has dropped, until the response begins.
    ///
    /// An HTTP/2 stream is reset instead.
    pub(super) fn set_unread(&self, body: Incoming) {
        if !self.is_released() && !self.context.state.is_http2() {
            *self.unread.lock() = Some(body);
        }
    }

    pub(super) fn take_unread(&self) -> Option<Incoming> {
        self.unread.lock().take()
    }

    /// Returns `true` if the response has begun, or the request has ended.
    pub(super) fn is_released(&self) -> bool {
        self.state.load(Relaxed) == RELEASED
    }

    fn share(&self) -> Option<&ClientShare> {
        self.request.get()?.share()
    }

    fn admission(&self) -> &ThreadAdmission {
        &self.context.permit.registry.admission
    }

    fn replace(&self, current: u8, new: u8) -> bool {
        self.state.compare_exchange(current, new, Relaxed, Relaxed).is_ok()
    }
}

fn held_in(state: u8) -> Option<Held> {
    match state {
        HELD => Some(Held::Place),
        HELD_RESERVE => Some(Held::Reserve),
        _ => None,
    }
}

const HELD: u8 = 0;
const HELD_RESERVE: u8 = 1;
const SUSPENDED: u8 = 2;
const RELEASED: u8 = 3;
