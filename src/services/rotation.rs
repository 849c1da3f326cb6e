//! Whether a refresh token is renewed, replayed, or the sign of a thief: one pure function.
//!
//! A rotation is one conditional update ([`SessionStore::rotate`]), and the row decides who wins, so
//! replicas need no lock. [`decide`] says whether that update is due at all, and what to answer when
//! another request was faster. Its match arms are the rules, in their order:
//!
//! | the row, and the generation presented | [`Decision`] |
//! |---|---|
//! | no such row | [`Unknown`](Decision::Unknown) |
//! | made for the other kind of client | [`WrongKind`](Decision::WrongKind) |
//! | ended or expired | [`Over`](Decision::Ended) |
//! | equal, and young: rotated, or its access token issued, less than the grace ago | [`Replay`](Decision::Replay) |
//! | equal | [`Rotate`](Decision::Rotate) |
//! | one behind, not settled, two jars | [`Reuse`](Decision::Reuse) |
//! | one behind, not settled | [`Replay`](Decision::Replay) |
//! | one behind and settled, or further behind | [`Reuse`](Decision::Reuse) |
//! | ahead | [`CatchUp`](Decision::CatchUp) |
//!
//! *Settled* means that an access token of the current generation was seen in use longer than the
//! grace after its issue: from then on the browser has almost certainly kept its new cookies, and the
//! old ones are a second copy. Until then an old token is no sign of theft: the requests were sent
//! together, or the earlier answer was lost, or a crashed browser came back with the cookies that it
//! had last written to disk.
//!
//! # Why not a fixed window
//!
//! Twelve hours of a user in a model: bursts from several tabs, a fifth of the answers lost, a browser
//! that crashes within seconds of a rotation; then a thief with a copy of its cookies, who comes now
//! and then, who asks whenever the browser does, a few seconds before it, or along with it but with
//! each token only briefly. Measured: honest sessions signed out, thieves caught, and the median time
//! until then (by `cargo test --test it model::rule_comparison::table -- --ignored --nocapture`):
//!
//! | rule | signed out | now and then | along | ahead | brief |
//! |---|---|---|---|---|---|
//! | ours | 0 of 600 | 300/300, 35 min | 300/300, 12 min | 300/300, 11 min | 300/300, 26 min |
//! | settling, without two jars | 0 of 600 | 300/300, 35 min | 285/300, 3.1 h | 297/300, 1.6 h | 300/300, 55 min |
//! | one behind is always good | 0 of 600 | 300/300, 68 min | 190/300, 6.3 h | 203/300, 5.0 h | 282/300, 3.9 h |
//! | 30 s from the first use of the new token | 482 of 600 | 277/277, 32 min | 270/277, 2.4 h | 268/277, 2.3 h | 277/277, 45 min |
//! | 30 s from the rotation | 597 of 600 | 248/248, 25 min | 248/248, 72 min | 247/248, 64 min | 248/248, 19 min |
//! | strictly once | 600 of 600 | 120/120, 11 min | 120/120, 7 min | 120/120, 6 min | 120/120, 7 min |
//!
//! Where a rule signs the owner out before the theft, there is nothing left to steal.
//!
//! [`SessionStore::rotate`]: super::store::SessionStore::rotate

use std::time::Duration;

use time::OffsetDateTime;

use crate::models::session::{AccessTokenRef, Session, SessionId, SessionKind};
use crate::session_event::SessionEvent;

/// A refresh token whose signature holds, and what came with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresentedToken {
    /// The session that the token names.
    pub session: SessionId,
    /// The generation that the token names.
    pub generation: u32,
    /// What kind of client it came from.
    pub kind: SessionKind,
    /// The access token of the same session that lay beside it, expired or not.
    pub access_token: Option<AccompanyingAccessToken>,
}

/// An access token that came with a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccompanyingAccessToken {
    /// Which one it is.
    pub token: AccessTokenRef,
    /// Its generation.
    pub generation: u32,
}

/// What to do with a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Take over the generation presented and rotate: the database has lost this many of them.
    CatchUp {
        /// How many generations the row is behind.
        lost: u32,
    },
    /// No generation is left: end the session.
    Exhausted,
    /// Refuse: the session is over.
    Ended {
        /// Why.
        event: SessionEvent,
        /// Since when.
        since: OffsetDateTime,
    },
    /// Answer with the refresh token of the current generation and a fresh access token.
    Replay,
    /// Two clients hold the session's tokens: end it.
    Reuse(Reuse),
    /// Try the conditional update.
    Rotate,
    /// Refuse: there is no such session.
    Unknown,
    /// Refuse: the token was made for the other kind of client.
    WrongKind,
}

/// How a reuse shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// The token is older than the one before the current one.
    Superseded,
    /// The token's successor is in lasting use.
    SuccessorConfirmed,
    /// The token's successor was asked for with another access token, and both were old.
    DivergentClient,
}

/// Decides what to do with a refresh token, given the session's row as it was read at `now`.
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

/// Whether the access token beside the refresh token shows, before any row is read, that no rotation
/// is due: it is of the generation presented and less than `grace` old.
#[must_use]
pub fn within_grace(presented: &PresentedToken, now: OffsetDateTime, grace: Duration) -> bool {
    presented.access_token.is_some_and(|beside| {
        beside.generation == presented.generation && !beside.token.older_than(grace, now)
    })
}

/// Whether a *second* access token of one generation is in lasting use: then two clients hold the
/// session. Clients of `/token` may well keep several, so the rule is for browsers.
#[must_use]
pub fn is_concurrent_use(row: &Session) -> bool {
    row.kind == SessionKind::Browser && row.end.is_none()
}

/// Two jars: the current generation was asked for with one access token, and its predecessor is now
/// presented with another, although both were old when the rotation happened. One browser would have
/// sent the same one. No access token counts as old, equals itself and differs from any other.
fn is_divergent_client(row: &Session, presented: &PresentedToken, grace: Duration) -> bool {
    let beside = presented.access_token.map(|beside| beside.token);
    let old =
        |token: Option<AccessTokenRef>| token.is_none_or(|token| token.older_than(grace, row.rotated_at));
    row.kind == SessionKind::Browser
        && row.asked_by.map(|token| token.id) != beside.map(|token| token.id)
        && old(row.asked_by)
        && old(beside)
}

fn next_or_exhausted(generation: u32, next: Decision) -> Decision {
    if generation == u32::MAX { Decision::Exhausted } else { next }
}

#[cfg(test)]
mod tests;
