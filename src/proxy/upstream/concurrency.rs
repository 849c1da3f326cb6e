//! The limit on concurrent requests to one upstream, with a bounded queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::contention::{Contention, Place, QueuePlace};
use super::settings::UpstreamSettings;
use crate::client_share::{ClientCounts, ClientShare};
use crate::proxy::error::ProxyError;
use crate::request_context::RequestContext;

/// Counts the requests in flight to an upstream and limits those that wait for their response.
///
/// A response that is streamed no longer counts against the limit, nor does a request while its body is awaited:
/// their end depends on the client.
///
/// Half of the places are open to all requests. Of the others a client may hold as many as are free, or a few, and
/// likewise of the queue, so that a few clients whose requests take long leave places to others. Many such clients
/// together leave the queue to those that have fewer requests.
///
/// The counters serve the load balancer too, so the limit is not a [`tokio::sync::Semaphore`].
pub(super) struct ConcurrencyLimit {
    /// Number of requests that wait for the start of their response, in the open half of the places.
    open: AtomicUsize,
    max_open: usize,
    /// Number of those in the other half. It is changed only while `contention` is locked.
    contended: AtomicUsize,
    max_contended: usize,
    /// Number of responses that have begun and have not ended, of requests whose body is awaited, and of those that
    /// continue without a place.
    streaming: AtomicUsize,
    queued: AtomicUsize,
    max_queued: usize,
    queue_timeout: Duration,
    /// Locked only while the open half of the places is taken.
    contention: Mutex<Contention>,
}

impl ConcurrencyLimit {
    pub(super) fn new(settings: &UpstreamSettings) -> Self {
        Self {
            open: AtomicUsize::new(0),
            max_open: settings.max_in_flight / 2,
            contended: AtomicUsize::new(0),
            max_contended: settings.max_in_flight.div_ceil(2),
            streaming: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            max_queued: settings.max_queued,
            queue_timeout: settings.queue_timeout,
            contention: Mutex::default(),
        }
    }

