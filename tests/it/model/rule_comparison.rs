//! Figures for Sekisho's rotation rules and the alternatives.

use super::rules::Rules;
use super::thief::{Thief, day};
use super::world::{Outcome, World};

fn runs(count: u64, rules: Rules, thief: Option<Thief>) -> Vec<Outcome> {
    (0..count).map(|seed| World::run(&day(seed.wrapping_mul(0x1234_5678_9ABC_DEF1), rules, thief))).collect()
}

/// Counts honest sessions that were signed out.
fn signed_out(count: u64, rules: Rules) -> usize {
    runs(count, rules, None).iter().filter(|outcome| outcome.violation.is_some()).count()
}

/// Describes the detected thefts and the median time to detection. Sessions that ended before the theft
/// are not counted.
fn detected(count: u64, rules: Rules, thief: Thief) -> String {
    let outcomes = runs(count, rules, Some(thief));
    let stolen = outcomes.iter().filter(|outcome| outcome.stolen).count();
    let mut times: Vec<i64> = outcomes.iter().filter_map(|outcome| outcome.detected_after).collect();
    times.sort_unstable();
    match times.get(times.len() / 2) {
        Some(median) if *median < 5_400_000 => format!("{}/{stolen}, {} min", times.len(), median / 60_000),
        Some(median) => format!("{}/{stolen}, {:.1} h", times.len(), *median as f64 / 3_600_000.0),
        None => format!("0/{stolen}"),
    }
}

fn name(rules: Rules) -> String {
    match rules {
        Rules::Sekisho => "Sekisho".to_owned(),
        Rules::ConfirmationOnly => "confirmation only".to_owned(),
        Rules::PreviousAlwaysAccepted => "previous token always accepted".to_owned(),
        Rules::FromFirstUse(window) => format!("{} s from the first use of the new token", window.as_secs()),
        Rules::FromRotation(window) => format!("{} s from the rotation", window.as_secs()),
        Rules::SingleUse => "single use".to_owned(),
    }
}

fn row(rules: Rules, honest: u64, with_theft: u64) -> String {
    let thieves = Thief::ALL.map(|thief| detected(with_theft, rules, thief)).join(" | ");
    format!("| {} | {} of {honest} | {thieves} |", name(rules), signed_out(honest, rules))
}

#[test]
fn sekisho_signs_out_no_honest_browser_and_detects_every_thief() {
    assert_eq!(signed_out(25, Rules::Sekisho), 0);
    for thief in Thief::ALL {
        let outcomes = runs(15, Rules::Sekisho, Some(thief));
        let undetected = outcomes.iter().filter(|outcome| outcome.stolen && outcome.detected_after.is_none());
        assert_eq!(undetected.count(), 0, "{thief:?}");
    }
}

/// `cargo test --test it model::rule_comparison::table -- --ignored --nocapture`
#[test]
#[ignore = "prints a table and asserts nothing"]
fn table() {
    println!(
        "| rule | honest sessions signed out | occasional thief: detected, median | alongside | ahead | brief |"
    );
    println!("|---|---|---|---|---|---|");
    for rules in Rules::ALL {
        println!("{}", row(rules, 600, 300));
    }
}
