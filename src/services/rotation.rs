//! Decides what to do with a refresh token: one pure function, [`decide`].
//!
//! A session has one row, and the row has a generation. A refresh token names the session and a
//! generation; it is valid for the row's current generation. A refresh *rotates*: it increments the
//! generation, so that the old refresh token is replaced by a new one. If a replaced token comes back,
//! either the client missed the response, or two clients hold copies of the session's cookies. The
//! first is normal and is *replayed*: the client gets the current refresh token again. The second is
//! theft, and the session is terminated.
//!
//! # The decision table
//!
//! A rotation is one conditional update ([`SessionStore::rotate`]). Of concurrent updates one succeeds,
//! on any replica, without a lock. [`decide`] is called when the update did not succeed, or was not
//! tried because the accompanying access token is [within the grace period](within_grace). The first
//! row that matches applies:
//!
//! | session's row | token's generation | decision |
//! |---|---|---|
//! | does not exist | any | [`Unknown`](Decision::Unknown) |
//! | belongs to the other [kind](SessionKind) of client | any | [`WrongKind`](Decision::WrongKind) |
//! | terminated or expired | any | [`Ended`](Decision::Ended) |
//! | live | ahead of the row, and the accompanying access token was issued within the grace period | [`Replay`](Decision::Replay) of the presented generation |
//! | live | ahead of the row | [`CatchUp`](Decision::CatchUp): the database has lost its last writes |
//! | rotated within the grace period, or the accompanying access token was issued within it | current | [`Replay`](Decision::Replay): a concurrent request rotated already |
//! | otherwise | current | [`Rotate`](Decision::Rotate) |
//! | current generation confirmed | one behind | [`Reuse`](Decision::Reuse): [`SuccessorConfirmed`](Reuse::SuccessorConfirmed) |
//! | rotated with another access token than the accompanying one, and both were old | one behind | [`Reuse`](Decision::Reuse): [`DivergentClient`](Reuse::DivergentClient) |
//! | otherwise | one behind | [`Replay`](Decision::Replay): the response was lost |
//! | live | further behind | [`Reuse`](Decision::Reuse): [`Superseded`](Reuse::Superseded) |
//!
//! A replay postpones the idle expiry as a rotation does, but in a deferred write. A thief who only replays is
//! bounded by the absolute expiry, and is detected once the owner's use of the current generation is confirmed.
//!
//! A token of the last generation, [`u32::MAX`], has no successor: where it would rotate or catch up,
//! the decision is [`Exhausted`](Decision::Exhausted).
//!
//! # Confirmed use
//!
//! A generation is *confirmed* when one of its access tokens is used at more than the
//! [confirmation age](confirmation_age); the row's `settled_by` names that token. By that time the
//! browser has stored its new cookies, so a replaced refresh token comes from a second copy. Before that,
//! it is no evidence of theft. Requests may have been sent together, the response may have been lost, or a
//! crashed browser may have restored the cookies that it last wrote to disk.
//!
//! The confirmation age is longer than the grace period. A refresh within the grace period is replayed, so
//! the browser gets a second access token of the same generation. A request with the first one may still
//! be in flight then.
//!
//! # Concurrent clients
//!
//! Two rules detect copied cookies earlier, in browser sessions:
//!
//! - **Divergent client.** A rotation records the access token that accompanied it (`asked_by`). The
//!   replaced refresh token then comes with a different access token, although both access tokens were
//!   older than the grace period at the rotation. One browser would have sent the same one.
//! - **Concurrent use** ([`is_concurrent_use`]). A second access token of a confirmed generation has a
//!   confirmed use.
//!
//! Clients of `POST /token` may keep several access tokens, so neither rule applies to them.
//!
//! # Comparison with a fixed window
//!
//! A model simulates twelve hours of a user: bursts of requests from several tabs, a fifth of the
//! responses lost, and browser crashes within seconds of a rotation. Then a thief uses a copy of the
//! cookies: occasionally, in step with the browser, a few seconds ahead of it, or in step but each token
//! only briefly. The table shows honest sessions signed out, thieves detected, and the median time until
//! detection. In the last two columns, wall clocks step by seconds to 30 days and gateways restart; the
//! rules of this module run on session time there (`services::session_time`), the others on wall clocks.
//! It is the output of
//! `cargo test --test it model::rule_comparison::table -- --ignored --nocapture`.
//!
//! | rule | signed out | occasional | in step | ahead | brief | signed out, clocks step | all thieves, clocks step |
//! |---|---|---|---|---|---|---|---|
//! | this module | 0 of 600 | 300/300, 35 min | 300/300, 13 min | 300/300, 12 min | 300/300, 26 min | 0 of 600 | 300/300, 21 min |
//! | confirmed use, without the comparison of access tokens | 0 of 600 | 300/300, 36 min | 280/300, 3.2 h | 297/300, 1.8 h | 300/300, 60 min | 0 of 600 | 293/300, 81 min |
//! | one generation behind is always replayed | 0 of 600 | 300/300, 68 min | 190/300, 6.3 h | 203/300, 5.0 h | 282/300, 3.9 h | 0 of 600 | 188/300, 2.8 h |
//! | 30 s from the first use of the new token | 482 of 600 | 277/277, 32 min | 270/277, 2.4 h | 268/277, 2.3 h | 277/277, 45 min | 469 of 600 | 280/283, 69 min |
//! | 30 s from the rotation | 597 of 600 | 248/248, 25 min | 248/248, 72 min | 247/248, 64 min | 248/248, 19 min | 596 of 600 | 264/264, 41 min |
//! | strictly once | 600 of 600 | 120/120, 11 min | 120/120, 7 min | 120/120, 6 min | 120/120, 7 min | 599 of 600 | 106/106, 7 min |
//! | this module, on wall clocks | 0 of 600 | 300/300, 35 min | 300/300, 13 min | 300/300, 12 min | 300/300, 26 min | 269 of 600 | 297/297, 21 min |
//!
//! Where a rule signs out the owner before the theft, no session is left to steal.
//!
//! [`SessionStore::rotate`]: super::store::SessionStore::rotate

