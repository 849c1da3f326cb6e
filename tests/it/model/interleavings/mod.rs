//! Refreshes of one session by the real `Tokens`, in every order in which requests arrive, store calls
//! execute, return, fail or lose their clients, and the session is terminated. With more requests, in
//! random orders.
//!
//! [`state_space`](super::state_space) explores the protocol in the model. These tests explore the code:
//! single flight, disconnecting clients and cached results.

mod gated;
mod run;

use proptest::prelude::*;

use self::run::{SessionFixture, run};
use crate::test_seed::proptest_config;

/// The requests and faults of an exploration.
#[derive(Clone, Debug, Default)]
struct InterleavingConfig {
    /// The replica and the cookies of each request.
    requests: Vec<(usize, Holder)>,
    /// The replica at which the user signs out.
    sign_out: Option<usize>,
    disconnects: u32,
    failures: u32,
    /// Number of pauses that exceed the time for which results are cached.
    pauses: u32,
    /// Number of polls of the revocation list.
    polls: u32,
}

/// The client whose cookies a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Owner,
    /// A client with the same refresh token and another expired access token.
    Thief,
}
use Holder::{Owner, Thief};

#[test]
fn concurrent_requests_share_a_refresh_in_every_order() {
    every_order(
        &InterleavingConfig { requests: vec![(0, Owner); 3], pauses: 1, ..InterleavingConfig::default() },
        20,
    );
}

#[test]
fn client_may_disconnect_at_any_point() {
    let requests = vec![(0, Owner); 3];
    every_order(
        &InterleavingConfig { requests, disconnects: 2, pauses: 1, ..InterleavingConfig::default() },
        1_000,
    );
}

#[test]
fn store_may_fail_at_any_point() {
    let requests = vec![(0, Owner); 3];
    every_order(
        &InterleavingConfig { requests, failures: 2, disconnects: 1, ..InterleavingConfig::default() },
        200,
    );
}

#[test]
fn user_may_sign_out_at_any_point() {
    let requests = vec![(0, Owner); 2];
    every_order(
        &InterleavingConfig { requests, sign_out: Some(0), failures: 1, ..InterleavingConfig::default() },
        500,
    );
}

#[test]
fn another_replica_may_terminate_the_session_at_any_point() {
    let requests = vec![(0, Owner); 3];
    every_order(&InterleavingConfig { requests, sign_out: Some(1), ..InterleavingConfig::default() }, 500);
}

#[test]
fn two_replicas_may_refresh_concurrently() {
    let requests = vec![(0, Owner), (1, Owner), (0, Owner)];
    every_order(&InterleavingConfig { requests, failures: 1, ..InterleavingConfig::default() }, 500);
}

#[test]
fn concurrent_client_may_arrive_at_any_point() {
    let requests = vec![(0, Owner), (0, Thief)];
    every_order(&InterleavingConfig { requests, sign_out: Some(1), ..InterleavingConfig::default() }, 100);
}

#[test]
fn all_faults_in_random_orders() {
    let config = InterleavingConfig {
        requests: vec![(0, Owner), (0, Thief), (1, Owner), (0, Owner), (1, Thief), (1, Owner)],
        sign_out: Some(1),
        disconnects: 2,
        failures: 2,
        pauses: 1,
        polls: 2,
    };
    let fixture = SessionFixture::new();
    let turns = proptest::collection::vec(0..60_usize, 120);
    let cases =
        std::env::var("SEKISHO_TEST_ORDERS").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000);
    let proptest_config = ProptestConfig { cases, failure_persistence: None, ..proptest_config() };
    proptest!(proptest_config, |(turns in turns)| {
        let mut turns = turns.into_iter();
        let result = run(&fixture, &config, |moves| turns.next().unwrap_or_default() % moves);
        prop_assert!(result.is_ok(), "{}", result.unwrap_err());
    });
}

/// Runs every order, of which there must be at least `min`.
fn every_order(config: &InterleavingConfig, min: usize) {
    let fixture = SessionFixture::new();
    // The move made at each turn, and the number of possible moves.
    let mut turns: Vec<(usize, usize)> = Vec::new();
    let mut orders = 0;
    loop {
        let mut turn = 0;
        let result = run(&fixture, config, |moves| {
            if turn == turns.len() {
                turns.push((0, moves));
            }
            turn += 1;
            turns[turn - 1].0
        });
        result.unwrap_or_else(|error| panic!("{error}"));
        orders += 1;
        while turns.pop_if(|(made, of)| *made + 1 == *of).is_some() {}
        match turns.last_mut() {
            Some((made, _)) => *made += 1,
            None => break,
        }
    }
    assert!(orders >= min, "{orders}");
}
