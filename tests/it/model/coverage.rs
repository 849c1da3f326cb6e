//! Counts the events of the runs, so that a generator that stops producing one is noticed.

use std::collections::BTreeMap;

/// An event that a run may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CoverageEvent {
    // Responses with new cookies.
    ResponseLost,
    /// The response took more than a second.
    ResponseDelayed,
    /// A response with newer cookies arrived before it.
    ResponseOvertaken,
    /// The cookies were too old to be sent.
    ResponseTooLate,
    // Browsers and their requests.
    /// The browser restarted with cookies from its disk that differ from those in memory.
    BrowserCrashed,
    /// The browser restarted with cookies of an earlier generation.
    OldCookiesRestored,
    /// The client disconnected before the response.
    ClientDisconnected,
    /// The refresh timed out, so the request continued with its valid token.
    RefreshTimedOut,
    // Replicas and the store.
    /// The replica crashed with a refresh in flight.
    ReplicaCrashed,
    /// The store crashed and lost writes.
    StoreCrashed,
    StoreRefused,
    /// The store executed the call, and its result was lost.
    StoreResultLost,
    /// A valid token arrived while the revocation list was stale.
    RevocationsStale,
    /// The clock skew of the replicas exceeds a fifth of the grace.
    ClocksSkewed,
    ClockSetBack,
    ClockSetAhead,
    AllRestarted,
    /// All replicas were restarted, and the time in between is uncertain.
    UncertainStart,
    /// A confirmed use was written more than 900 ms later.
    ConfirmedLate,
    // Refreshes.
    Rotated,
    Replayed,
    CaughtUp,
    /// A follower shared the leader's result.
    Shared,
    /// A browser was rejected because its session had idled out.
    RejectedAsIdle,
    // Sign-ins, sign-outs and password changes.
    SignedIn,
    /// The password changed after it was checked.
    SignInRefused,
    SignedOut,
    SignedOutEverywhere,
    PasswordChanged,
    /// Another change came first.
    PasswordChangeRefused,
    // Terminations.
    EndedByReplacement,
    EndedByLimit,
    EndedByExpiry,
    EndedBySignOut,
    EndedByPassword,
    /// A refresh detected reuse.
    ReuseAtRefresh,
    /// A follower's tokens showed reuse.
    ReuseByFollower,
    /// A second confirmed use showed reuse.
    ReuseAtConfirmation,
    /// Another termination came first.
    AlreadyEnded,
    /// The session was terminated during a refresh.
    EndedDuringRefresh,
    // Use of stolen cookies while their session is active.
    ThiefOccasional,
    ThiefAlongside,
    ThiefAhead,
    ThiefBrief,
}

/// Number of occurrences of each event.
#[derive(Clone, Debug, Default)]
pub(super) struct CoverageCounters(BTreeMap<CoverageEvent, u64>);

impl CoverageCounters {
    pub(super) fn record(&mut self, event: CoverageEvent) {
        *self.0.entry(event).or_default() += 1;
    }

    pub(super) fn count(&self, event: CoverageEvent) -> u64 {
        self.0.get(&event).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (&event, count) in &other.0 {
            *self.0.entry(event).or_default() += count;
        }
    }

    /// # Panics
    ///
    /// If an event occurred less often than its minimum.
    #[track_caller]
    pub(super) fn assert_at_least(&self, minimums: &[(CoverageEvent, u64)]) {
        let rare: Vec<_> = minimums.iter().filter(|&&(event, minimum)| self.count(event) < minimum).collect();
        assert!(rare.is_empty(), "events below their minimum {rare:?}: {:#?}", self.0);
    }
}
