//! Rotation rules to compare: Sekisho's and common alternatives.

use std::time::Duration;

use sekisho::models::session::{Session, SessionKind};
use sekisho::services::rotation::{Decision, PresentedToken, Reuse, decide, is_concurrent_use};
use time::OffsetDateTime;

/// A rule for a replaced refresh token: when it is accepted, and when it is token reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    /// Sekisho's own [`decide`].
    Sekisho,
    /// Sekisho's rule for clients of `/token`, without the detection of concurrent clients.
    ConfirmationOnly,
    /// The previous token is always accepted.
    PreviousAlwaysAccepted,
    /// The previous token is accepted for this time after the first use of its successor.
    FromFirstUse(Duration),
    /// The previous token is accepted for this time after the rotation.
    FromRotation(Duration),
    /// Each token is accepted once.
    SingleUse,
}

impl Rules {
    /// All rules, in the order of the table.
    pub(super) const ALL: [Self; 6] = [
        Self::Sekisho,
        Self::ConfirmationOnly,
        Self::PreviousAlwaysAccepted,
        Self::FromFirstUse(Duration::from_secs(30)),
        Self::FromRotation(Duration::from_secs(30)),
        Self::SingleUse,
    ];

    /// Returns the kind of the sessions.
    pub(super) fn kind(self) -> SessionKind {
        match self {
            Self::Sekisho => SessionKind::Browser,
            _ => SessionKind::Client,
        }
    }

    /// Returns `true` if followers are decided by their own tokens instead of the leader's result.
    pub(super) fn decides_followers_separately(self) -> bool {
        self == Self::Sekisho
    }

    /// Returns `true` if a token is not rotated again within the grace.
    pub(super) fn waits_for_grace(self) -> bool {
        matches!(self, Self::Sekisho | Self::ConfirmationOnly | Self::PreviousAlwaysAccepted)
    }

    /// Returns `true` if the use of a generation is confirmed.
    pub(super) fn confirms_use(self) -> bool {
        matches!(self, Self::Sekisho | Self::ConfirmationOnly)
    }

    /// Returns `true` if a session ends that another token has confirmed already.
    pub(super) fn ends_on_concurrent_use(self, row: &Session) -> bool {
        self == Self::Sekisho && is_concurrent_use(row)
    }

    /// Decides about a refresh token. `first_use` is the first use of the row's generation.
    pub(super) fn decide(
        self,
        row: Option<&Session>,
        first_use: Option<OffsetDateTime>,
        presented: &PresentedToken,
        now: OffsetDateTime,
        grace: Duration,
    ) -> Decision {
        let decision = decide(row, presented, now, grace);
        let (false, Some(row)) = (self.waits_for_grace(), row) else { return decision };
        let tolerated = match self {
            Self::FromFirstUse(window) => first_use.is_none_or(|first| now - first <= window),
            Self::FromRotation(window) => now - row.rotated_at <= window,
            _ => false,
        };
        match (decision, row.generation.checked_sub(presented.generation)) {
            (Decision::Replay, Some(0)) => Decision::Rotate,
            (Decision::Replay, _) if !tolerated => Decision::Reuse(Reuse::SuccessorConfirmed),
            (decision, _) => decision,
        }
    }
}
