//! A reference model of browsers, tabs, replicas, the store and thieves, on simulated time.
//!
//! The model decides about refresh tokens with the gateway's own `services::rotation::decide` and injects
//! faults everywhere else: responses are lost, delayed and reordered; clients disconnect; browsers crash
//! and restart with cookies up to 30 s old; replicas crash; the store crashes and loses its last
//! rotations; clocks are skewed; sign-ins, sign-outs and password changes race with refreshes.
//!
//! - [`script`]: the planned actions of one run and their shrinking; [`generators`] and [`thief`] make
//!   scripts from a seed
//! - [`world`]: the simulation that runs a script; [`store`]: its session store
//! - [`differential_store`]: compares that store with the three real ones
//! - [`differential_replay`]: replays runs with the real layer, tokens and store
//! - [`state_space`]: every order of events in a small model
//! - [`interleavings`]: every order of events around the real single flight
//! - [`clock_steps`]: wall clocks that step
//! - [`rules`]: Sekisho's rotation rules and common alternatives; [`rule_comparison`] prints a table
//! - [`coverage`]: counts events, so that a generator that stops producing one is noticed
//!
//! The seed is fixed; `scripts/explore` runs these tests with other seeds, and `PROPTEST_CASES=100000` for
//! longer. A failing script is shrunk and printed with its seed. The seed is kept in `regressions.txt` and
//! tried first. Add the shrunk script to [`regressions`], since changed generators make another script
//! from the same seed. Each invariant is checked by a mutation that breaks it ([`script::Mutation`]).

use std::cell::{Cell, RefCell};

use proptest::test_runner::{
    Config, FailurePersistence, FileFailurePersistence, TestCaseError, TestError, TestRunner,
};

use self::coverage::CoverageEvent;
use self::rules::Rules;
use self::script::{Mutation, Script, Scripts};
use self::world::{Outcome, World};
use crate::test_seed::proptest_config;

mod clock_steps;
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

/// Checks `cases` scripts, and panics with the first failing one after shrinking it.
fn run(make: fn(u64) -> Script, cases: u32, check: impl Fn(&Script) -> Result<Outcome, String>) -> Outcome {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    // `PROPTEST_DISABLE_FAILURE_PERSISTENCE` applies here too.
    let persists = proptest_config().failure_persistence.is_some();
    let regressions = persists.then_some(FileFailurePersistence::Direct("tests/it/model/regressions.txt"));
    let all = RefCell::new(Outcome::default());
    let result = search(make, cases, regressions, |script| {
        all.borrow_mut().add(&check(script)?);
        Ok(())
    });
    if let Err(failure) = result {
        let (reason, script) = *failure;
        panic!("{reason}\nseed {:#x}, shrunk to {script:#?}", script.seed);
    }
    all.into_inner()
}

fn check_in_model(script: &Script) -> Result<Outcome, String> {
    let outcome = World::run(script);
    outcome.violation.clone().map_or(Ok(outcome), Err)
}

