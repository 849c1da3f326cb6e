//! Session time: the time of sessions and their tokens, which never steps.
//!
//! Durations decide if a refresh token counts as stolen. The wall clock steps when it is set, and a step
//! would make durations appear longer or shorter than they were. So a process sets its [`SessionClock`] once,
//! at the start, and advances it with [`BootClock`].
//!
//! The database keeps the latest session time of all processes, as the setting `session_time`: the *floor*.
//! Every process raises it once a second unless another one has. No process starts below it.
//!
//! # Start
//!
//! A process continues from the floor if it was written since this machine was started, by as much as the boot
//! clock has advanced. Otherwise it starts at the database's time, but not below the floor. If these are more
//! than an eighth of the grace period apart, either no process has run for that long, or the database's clock
//! has stepped. If the floor then moves, others run, and their time is adopted. Two processes
//! that start at the same time agree, because the floor is replaced only if it is still the one that was read.
//!
//! # Uncertain durations
//!
//! If no other process runs and the floor is earlier, the time since it was written is uncertain: it is as wrong
//! as the database's clock. [`Clock::set_at_micros`] is the time of the start then, and nothing counts as older.
//! A session is not rotated until the grace period has passed since, unless its generation was confirmed before.
//! No use of a token is confirmed until the [confirmation age](super::rotation::confirmation_age) has passed. An
//! expiry may still come too early.
//!
//! # Differences
//!
//! Processes that are behind the floor advance faster, by a tenth. One that is behind by more than a quarter of
//! the grace period, for example since its virtual machine was paused, is set to the floor, and its durations
//! are uncertain from then on.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::store::{SessionStore, SettingStore, StoreError};
use crate::clock::{BootClock, Clock, SystemClock, duration_micros, from_micros, micros};
use crate::duration_format::{format_duration, format_signed};

/// The clock of session time.
#[derive(Debug)]
pub struct SessionClock<S = BootClock> {
    /// A clock that never steps.
    source: S,
    /// Session time less the time of the source, in microseconds.
    offset: AtomicI64,
    set_at: AtomicI64,
}

/// Keeps the session time of this process equal to that of the others.
#[derive(Debug)]
pub struct SessionTime<S = BootClock> {
    clock: Arc<SessionClock<S>>,
    boot_id: String,
    /// Difference from which the clock is set.
    max_difference: i64,
}

/// The stores that session time needs.
#[derive(Clone)]
pub struct TimeStores {
    /// The settings, which have the floor.
    pub settings: Arc<dyn SettingStore>,
    /// The sessions, which have the database's time.
    pub sessions: Arc<dyn SessionStore>,
}

/// The floor, with the clocks of the process that wrote it. Times are in microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Floor {
    time: i64,
    /// The time at which session time was last set to a time that may be too late. Other processes adopt it.
    set_at: i64,
    boot_time: i64,
    boot_id: String,
}

/// Returns the present session time, for a process that does not serve. This takes up to 2.5 seconds if others may run.
///
/// # Errors
///
/// If the store fails.
pub async fn read(stores: &TimeStores) -> Result<OffsetDateTime, StoreError> {
    read_with(stores, &BootClock, &boot_id()).await
}

async fn read_with(
    stores: &TimeStores,
    source: &impl Clock,
    boot_id: &str,
) -> Result<OffsetDateTime, StoreError> {
    let reference = micros(stores.sessions.database_time().await?);
    let read_at = source.now_micros();
    let Some(floor) = find_floor(&*stores.settings).await? else { return Ok(from_micros(reference)) };
    let time = match start_time(reference, floor.time, floor.elapsed(boot_id, read_at), READER_GRACE) {
        Some(time) => time,
        None if wait_for_others(&*stores.settings, &floor).await? => {
            reference.max(floor.time) + source.now_micros() - read_at
        }
        // Raised just now.
        None => find_floor(&*stores.settings).await?.map_or(reference, |floor| floor.time),
    };
    Ok(from_micros(time))
}

