//! One renewal per session and process at a time, and its result shared with those that ask
//! meanwhile or shortly after.
//!
//! A flight belongs to the process, not to the request that started it: it runs to its end when that
//! client hangs up. What it found stays for [`REMEMBERED`], because a request sent with the old
//! cookies arrives after the renewal as often as during it.
//!
//! While the store answers nobody, no crowd gathers before it: few may wait, and the others are told
//! at once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::models::session::{SessionId, SessionKind};
use crate::request_context::with_current_context;

/// How long a result is shared after the flight, at most.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(5);

/// How many results are remembered at most; beyond, the oldest are forgotten early.
const MOST_REMEMBERED: usize = 65_536;

/// How many flights there are at once at most.
const MOST_FLYING: usize = 4_096;

/// How many there are at most while none finds anything out: enough to notice that the store is back.
const MOST_STUCK: usize = 32;

/// After how long without a result flights count as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// What is being found out: the fate of one generation of a session, for one kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) session: SessionId,
    pub(crate) generation: u32,
    pub(crate) kind: SessionKind,
}

/// Shared renewals with results of type `T`.
pub(crate) struct SingleFlight<T> {
    state: Arc<Mutex<State<T>>>,
}

/// A passenger's view of a flight.
pub(crate) enum Outcome<T> {
    /// The flight was started for this request, and this is its result; `None` if it failed.
    Led(Option<T>),
    /// The flight was another request's. Its number tells it from later ones of the same key.
    Shared(Option<T>, u64),
    /// Too many are under way already, or none of them gets on.
    Refused,
}

struct State<T> {
    flights: HashMap<Key, Call<T>>,
    landed: VecDeque<(OffsetDateTime, u64, Key)>,
    started: u64,
    remembered: Duration,
    flying: usize,
    /// When a flight last found something out, or the first of those under way began.
    got_on_at: Instant,
}

