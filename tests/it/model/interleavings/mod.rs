//! Renewals of one session by the real [`Tokens`], in every order in which requests may come, the
//! store may do and say what it was asked, fail, or be heard by nobody any more, and the session may
//! be ended meanwhile; with more requests, in orders by chance.
//!
//! [`explore`](super::explore) goes through the protocol as the model has it. This is the code itself:
//! shared renewals, hang-ups, and what is remembered.

mod gated;
mod play;

use proptest::prelude::*;

use self::play::{SessionFixture, play};
use crate::test_seed::proptest_config;

/// What takes part, and how often what goes wrong.
#[derive(Clone, Debug, Default)]
struct InterleavingConfig {
    /// Each comes to this replica.
    requests: Vec<(usize, Who)>,
    /// The user signs out at this replica.
    sign_out: Option<usize>,
    hang_ups: u32,
    failures: u32,
    /// Times at which more passes than results are remembered for.
    pauses: u32,
    /// Times at which a replica asks what has ended.
    polls: u32,
}

/// Whose cookies a request brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Owner,
    /// The same refresh token, beside another old access token.
    Thief,
}
use Who::{Owner, Thief};

#[test]
fn requests_sent_together_share_a_renewal_in_every_order() {
    every_order(
        &InterleavingConfig { requests: vec![(0, Owner); 3], pauses: 1, ..InterleavingConfig::default() },
        20,
    );
}

#[test]
fn a_client_may_hang_up_at_any_point() {
    let requests = vec![(0, Owner); 3];
    every_order(
        &InterleavingConfig { requests, hang_ups: 2, pauses: 1, ..InterleavingConfig::default() },
        1_000,
    );
}

#[test]
fn the_store_may_fail_at_any_point() {
    let requests = vec![(0, Owner); 3];
    every_order(
        &InterleavingConfig { requests, failures: 2, hang_ups: 1, ..InterleavingConfig::default() },
        200,
    );
}

#[test]
fn the_user_may_sign_out_at_any_point() {
    let requests = vec![(0, Owner); 2];
    every_order(
        &InterleavingConfig { requests, sign_out: Some(0), failures: 1, ..InterleavingConfig::default() },
        500,
    );
}

#[test]
fn another_replica_may_end_the_session_at_any_point() {
    let requests = vec![(0, Owner); 3];
    every_order(&InterleavingConfig { requests, sign_out: Some(1), ..InterleavingConfig::default() }, 500);
}

#[test]
fn two_replicas_may_renew_at_once() {
    let requests = vec![(0, Owner), (1, Owner), (0, Owner)];
    every_order(&InterleavingConfig { requests, failures: 1, ..InterleavingConfig::default() }, 500);
}

#[test]
fn a_second_jar_may_come_at_any_point() {
    let requests = vec![(0, Owner), (0, Thief)];
    every_order(&InterleavingConfig { requests, sign_out: Some(1), ..InterleavingConfig::default() }, 100);
}

#[test]
fn all_at_once_in_orders_by_chance() {
    let cast = InterleavingConfig {
        requests: vec![(0, Owner), (0, Thief), (1, Owner), (0, Owner), (1, Thief), (1, Owner)],
        sign_out: Some(1),
        hang_ups: 2,
        failures: 2,
        pauses: 1,
        polls: 2,
    };
    let scene = SessionFixture::new();
    let turns = proptest::collection::vec(0..60_usize, 120);
    let cases =
        std::env::var("SEKISHO_TEST_ORDERS").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000);
    let config = ProptestConfig { cases, failure_persistence: None, ..proptest_config() };
    proptest!(config, |(turns in turns)| {
        let mut turns = turns.into_iter();
        let played = play(&scene, &cast, |moves| turns.next().unwrap_or_default() % moves);
        prop_assert!(played.is_ok(), "{}", played.unwrap_err());
    });
}

/// Plays in every order, of which there must be so many at least.
fn every_order(cast: &InterleavingConfig, least: usize) {
    let scene = SessionFixture::new();
    // Which move was made at each turn, of how many.
    let mut turns: Vec<(usize, usize)> = Vec::new();
    let mut orders = 0;
    loop {
        let mut turn = 0;
        let played = play(&scene, cast, |moves| {
            if turn == turns.len() {
                turns.push((0, moves));
            }
            turn += 1;
            turns[turn - 1].0
        });
        played.unwrap_or_else(|wrong| panic!("{wrong}"));
        orders += 1;
        while turns.pop_if(|(made, of)| *made + 1 == *of).is_some() {}
        match turns.last_mut() {
            Some((made, _)) => *made += 1,
            None => break,
        }
    }
    assert!(orders >= least, "{orders}");
}
