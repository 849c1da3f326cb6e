//! The table row by row, then properties over all of it.

use proptest::prelude::*;
use time::macros::datetime;
use uuid::Uuid;

use super::*;
use crate::client_info::ClientInfo;
use crate::identity::Roles;
use crate::models::session::{EndReason, SessionEnd, TokenId};
use crate::models::user::UserId;
use crate::test_seed::proptest_config;

const GRACE: Duration = Duration::from_secs(60);
const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

fn ago(seconds: u64) -> OffsetDateTime {
    NOW - Duration::from_secs(seconds)
}

fn row() -> Session {
    Session {
        id: SessionId(Uuid::from_u128(1)),
        user_id: UserId(Uuid::from_u128(2)),
        kind: SessionKind::Browser,
        email: "taro@example.jp".into(),
        roles: Roles::default(),
        generation: 7,
        key_number: 1,
        created_at: ago(86_400),
        rotated_at: ago(900),
        asked_by: Some(token(1, 1_900)),
        settled_by: None,
        rotations: 6,
        replays: 0,
        idle_expires_at: NOW + Duration::from_secs(86_400),
        absolute_expires_at: NOW + Duration::from_secs(8 * 86_400),
        end: None,
        client: ClientInfo::default(),
    }
}

fn token(id: u128, seconds_ago: u64) -> AccessTokenRef {
    AccessTokenRef { id: TokenId(Uuid::from_u128(id)), issued_at: ago(seconds_ago) }
}

fn presented(generation: u32, beside: Option<(u32, AccessTokenRef)>) -> PresentedToken {
    PresentedToken {
        session: row().id,
        generation,
        kind: SessionKind::Browser,
        access_token: beside.map(|(generation, token)| AccompanyingAccessToken { token, generation }),
    }
}

fn decision(row: &Session, presented: &PresentedToken) -> Decision {
    decide(Some(row), presented, NOW, GRACE)
}

#[test]
fn no_such_row_is_unknown() {
    assert_eq!(decide(None, &presented(7, None), NOW, GRACE), Decision::Unknown);
}

#[test]
fn a_token_works_only_in_its_kind_and_ends_nothing_elsewhere() {
    let client = PresentedToken { kind: SessionKind::Client, generation: 1, ..presented(7, None) };
    assert_eq!(decision(&row(), &client), Decision::WrongKind);
}

#[test]
fn an_ended_session_says_why_whatever_is_presented() {
    let end = SessionEnd { at: ago(10), reason: EndReason::PasswordChanged };
    let row = Session { end: Some(end), ..row() };
    for generation in [1, 6, 7, 8] {
        let over = Decision::Ended { event: SessionEvent::PasswordChanged, since: ago(10) };
        assert_eq!(decision(&row, &presented(generation, None)), over);
    }
}

#[test]
fn an_expired_session_says_which_limit_it_met() {
    let idle = Session { idle_expires_at: ago(0), ..row() };
    let over = Decision::Ended { event: SessionEvent::IdleExpired, since: ago(0) };
    assert_eq!(decision(&idle, &presented(7, None)), over);

    let absolute = Session { absolute_expires_at: ago(5), idle_expires_at: ago(5), ..row() };
    let over = Decision::Ended { event: SessionEvent::AbsoluteExpired, since: ago(5) };
    assert_eq!(decision(&absolute, &presented(7, None)), over);
}

#[test]
fn the_current_token_is_rotated_once_the_grace_is_over() {
    for (rotated, expected) in
        [(59, Decision::Replay), (60, Decision::Rotate), (61, Decision::Rotate), (900, Decision::Rotate)]
    {
        let row = Session { rotated_at: ago(rotated), ..row() };
        assert_eq!(decision(&row, &presented(7, None)), expected, "rotated {rotated} s ago");
    }
}

#[test]
fn a_row_rotated_in_the_future_by_another_clock_is_replayed() {
    let row = Session { rotated_at: NOW + Duration::from_secs(15), ..row() };
    assert_eq!(decision(&row, &presented(7, None)), Decision::Replay);
}

#[test]
fn a_young_access_token_of_the_generation_asks_for_no_rotation() {
    // Whole seconds: a token that says 61 s may be 60 s old.
    for (issued, expected) in [(10, Decision::Replay), (61, Decision::Replay), (62, Decision::Rotate)] {
        let presented = presented(7, Some((7, token(9, issued))));
        assert_eq!(decision(&row(), &presented), expected, "issued {issued} s ago");
    }
    let of_another_generation = presented(7, Some((6, token(9, 10))));
    assert_eq!(decision(&row(), &of_another_generation), Decision::Rotate);
}

#[test]
fn one_behind_is_replayed_until_the_successor_settles() {
    let asker = (6, token(1, 1_900));
    assert_eq!(decision(&row(), &presented(6, Some(asker))), Decision::Replay);

    let settled = Session { settled_by: Some(TokenId(Uuid::from_u128(5))), ..row() };
    assert_eq!(decision(&settled, &presented(6, Some(asker))), Decision::Reuse(Reuse::SuccessorConfirmed));
}

