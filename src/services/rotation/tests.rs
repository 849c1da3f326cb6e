//! The decision table row by row, then properties of all of it.

use proptest::prelude::*;
use time::macros::datetime;
use uuid::Uuid;

use super::*;
use crate::models::session::{EndReason, SessionEnd, TokenId};
use crate::test_seed::proptest_config;

const GRACE: Duration = Duration::from_secs(60);
const DIVERGENT_CLIENT: Decision = Decision::Reuse(Reuse::DivergentClient);
const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

fn ago(seconds: u64) -> OffsetDateTime {
    NOW - Duration::from_secs(seconds)
}

fn row() -> Session {
    Session {
        created_at: ago(86_400),
        rotated_at: ago(900),
        asked_by: Some(token(1, 1_900)),
        rotations: 6,
        ..Session::example(NOW)
    }
}

fn token(id: u128, seconds_ago: u64) -> AccessTokenRef {
    AccessTokenRef { id: TokenId(Uuid::from_u128(id)), issued_at: ago(seconds_ago) }
}

fn presented(generation: u32, access_token: Option<(u32, AccessTokenRef)>) -> PresentedToken {
    PresentedToken {
        session: row().id,
        generation,
        kind: SessionKind::Browser,
        access_token: access_token.map(|(generation, token)| AccompanyingAccessToken { token, generation }),
    }
}

fn decision(row: &Session, presented: &PresentedToken) -> Decision {
    decide(Some(row), presented, NOW, GRACE)
}

#[test]
fn missing_row_is_unknown() {
    assert_eq!(decide(None, &presented(7, None), NOW, GRACE), Decision::Unknown);
}

#[test]
fn token_of_the_other_kind_is_rejected() {
    let client = PresentedToken { kind: SessionKind::Client, generation: 1, ..presented(7, None) };
    assert_eq!(decision(&row(), &client), Decision::WrongKind);
}

#[test]
fn terminated_session_reports_its_reason_for_any_generation() {
    let end = SessionEnd { at: ago(10), reason: EndReason::PasswordChanged };
    let row = Session { end: Some(end), ..row() };
    for generation in [1, 6, 7, 8] {
        let ended = Decision::Ended { event: SessionEvent::PasswordChanged, since: ago(10) };
        assert_eq!(decision(&row, &presented(generation, None)), ended);
    }
}

#[test]
fn expired_session_reports_which_limit_was_reached() {
    let idle = Session { idle_expires_at: ago(0), ..row() };
    let ended = Decision::Ended { event: SessionEvent::IdleExpired, since: ago(0) };
    assert_eq!(decision(&idle, &presented(7, None)), ended);

    let absolute = Session { absolute_expires_at: ago(5), idle_expires_at: ago(5), ..row() };
    let ended = Decision::Ended { event: SessionEvent::AbsoluteExpired, since: ago(5) };
    assert_eq!(decision(&absolute, &presented(7, None)), ended);
}

#[test]
fn current_token_is_rotated_after_the_grace() {
    for (rotated, expected) in
        [(59, Decision::Replay), (60, Decision::Rotate), (61, Decision::Rotate), (900, Decision::Rotate)]
    {
        let row = Session { rotated_at: ago(rotated), ..row() };
        assert_eq!(decision(&row, &presented(7, None)), expected, "rotated {rotated} s ago");
    }
}

#[test]
fn row_rotated_in_the_future_is_replayed() {
    let row = Session { rotated_at: NOW + Duration::from_secs(15), ..row() };
    assert_eq!(decision(&row, &presented(7, None)), Decision::Replay);
}

#[test]
fn access_token_within_the_grace_is_replayed() {
    // The time of issue is in whole seconds: a token issued 61 s ago may be 60 s old.
    for (issued, expected) in [(10, Decision::Replay), (61, Decision::Replay), (62, Decision::Rotate)] {
        let presented = presented(7, Some((7, token(9, issued))));
        assert_eq!(decision(&row(), &presented), expected, "issued {issued} s ago");
    }
    let other_generation = presented(7, Some((6, token(9, 10))));
    assert_eq!(decision(&row(), &other_generation), Decision::Rotate);
}

#[test]
fn token_one_behind_is_replayed_until_its_successor_is_confirmed() {
    let accompanying = (6, token(1, 1_900));
    assert_eq!(decision(&row(), &presented(6, Some(accompanying))), Decision::Replay);

    let confirmed = Session { settled_by: Some(TokenId(Uuid::from_u128(5))), ..row() };
    let reuse = Decision::Reuse(Reuse::SuccessorConfirmed);
    assert_eq!(decision(&confirmed, &presented(6, Some(accompanying))), reuse);
}

#[test]
fn token_one_behind_with_another_old_access_token_is_a_divergent_client() {
    let other = presented(6, Some((6, token(2, 2_000))));
    assert_eq!(decision(&row(), &other), DIVERGENT_CLIENT);

    let none = presented(6, None);
    assert_eq!(decision(&row(), &none), DIVERGENT_CLIENT, "absent differs from any other");

    let rotated_without = Session { asked_by: None, ..row() };
    assert_eq!(decision(&rotated_without, &none), Decision::Replay, "absent equals absent");
    assert_eq!(decision(&rotated_without, &other), DIVERGENT_CLIENT);
}

