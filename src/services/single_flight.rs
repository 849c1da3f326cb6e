//! Single flight: concurrent refreshes of one token share one call to the store.
//!
//! The first request for a key is the leader: its call runs in a task of its own, which completes even
//! if the client disconnects. Later requests are followers and receive the leader's result. A result
//! is kept for [`RESULT_TTL`], because requests with the old cookies also arrive after the refresh.
//!
//! While the store does not respond, calls are rejected beyond [`MAX_STALLED_CALLS`], so that no
//! backlog builds up in front of it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::models::session::{SessionId, SessionKind};
use crate::request_context::with_current_context;

/// Maximum time that a result is shared after its call.
pub(crate) const RESULT_TTL: Duration = Duration::from_secs(5);

/// Maximum number of results kept. Beyond it, the oldest are dropped early.
const MAX_RESULTS: usize = 65_536;

/// Maximum number of calls in flight.
const MAX_CALLS: usize = 4_096;

/// Maximum number of calls in flight while the store is stalled: enough to notice its recovery.
const MAX_STALLED_CALLS: usize = 32;

/// Time without any successful call after which the store counts as stalled.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Identifies a call: one generation of a session, refreshed by one kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) session: SessionId,
    pub(crate) generation: u32,
    pub(crate) kind: SessionKind,
}

/// Calls in flight and recent results of type `T`. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SingleFlight<T> {
    state: Arc<Mutex<State<T>>>,
    clock: Arc<dyn Clock>,
}

/// Result of [`SingleFlight::join`]. The inner value is `None` if the call failed.
pub(crate) enum Outcome<T> {
    /// This request started the call.
    Leader(Option<T>),
    /// Another request started the call. The number distinguishes it from later calls of its key.
    Follower(Option<T>, u64),
    /// Too many calls are in flight.
    Rejected,
}

struct State<T> {
    calls: HashMap<Key, Call<T>>,
    /// Completed calls, oldest first.
    completed: VecDeque<(OffsetDateTime, u64, Key)>,
    last_number: u64,
    result_ttl: Duration,
    in_flight: usize,
    /// Time of the last successful call, or of the start of the first one in flight.
    last_progress: Instant,
}

struct Call<T> {
    number: u64,
    completed_at: Option<OffsetDateTime>,
    result: watch::Receiver<Option<Option<T>>>,
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// Creates an empty set of calls whose results are kept for `result_ttl`.
    pub(crate) fn new(result_ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            calls: HashMap::new(),
            completed: VecDeque::new(),
            last_number: 0,
            result_ttl,
            in_flight: 0,
            last_progress: Instant::now(),
        };
        Self { state: Arc::new(Mutex::new(state)), clock }
    }

    /// Joins the call of `key`, or starts one with `lead`.
    ///
    /// `lead` returns `None` on failure, which is shared with the current followers but not kept.
    pub(crate) async fn join<F>(&self, key: Key, lead: impl FnOnce() -> F) -> Outcome<T>
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let (mut receiver, followed) = {
            let mut state = self.state.lock();
            state.drop_expired(self.clock.now());
            match state.calls.get(&key) {
                Some(call) => (call.result.clone(), Some(call.number)),
                None if state.is_saturated() => return Outcome::Rejected,
                None => (self.start(&mut state, key, lead()), None),
            }
        };
        // The sender is dropped without a result only if the call panicked.
        let result =
            receiver.wait_for(Option::is_some).await.ok().and_then(|result| result.clone()).flatten();
        match followed {
            Some(number) => Outcome::Follower(result, number),
            None => Outcome::Leader(result),
        }
    }

    /// Drops the result of a call, so that the next request starts another one.
    pub(crate) fn forget(&self, key: Key, number: u64) {
        self.state.lock().remove(key, number);
    }

    /// Drops all calls and results of terminated sessions.
    pub(crate) fn forget_sessions(&self, terminated: &[SessionId]) {
        if terminated.is_empty() {
            return;
        }
        // A set, since a mass revocation terminates many sessions at once.
        let terminated: HashSet<_> = terminated.iter().collect();
        self.state.lock().calls.retain(|key, _| !terminated.contains(&key.session));
    }

    fn start<F>(&self, state: &mut State<T>, key: Key, call: F) -> watch::Receiver<Option<Option<T>>>
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let (sender, receiver) = watch::channel(None);
        if state.in_flight == 0 {
            state.last_progress = Instant::now();
        }
        state.in_flight += 1;
        state.last_number += 1;
        let number = state.last_number;
        state.calls.insert(key, Call { number, completed_at: None, result: receiver.clone() });
        let guard = CallGuard { flights: self.clone(), key, number };
        // Log lines of the task carry the leader's request id.
        tokio::spawn(with_current_context(async move {
            let result = call.await;
            if result.is_some() {
                guard.complete();
            } else {
                drop(guard);
            }
            sender.send_replace(Some(result));
        }));
        receiver
    }
}