/// Checks the persisted seeds, then `cases` new scripts. Returns the first failing one after shrinking it.
fn search(
    make: fn(u64) -> Script,
    cases: u32,
    regressions: Option<FileFailurePersistence>,
    check: impl Fn(&Script) -> Result<(), String>,
) -> Result<(), Box<(String, Script)>> {
    let mut runner = TestRunner::new(Config {
        cases,
        max_shrink_iters: 20_000,
        failure_persistence: regressions.map(|file| Box::new(file) as Box<dyn FailurePersistence>),
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
        self.coverage.add(&other.coverage);
    }
}

#[test]
fn honest_browser_is_never_signed_out() {
    let all = run(generators::honest, 2_000, check_in_model);
    assert!(all.steps > 1_000_000, "{all:?}");
    all.coverage.assert_at_least(&[
        (CoverageEvent::ResponseLost, 5_000),
        (CoverageEvent::ResponseDelayed, 5_000),
        (CoverageEvent::ResponseOvertaken, 5_000),
        (CoverageEvent::ResponseTooLate, 2_000),
        (CoverageEvent::BrowserCrashed, 1_000),
        (CoverageEvent::OldCookiesRestored, 700),
        (CoverageEvent::ClientDisconnected, 1_000),
        (CoverageEvent::RefreshTimedOut, 100),
        (CoverageEvent::ReplicaCrashed, 20),
        (CoverageEvent::StoreCrashed, 100),
        (CoverageEvent::StoreRefused, 1_000),
        (CoverageEvent::StoreResultLost, 500),
        (CoverageEvent::RevocationsStale, 80),
        (CoverageEvent::ClocksSkewed, 200),
        (CoverageEvent::ConfirmedLate, 1_000),
        (CoverageEvent::Rotated, 8_000),
        (CoverageEvent::Replayed, 20_000),
        (CoverageEvent::CaughtUp, 40),
        (CoverageEvent::Shared, 40_000),
        (CoverageEvent::SignInRefused, 150),
        (CoverageEvent::PasswordChanged, 1_000),
        (CoverageEvent::PasswordChangeRefused, 100),
        (CoverageEvent::EndedByReplacement, 2_000),
        (CoverageEvent::EndedByLimit, 150),
        (CoverageEvent::EndedByExpiry, 500),
        (CoverageEvent::EndedBySignOut, 800),
        (CoverageEvent::EndedByPassword, 600),
        (CoverageEvent::AlreadyEnded, 300),
        (CoverageEvent::EndedDuringRefresh, 500),
    ]);
    for reuse in
        [CoverageEvent::ReuseAtRefresh, CoverageEvent::ReuseByFollower, CoverageEvent::ReuseAtConfirmation]
    {
        assert_eq!(all.coverage.count(reuse), 0, "reuse was detected without a theft");
    }
}

#[test]
fn theft_ends_no_other_session() {
    let all = run(generators::with_theft, 1_000, check_in_model);
    assert!(all.steps > 400_000, "{all:?}");
    all.coverage.assert_at_least(&[
        (CoverageEvent::ThiefOccasional, 1_000),
        (CoverageEvent::ThiefAlongside, 300),
        (CoverageEvent::ThiefAhead, 300),
        (CoverageEvent::ThiefBrief, 500),
        (CoverageEvent::ReuseAtRefresh, 150),
        (CoverageEvent::ReuseByFollower, 30),
        (CoverageEvent::ReuseAtConfirmation, 20),
        (CoverageEvent::AlreadyEnded, 200),
        (CoverageEvent::EndedDuringRefresh, 300),
        (CoverageEvent::StoreCrashed, 40),
        (CoverageEvent::ClocksSkewed, 100),
    ]);
}

/// B10: a session that only slow responses use does not idle out.
#[test]
fn slow_responses_keep_the_session() {
    let all = run(generators::slow_responses, 300, check_in_model);
    all.coverage.assert_at_least(&[
        (CoverageEvent::ResponseTooLate, 2_500),
        (CoverageEvent::Replayed, 2_500),
        (CoverageEvent::ClocksSkewed, 20),
    ]);
    assert_eq!(all.coverage.count(CoverageEvent::RejectedAsIdle), 0);
}

/// B10: replays of a thief postpone the idle expiry as well. The absolute expiry ends the session all the same,
/// and the return of the owner shows the theft.
#[test]
fn thief_who_only_replays_is_bounded() {
    for seed in 0..50 {
        let alone = check_in_model(&thief::replaying(seed, None)).unwrap();
        let replayed = alone.coverage.count(CoverageEvent::Replayed);
        assert!((11..24).contains(&replayed), "beyond the idle lifetime, not beyond two days: {replayed}");
        let absence = 30 * generators::HOUR;
        let outcome = check_in_model(&thief::replaying(seed, Some(absence))).unwrap();
        let detected = outcome.detected_after.expect("the theft is detected");
        assert!(detected < absence + 5 * generators::HOUR, "at the next visit of the thief: {detected}");
    }
}

/// A failing script is shrunk, and its seed is tried first in the next run.
#[test]
fn failing_seed_is_persisted() {
    let folder = tempfile::tempdir().unwrap();
    let regressions = || {
        let path = folder.path().join("regressions.txt").to_str().unwrap().to_owned();
        Some(FileFailurePersistence::Direct(Box::leak(path.into_boxed_str())))
    };
    let tried = Cell::new(0);
    let check = |script: &Script| {
        tried.set(tried.get() + 1);
        check_in_model(script).map(drop)
    };
    let with_mutation = |seed| generators::with_mutation(seed, Mutation::SignInIgnoresPasswordChange);
    let (reason, shrunk) = *search(with_mutation, 10_000, regressions(), check).unwrap_err();
    assert!(reason.contains(Mutation::SignInIgnoresPasswordChange.broken_invariant()), "{reason}");
    // Two sign-ins and the password change between them.
    assert!(shrunk.actions.len() <= 6, "{shrunk:#?}");
    tried.set(0);
    search(with_mutation, 1, regressions(), |script| {
        tried.set(tried.get() + 1);
        assert!(tried.get() > 1 || script.seed == shrunk.seed, "another seed was tried first");
        Ok(())
    })
    .unwrap();
    assert_eq!(tried.get(), 2, "the persisted seed and a new one");
}

/// Each invariant is violation by the mutation of its check.
#[test]
fn each_mutation_breaks_its_invariant() {
    for mutation in Mutation::ALL {
        let violation =
            (0..300).filter_map(|seed| World::run(&generators::with_mutation(seed, mutation)).violation);
        let reports: Vec<_> = violation.collect();
        let expected = reports.iter().filter(|report| report.contains(mutation.broken_invariant())).count();
        assert!(expected > 10, "{mutation:?} broke {reports:?}");
    }
}

#[test]
fn strict_rules_sign_browsers_out() {
    for rules in [Rules::SingleUse, Rules::FromRotation(std::time::Duration::from_secs(30))] {
        let signed_out = (0..20).filter(|&seed| {
            let script = thief::day(seed, rules, None);
            World::run(&script).violation.is_some()
        });
        assert!(signed_out.count() > 10, "{rules:?}");
    }
}

/// The grace covers 30 s until cookies are on disk, a sixth of it until the response is sent, the
/// response's latency and the clock skew. Longer delays sign browsers out.
#[test]
fn delays_beyond_the_grace_sign_browsers_out() {
    let signed_out =
        (0..60).filter(|&seed| World::run(&generators::with_long_delays(seed)).violation.is_some());
    assert!(signed_out.count() > 3);
}
