//! Session time of the replicas, and wall clocks that step.
//!
//! Replicas start by the real [`start_time`] and keep their session time apart by at most the initial offsets.

use sekisho::services::rotation::confirmation_age;
use sekisho::services::session_time::start_time;

use super::*;

/// The database's clock, and the latest session time that the database knows.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// Offset of the database's clock from the true time.
    database: i64,
    /// The floor, the true time at which it was written, and its uncertainty.
    floor: i64,
    written_at: i64,
    set_at: Option<i64>,
    /// True while the replicas are stopped.
    is_stopped: bool,
    /// True if all machines were started since the floor was written.
    is_rebooted: bool,
    /// True time of the last start at an uncertain time.
    pub(super) uncertain_start: Option<i64>,
}

/// Interval at which replicas raise the floor.
const SYNC_INTERVAL: i64 = 1_000;

impl World<'_> {
    pub(super) fn is_stopped(&self) -> bool {
        self.clocks.is_stopped
    }

    pub(super) fn step_clock(&mut self, by: i64, only_database: bool) {
        self.record(if by < 0 { CoverageEvent::ClockSetBack } else { CoverageEvent::ClockSetAhead });
        self.clocks.database += by;
        if self.settings.mutation == Some(Mutation::WallClocks) && !only_database {
            for replica in &mut self.replicas {
                replica.clock += by;
            }
        }
    }

    /// Raises the floor as the running replicas did until now.
    fn raise_floor(&mut self) {
        let mut last = self.now.div_euclid(SYNC_INTERVAL) * SYNC_INTERVAL;
        if last >= self.down.0 && last < self.down.1 {
            last = self.down.0;
        }
        let ahead = self.replicas.iter().max_by_key(|replica| replica.clock).expect("a replica");
        if last + ahead.clock > self.clocks.floor {
            self.clocks.floor = last + ahead.clock;
            self.clocks.written_at = last;
            self.clocks.set_at = ahead.set_at;
            self.clocks.is_rebooted = false;
        }
    }

    /// Restarts the clock of one replica. The others run. While the store is down, no process starts, and the
    /// others' time is adopted later.
    pub(super) fn restart_clock(&mut self, replica: usize) {
        if self.settings.mutation == Some(Mutation::WallClocks) || self.is_down() {
            return;
        }
        self.raise_floor();
        let others_run = self.replicas.len() > 1;
        let latest = self.replicas.iter().map(|replica| replica.clock).max().unwrap_or(0);
        let (time, set_at) = self.start(others_run.then_some(latest));
        let clock = time - self.now;
        // After an outage of the store, the floor is behind for up to a second.
        let is_floor_current = self.now > self.down.1 + SYNC_INTERVAL;
        if others_run
            && is_floor_current
            && (clock - latest > self.settings.grace / 8 || latest - clock > 2 * SYNC_INTERVAL)
        {
            self.violate(|| format!("session time stepped by {} ms while a replica ran", clock - latest));
        }
        self.replicas[replica].clock = clock;
        self.replicas[replica].set_at = set_at;
        self.catch_up_clocks();
    }

    pub(super) fn stop_all(&mut self, down: i64, is_reboot: bool) {
        if self.clocks.is_stopped {
            return;
        }
        self.raise_floor();
        self.clocks.is_stopped = true;
        for replica in &mut self.replicas {
            replica.life += 1;
        }
        self.clocks.is_rebooted |= is_reboot;
        self.after(down, Event::StartAll);
    }

    pub(super) fn start_all(&mut self) {
        if self.is_down() {
            return self.after(self.down.1 - self.now, Event::StartAll);
        }
        self.clocks.is_stopped = false;
        let (time, set_at) = self.start(None);
        let latest = self.settings.clocks.iter().max().unwrap_or(&0);
        for number in 0..self.replicas.len() {
            if self.settings.mutation != Some(Mutation::WallClocks) {
                self.replicas[number].clock = time - self.now - (latest - self.settings.clocks[number]);
                self.replicas[number].set_at = set_at;
            }
            self.restart_replica(number);
        }
        self.record(CoverageEvent::AllRestarted);
    }

    /// Returns the session time at which a replica starts. `others` is the latest clock of running replicas.
    fn start(&mut self, others: Option<i64>) -> (i64, Option<i64>) {
        let Clocks { database, floor, written_at, set_at, is_rebooted, .. } = self.clocks;
        let reference = self.now + database;
        // With other replicas, another machine may have written the floor.
        let since_floor = (!is_rebooted && others.is_none()).then_some(self.now - written_at);
        let micros = |ms: i64| ms * 1_000;
        let since_floor = since_floor.map(micros);
        match start_time(micros(reference), micros(floor), since_floor, self.settings.grace()) {
            Some(time) => (time / 1_000, set_at),
            // The floor moves while the replica waits.
            None if others.is_some() => (self.now + others.unwrap_or(0), set_at),
            None if reference <= floor => (floor, set_at),
            None => {
                self.record(CoverageEvent::UncertainStart);
                self.clocks.uncertain_start = Some(self.now);
                (reference, Some(reference))
            }
        }
    }

    /// Lets replicas that are behind catch up, as they do by a tenth of the time.
    fn catch_up_clocks(&mut self) {
        let latest = self.replicas.iter().map(|replica| replica.clock).max().unwrap_or(0);
        let apart =
            self.settings.clocks.iter().max().unwrap_or(&0) - self.settings.clocks.iter().min().unwrap_or(&0);
        for replica in &mut self.replicas {
            replica.clock = replica.clock.max(latest - apart);
        }
    }

    /// Returns `true` if the time since earlier rotations is uncertain for the replica of the request.
    pub(super) fn is_clock_uncertain(&self, request: usize, now: OffsetDateTime) -> bool {
        self.replicas[self.replica(request)]
            .set_at
            .is_some_and(|set_at| now - at(set_at) < self.settings.grace())
    }

    /// Returns `true` if the age of tokens is uncertain for the replica at this time.
    pub(super) fn is_confirmation_uncertain(&self, replica: usize, now: OffsetDateTime) -> bool {
        let age = confirmation_age(self.settings.grace()) + Duration::from_secs(1);
        self.replicas[replica].set_at.is_some_and(|set_at| now - at(set_at) <= age)
    }
}
