//! A reference model of browsers, tabs, replicas, the store and thieves, on simulated time.
//!
//! It judges refresh tokens with the product's own `services::rotation::decide`. Everything around
//! it is made to go wrong: answers are lost, late and out of order; clients hang up; browsers crash
//! and come back with cookies up to half a minute old; replicas and the store crash, and the store
//! forgets its last rotations; clocks are apart; sign-ins, sign-outs and changes of password race
//! with all that.
//!
//! - [`script`] is a run written down beforehand, and how it shrinks; [`chance`] and
//!   [`thief`] make one from a seed
//! - [`world`] plays it, [`store`] keeps its rows
//! - [`twin`] holds that store to the product's three, [`replayed`] the whole world to the real layer,
//!   tokens and store
//! - [`explore`] goes through every order of events in a small world, [`orders`] through those of the
//!   product's own shared renewals
//! - [`rules`] are ours and those of others; [`compared`] prints the table of both
//!
//! The seed of all scripts is fixed; `scripts/explore` runs these tests with other seeds. A script that
//! fails is shrunk and printed with its seed, from which [`chance`] makes it again. The seed stays in
//! `regressions.txt` and is tried first; the shrunk script belongs into [`regressions`], where no change
//! of the generators can lose it. What the scripts hold is counted ([`tally`]), and each
//! invariant is shown to fail where the product makes a mistake ([`script::Mutation`]).
//! `PROPTEST_CASES=100000` searches for longer.

use std::cell::{Cell, RefCell};

use proptest::test_runner::{
    Config, FailurePersistence, FileFailurePersistence, TestCaseError, TestError, TestRunner,
};

use self::coverage::Seen;
use self::rules::Rules;
use self::script::{Mutation, Script, Scripts};
use self::world::{Outcome, World};
use crate::test_seed::proptest_config;

mod coverage;
mod differential_replay;
mod differential_store;
mod generators;
mod interleavings;
mod regressions;
mod rule_comparison;
mod rules;
mod script;
mod state_space;
mod store;
mod thief;
mod world;

/// Runs so many scripts; the first that fails is shrunk and told.
fn run(make: fn(u64) -> Script, cases: u32, check: impl Fn(&Script) -> Result<Outcome, String>) -> Outcome {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    // `PROPTEST_DISABLE_FAILURE_PERSISTENCE` counts here too.
    let keeps = proptest_config().failure_persistence.is_some();
    let kept = keeps.then_some(FileFailurePersistence::Direct("tests/it/model/regressions.txt"));
    let all = RefCell::new(Outcome::default());
    let result = search(make, cases, kept, |script| {
        all.borrow_mut().add(&check(script)?);
        Ok(())
    });
    if let Err(failure) = result {
        let (reason, script) = *failure;
        panic!("{reason}\nseed {:#x}, shrunk to {script:#?}", script.seed);
    }
    all.into_inner()
}

fn in_the_model(script: &Script) -> Result<Outcome, String> {
    let outcome = World::run(script);
    outcome.broken.clone().map_or(Ok(outcome), Err)
}

/// Tries what failed before, then so many scripts. Returns the first that fails, shrunk.
fn search(
    make: fn(u64) -> Script,
    cases: u32,
    kept: Option<FileFailurePersistence>,
    check: impl Fn(&Script) -> Result<(), String>,
) -> Result<(), Box<(String, Script)>> {
    let mut runner = TestRunner::new(Config {
        cases,
        max_shrink_iters: 20_000,
        failure_persistence: kept.map(|kept| Box::new(kept) as Box<dyn FailurePersistence>),
        source_file: Some(file!()),
        ..proptest_config()
    });
    match runner.run(&Scripts(make), |script| check(&script).map_err(TestCaseError::fail)) {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, script)) => Err(Box::new((reason.to_string(), script))),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.tally.add(&other.tally);
    }
}