/// Returns the session time at which a process starts, or `None` if it depends on whether others run.
///
/// `reference` is the database's time. `since_floor` is the time since the floor was written, if that is
/// certain. All are in microseconds.
#[must_use]
pub fn start_time(reference: i64, floor: i64, since_floor: Option<i64>, grace: Duration) -> Option<i64> {
    if let Some(elapsed) = since_floor {
        return Some(floor + elapsed);
    }
    let tolerance = duration_micros(grace / 8);
    (reference.abs_diff(floor) <= tolerance.unsigned_abs()).then_some(reference.max(floor))
}

impl<S: Clock> SessionClock<S> {
    /// Creates a clock that continues from a floor that this process has written.
    fn new(source: S, floor: &Floor) -> Self {
        let offset = AtomicI64::new(floor.time - floor.boot_time);
        Self { source, offset, set_at: AtomicI64::new(floor.set_at) }
    }

    /// Returns the session time at a time of the source.
    fn at(&self, source_time: i64) -> i64 {
        source_time + self.offset.load(Ordering::Relaxed)
    }

    fn advance(&self, by: i64) {
        self.offset.fetch_add(by, Ordering::Relaxed);
    }

    fn raise_set_at(&self, set_at: i64) {
        self.set_at.fetch_max(set_at, Ordering::Relaxed);
    }
}

impl<S: Clock> Clock for SessionClock<S> {
    fn now(&self) -> OffsetDateTime {
        from_micros(self.now_micros())
    }

    fn now_micros(&self) -> i64 {
        self.at(self.source.now_micros())
    }

    fn wall(&self) -> OffsetDateTime {
        SystemClock.now()
    }

    fn set_at_micros(&self) -> i64 {
        self.set_at.load(Ordering::Relaxed)
    }
}

impl SessionTime {
    /// Starts session time in this process. This takes up to 2.5 seconds if others may run.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn start(stores: &TimeStores, grace: Duration) -> Result<Self, StoreError> {
        Self::start_with(stores, grace, BootClock, boot_id()).await
    }
}

impl<S: Clock> SessionTime<S> {
    async fn start_with(
        stores: &TimeStores,
        grace: Duration,
        source: S,
        boot_id: String,
    ) -> Result<Self, StoreError> {
        let mut known = None;
        loop {
            let reference = micros(stores.sessions.database_time().await?);
            let read_at = source.now_micros();
            let Some(floor) = find_floor(&*stores.settings).await? else {
                let boot_id = boot_id.clone();
                let first = Floor { time: reference, set_at: i64::MIN, boot_time: read_at, boot_id };
                insert_floor(&*stores.settings, &first).await?;
                continue;
            };
            let since_floor = floor.elapsed(&boot_id, read_at);
            let (start, is_certain) = match start_time(reference, floor.time, since_floor, grace) {
                Some(start) => (start, true),
                // The floor has moved: others run.
                None if known.is_some_and(|known| known != floor) => (floor.time, true),
                None if wait_for_others(&*stores.settings, &floor).await? => {
                    (reference.max(floor.time), reference <= floor.time)
                }
                None => {
                    known = Some(floor);
                    continue;
                }
            };
            let boot_time = source.now_micros();
            let time = (start + boot_time - read_at).max(floor.time);
            let set_at = if is_certain { floor.set_at } else { time };
            let raised = Floor { time, set_at, boot_time, boot_id: boot_id.clone() };
            if replace_floor(&*stores.settings, &floor, &raised).await? {
                let clock = Arc::new(SessionClock::new(source, &raised));
                log_start(&clock, reference, is_certain);
                return Ok(Self { clock, boot_id, max_difference: duration_micros(grace / 4) });
            }
            known = Some(floor);
        }
    }

    /// Returns the clock.
    #[must_use]
    pub fn clock(&self) -> Arc<SessionClock<S>> {
        Arc::clone(&self.clock)
    }

