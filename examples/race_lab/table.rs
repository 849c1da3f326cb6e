//! The figures as an aligned Markdown table.

use std::time::Duration;

use crate::event_log::Counters;
use crate::figures;
use crate::lab::Lab;
use crate::options::Options;
use crate::run::Outcome;

/// Returns the table with a column for each database.
pub(crate) fn table(outcomes: &[Outcome], options: &Options, seed: u64, took: Duration) -> String {
    let minutes = humantime::format_duration(Duration::from_secs(took.as_secs()));
    let head = std::iter::once(format!("{minutes}, seed {seed}"));
    let mut lines = vec![head.chain(outcomes.iter().map(|outcome| outcome.title.clone())).collect()];
    for Row(name, figure) in ROWS {
        let figures = outcomes.iter().map(|outcome| figure(&outcome.counters, options));
        lines.push(std::iter::once((*name).to_owned()).chain(figures).collect::<Vec<_>>());
    }
    figures::table(&lines)
}

/// Returns one line of progress for a terminal.
pub(crate) fn progress(lab: &Lab) -> String {
    let counters = lab.events.counters();
    format!(
        "{} refreshes, {} false sign-outs, {} of {} thefts detected",
        refreshes(&counters),
        counters.false_sign_outs,
        counters.detection_times.len(),
        counters.thefts
    )
}

/// The name of a row and its figure for one database.
struct Row(&'static str, fn(&Counters, &Options) -> String);

const ROWS: &[Row] = &[
    Row("browsers, victims of theft", |_, options| format!("{}, {}", options.browsers, options.victims)),
    Row("sessions", |counters, _| number(counters.sessions)),
    Row("responses", |counters, _| number(counters.responses)),
    Row("connections cut by browsers, by kills", |counters, _| pair(counters.cut, counters.broken)),
    Row("refreshes: rotated, replayed, caught up", |counters, _| {
        format!("{}, {}", pair(counters.rotated, counters.replayed), number(counters.caught_up))
    }),
    Row("browsers crashed", |counters, _| number(counters.browser_crashes)),
    Row("gateways killed, stores restarted", |counters, _| pair(counters.kills, counters.store_restarts)),
    Row("clock steps: of gateways, of the database", |counters, _| {
        pair(counters.gateway_clock_steps, counters.database_clock_steps)
    }),
    Row("cold starts, at an uncertain time", |counters, _| {
        pair(counters.cold_starts, counters.uncertain_starts)
    }),
    Row("sessions expired by a cold start", |counters, _| number(counters.expired_by_cold_start)),
    Row("sign-outs, password changes", |counters, _| pair(counters.sign_outs, counters.password_changes)),
    Row("503, cookies kept", |counters, _| number(counters.unavailable)),
    Row("responses too late to count", |counters, _| number(counters.late_responses)),
    Row("**false sign-outs**", |counters, _| format!("**{}**", counters.false_sign_outs)),
    Row("sign-outs after a late response", |counters, _| number(counters.late_sign_outs)),
    Row("**thefts: detected, missed, still open**", |counters, _| {
        format!(
            "**{}, {}, {}**",
            counters.detection_times.len(),
            counters.missed_thefts,
            counters.open_thefts
        )
    }),
    Row("detected after (median, longest)", |counters, options| {
        detection_times(&counters.detection_times, options)
    }),
    Row("accepted a second after detection", |counters, _| number(counters.late_acceptances)),
    Row("requests with a refresh, p50, p99", |counters, _| percentiles(&counters.refresh_times)),
    Row("other requests, p50, p99", |counters, _| percentiles(&counters.other_times)),
];

fn refreshes(counters: &Counters) -> u64 {
    counters.rotated + counters.replayed + counters.caught_up
}

fn pair(one: u64, other: u64) -> String {
    format!("{}, {}", number(one), number(other))
}

/// Formats a number with a space between groups of three digits.
fn number(number: u64) -> String {
    match number {
        ..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{} {:03}", number / 1_000, number % 1_000),
        _ => format!("{} {:03} {:03}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000),
    }
}

fn detection_times(times: &[Duration], options: &Options) -> String {
    let sorted = sorted(times);
    let (Some(median), Some(longest)) = (figures::percentile(&sorted, 0.5), sorted.last().copied()) else {
        return "–".to_owned();
    };
    let lifetimes = |time: Duration| time.as_secs_f64() / options.access_ttl.as_secs_f64();
    format!(
        "{:.1} s, {:.1} s ({:.1}, {:.1} lifetimes)",
        median.as_secs_f64(),
        longest.as_secs_f64(),
        lifetimes(median),
        lifetimes(longest)
    )
}

fn percentiles(times: &[Duration]) -> String {
    let sorted = sorted(times);
    let millis =
        |at| figures::percentile(&sorted, at).map(|time| format!("{:.1} ms", time.as_secs_f64() * 1_000.0));
    match (millis(0.5), millis(0.99)) {
        (Some(median), Some(high)) => format!("{median}, {high}"),
        _ => "–".to_owned(),
    }
}

fn sorted(times: &[Duration]) -> Vec<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    times
}
