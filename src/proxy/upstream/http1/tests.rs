//! Comparison of the client with that of hyper, by generated responses.

mod clients;
mod differences;
mod generator;

use std::collections::BTreeMap;
use std::fmt;

use self::clients::{Difference, Outcome, exchange, exchange_with_hyper, exchange_with_lenient_hyper};
use self::differences::{CATEGORIES, Comparison};
use self::generator::{GeneratedResponse, generate};
use crate::test_seed::seed;

/// Both clients read the same from the same bytes, except for the differences in [`CATEGORIES`].
#[tokio::test(start_paused = true)]
async fn client_reads_responses_as_hyper_does() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut report = Report::default();
    let number = number_of_responses();
    for _ in 0..number {
        report.compare(&generate(&mut random)).await;
    }
    println!("{} of {number} responses are accepted", report.accepted);
    for category in &CATEGORIES {
        let differences = report.explained.get(category.name).copied().unwrap_or_default();
        println!("{differences:>6} {}. {}", category.name, category.reason);
    }
    let unexplained = &report.unexplained;
    assert!(
        unexplained.is_empty(),
        "{} unexplained differences:\n{}",
        unexplained.len(),
        unexplained[..unexplained.len().min(10)].join("\n\n")
    );
    assert_eq!(report.explained.len(), CATEGORIES.len(), "a category has no difference");
}

#[derive(Default)]
struct Report {
    accepted: usize,
    /// Number of differences by the name of their category.
    explained: BTreeMap<&'static str, usize>,
    unexplained: Vec<String>,
}

impl Report {
    async fn compare(&mut self, response: &GeneratedResponse) {
        let own = exchange(response).await;
        let of_hyper = exchange_with_hyper(response).await;
        self.accepted += usize::from(own.received().is_some());
        let differences = own.differences(&of_hyper);
        if differences != [Difference::Head] {
            return self.explain(&differences, response, &own, &of_hyper, false);
        }
        let of_lenient_hyper = exchange_with_lenient_hyper(response).await;
        let other_differences = own.differences(&of_lenient_hyper);
        let is_tolerated = other_differences != [Difference::Head];
        self.explain(&differences, response, &own, &of_hyper, is_tolerated);
        if is_tolerated {
            self.explain(&other_differences, response, &own, &of_lenient_hyper, true);
        }
    }

    fn explain(
        &mut self,
        differences: &[Difference],
        response: &GeneratedResponse,
        own: &Outcome,
        of_hyper: &Outcome,
        is_tolerated: bool,
    ) {
        for &difference in differences {
            let comparison = Comparison { difference, response, own, of_hyper, is_tolerated };
            match comparison.category() {
                Some(category) => *self.explained.entry(category.name).or_default() += 1,
                None => self.unexplained.push(comparison.to_string()),
            }
        }
    }
}

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GeneratedResponse { method, bytes, closes, oddities, .. } = self.response;
        let bytes = bytes[..bytes.len().min(2_000)].escape_ascii();
        writeln!(f, "{:?}: {method} \"{bytes}\" closes: {closes} {oddities:?}", self.difference)?;
        write!(f, "  client {:?}\n  hyper  {:?}", self.own, self.of_hyper)
    }
}

/// Returns the number of responses, which is that of `SEKISHO_TEST_RESPONSES` if it is set.
fn number_of_responses() -> usize {
    std::env::var("SEKISHO_TEST_RESPONSES").map_or(DEFAULT_RESPONSES, |text| text.parse().unwrap())
}

const DEFAULT_RESPONSES: usize = 8_000;