    /// Compares the clock with the floor until the future is dropped.
    pub async fn run(self, settings: Arc<dyn SettingStore>) {
        loop {
            tokio::time::sleep(SYNC_INTERVAL).await;
            if let Err(error) = self.sync(&*settings).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "session time was not compared");
            }
        }
    }

    /// Raises the floor, or catches up with it.
    async fn sync(&self, settings: &dyn SettingStore) -> Result<(), StoreError> {
        let Some(floor) = find_floor(settings).await? else {
            return insert_floor(settings, &self.floor()).await;
        };
        let clock = &self.clock;
        clock.raise_set_at(floor.set_at);
        let behind = floor.time.saturating_sub(clock.now_micros());
        if behind > self.max_difference {
            clock.raise_set_at(floor.time);
            clock.advance(behind);
            let behind = Duration::from_micros(behind.unsigned_abs());
            let behind = format_duration(behind);
            tracing::warn!(behind, "session time was behind that of the other replicas, and was set ahead");
        } else if behind > 0 {
            clock.advance(behind.min(MAX_CORRECTION));
        } else if -behind >= MIN_FLOOR_AGE {
            replace_floor(settings, &floor, &self.floor()).await?;
        }
        Ok(())
    }

    /// Returns the floor of the present time.
    fn floor(&self) -> Floor {
        let boot_time = self.clock.source.now_micros();
        Floor {
            time: self.clock.at(boot_time),
            set_at: self.clock.set_at_micros(),
            boot_time,
            boot_id: self.boot_id.clone(),
        }
    }
}

impl Floor {
    /// Returns the time since it was written, if that was since this machine was started.
    fn elapsed(&self, boot_id: &str, boot_time: i64) -> Option<i64> {
        let is_same_boot = !boot_id.is_empty() && self.boot_id == boot_id;
        (is_same_boot && self.boot_time <= boot_time).then(|| boot_time - self.boot_time)
    }

    fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split(' ');
        let mut next_time = || parts.next()?.parse().ok();
        let (time, set_at, boot_time) = (next_time()?, next_time()?, next_time()?);
        Some(Self { time, set_at, boot_time, boot_id: parts.next()?.to_owned() })
    }
}

impl std::fmt::Display for Floor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {}", self.time, self.set_at, self.boot_time, self.boot_id)
    }
}

async fn find_floor(settings: &dyn SettingStore) -> Result<Option<Floor>, StoreError> {
    let found = settings.list_settings(SETTING).await?;
    let value = found.into_iter().find(|(name, _)| name == SETTING).map(|(_, value)| value);
    value.map(|value| parse_floor(&value)).transpose()
}

/// Inserts the floor unless there is one.
async fn insert_floor(settings: &dyn SettingStore, floor: &Floor) -> Result<(), StoreError> {
    settings.get_or_insert_setting(SETTING, &floor.to_string()).await.map(drop)
}

async fn replace_floor(settings: &dyn SettingStore, old: &Floor, new: &Floor) -> Result<bool, StoreError> {
    settings.replace_setting(SETTING, &old.to_string(), &new.to_string()).await
}

fn parse_floor(value: &str) -> Result<Floor, StoreError> {
    Floor::parse(value).ok_or(StoreError::Corrupt { table: "settings", column: "value" })
}