struct Call<T> {
    number: u64,
    landed_at: Option<OffsetDateTime>,
    result: watch::Receiver<Option<Option<T>>>,
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// Results are shared for `remembered` after their flight.
    pub(crate) fn new(remembered: Duration) -> Self {
        let state = State {
            flights: HashMap::new(),
            landed: VecDeque::new(),
            started: 0,
            remembered,
            flying: 0,
            got_on_at: Instant::now(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Boards the flight for `key`, starting one with `lead` if there is none. `lead` gives `None`
    /// for a failure, which is shared with those on board but not remembered; `now` is asked for the
    /// time at landing.
    pub(crate) async fn join<F, N>(&self, key: Key, now: N, lead: impl FnOnce() -> F) -> Outcome<T>
    where
        F: Future<Output = Option<T>> + Send + 'static,
        N: Fn() -> OffsetDateTime + Send + 'static,
    {
        let (mut result, shared) = {
            let mut state = self.lock();
            state.forget_old(now());
            match state.flights.get(&key) {
                Some(flight) => (flight.result.clone(), Some(flight.number)),
                None if state.is_saturated() => return Outcome::Refused,
                None => (self.start(&mut state, key, now, lead()), None),
            }
        };
        // The sender is dropped without a result only if the flight panicked.
        let found = result.wait_for(Option::is_some).await.ok().and_then(|found| found.clone()).flatten();
        match shared {
            Some(number) => Outcome::Shared(found, number),
            None => Outcome::Led(found),
        }
    }

    /// Forgets one flight's result, so that the next request finds out anew.
    pub(crate) fn forget(&self, key: Key, number: u64) {
        self.lock().remove(key, number);
    }

    /// Forgets all that is remembered of these sessions: they have ended.
    pub(crate) fn forget_sessions(&self, ended: &[SessionId]) {
        if ended.is_empty() {
            return;
        }
        // All sessions may have ended at once.
        let ended: HashSet<_> = ended.iter().collect();
        self.lock().flights.retain(|key, _| !ended.contains(&key.session));
    }

    fn start<F, N>(
        &self,
        state: &mut State<T>,
        key: Key,
        now: N,
        flight: F,
    ) -> watch::Receiver<Option<Option<T>>>
    where
        F: Future<Output = Option<T>> + Send + 'static,
        N: Fn() -> OffsetDateTime + Send + 'static,
    {
        let (sender, receiver) = watch::channel(None);
        if state.flying == 0 {
            state.got_on_at = Instant::now();
        }
        state.flying += 1;
        state.started += 1;
        let number = state.started;
        state.flights.insert(key, Call { number, landed_at: None, result: receiver.clone() });
        let landing = FlightGuard { state: Arc::clone(&self.state), key, number };
        // What it logs names the request that began it.
        tokio::spawn(with_current_context(async move {
            let found = flight.await;
            landing.complete(found.is_some().then(now));
            sender.send_replace(Some(found));
        }));
        receiver
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn is_saturated(&self) -> bool {
        self.flying >= MOST_FLYING || self.flying >= MOST_STUCK && self.got_on_at.elapsed() > STUCK_AFTER
    }

    /// Drops what landed too long ago, or, after a jump of the clock, too far in the future.
    fn forget_old(&mut self, now: OffsetDateTime) {
        while let Some(&(landed_at, number, key)) = self.landed.front() {
            let age = (now - landed_at).unsigned_abs();
            if age <= self.remembered && self.landed.len() <= MOST_REMEMBERED {
                return;
            }
            self.landed.pop_front();
            self.remove(key, number);
        }
    }

    /// Removes this flight, unless another one has taken its place.
    fn remove(&mut self, key: Key, number: u64) {
        if self.flights.get(&key).is_some_and(|flight| flight.number == number) {
            self.flights.remove(&key);
        }
    }
}

/// Marks a flight as landed; one that panics or fails is removed.
struct FlightGuard<T> {
    state: Arc<Mutex<State<T>>>,
    key: Key,
    number: u64,
}

impl<T> FlightGuard<T> {
    fn complete(self, remembered_from: Option<OffsetDateTime>) {
        let Some(landed_at) = remembered_from else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.got_on_at = Instant::now();
        let number = self.number;
        if let Some(flight) = state.flights.get_mut(&self.key).filter(|flight| flight.number == number) {
            flight.landed_at = Some(landed_at);
            state.landed.push_back((landed_at, number, self.key));
        }
    }
}

impl<T> Drop for FlightGuard<T> {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.flying -= 1;
        let landed = state.flights.get(&self.key).is_some_and(|flight| flight.landed_at.is_some());
        if !landed {
            state.remove(self.key, self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Waker};

    use tokio::sync::oneshot;
    use uuid::Uuid;

    use super::*;
    use crate::clock::{Clock, ManualClock};

    const KEY: Key = Key { session: SessionId(Uuid::nil()), generation: 1, kind: SessionKind::Browser };

    fn setup() -> (Arc<SingleFlight<u32>>, Arc<ManualClock>) {
        (Arc::new(SingleFlight::new(REMEMBERED)), Arc::new(ManualClock::default()))
    }

    fn time(clock: &Arc<ManualClock>) -> impl Fn() -> OffsetDateTime + Send + 'static {
        let clock = Arc::clone(clock);
        move || clock.now()
    }

    async fn board(
        flights: &SingleFlight<u32>,
        clock: &Arc<ManualClock>,
        result: Option<u32>,
    ) -> (bool, Option<u32>) {
        match flights.join(KEY, time(clock), || async move { result }).await {
            Outcome::Led(found) => (true, found),
            Outcome::Shared(found, _) => (false, found),
            Outcome::Refused => panic!("nothing is stuck"),
        }
    }

    /// A flight of this generation that lands when it is told to, or fails when the sender is dropped.
    fn depart(
        flights: &SingleFlight<u32>,
        clock: &Arc<ManualClock>,
        generation: u32,
    ) -> oneshot::Sender<u32> {
        let (land, landing) = oneshot::channel::<u32>();
        let key = Key { generation, ..KEY };
        let boarding = pin!(flights.join(key, time(clock), move || async move { landing.await.ok() }));
        assert!(boarding.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        land
    }

    async fn is_refused(flights: &SingleFlight<u32>, clock: &Arc<ManualClock>) -> bool {
        let key = Key { generation: u32::MAX, ..KEY };
        let boarded = flights.join(key, time(clock), || async { None }).await;
        matches!(boarded, Outcome::Refused)
    }

    #[tokio::test(start_paused = true)]
    async fn no_crowd_waits_for_a_store_that_answers_nobody() {
        let (flights, clock) = setup();
        let departed: Vec<_> = (0..2_000).map(|nth| depart(&flights, &clock, nth)).collect();
        assert!(!is_refused(&flights, &clock).await, "it may be no more than a rush");
        tokio::time::sleep(STUCK_AFTER + Duration::from_millis(1)).await;
        assert!(is_refused(&flights, &clock).await);
        // They give up, all but a few.
        let mut few = departed.into_iter().skip(2_000 - MOST_STUCK + 1);
        let first = few.next().expect("a flight");
        let rest: Vec<_> = few.collect();
        until_all_have_run().await;
        assert!(!is_refused(&flights, &clock).await, "so many may find out whether it is back");
        let another = depart(&flights, &clock, 10_000);
        assert!(is_refused(&flights, &clock).await, "but no more");
        first.send(1).expect("it is awaited");
        until_all_have_run().await;
        let more: Vec<_> = (20_000..20_100).map(|nth| depart(&flights, &clock, nth)).collect();
        assert!(!is_refused(&flights, &clock).await, "it is back");
        drop((rest, another, more));
    }

    /// Paused time goes on only then.
    async fn until_all_have_run() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_store_that_gets_on_is_not_stuck() {
        let (flights, clock) = setup();
        let mut departed: VecDeque<_> = (0..200).map(|nth| depart(&flights, &clock, nth)).collect();
        for nth in 200..300 {
            tokio::time::sleep(STUCK_AFTER / 2).await;
            departed.pop_front().expect("a flight").send(1).expect("it is awaited");
            until_all_have_run().await;
            departed.push_back(depart(&flights, &clock, nth));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_never_too_many_flights() {
        let (flights, clock) = setup();
        let departed: Vec<_> = (0..MOST_FLYING as u32).map(|nth| depart(&flights, &clock, nth)).collect();
        assert!(is_refused(&flights, &clock).await);
        drop(departed);
        until_all_have_run().await;
        assert!(!is_refused(&flights, &clock).await);
    }

    #[tokio::test]
    async fn those_who_ask_meanwhile_share_one_flight() {
        let (flights, clock) = setup();
        let started = Arc::new(AtomicU32::new(0));
        let (land, landing) = oneshot::channel::<u32>();
        let counter = Arc::clone(&started);
        let leader = flights.join(KEY, time(&clock), move || {
            counter.fetch_add(1, Ordering::SeqCst);
            async move { landing.await.ok() }
        });
        let follower = board(&flights, &clock, Some(99));
        let (led, (follower_led, shared), ()) = tokio::join!(leader, follower, async move {
            land.send(7).expect("the flight is under way");
        });
        assert!(matches!(led, Outcome::Led(Some(7))));
        assert_eq!((follower_led, shared), (false, Some(7)));
        assert_eq!(started.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_flight_goes_on_when_its_first_passenger_hangs_up() {
        let (flights, clock) = setup();
        let (land, landing) = oneshot::channel::<u32>();
        let mut leader = Box::pin(flights.join(KEY, time(&clock), move || async move { landing.await.ok() }));
        // Not futures-util's macro: it has that only with features which the layer alone doesn't ask for.
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(leader.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
        drop(leader);
        land.send(7).expect("the flight did not hang up");
        assert_eq!(board(&flights, &clock, Some(99)).await, (false, Some(7)));
    }

    #[tokio::test]
    async fn a_result_is_shared_for_five_seconds() {
        let (flights, clock) = setup();
        assert_eq!(board(&flights, &clock, Some(1)).await, (true, Some(1)));
        clock.advance(REMEMBERED);
        assert_eq!(board(&flights, &clock, Some(2)).await, (false, Some(1)));
        clock.advance(Duration::from_millis(1));
        assert_eq!(board(&flights, &clock, Some(3)).await, (true, Some(3)));
    }

    #[tokio::test]
    async fn a_clock_that_jumps_back_does_not_keep_results_for_ever() {
        let (flights, clock) = setup();
        board(&flights, &clock, Some(1)).await;
        clock.set(clock.now() - Duration::from_secs(3_600));
        assert_eq!(board(&flights, &clock, Some(2)).await, (true, Some(2)));
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered() {
        let (flights, clock) = setup();
        assert_eq!(board(&flights, &clock, None).await, (true, None));
        assert_eq!(board(&flights, &clock, Some(2)).await, (true, Some(2)));
    }

    #[tokio::test]
    async fn a_flight_that_panics_fails_and_is_gone() {
        let (flights, clock) = setup();
        let crashed = flights.join(KEY, time(&clock), || async { panic!("on purpose") }).await;
        assert!(matches!(crashed, Outcome::Led(None)));
        assert_eq!(board(&flights, &clock, Some(2)).await, (true, Some(2)));
    }

    #[tokio::test]
    async fn an_ended_session_is_forgotten() {
        let (flights, clock) = setup();
        board(&flights, &clock, Some(1)).await;
        flights.forget_sessions(&[KEY.session]);
        assert_eq!(board(&flights, &clock, Some(2)).await, (true, Some(2)));
    }

    #[tokio::test]
    async fn what_one_kind_of_client_was_told_is_not_told_the_other() {
        let (flights, clock) = setup();
        board(&flights, &clock, Some(1)).await;
        let key = Key { kind: SessionKind::Client, ..KEY };
        let client = flights.join(key, time(&clock), || async { Some(2) }).await;
        assert!(matches!(client, Outcome::Led(Some(2))));
    }

    #[tokio::test]
    async fn forgetting_a_flight_leaves_its_successor_alone() {
        let (flights, clock) = setup();
        board(&flights, &clock, Some(1)).await;
        let shared = flights.join(KEY, time(&clock), || async { Some(2) }).await;
        let Outcome::Shared(_, number) = shared else { panic!("it was there") };
        flights.forget(KEY, number);
        assert_eq!(board(&flights, &clock, Some(3)).await, (true, Some(3)));
        flights.forget(KEY, number);
        assert_eq!(board(&flights, &clock, Some(4)).await, (false, Some(3)));
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let (flights, clock) = setup();
        for generation in 0..70_000 {
            let key = Key { generation, ..KEY };
            flights.join(key, time(&clock), || async { Some(1) }).await;
        }
        assert!(flights.lock().flights.len() <= MOST_REMEMBERED + 1);
    }
}