#[test]
fn divergent_client_requires_both_access_tokens_to_be_old() {
    // The rotation was 900 s ago, when a token of 961 s may have been just 60 s old.
    let within_grace = presented(6, Some((6, token(2, 961))));
    assert_eq!(decision(&row(), &within_grace), Decision::Replay);
    let beyond_grace = presented(6, Some((6, token(2, 962))));
    assert_eq!(decision(&row(), &beyond_grace), DIVERGENT_CLIENT);

    let rotated_within_grace = Session { asked_by: Some(token(1, 961)), ..row() };
    assert_eq!(decision(&rotated_within_grace, &beyond_grace), Decision::Replay);
}

#[test]
fn concurrent_clients_are_allowed_in_client_sessions() {
    let row = Session { kind: SessionKind::Client, ..row() };
    let presented = PresentedToken { kind: SessionKind::Client, ..presented(6, None) };
    assert_eq!(decision(&row, &presented), Decision::Replay);
    assert!(!is_concurrent_use(&row));
}

#[test]
fn token_further_behind_is_reuse_with_any_access_token() {
    for generation in [0, 1, 5] {
        let presented = presented(generation, Some((generation, token(1, 1_900))));
        assert_eq!(decision(&row(), &presented), Decision::Reuse(Reuse::Superseded));
    }
}

#[test]
fn token_ahead_with_a_young_access_token_is_replayed() {
    let young = presented(8, Some((8, token(2, 0))));
    assert_eq!(decision(&row(), &young), Decision::Replay);
}

#[test]
fn token_ahead_catches_up() {
    assert_eq!(decision(&row(), &presented(8, None)), Decision::CatchUp { lost: 1 });
    assert_eq!(decision(&row(), &presented(12, None)), Decision::CatchUp { lost: 5 });
}

#[test]
fn last_generation_terminates_the_session() {
    let last = Session { generation: u32::MAX, ..row() };
    assert_eq!(decision(&last, &presented(u32::MAX, None)), Decision::Exhausted);
    assert_eq!(decision(&row(), &presented(u32::MAX, None)), Decision::Exhausted);
    let recent = Session { rotated_at: ago(1), ..last };
    assert_eq!(decision(&recent, &presented(u32::MAX, None)), Decision::Replay);
}

prop_compose! {
    fn any_token()(id in 0_u128..4, issued in 0_u64..4_000) -> AccessTokenRef { token(id, issued) }
}

prop_compose! {
    fn any_row()(
        generation in 1_u32..6,
        rotated in 0_u64..2_000,
        asked_by in proptest::option::of(any_token()),
        settled_by in proptest::option::of(0_u128..4),
        ended in proptest::option::of(0_u64..2_000),
        client in any::<bool>(),
    ) -> Session {
        Session {
            generation,
            rotated_at: ago(rotated),
            asked_by,
            settled_by: settled_by.map(|id| TokenId(Uuid::from_u128(id))),
            end: ended.map(|at| SessionEnd { at: ago(at), reason: EndReason::LoggedOut }),
            kind: if client { SessionKind::Client } else { SessionKind::Browser },
            ..row()
        }
    }
}

prop_compose! {
    fn any_presented()(
        generation in 0_u32..8,
        access_token in proptest::option::of((0_u32..8, any_token())),
    ) -> PresentedToken { presented(generation, access_token) }
}

proptest! {
    #![proptest_config(proptest_config())]

    /// Only a live session is rotated, replayed or caught up.
    #[test]
    fn terminated_session_yields_no_tokens(row in any_row(), presented in any_presented()) {
        let yields_tokens = matches!(
            decision(&row, &presented),
            Decision::Rotate | Decision::Replay | Decision::CatchUp { .. }
        );
        prop_assert!(!(yields_tokens && row.end.is_some()));
    }

    /// A rotation is due only if the conditional update would succeed.
    #[test]
    fn rotate_implies_that_the_update_can_succeed(row in any_row(), presented in any_presented()) {
        if decision(&row, &presented) == Decision::Rotate {
            prop_assert_eq!(row.generation, presented.generation);
            prop_assert!(row.rotated_at <= NOW - GRACE);
        }
    }

    /// Presenting the newest token is never reuse.
    #[test]
    fn newest_token_is_never_reuse(row in any_row(), presented in any_presented()) {
        if presented.generation >= row.generation {
            prop_assert!(!matches!(decision(&row, &presented), Decision::Reuse(_)));
        }
    }

    /// A request of the same client that loses the race is replayed.
    #[test]
    fn loser_of_a_race_is_replayed(before in any_row(), presented in any_presented()) {
        if decision(&before, &presented) == Decision::Rotate {
            let after = Session {
                generation: before.generation + 1,
                rotated_at: NOW,
                asked_by: presented.access_token.map(|access_token| access_token.token),
                settled_by: None,
                ..before
            };
            prop_assert_eq!(decision(&after, &presented), Decision::Replay);
        }
    }

    /// One generation behind a confirmed one, or further behind, is reuse in any live session of its kind.
    #[test]
    fn second_copy_is_detected(row in any_row(), presented in any_presented()) {
        let behind = row.generation.saturating_sub(presented.generation);
        let live = row.end.is_none() && row.kind == presented.kind;
        if live && (behind > 1 || behind == 1 && row.settled_by.is_some()) {
            prop_assert!(matches!(decision(&row, &presented), Decision::Reuse(_)));
        }
    }

    /// The function does not panic for any clock value.
    #[test]
    fn no_clock_value_panics(row in any_row(), presented in any_presented(), offset in -4_000_000_i64..4_000_000) {
        let _ = decide(Some(&row), &presented, NOW + time::Duration::seconds(offset), GRACE);
    }
}
