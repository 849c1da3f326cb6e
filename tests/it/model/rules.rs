//! The rules compared: ours, and those that others use.

use std::time::Duration;

use sekisho::models::session::{Session, SessionKind};
use sekisho::services::rotation::{Decision, PresentedToken, Reuse, decide, is_concurrent_use};
use time::OffsetDateTime;

/// When a refresh token that was replaced is still answered, and when it is the sign of a thief.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    /// The product's own [`decide`].
    Ours,
    /// Without the two-jars rules, which the product spares clients of `/token`.
    SettlingAlone,
    /// The predecessor is always good.
    OneBehind,
    /// The predecessor is good until so long after its successor was first seen.
    FromFirstUse(Duration),
    /// The predecessor is good for so long after the rotation.
    FromRotation(Duration),
    /// Each token works once.
    Once,
}

impl Rules {
    /// All of them, in the order in which they are told.
    pub(super) const ALL: [Self; 6] = [
        Self::Ours,
        Self::SettlingAlone,
        Self::OneBehind,
        Self::FromFirstUse(Duration::from_secs(30)),
        Self::FromRotation(Duration::from_secs(30)),
        Self::Once,
    ];

    /// Sessions are made for this kind of client. The product's rules for clients of `/token` are
    /// those without the second jar.
    pub(super) fn kind(self) -> SessionKind {
        match self {
            Self::Ours => SessionKind::Browser,
            _ => SessionKind::Client,
        }
    }

    /// Whether followers are judged with their own tokens, instead of given the leader's result.
    pub(super) fn judge_followers(self) -> bool {
        self == Self::Ours
    }

    /// Whether a token waits for the grace before it is rotated again.
    pub(super) fn wait_for_the_grace(self) -> bool {
        matches!(self, Self::Ours | Self::SettlingAlone | Self::OneBehind)
    }

    /// Whether a generation settles.
    pub(super) fn settle(self) -> bool {
        matches!(self, Self::Ours | Self::SettlingAlone)
    }

    /// Whether a row that another token had settled already ends.
    pub(super) fn ends_second_jar(self, row: &Session) -> bool {
        self == Self::Ours && is_concurrent_use(row)
    }

    /// The decision, given when the row's generation was first seen in use.
    pub(super) fn decide(
        self,
        row: Option<&Session>,
        first_use: Option<OffsetDateTime>,
        presented: &PresentedToken,
        now: OffsetDateTime,
        grace: Duration,
    ) -> Decision {
        let decision = decide(row, presented, now, grace);
        let (false, Some(row)) = (self.wait_for_the_grace(), row) else { return decision };
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
