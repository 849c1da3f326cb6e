//! Counters of all clients.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::client::RequestError;
use super::settings::Attack;

/// A kind of honest requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Refresh,
    Page,
    Upload,
    EventStream,
    Event,
    KnownSignIn,
    NewSignIn,
}

impl Kind {
    pub(super) const ALL: [Self; 7] = [
        Self::Refresh,
        Self::Page,
        Self::Upload,
        Self::EventStream,
        Self::Event,
        Self::KnownSignIn,
        Self::NewSignIn,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Refresh => "requests with a refresh",
            Self::Page => "other requests",
            Self::Upload => "uploads",
            Self::EventStream => "event streams",
            Self::Event => "events",
            Self::KnownSignIn => "sign-ins, known client",
            Self::NewSignIn => "sign-ins, new address",
        }
    }

    pub(super) fn is_sign_in(self) -> bool {
        matches!(self, Self::KnownSignIn | Self::NewSignIn)
    }
}

/// The honest requests of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct HonestRecord {
    pub(super) sent: usize,
    pub(super) succeeded: usize,
    pub(super) times: Vec<Duration>,
    pub(super) first_failure: Option<String>,
}

/// The connections and requests of one attack.
#[derive(Clone, Debug, Default)]
pub(super) struct HostileRecord {
    pub(super) connections: usize,
    /// Connections that could not be made.
    pub(super) failed_connections: usize,
    pub(super) requests: usize,
    /// Number of responses by status.
    pub(super) responses: BTreeMap<u16, usize>,
    /// Requests that ended without a response.
    pub(super) cut: usize,
}

#[derive(Default)]
pub(super) struct Stats {
    honest: Mutex<BTreeMap<Kind, HonestRecord>>,
    hostile: Mutex<BTreeMap<Attack, HostileRecord>>,
}

impl Stats {
    /// Records a request that ended `at` this time of the run.
    pub(super) fn record<T>(
        &self,
        kind: Kind,
        at: Duration,
        took: Duration,
        result: &Result<T, RequestError>,
    ) {
        let mut honest = lock(&self.honest);
        let record = honest.entry(kind).or_default();
        record.sent += 1;
        record.times.push(took);
        match result {
            Ok(_) => record.succeeded += 1,
            Err(error) => {
                record.first_failure.get_or_insert_with(|| format!("{:.1} s: {error}", at.as_secs_f64()));
            }
        }
    }

    /// Changes the record of an attack.
    pub(super) fn count(&self, attack: Attack, change: impl FnOnce(&mut HostileRecord)) {
        change(lock(&self.hostile).entry(attack).or_default());
    }

    /// Records the end of a hostile request, with the status of the response if there was one.
    pub(super) fn count_end(&self, attack: Attack, status: Option<u16>) {
        self.count(attack, |record| match status {
            Some(status) => *record.responses.entry(status).or_default() += 1,
            None => record.cut += 1,
        });
    }

    pub(super) fn honest(&self) -> BTreeMap<Kind, HonestRecord> {
        lock(&self.honest).clone()
    }

    pub(super) fn hostile(&self) -> BTreeMap<Attack, HostileRecord> {
        lock(&self.hostile).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