impl<T> State<T> {
    fn is_saturated(&self) -> bool {
        let is_stalled = || self.last_progress.elapsed() > STALL_TIMEOUT;
        self.in_flight >= MAX_CALLS || self.in_flight >= MAX_STALLED_CALLS && is_stalled()
    }

    /// Drops results older than the TTL. After a jump of the clock, results of the future count as
    /// old too.
    fn drop_expired(&mut self, now: OffsetDateTime) {
        while let Some(&(completed_at, number, key)) = self.completed.front() {
            let age = (now - completed_at).unsigned_abs();
            if age <= self.result_ttl && self.completed.len() <= MAX_RESULTS {
                return;
            }
            self.completed.pop_front();
            self.remove(key, number);
        }
    }

    /// Removes a call, unless a later one has replaced it.
    fn remove(&mut self, key: Key, number: u64) {
        if self.calls.get(&key).is_some_and(|call| call.number == number) {
            self.calls.remove(&key);
        }
    }
}

/// Ends a call. Unless it was completed, dropping the guard removes it: it failed or panicked.
struct CallGuard<T> {
    flights: SingleFlight<T>,
    key: Key,
    number: u64,
}

impl<T> CallGuard<T> {
    /// Keeps the call's result from now on.
    fn complete(self) {
        let completed_at = self.flights.clock.now();
        let mut state = self.flights.state.lock();
        state.last_progress = Instant::now();
        let number = self.number;
        if let Some(call) = state.calls.get_mut(&self.key).filter(|call| call.number == number) {
            call.completed_at = Some(completed_at);
            state.completed.push_back((completed_at, number, self.key));
        }
    }
}

