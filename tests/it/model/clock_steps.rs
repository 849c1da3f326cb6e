//! B1: wall clocks that step, both ways, by a second to 30 days, on all machines or on the database's, across
//! restarts of one replica or of all.

use super::coverage::CoverageEvent;
use super::generators::{HOUR, add_clock_steps, with_clock_steps};
use super::rules::Rules;
use super::script::{Random, Script};
use super::thief::{Thief, day};
use super::world::{Outcome, World};
use super::{check_in_model, run};

/// B1: no session is terminated for reuse, and none expires early while a replica runs.
#[test]
fn clock_steps_sign_no_honest_browser_out() {
    let all = run(with_clock_steps, 1_500, check_in_model);
    all.coverage.assert_at_least(&[
        (CoverageEvent::ClockSetBack, 1_000),
        (CoverageEvent::ClockSetAhead, 1_000),
        (CoverageEvent::AllRestarted, 800),
        (CoverageEvent::UncertainStart, 100),
        (CoverageEvent::OldCookiesRestored, 300),
        (CoverageEvent::Rotated, 5_000),
        (CoverageEvent::Replayed, 10_000),
    ]);
    for reuse in
        [CoverageEvent::ReuseAtRefresh, CoverageEvent::ReuseByFollower, CoverageEvent::ReuseAtConfirmation]
    {
        assert_eq!(all.coverage.count(reuse), 0, "reuse was detected without a theft");
    }
}

/// B1: thieves are detected within the twelve hours of the rule comparison.
#[test]
fn clock_steps_hide_no_thief() {
    for thief in Thief::ALL {
        let run = |seed| World::run(&day_with_steps(seed, Rules::Sekisho, Some(thief)));
        let outcomes: Vec<Outcome> = (0..15).map(run).collect();
        let violations: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.violation.as_ref()).collect();
        assert!(violations.is_empty(), "{thief:?}: {violations:?}");
        let undetected = outcomes.iter().filter(|outcome| outcome.stolen && outcome.detected_after.is_none());
        assert_eq!(undetected.count(), 0, "{thief:?}");
    }
}

/// Generates the 12 hours of the rule comparison, with clocks that step.
pub(super) fn day_with_steps(seed: u64, rules: Rules, thief: Option<Thief>) -> Script {
    let seed = seed.wrapping_mul(0x1234_5678_9ABC_DEF1);
    let mut script = day(seed, rules, thief);
    // A later time would end the session by its idle expiry.
    add_clock_steps(&mut Random(!seed), &mut script, 6 * HOUR);
    script
}