use std::time::Duration;

use time::OffsetDateTime;

use crate::models::session::{AccessTokenRef, Session, SessionId, SessionKind};
use crate::session_event::SessionEvent;

/// A refresh token with a valid signature, and the access token that accompanied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresentedToken {
    /// The session.
    pub session: SessionId,
    /// The generation.
    pub generation: u32,
    /// The kind of client that presented it.
    pub kind: SessionKind,
    /// Access token of the same session that came in the same request, expired or not. An unreadable
    /// one counts as absent.
    pub access_token: Option<AccompanyingAccessToken>,
}

/// An access token that came with a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccompanyingAccessToken {
    /// Its id and time of issue.
    pub token: AccessTokenRef,
    /// Its generation.
    pub generation: u32,
}

/// The action to take for a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Set the row to the generation after the presented one: the database has lost its last writes.
    CatchUp {
        /// Number of generations that the row is behind.
        lost: u32,
    },
    /// Terminate the session: it has no generation left.
    Exhausted,
    /// Reject: the session was terminated or has expired.
    Ended {
        /// The reason.
        event: SessionEvent,
        /// The time at which it ended.
        since: OffsetDateTime,
    },
    /// Return the refresh token of the current generation, or of the presented one if that is later, and a new
    /// access token.
    Replay,
    /// Terminate the session: two clients hold its tokens.
    Reuse(Reuse),
    /// Try the conditional update.
    Rotate,
    /// Reject: the session does not exist.
    Unknown,
    /// Reject: the session belongs to the other kind of client.
    WrongKind,
}

/// The evidence of token reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// The token is more than one generation behind.
    Superseded,
    /// The generation after the token's is confirmed.
    SuccessorConfirmed,
    /// The rotation that replaced the token came with another access token; see the
    /// [module](self#concurrent-clients).
    DivergentClient,
}

impl Reuse {
    /// Returns the name in log lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "superseded",
            Self::SuccessorConfirmed => "successor_confirmed",
            Self::DivergentClient => "divergent_client",
        }
    }
}

/// Decides what to do with a refresh token, given the session's row as read at `now`.
///
/// The match arms are the rows of the [decision table](self#the-decision-table).
#[must_use]
pub fn decide(
    row: Option<&Session>,
    presented: &PresentedToken,
    now: OffsetDateTime,
    grace: Duration,
) -> Decision {
    let Some(row) = row else { return Decision::Unknown };
    if row.kind != presented.kind {
        return Decision::WrongKind;
    }
    if let Some((event, since)) = row.termination(now) {
        return Decision::Ended { event, since };
    }
    let generation = presented.generation;
    if generation > row.generation {
        if within_grace(presented, now, grace) {
            return Decision::Replay;
        }
        return next_or_exhausted(generation, Decision::CatchUp { lost: generation - row.generation });
    }
    match row.generation - generation {
        0 if now - row.rotated_at < grace || within_grace(presented, now, grace) => Decision::Replay,
        0 => next_or_exhausted(generation, Decision::Rotate),
        1 if row.settled_by.is_some() => Decision::Reuse(Reuse::SuccessorConfirmed),
        1 if is_divergent_client(row, presented, grace) => Decision::Reuse(Reuse::DivergentClient),
        1 => Decision::Replay,
        _ => Decision::Reuse(Reuse::Superseded),
    }
}

/// Returns `true` if the accompanying access token is of the presented generation and was issued within
/// the grace period. No rotation is due then, which is known before the row is read.
#[must_use]
pub fn within_grace(presented: &PresentedToken, now: OffsetDateTime, grace: Duration) -> bool {
    presented.access_token.is_some_and(|access| {
        access.generation == presented.generation && !access.token.older_than(grace, now)
    })
}

/// Returns the age beyond which the use of an access token is a [confirmed use](self#confirmed-use): five
/// thirds of the grace period.
///
/// The last replay of a generation is at the end of the grace period. Its cookies are sent within a sixth
/// of the grace period. A quarter is for the response and for requests that were sent before it arrived,
/// and another quarter for the clocks of the replicas.
#[must_use]
pub fn confirmation_age(grace: Duration) -> Duration {
    grace + grace * 2 / 3
}

/// Returns `true` if a confirmed use of a *second* access token of the row's generation proves that two
/// clients hold the session. It does so in live browser sessions; clients of `POST /token` may keep
/// several access tokens.
#[must_use]
pub fn is_concurrent_use(row: &Session) -> bool {
    row.kind == SessionKind::Browser && row.end.is_none()
}

/// Returns `true` if the row was rotated with another access token than the one that accompanies the
/// replaced refresh token, and both were older than the grace period at the rotation.
///
/// An absent access token equals another absent one, differs from any other, and counts as old.
fn is_divergent_client(row: &Session, presented: &PresentedToken, grace: Duration) -> bool {
    let accompanying = presented.access_token.map(|access| access.token);
    let is_old =
        |token: Option<AccessTokenRef>| token.is_none_or(|token| token.older_than(grace, row.rotated_at));
    row.kind == SessionKind::Browser
        && row.asked_by.map(|token| token.id) != accompanying.map(|token| token.id)
        && is_old(row.asked_by)
        && is_old(accompanying)
}

fn next_or_exhausted(generation: u32, next: Decision) -> Decision {
    if generation == u32::MAX { Decision::Exhausted } else { next }
}

#[cfg(test)]
mod tests;
