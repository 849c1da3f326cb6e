//! What happened in the runs, counted: a generator that has stopped making something is noticed.

use std::collections::BTreeMap;

/// What a run may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seen {
    // Answers with fresh cookies.
    AnswerLost,
    /// On its way for more than a second.
    AnswerDelayed,
    /// After another one that was made later.
    AnswerOvertaken,
    /// Made so long ago that the cookies stayed behind.
    AnswerTooLate,
    // Browsers and their requests.
    /// Back with what its disk had, which was not what its memory had.
    BrowserCrashed,
    /// Back with cookies of an earlier generation.
    BackWithOldCookies,
    /// Before its answer was there.
    HungUp,
    /// A request went on with its old token, since the renewal took too long.
    PatienceLost,
    // Replicas and the store.
    /// With a renewal under way.
    ReplicaCrashed,
    /// And forgot something.
    StoreCrashed,
    StoreRefused,
    /// It did what it was asked, and its answer was lost.
    StoreUnheard,
    /// A valid token came while nobody knew what had ended.
    FeedLost,
    /// The clocks of a run's replicas are more than a fifth of the grace apart.
    ClocksApart,
    /// More than nine tenths of a second after the use.
    SettledLate,
    // Renewals.
    Rotated,
    Replayed,
    CaughtUp,
    /// By another request than the leader.
    Shared,
    // Sign-ins, sign-outs and changes of password.
    SignedIn,
    /// The password was changed since it was checked.
    SignInRefused,
    SignedOut,
    SignedOutEverywhere,
    PasswordChanged,
    /// Another change was faster.
    PasswordChangeRefused,
    // Ends.
    EndedByReplacement,
    EndedByLimit,
    EndedByExpiry,
    EndedBySignOut,
    EndedByPassword,
    /// A renewal showed two jars, or a token that was replaced long ago.
    ReuseAtRenewal,
    /// A request that shared another one's renewal did.
    ReuseAmongSharers,
    /// The second token in lasting use did.
    ReuseAtSettling,
    /// Another end was faster.
    EndTooLate,
    /// With a renewal of the session under way.
    EndedDuringRenewal,
    // Thieves, with what they stole still good.
    ThiefNowAndThen,
    ThiefTravellingAlong,
    ThiefAhead,
    ThiefBrief,
}

/// How often each was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct CoverageCounters(BTreeMap<Seen, u64>);

impl CoverageCounters {
    pub(super) fn see(&mut self, seen: Seen) {
        *self.0.entry(seen).or_default() += 1;
    }

    pub(super) fn of(&self, seen: Seen) -> u64 {
        self.0.get(&seen).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (&seen, count) in &other.0 {
            *self.0.entry(seen).or_default() += count;
        }
    }

    /// # Panics
    ///
    /// If one of these was seen less often than it says.
    #[track_caller]
    pub(super) fn assert_at_least(&self, least: &[(Seen, u64)]) {
        let rare: Vec<_> = least.iter().filter(|&&(seen, least)| self.of(seen) < least).collect();
        assert!(rare.is_empty(), "seen less often than {rare:?}: {:#?}", self.0);
    }
}