/// Waits until the floor moves. Returns `true` if it does not: no other process runs.
async fn wait_for_others(settings: &dyn SettingStore, floor: &Floor) -> Result<bool, StoreError> {
    for _ in 0..FLOOR_TIMEOUT.as_millis() / FLOOR_CHECK_INTERVAL.as_millis() {
        tokio::time::sleep(FLOOR_CHECK_INTERVAL).await;
        if find_floor(settings).await?.as_ref() != Some(floor) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn log_start<S: Clock>(clock: &SessionClock<S>, reference: i64, is_certain: bool) {
    let ahead = time::Duration::microseconds(clock.now_micros() - reference);
    let time = clock.now().format(&Rfc3339).unwrap_or_default();
    tracing::info!(time, ahead_of_database = format_signed(ahead), is_certain, "session time started");
}

/// Returns an id that changes when the machine is started, or nothing on a system that has none.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Name of the setting with the floor.
const SETTING: &str = "session_time";

/// Time between two comparisons with the floor.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Age at which the floor is raised, in microseconds: a little less than the interval.
const MIN_FLOOR_AGE: i64 = 900_000;

/// Maximum correction at one comparison: a tenth of the interval, in microseconds.
const MAX_CORRECTION: i64 = 100_000;

/// Time after which a floor that has not moved is that of stopped processes.
const FLOOR_TIMEOUT: Duration = Duration::from_millis(2_500);

/// Grace period of [`read`], an eighth of which is its tolerance.
const READER_GRACE: Duration = Duration::from_secs(60);

/// Time between two reads while another process may raise the floor.
const FLOOR_CHECK_INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::services::memory::MemoryStore;
    use crate::services::test_support::TestStore;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
    const GRACE: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3_600);
    const MONTH: Duration = Duration::from_secs(30 * 86_400);

    /// Follows tokio's time, which is paused.
    #[derive(Clone, Debug)]
    struct TokioClock(Instant);

    impl Clock for TokioClock {
        fn now(&self) -> OffsetDateTime {
            OffsetDateTime::UNIX_EPOCH + self.0.elapsed()
        }
    }

    /// A database whose clock can be set, and the time of all machines.
    struct Cluster {
        store: Arc<TestStore>,
        settings: Arc<MemoryStore>,
        machine: TokioClock,
    }

    impl Cluster {
        fn new() -> Self {
            let store = Arc::new(TestStore::default());
            store.set_time(NOW);
            Self { store, settings: Arc::default(), machine: TokioClock(Instant::now()) }
        }

        /// Starts a process on a machine with this boot id.
        async fn start(&self, boot_id: &str) -> SessionTime<TokioClock> {
            let stores = TimeStores { settings: self.settings.clone(), sessions: self.store.clone() };
            let machine = self.machine.clone();
            SessionTime::start_with(&stores, GRACE, machine, boot_id.to_owned())
                .await
                .expect("the store responds")
        }

        fn spawn(&self, time: SessionTime<TokioClock>) -> Arc<SessionClock<TokioClock>> {
            let clock = time.clock();
            tokio::spawn(time.run(self.settings.clone()));
            clock
        }
    }

    fn is_uncertain(clock: &impl Clock) -> bool {
        clock.set_at_micros() != i64::MIN
    }

    fn assert_close(one: OffsetDateTime, other: OffsetDateTime) {
        assert!((one - other).unsigned_abs() <= SECOND, "{one} and {other}");
    }

    /// B1: the boot clock tells how long the process was stopped.
    #[tokio::test(start_paused = true)]
    async fn restart_on_the_same_machine_ignores_the_clock_of_the_database() {
        let after = NOW + HOUR;
        for reference in
            [after - SECOND, after + SECOND, after - HOUR, after + HOUR, NOW - MONTH, NOW + MONTH]
        {
            let cluster = Cluster::new();
            let first = cluster.start("a").await.clock();
            sleep(HOUR).await;
            cluster.store.set_time(reference);
            let second = cluster.start("a").await.clock();
            assert_eq!(second.now(), first.now());
            assert!(!is_uncertain(&*second));
        }
    }

    /// B1: after a restart of the machine, session time does not go back.
    #[tokio::test(start_paused = true)]
    async fn start_is_not_below_the_floor() {
        let cluster = Cluster::new();
        let first = cluster.spawn(cluster.start("a").await);
        sleep(HOUR).await;
        cluster.store.set_time(NOW - MONTH);
        let second = cluster.start("b").await.clock();
        assert_close(second.now(), first.now());
        assert!(!is_uncertain(&*second));
    }

    /// B1: the clock of the database may have stepped while no process ran.
    #[tokio::test(start_paused = true)]
    async fn start_long_after_the_floor_is_uncertain_for_all_processes() {
        let cluster = Cluster::new();
        drop(cluster.start("a").await);
        cluster.store.set_time(NOW + HOUR);
        let second = cluster.start("b").await.clock();
        assert_close(second.now(), NOW + HOUR + FLOOR_TIMEOUT);
        assert!(is_uncertain(&*second));
        let third = cluster.start("c").await.clock();
        assert_eq!(third.set_at_micros(), second.set_at_micros());
    }

    #[tokio::test(start_paused = true)]
    async fn start_soon_after_the_floor_is_certain_and_immediate() {
        let cluster = Cluster::new();
        drop(cluster.start("a").await);
        cluster.store.set_time(NOW + GRACE / 8);
        let began = Instant::now();
        let second = cluster.start("b").await.clock();
        assert_eq!(second.now(), NOW + GRACE / 8);
        assert!(!is_uncertain(&*second));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    /// B1: the clock of the database steps while another process runs.
    #[tokio::test(start_paused = true)]
    async fn time_of_running_processes_is_adopted() {
        for reference in [NOW - MONTH, NOW + MONTH, NOW + HOUR] {
            let cluster = Cluster::new();
            let first = cluster.spawn(cluster.start("a").await);
            cluster.store.set_time(reference);
            let second = cluster.spawn(cluster.start("b").await);
            assert_close(second.now(), first.now());
            sleep(30 * SECOND).await;
            assert!((second.now() - first.now()).unsigned_abs() < 2 * FLOOR_CHECK_INTERVAL);
            assert!(!is_uncertain(&*second) && !is_uncertain(&*first));
        }
    }

    /// B1: a command on another machine uses the time of running processes, else the later of floor and database.
    #[tokio::test(start_paused = true)]
    async fn readers_use_session_time() {
        let cluster = Cluster::new();
        let stores = TimeStores { settings: cluster.settings.clone(), sessions: cluster.store.clone() };
        let read =
            async |boot_id| read_with(&stores, &cluster.machine, boot_id).await.expect("the store responds");
        assert_eq!(read("b").await, NOW, "before the first start");
        let first = cluster.start("a").await;
        let clock = first.clock();
        cluster.store.set_time(NOW + MONTH);
        assert_close(read("a").await, clock.now());
        assert_close(read("b").await, NOW + MONTH + FLOOR_TIMEOUT);
        let running = tokio::spawn(first.run(cluster.settings.clone()));
        for reference in [NOW - MONTH, NOW + HOUR, NOW + MONTH] {
            cluster.store.set_time(reference);
            assert_close(read("b").await, clock.now());
        }
        running.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn process_that_is_far_behind_is_set_ahead_and_uncertain() {
        let cluster = Cluster::new();
        let first = cluster.start("a").await;
        let second = cluster.start("b").await;
        // As after a pause of its virtual machine.
        second.clock.advance(-duration_micros(HOUR));
        sleep(SECOND).await;
        first.sync(&*cluster.settings).await.expect("the store responds");
        second.sync(&*cluster.settings).await.expect("the store responds");
        assert_eq!(second.clock.now(), first.clock.now());
        assert_eq!(second.clock.set_at_micros(), second.clock.now_micros());
    }

    #[tokio::test(start_paused = true)]
    async fn small_differences_are_corrected_by_a_tenth() {
        let cluster = Cluster::new();
        let first = cluster.start("a").await;
        let second = cluster.start("b").await;
        second.clock.advance(-duration_micros(SECOND));
        for tenths in 1..=10 {
            sleep(SECOND).await;
            first.sync(&*cluster.settings).await.expect("the store responds");
            second.sync(&*cluster.settings).await.expect("the store responds");
            let behind = first.clock.now() - second.clock.now();
            assert_eq!(behind, SECOND - tenths * SECOND / 10);
        }
        assert!(!is_uncertain(&*second.clock));
    }

    #[test]
    fn stored_floor_is_parsed() {
        let floor = Floor { time: 3, set_at: i64::MIN, boot_time: 2, boot_id: String::new() };
        assert_eq!(Floor::parse(&floor.to_string()), Some(floor));
        for invalid in ["", "1", "1 2 3", "1 2 x id"] {
            assert_eq!(Floor::parse(invalid), None, "{invalid}");
        }
    }
}
