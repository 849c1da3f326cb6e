//! A reference model of browsers, tabs, replicas, the store and thieves, on simulated time.
//!
//! It judges refresh tokens with the product's own `services::rotation::decide`. Everything around
//! it is made to go wrong: answers are lost, late and out of order; clients hang up; browsers crash
//! and come back with cookies up to half a minute old; replicas and the store crash, and the store
//! forgets its last rotations; clocks are apart; sign-ins, sign-outs and changes of password race
//! with all that.
//!
//! - [`script`] is a run written down beforehand, and how it shrinks; [`chance`] makes one from a seed
//! - [`world`] plays it, [`store`] keeps its rows ([`twin`] holds that store to `MemoryStore`)
//! - [`explore`] goes through every order of events in a small world
//! - [`rules`] are ours and those of others; [`compared`] prints the table of both
//!
//! A run that fails is told with its seed, from which [`chance`] makes it again. What failed once stays
//! in `regressions.txt` and is tried first. `PROPTEST_CASES=100000` searches for longer.

use std::cell::RefCell;

use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestError, TestRunner};

use self::rules::Rules;
use self::script::{Script, Scripts};
use self::world::{Outcome, World};

mod chance;
mod compared;
mod explore;
mod rules;
mod script;
mod store;
mod twin;
mod world;

/// Runs so many scripts; the first that fails is shrunk and told.
fn run(make: fn(u64) -> Script, cases: u32, check: fn(&Script, &Outcome) -> Result<(), String>) -> Outcome {
    let persistence = FileFailurePersistence::Direct("tests/it/model/regressions.txt");
    let mut runner = TestRunner::new(Config {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases),
        max_shrink_iters: 20_000,
        failure_persistence: Some(Box::new(persistence)),
        source_file: Some(file!()),
        ..Config::default()
    });
    let all = RefCell::new(Outcome::default());
    let result = runner.run(&Scripts(make), |script| {
        let outcome = World::run(&script);
        all.borrow_mut().add(&outcome);
        check(&script, &outcome).map_err(TestCaseError::fail)
    });
    if let Err(TestError::Fail(reason, script)) = result {
        panic!("{reason}\nseed {:#x}, shrunk to {script:#?}", script.seed);
    }
    all.into_inner()
}

fn nothing_breaks(_: &Script, outcome: &Outcome) -> Result<(), String> {
    outcome.broken.clone().map_or(Ok(()), Err)
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.rotations += other.rotations;
        self.replays += other.replays;
        self.catch_ups += other.catch_ups;
        self.reuses += other.reuses;
        self.ends += other.ends;
    }
}

#[test]
fn an_honest_browser_is_never_signed_out() {
    let all = run(chance::honest, 2_000, nothing_breaks);
    assert!(all.steps > 1_000_000, "{all:?}");
    assert!(all.rotations > 1_000 && all.replays > 1_000 && all.catch_ups > 100 && all.ends > 100, "{all:?}");
    assert_eq!(all.reuses, 0);
}

#[test]
fn what_a_thief_does_harms_no_other_session() {
    let all = run(chance::robbed, 1_000, nothing_breaks);
    assert!(all.steps > 400_000, "{all:?}");
    assert!(all.reuses > 100, "{all:?}");
}

#[test]
fn the_model_notices_rules_that_sign_browsers_out() {
    for rules in [Rules::Once, Rules::FromRotation(std::time::Duration::from_secs(30))] {
        let signed_out = (0..20).filter(|&seed| {
            let script = chance::day(seed, rules, None);
            World::run(&script).broken.is_some()
        });
        assert!(signed_out.count() > 10, "{rules:?}");
    }
}

/// The grace has room for so much and no more: half a minute to the disk, a quarter until the answer
/// leaves, its way, and the clocks.
#[test]
fn the_model_notices_ways_and_clocks_that_the_grace_has_no_room_for() {
    let signed_out = (0..60).filter(|&seed| World::run(&chance::strained(seed)).broken.is_some());
    assert!(signed_out.count() > 3);
}
