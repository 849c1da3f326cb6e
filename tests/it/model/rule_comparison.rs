//! Our rules and those of others, in figures.

use super::rules::Rules;
use super::thief::{Thief, day};
use super::world::{Outcome, World};

fn runs(count: u64, rules: Rules, thief: Option<Thief>) -> Vec<Outcome> {
    (0..count).map(|seed| World::run(&day(seed.wrapping_mul(0x1234_5678_9ABC_DEF1), rules, thief))).collect()
}

/// Signed out of how many honest sessions.
fn signed_out(count: u64, rules: Rules) -> usize {
    runs(count, rules, None).iter().filter(|outcome| outcome.broken.is_some()).count()
}

/// Caught of how many thieves, and the median time that took. Sessions that signed their owner out
/// before the theft don't count.
fn caught(count: u64, rules: Rules, thief: Thief) -> String {
    let outcomes = runs(count, rules, Some(thief));
    let stolen = outcomes.iter().filter(|outcome| outcome.stolen).count();
    let mut times: Vec<i64> = outcomes.iter().filter_map(|outcome| outcome.caught).collect();
    times.sort_unstable();
    match times.get(times.len() / 2) {
        Some(median) if *median < 5_400_000 => format!("{}/{stolen}, {} min", times.len(), median / 60_000),
        Some(median) => format!("{}/{stolen}, {:.1} h", times.len(), *median as f64 / 3_600_000.0),
        None => format!("0/{stolen}"),
    }
}

fn name(rules: Rules) -> String {
    match rules {
        Rules::Ours => "ours".to_owned(),
        Rules::SettlingAlone => "settling alone".to_owned(),
        Rules::OneBehind => "one behind is always good".to_owned(),
        Rules::FromFirstUse(window) => format!("{} s from the first use of the new token", window.as_secs()),
        Rules::FromRotation(window) => format!("{} s from the rotation", window.as_secs()),
        Rules::Once => "strictly once".to_owned(),
    }
}

fn row(rules: Rules, honest: u64, robbed: u64) -> String {
    let thieves = Thief::ALL.map(|thief| caught(robbed, rules, thief)).join(" | ");
    format!("| {} | {} of {honest} | {thieves} |", name(rules), signed_out(honest, rules))
}

#[test]
fn ours_signs_nobody_out_and_catches_every_thief() {
    assert_eq!(signed_out(25, Rules::Ours), 0);
    for thief in Thief::ALL {
        let outcomes = runs(15, Rules::Ours, Some(thief));
        let never = outcomes.iter().filter(|outcome| outcome.stolen && outcome.caught.is_none());
        assert_eq!(never.count(), 0, "{thief:?}");
    }
}

/// `cargo test --test it model::rule_comparison::table -- --ignored --nocapture`
#[test]
#[ignore = "prints a table, and asserts little"]
fn table() {
    println!(
        "| rule | honest sessions signed out | thief now and then: caught, median | travelling along | ahead | brief |"
    );
    println!("|---|---|---|---|---|---|");
    for rules in Rules::ALL {
        println!("{}", row(rules, 600, 300));
    }
}