    /// Returns the number of requests whose response has not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.taken() + self.streaming.load(Ordering::Relaxed)
    }

    /// Returns the number of requests that wait in the queue or for the start of their response.
    pub(super) fn waiting(&self) -> usize {
        self.taken() + self.queued.load(Ordering::Relaxed)
    }

    pub(super) fn has_capacity(&self) -> bool {
        self.taken() < self.max_open + self.max_contended
    }

    fn taken(&self) -> usize {
        self.open.load(Ordering::Relaxed) + self.contended.load(Ordering::Relaxed)
    }

    /// Counts one more request. Waits in the queue while there is no place for its client.
    ///
    /// The caller must [`release`](Self::release) the place when the response begins, or when the request ends without
    /// one. Fails with [`UpstreamBusy`](ProxyError::UpstreamBusy) if the queue is full for the client, or after too
    /// long a wait in it.
    pub(super) async fn acquire(&self) -> Result<Place, ProxyError> {
        if let Some(place) = self.try_resume() {
            return Ok(place);
        }
        // Boxed to keep the future of the usual case small.
        Box::pin(self.contend()).await
    }

    /// Counts a request again whose body has arrived, if a place of the open half is free.
    ///
    /// The other half is for requests that begin: the bodies of many requests may arrive at the same time.
    pub(super) fn try_resume(&self) -> Option<Place> {
        // It does not overtake the queued ones.
        if self.queued.load(Ordering::Relaxed) == 0 { self.try_take_open() } else { None }
    }

    async fn contend(&self) -> Result<Place, ProxyError> {
        let mut queued = match self.begin_contention()? {
            Contended::Place(place) => return Ok(place),
            Contended::Queued(queued) => queued,
        };
        match tokio::time::timeout(self.queue_timeout, &mut queued.place).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(ProxyError::UpstreamBusy),
        }
    }

    fn begin_contention(&self) -> Result<Contended<'_>, ProxyError> {
        let client =
            RequestContext::with_current(|context| context.share().map(ClientShare::counts)).flatten();
        let mut contention = self.contention.lock();
        // Counted first, so that a release in between is not missed.
        self.queued.fetch_add(1, Ordering::SeqCst);
        if let Some(place) = self.try_take(&mut contention, client.as_ref()) {
            self.queued.fetch_sub(1, Ordering::SeqCst);
            return Ok(Contended::Place(place));
        }
        let queue_place = contention.find_queue_place(client.as_ref(), self.max_queued);
        if queue_place != QueuePlace::Free {
            self.queued.fetch_sub(1, Ordering::SeqCst);
        }
        if queue_place == QueuePlace::Full {
            return Err(ProxyError::UpstreamBusy);
        }
        let (id, place) = contention.enqueue(client);
        Ok(Contended::Queued(QueuedRequest { limit: self, id, place }))
    }

    /// Takes a place that the client may have.
    fn try_take(&self, contention: &mut Contention, client: Option<&Arc<ClientCounts>>) -> Option<Place> {
        if let Some(place) = self.try_take_open() {
            return Some(place);
        }
        if !contention.may_hold_another(client, self.free_contended()) {
            return None;
        }
        self.contended.fetch_add(1, Ordering::Relaxed);
        contention.add(client);
        Some(Place::Contended(client.cloned()))
    }

    fn try_take_open(&self) -> Option<Place> {
        let increment = |count| (count < self.max_open).then_some(count + 1);
        let taken = self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, increment);
        taken.is_ok().then_some(Place::Open)
    }

    fn free_contended(&self) -> usize {
        self.max_contended.saturating_sub(self.contended.load(Ordering::Relaxed))
    }

    /// Gives a place back to the first request in the queue that may have it.
    pub(super) fn release(&self, place: Place) {
        match place {
            Place::Contended(client) => {
                let mut contention = self.contention.lock();
                self.give_back(&mut contention, client.as_ref());
                self.serve_queue(&mut contention);
            }
            Place::Open => {
                self.open.fetch_sub(1, Ordering::SeqCst);
                if self.queued.load(Ordering::SeqCst) > 0 {
                    self.serve_queue(&mut self.contention.lock());
                }
            }
        }
    }

    fn give_back(&self, contention: &mut Contention, client: Option<&Arc<ClientCounts>>) {
        contention.remove(client);
        self.contended.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives the free places to the queued requests that may have them.
    fn serve_queue(&self, contention: &mut Contention) {
        loop {
            let has_open = self.open.load(Ordering::SeqCst) < self.max_open;
            let Some(index) = contention.next_in_queue(has_open, self.free_contended()) else { return };
            let client = contention.queued_client(index);
            let Some(place) = self.try_take(contention, client.as_ref()) else { return };
            self.queued.fetch_sub(1, Ordering::SeqCst);
            match contention.grant(index, place) {
                Ok(()) => {}
                Err(Place::Contended(client)) => self.give_back(contention, client.as_ref()),
                Err(Place::Open) => _ = self.open.fetch_sub(1, Ordering::SeqCst),
            }
        }
    }

    /// Counts a request as a streamed response or an awaited body, which are not limited.
    pub(super) fn start_streaming(&self) {
        self.streaming.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end_streaming(&self) {
        self.streaming.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request while the open half of the places is taken.
enum Contended<'a> {
    Place(Place),
    Queued(QueuedRequest<'a>),
}

/// A request in the queue. Dropping it leaves the queue.
struct QueuedRequest<'a> {
    limit: &'a ConcurrencyLimit,
    id: u64,
    place: oneshot::Receiver<Place>,
}

impl Drop for QueuedRequest<'_> {
    fn drop(&mut self) {
        let is_queued = self.limit.contention.lock().dequeue(self.id);
        if is_queued {
            self.limit.queued.fetch_sub(1, Ordering::SeqCst);
        } else if let Ok(place) = self.place.try_recv() {
            // Granted, but not received.
            self.limit.release(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::test_support::TestClient;

    fn limit(max_in_flight: usize, max_queued: usize) -> ConcurrencyLimit {
        ConcurrencyLimit::new(&UpstreamSettings { max_in_flight, max_queued, ..UpstreamSettings::default() })
    }

    /// Takes places for a client until the next request would have to wait.
    async fn fill(limit: &ConcurrencyLimit, client: &TestClient) -> Vec<Place> {
        let mut places = Vec::new();
        while let Some(place) = try_acquire(limit, client).await {
            places.push(place);
        }
        places
    }

    async fn try_acquire(limit: &ConcurrencyLimit, client: &TestClient) -> Option<Place> {
        let mut acquire = std::pin::pin!(client.request().scope(limit.acquire()));
        match futures_util::poll!(&mut acquire) {
            std::task::Poll::Ready(result) => result.ok(),
            std::task::Poll::Pending => None,
        }
    }

    /// A1: requests of a few clients that took long left no place for others.
    #[tokio::test]
    async fn clients_leave_places_for_others() {
        let limit = limit(100, 100);
        let mut held = Vec::new();
        for client in [TestClient::default(), TestClient::default(), TestClient::default()] {
            held.extend(fill(&limit, &client).await);
        }
        assert_eq!(held.len(), 50 + 25 + 13 + 6);
        let other = TestClient::default();
        for _ in 0..100 {
            limit.release(try_acquire(&limit, &other).await.expect("a free place"));
        }
        held.into_iter().for_each(|place| limit.release(place));
        assert_eq!(limit.in_flight(), 0);
        assert_eq!(fill(&limit, &other).await.len(), 50 + 25);
    }

    /// A1: requests whose bodies arrived at the same time took more than all places.
    #[tokio::test]
    async fn resumed_requests_leave_places_for_others() {
        let limit = limit(10, 10);
        let resumed: Vec<_> = std::iter::repeat_with(|| limit.try_resume()).take(100).flatten().collect();
        assert_eq!(resumed.len(), 5);
        assert_eq!(fill(&limit, &TestClient::default()).await.len(), 4);
    }

    #[tokio::test]
    async fn request_of_another_client_is_next_in_the_queue() {
        let limit = limit(20, 10);
        let clients = [TestClient::default(), TestClient::default(), TestClient::default()];
        let mut held = Vec::new();
        for client in &clients {
            held.extend(fill(&limit, client).await);
        }
        assert_eq!(held.len(), 10 + 5 + 4 + 1);
        let newcomer = TestClient::default();
        let mut first = Box::pin(clients[0].request().scope(limit.acquire()));
        let mut second = Box::pin(newcomer.request().scope(limit.acquire()));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        // A contended place: the first client has its share.
        limit.release(held.pop().expect("a place"));
        assert!(futures_util::poll!(&mut first).is_pending());
        held.push(second.await.expect("a place"));
        limit.release(held.remove(0));
        held.push(first.await.expect("a place"));
        held.into_iter().for_each(|place| limit.release(place));
        assert_eq!((limit.in_flight(), limit.waiting()), (0, 0));
    }

    /// A1: requests of many clients together filled the places and the queue.
    #[tokio::test]
    async fn full_queue_displaces_the_client_with_the_most() {
        let limit = limit(20, 10);
        let clients: Vec<_> = std::iter::repeat_with(TestClient::default).take(12).collect();
        let mut held = Vec::new();
        let mut waiting = Vec::new();
        for client in &clients {
            for _ in 0..12 {
                let mut request = Box::pin(client.request().scope(limit.acquire()));
                match futures_util::poll!(&mut request) {
                    std::task::Poll::Ready(place) => held.extend(place.ok()),
                    std::task::Poll::Pending => waiting.push(request),
                }
            }
        }
        assert_eq!((held.len(), limit.waiting()), (20, 30));
        let newcomer = TestClient::default();
        let mut request = Box::pin(newcomer.request().scope(limit.acquire()));
        assert!(futures_util::poll!(&mut request).is_pending());
        assert_eq!(limit.waiting(), 30, "another request has lost its place");
        let place = loop {
            limit.release(held.pop().expect("a place"));
            if let std::task::Poll::Ready(place) = futures_util::poll!(&mut request) {
                break place.expect("a place");
            }
        };
        held.push(place);
        drop(waiting);
        held.into_iter().for_each(|place| limit.release(place));
        assert_eq!((limit.in_flight(), limit.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn client_may_have_half_of_the_queue() {
        let limit = limit(1, 10);
        let (one, other) = (TestClient::default(), TestClient::default());
        let held = fill(&limit, &one).await;
        let mut waiting = Vec::new();
        for client in [&one, &other] {
            for _ in 0..10 {
                let mut request = Box::pin(client.request().scope(limit.acquire()));
                if futures_util::poll!(&mut request).is_pending() {
                    waiting.push(request);
                }
            }
        }
        assert_eq!(waiting.len(), 5 + 4);
        waiting.clear();
        assert_eq!(limit.waiting(), 1);
        held.into_iter().for_each(|place| limit.release(place));
        assert_eq!(limit.waiting(), 0);
    }
}