impl<T> Drop for CallGuard<T> {
    fn drop(&mut self) {
        let mut state = self.flights.state.lock();
        state.in_flight -= 1;
        let completed = state.calls.get(&self.key).is_some_and(|call| call.completed_at.is_some());
        if !completed {
            state.remove(self.key, self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::oneshot;
    use uuid::Uuid;

    use super::*;
    use crate::clock::ManualClock;
    use crate::services::test_support::poll_once;

    const KEY: Key = Key { session: SessionId(Uuid::nil()), generation: 1, kind: SessionKind::Browser };

    fn single_flight() -> SingleFlight<u32> {
        SingleFlight::new(RESULT_TTL, Arc::new(ManualClock::default()))
    }

    async fn join(calls: &SingleFlight<u32>, result: Option<u32>) -> (bool, Option<u32>) {
        match calls.join(KEY, || async move { result }).await {
            Outcome::Leader(found) => (true, found),
            Outcome::Follower(found, _) => (false, found),
            Outcome::Rejected => panic!("the call is rejected"),
        }
    }

    /// Starts a call of this generation. It returns the value sent, or fails when the sender is dropped.
    fn start_call(calls: &SingleFlight<u32>, generation: u32) -> oneshot::Sender<u32> {
        let (sender, receiver) = oneshot::channel::<u32>();
        let key = Key { generation, ..KEY };
        let joining = pin!(calls.join(key, move || async move { receiver.await.ok() }));
        assert!(poll_once(joining).is_pending());
        sender
    }

    async fn is_rejected(calls: &SingleFlight<u32>) -> bool {
        let key = Key { generation: u32::MAX, ..KEY };
        let outcome = calls.join(key, || async { None }).await;
        matches!(outcome, Outcome::Rejected)
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_store_limits_calls_in_flight() {
        let calls = single_flight();
        let senders: Vec<_> = (0..2_000).map(|nth| start_call(&calls, nth)).collect();
        assert!(!is_rejected(&calls).await, "not yet stalled");
        tokio::time::sleep(STALL_TIMEOUT + Duration::from_millis(1)).await;
        assert!(is_rejected(&calls).await);
        // All but a few calls fail.
        let mut few = senders.into_iter().skip(2_000 - MAX_STALLED_CALLS + 1);
        let first = few.next().expect("a sender");
        let rest: Vec<_> = few.collect();
        run_other_tasks().await;
        assert!(!is_rejected(&calls).await, "below the limit");
        let another = start_call(&calls, 10_000);
        assert!(is_rejected(&calls).await, "at the limit");
        first.send(1).expect("the call is in flight");
        run_other_tasks().await;
        let more: Vec<_> = (20_000..20_100).map(|nth| start_call(&calls, nth)).collect();
        assert!(!is_rejected(&calls).await, "the store has recovered");
        drop((rest, another, more));
    }

    /// Paused time advances only once all other tasks are idle.
    async fn run_other_tasks() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn slow_store_is_not_stalled() {
        let calls = single_flight();
        let mut senders: VecDeque<_> = (0..200).map(|nth| start_call(&calls, nth)).collect();
        for nth in 200..300 {
            tokio::time::sleep(STALL_TIMEOUT / 2).await;
            senders.pop_front().expect("a sender").send(1).expect("the call is in flight");
            run_other_tasks().await;
            senders.push_back(start_call(&calls, nth));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_in_flight_are_limited() {
        let calls = single_flight();
        let senders: Vec<_> = (0..MAX_CALLS as u32).map(|nth| start_call(&calls, nth)).collect();
        assert!(is_rejected(&calls).await);
        drop(senders);
        run_other_tasks().await;
        assert!(!is_rejected(&calls).await);
    }

    #[tokio::test]
    async fn concurrent_requests_share_one_call() {
        let calls = single_flight();
        let started = Arc::new(AtomicU32::new(0));
        let (sender, receiver) = oneshot::channel::<u32>();
        let counter = Arc::clone(&started);
        let leader = calls.join(KEY, move || {
            counter.fetch_add(1, Ordering::SeqCst);
            async move { receiver.await.ok() }
        });
        let follower = join(&calls, Some(99));
        let (led, (follower_leads, shared), ()) = tokio::join!(leader, follower, async move {
            sender.send(7).expect("the call is in flight");
        });
        assert!(matches!(led, Outcome::Leader(Some(7))));
        assert_eq!((follower_leads, shared), (false, Some(7)));
        assert_eq!(started.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn call_completes_when_the_leader_is_dropped() {
        let calls = single_flight();
        let (sender, receiver) = oneshot::channel::<u32>();
        let mut leader = Box::pin(calls.join(KEY, move || async move { receiver.await.ok() }));
        assert!(poll_once(leader.as_mut()).is_pending());
        drop(leader);
        sender.send(7).expect("the call is in flight");
        assert_eq!(join(&calls, Some(99)).await, (false, Some(7)));
    }

    #[tokio::test]
    async fn result_is_shared_for_five_seconds() {
        let clock = Arc::new(ManualClock::default());
        let calls = SingleFlight::new(RESULT_TTL, clock.clone());
        assert_eq!(join(&calls, Some(1)).await, (true, Some(1)));
        clock.advance(RESULT_TTL);
        assert_eq!(join(&calls, Some(2)).await, (false, Some(1)));
        clock.advance(Duration::from_millis(1));
        assert_eq!(join(&calls, Some(3)).await, (true, Some(3)));
    }

    #[tokio::test]
    async fn clock_set_back_drops_results() {
        let clock = Arc::new(ManualClock::default());
        let calls = SingleFlight::new(RESULT_TTL, clock.clone());
        join(&calls, Some(1)).await;
        clock.set(clock.now() - Duration::from_secs(3_600));
        assert_eq!(join(&calls, Some(2)).await, (true, Some(2)));
    }

    #[tokio::test]
    async fn failure_is_not_kept() {
        let calls = single_flight();
        assert_eq!(join(&calls, None).await, (true, None));
        assert_eq!(join(&calls, Some(2)).await, (true, Some(2)));
    }

    #[tokio::test]
    async fn panicking_call_fails_and_is_removed() {
        let calls = single_flight();
        let crashed = calls.join(KEY, || async { panic!("on purpose") }).await;
        assert!(matches!(crashed, Outcome::Leader(None)));
        assert_eq!(join(&calls, Some(2)).await, (true, Some(2)));
    }

    #[tokio::test]
    async fn results_of_terminated_session_are_dropped() {
        let calls = single_flight();
        join(&calls, Some(1)).await;
        calls.forget_sessions(&[KEY.session]);
        assert_eq!(join(&calls, Some(2)).await, (true, Some(2)));
    }

    #[tokio::test]
    async fn session_kinds_do_not_share_results() {
        let calls = single_flight();
        join(&calls, Some(1)).await;
        let key = Key { kind: SessionKind::Client, ..KEY };
        let client = calls.join(key, || async { Some(2) }).await;
        assert!(matches!(client, Outcome::Leader(Some(2))));
    }

    #[tokio::test]
    async fn forgetting_a_call_keeps_its_successor() {
        let calls = single_flight();
        join(&calls, Some(1)).await;
        let shared = calls.join(KEY, || async { Some(2) }).await;
        let Outcome::Follower(_, number) = shared else { panic!("no result was kept") };
        calls.forget(KEY, number);
        assert_eq!(join(&calls, Some(3)).await, (true, Some(3)));
        calls.forget(KEY, number);
        assert_eq!(join(&calls, Some(4)).await, (false, Some(3)));
    }

    #[tokio::test]
    async fn kept_results_are_limited() {
        let calls = single_flight();
        for generation in 0..70_000 {
            let key = Key { generation, ..KEY };
            calls.join(key, || async { Some(1) }).await;
        }
        assert!(calls.state.lock().calls.len() <= MAX_RESULTS + 1);
    }
}