#[test]
fn one_behind_with_another_old_access_token_is_a_second_jar() {
    let other = presented(6, Some((6, token(2, 2_000))));
    assert_eq!(decision(&row(), &other), Decision::Reuse(Reuse::DivergentClient));

    let none = presented(6, None);
    assert_eq!(
        decision(&row(), &none),
        Decision::Reuse(Reuse::DivergentClient),
        "absent differs from any other"
    );

    let asked_with_none = Session { asked_by: None, ..row() };
    assert_eq!(decision(&asked_with_none, &none), Decision::Replay, "absent equals absent");
    assert_eq!(decision(&asked_with_none, &other), Decision::Reuse(Reuse::DivergentClient));
}

#[test]
fn two_jars_need_both_tokens_to_have_been_old_at_the_rotation() {
    // The rotation was 900 s ago; a token of 961 s may have been just 60 s old then.
    let young_then = presented(6, Some((6, token(2, 961))));
    assert_eq!(decision(&row(), &young_then), Decision::Replay);
    let old_then = presented(6, Some((6, token(2, 962))));
    assert_eq!(decision(&row(), &old_then), Decision::Reuse(Reuse::DivergentClient));

    let asked_by_young = Session { asked_by: Some(token(1, 961)), ..row() };
    assert_eq!(decision(&asked_by_young, &old_then), Decision::Replay);
}

#[test]
fn two_jars_are_a_browsers_rule() {
    let row = Session { kind: SessionKind::Client, ..row() };
    let presented = PresentedToken { kind: SessionKind::Client, ..presented(6, None) };
    assert_eq!(decision(&row, &presented), Decision::Replay);
    assert!(!is_concurrent_use(&row));
}

#[test]
fn further_behind_is_reuse_whatever_came_beside() {
    for generation in [0, 1, 5] {
        let presented = presented(generation, Some((generation, token(1, 1_900))));
        assert_eq!(decision(&row(), &presented), Decision::Reuse(Reuse::Superseded));
    }
}

#[test]
fn ahead_is_a_database_that_lost_its_last_writes() {
    assert_eq!(decision(&row(), &presented(8, None)), Decision::CatchUp { lost: 1 });
    assert_eq!(decision(&row(), &presented(12, None)), Decision::CatchUp { lost: 5 });
}

#[test]
fn the_last_generation_ends_the_session() {
    let last = Session { generation: u32::MAX, ..row() };
    assert_eq!(decision(&last, &presented(u32::MAX, None)), Decision::Exhausted);
    assert_eq!(decision(&row(), &presented(u32::MAX, None)), Decision::Exhausted);
    let young = Session { rotated_at: ago(1), ..last };
    assert_eq!(decision(&young, &presented(u32::MAX, None)), Decision::Replay);
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
        beside in proptest::option::of((0_u32..8, any_token())),
    ) -> PresentedToken { presented(generation, beside) }
}

proptest! {
    #![proptest_config(proptest_config())]

    /// Only a live session is renewed, replayed or taken over.
    #[test]
    fn an_ended_session_gives_nothing(row in any_row(), presented in any_presented()) {
        let given = matches!(
            decision(&row, &presented),
            Decision::Rotate | Decision::Replay | Decision::CatchUp { .. }
        );
        prop_assert!(!(given && row.end.is_some()));
    }

    /// A rotation is due only where the conditional update would take place.
    #[test]
    fn rotate_means_that_the_update_can_succeed(row in any_row(), presented in any_presented()) {
        if decision(&row, &presented) == Decision::Rotate {
            prop_assert_eq!(row.generation, presented.generation);
            prop_assert!(row.rotated_at <= NOW - GRACE);
        }
    }

    /// The owner of the newest token is never taken for a thief.
    #[test]
    fn the_newest_token_is_never_reuse(row in any_row(), presented in any_presented()) {
        if presented.generation >= row.generation {
            prop_assert!(!matches!(decision(&row, &presented), Decision::Reuse(_)));
        }
    }

    /// Requests of one jar agree: whoever was slower than the rotation gets a replay.
    #[test]
    fn the_loser_of_a_race_is_replayed(before in any_row(), presented in any_presented()) {
        if decision(&before, &presented) == Decision::Rotate {
            let after = Session {
                generation: before.generation + 1,
                rotated_at: NOW,
                asked_by: presented.access_token.map(|beside| beside.token),
                settled_by: None,
                ..before
            };
            prop_assert_eq!(decision(&after, &presented), Decision::Replay);
        }
    }

    /// Behind by one and settled, or by more, is reuse in any live session of the right kind.
    #[test]
    fn a_second_copy_is_caught(row in any_row(), presented in any_presented()) {
        let behind = row.generation.saturating_sub(presented.generation);
        let live = row.end.is_none() && row.kind == presented.kind;
        if live && (behind > 1 || behind == 1 && row.settled_by.is_some()) {
            prop_assert!(matches!(decision(&row, &presented), Decision::Reuse(_)));
        }
    }

    /// No time is too strange: the function never panics, whatever the clocks say.
    #[test]
    fn clocks_may_say_anything(row in any_row(), presented in any_presented(), offset in -4_000_000_i64..4_000_000) {
        let _ = decide(Some(&row), &presented, NOW + time::Duration::seconds(offset), GRACE);
    }
}