#[test]
fn an_honest_browser_is_never_signed_out() {
    let all = run(generators::honest, 2_000, in_the_model);
    assert!(all.steps > 1_000_000, "{all:?}");
    all.tally.assert_at_least(&[
        (Seen::AnswerLost, 5_000),
        (Seen::AnswerDelayed, 5_000),
        (Seen::AnswerOvertaken, 5_000),
        (Seen::AnswerTooLate, 2_000),
        (Seen::BrowserCrashed, 1_000),
        (Seen::BackWithOldCookies, 700),
        (Seen::HungUp, 1_000),
        (Seen::PatienceLost, 100),
        (Seen::ReplicaCrashed, 20),
        (Seen::StoreCrashed, 100),
        (Seen::StoreRefused, 1_000),
        (Seen::StoreUnheard, 500),
        (Seen::FeedLost, 80),
        (Seen::ClocksApart, 200),
        (Seen::SettledLate, 1_000),
        (Seen::Rotated, 8_000),
        (Seen::Replayed, 20_000),
        (Seen::CaughtUp, 40),
        (Seen::Shared, 40_000),
        (Seen::SignInRefused, 150),
        (Seen::PasswordChanged, 1_000),
        (Seen::PasswordChangeRefused, 100),
        (Seen::EndedByReplacement, 2_000),
        (Seen::EndedByLimit, 150),
        (Seen::EndedByExpiry, 500),
        (Seen::EndedBySignOut, 800),
        (Seen::EndedByPassword, 600),
        (Seen::EndTooLate, 300),
        (Seen::EndedDuringRenewal, 500),
    ]);
    for reuse in [Seen::ReuseAtRenewal, Seen::ReuseAmongSharers, Seen::ReuseAtSettling] {
        assert_eq!(all.tally.of(reuse), 0, "nobody stole anything");
    }
}

#[test]
fn what_a_thief_does_harms_no_other_session() {
    let all = run(generators::robbed, 1_000, in_the_model);
    assert!(all.steps > 400_000, "{all:?}");
    all.tally.assert_at_least(&[
        (Seen::ThiefNowAndThen, 1_000),
        (Seen::ThiefTravellingAlong, 300),
        (Seen::ThiefAhead, 300),
        (Seen::ThiefBrief, 500),
        (Seen::ReuseAtRenewal, 150),
        (Seen::ReuseAmongSharers, 30),
        (Seen::ReuseAtSettling, 20),
        (Seen::EndTooLate, 200),
        (Seen::EndedDuringRenewal, 300),
        (Seen::StoreCrashed, 40),
        (Seen::ClocksApart, 100),
    ]);
}

/// What fails is shrunk, kept, and tried first the next time.
#[test]
fn a_failure_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let kept = || {
        let path = folder.path().join("regressions.txt").to_str().unwrap().to_owned();
        Some(FileFailurePersistence::Direct(Box::leak(path.into_boxed_str())))
    };
    let tried = Cell::new(0);
    let check = |script: &Script| {
        tried.set(tried.get() + 1);
        in_the_model(script).map(drop)
    };
    let careless = |seed| generators::defective(seed, Mutation::SignInOutrunsPassword);
    let (reason, shrunk) = *search(careless, 10_000, kept(), check).unwrap_err();
    assert!(reason.contains(Mutation::SignInOutrunsPassword.breaks()), "{reason}");
    // Two sign-ins and what changes the password meanwhile.
    assert!(shrunk.actions.len() <= 6, "{shrunk:#?}");
    tried.set(0);
    search(careless, 1, kept(), |script| {
        tried.set(tried.get() + 1);
        assert!(tried.get() > 1 || script.seed == shrunk.seed, "another one was tried first");
        Ok(())
    })
    .unwrap();
    assert_eq!(tried.get(), 2, "the one that was kept, and a new one");
}

/// Each of the invariants can fail.
#[test]
fn the_model_notices_what_the_product_must_not_do() {
    for defect in Mutation::ALL {
        let broken = (0..300).filter_map(|seed| World::run(&generators::defective(seed, defect)).broken);
        let told: Vec<_> = broken.collect();
        let right = told.iter().filter(|told| told.contains(defect.breaks())).count();
        assert!(right > 10, "{defect:?} broke {told:?}");
    }
}

#[test]
fn the_model_notices_rules_that_sign_browsers_out() {
    for rules in [Rules::Once, Rules::FromRotation(std::time::Duration::from_secs(30))] {
        let signed_out = (0..20).filter(|&seed| {
            let script = thief::day(seed, rules, None);
            World::run(&script).broken.is_some()
        });
        assert!(signed_out.count() > 10, "{rules:?}");
    }
}

/// The grace has room for so much and no more: half a minute to the disk, a quarter until the answer
/// leaves, its way, and the clocks.
#[test]
fn the_model_notices_ways_and_clocks_that_the_grace_has_no_room_for() {
    let signed_out = (0..60).filter(|&seed| World::run(&generators::strained(seed)).broken.is_some());
    assert!(signed_out.count() > 3);
}
