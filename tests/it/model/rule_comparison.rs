//! Figures for Sekisho's rotation rules and the alternatives.

use super::clock_steps::day_with_steps;
use super::rules::Rules;
use super::script::Mutation;
use super::thief::{Thief, day};
use super::world::{Outcome, World};

/// Rules, and the clocks that they use.
#[derive(Clone, Copy)]
struct Case {
    rules: Rules,
    /// True on wall clocks, which step, as in implementations of the alternatives. False on session time.
    uses_wall_clocks: bool,
}

impl Case {
    /// Returns the rows of the table: all rules, then Sekisho's on wall clocks.
    fn all() -> impl Iterator<Item = Self> {
        let cases = Rules::ALL.map(|rules| Self {
            rules,
            uses_wall_clocks: !matches!(rules, Rules::Sekisho | Rules::ConfirmationOnly),
        });
        cases.into_iter().chain([Self { rules: Rules::Sekisho, uses_wall_clocks: true }])
    }

    fn name(self) -> String {
        match self.rules {
            Rules::Sekisho if self.uses_wall_clocks => "Sekisho, on wall clocks".to_owned(),
            Rules::Sekisho => "Sekisho".to_owned(),
            Rules::ConfirmationOnly => "confirmation only".to_owned(),
            Rules::PreviousAlwaysAccepted => "previous token always accepted".to_owned(),
            Rules::FromFirstUse(window) => {
                format!("{} s from the first use of the new token", window.as_secs())
            }
            Rules::FromRotation(window) => format!("{} s from the rotation", window.as_secs()),
            Rules::SingleUse => "single use".to_owned(),
        }
    }

    /// Runs days with clocks that step.
    fn runs_with_steps(self, count: u64, thief: Option<Thief>) -> Vec<Outcome> {
        let mutation = self.uses_wall_clocks.then_some(Mutation::WallClocks);
        let script = |seed| {
            let mut script = day_with_steps(seed, self.rules, thief);
            script.settings.mutation = mutation;
            script
        };
        (0..count).map(|seed| World::run(&script(seed))).collect()
    }

    fn row(self, honest: u64, with_theft: u64) -> String {
        let of_each = with_theft / Thief::ALL.len() as u64;
        let thieves =
            Thief::ALL.map(|thief| detected(&runs(with_theft, self.rules, Some(thief)))).join(" | ");
        let thefts: Vec<_> =
            Thief::ALL.iter().flat_map(|thief| self.runs_with_steps(of_each, Some(*thief))).collect();
        format!(
            "| {} | {} of {honest} | {thieves} | {} of {honest} | {} |",
            self.name(),
            signed_out(&runs(honest, self.rules, None)),
            signed_out(&self.runs_with_steps(honest, None)),
            detected(&thefts)
        )
    }
}

fn runs(count: u64, rules: Rules, thief: Option<Thief>) -> Vec<Outcome> {
    (0..count).map(|seed| World::run(&day(seed.wrapping_mul(0x1234_5678_9ABC_DEF1), rules, thief))).collect()
}

/// Counts honest sessions that were signed out.
fn signed_out(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.violation.is_some()).count()
}

/// Describes the detected thefts and the median time to detection. Sessions that ended before the theft
/// are not counted.
fn detected(outcomes: &[Outcome]) -> String {
    let stolen = outcomes.iter().filter(|outcome| outcome.stolen).count();
    let mut times: Vec<i64> = outcomes.iter().filter_map(|outcome| outcome.detected_after).collect();
    times.sort_unstable();
    match times.get(times.len() / 2) {
        Some(median) if *median < 5_400_000 => format!("{}/{stolen}, {} min", times.len(), median / 60_000),
        Some(median) => format!("{}/{stolen}, {:.1} h", times.len(), *median as f64 / 3_600_000.0),
        None => format!("0/{stolen}"),
    }
}

#[test]
fn sekisho_signs_out_no_honest_browser_and_detects_every_thief() {
    assert_eq!(signed_out(&runs(25, Rules::Sekisho, None)), 0);
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
        "| rule | honest sessions signed out | occasional thief: detected, median | alongside | ahead | brief \
         | signed out, clocks step | all thieves, clocks step |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for case in Case::all() {
        println!("{}", case.row(600, 300));
    }
}
