//! The figures as a Markdown table, aligned for readers of plain text too.

use std::time::Duration;

use crate::lab::Lab;
use crate::ledger::Tally;
use crate::options::Options;
use crate::run::Outcome;

/// The table, one column for each database.
pub(crate) fn table(outcomes: &[Outcome], options: &Options, seed: u64, took: Duration) -> String {
    let minutes = humantime::format_duration(Duration::from_secs(took.as_secs()));
    let head = std::iter::once(format!("{minutes}, seed {seed}"));
    let mut lines = vec![head.chain(outcomes.iter().map(|outcome| outcome.title.clone())).collect()];
    for Row(name, figure) in ROWS {
        let figures = outcomes.iter().map(|outcome| figure(&outcome.tally, options));
        lines.push(std::iter::once((*name).to_owned()).chain(figures).collect::<Vec<_>>());
    }
    layout(&lines)
}

/// One line for a terminal, while it runs.
pub(crate) fn progress(lab: &Lab) -> String {
    let tally = lab.ledger.tally();
    format!(
        "{} renewals, {} signed out falsely, {} of {} thieves caught",
        renewals(&tally),
        tally.false_sign_outs,
        tally.catches.len(),
        tally.thefts
    )
}

/// A row's name, and its figure for one database.
struct Row(&'static str, fn(&Tally, &Options) -> String);

const ROWS: &[Row] = &[
    Row("browsers, and victims of thieves", |_, options| {
        format!("{}, {}", options.browsers, options.victims)
    }),
    Row("sessions", |tally, _| number(tally.sessions)),
    Row("answers", |tally, _| number(tally.answers)),
    Row("connections cut by browsers, by kills", |tally, _| pair(tally.cut, tally.broken)),
    Row("renewals: rotated, replayed, caught up", |tally, _| {
        format!("{}, {}", pair(tally.rotated, tally.replayed), number(tally.caught_up))
    }),
    Row("browsers crashed", |tally, _| number(tally.browser_crashes)),
    Row("gateways killed, stores restarted", |tally, _| pair(tally.kills, tally.store_restarts)),
    Row("sign-outs, password changes", |tally, _| pair(tally.sign_outs, tally.password_changes)),
    Row("503, cookies kept", |tally, _| number(tally.unavailable)),
    Row("answers too late to count", |tally, _| number(tally.late)),
    Row("**signed out falsely**", |tally, _| format!("**{}**", tally.false_sign_outs)),
    Row("signed out after an answer too late", |tally, _| number(tally.strained_sign_outs)),
    Row("**thefts: caught, missed, still open**", |tally, _| {
        format!("**{}, {}, {}**", tally.catches.len(), tally.missed, tally.open_thefts)
    }),
    Row("caught after (median, longest)", |tally, options| catches(&tally.catches, options)),
    Row("accepted a second after the catch", |tally, _| number(tally.accepted_after)),
    Row("renewing requests, p50, p99", |tally, _| percentiles(&tally.renewing)),
    Row("other requests, p50, p99", |tally, _| percentiles(&tally.checking)),
];

fn renewals(tally: &Tally) -> u64 {
    tally.rotated + tally.replayed + tally.caught_up
}

fn pair(one: u64, other: u64) -> String {
    format!("{}, {}", number(one), number(other))
}

/// With a mark at the thousands.
fn number(number: u64) -> String {
    match number {
        ..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{} {:03}", number / 1_000, number % 1_000),
        _ => format!("{} {:03} {:03}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000),
    }
}

fn catches(times: &[Duration], options: &Options) -> String {
    let sorted = sorted(times);
    let (Some(median), Some(longest)) = (part(&sorted, 0.5), sorted.last().copied()) else {
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
    let millis = |at| part(&sorted, at).map(|time| format!("{:.1} ms", time.as_secs_f64() * 1_000.0));
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

fn part(sorted: &[Duration], at: f64) -> Option<Duration> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * at).round() as usize).copied()
}

fn layout(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (nth, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} |"));
        text.push_str(&format!("|{}\n", cells.collect::<String>()));
        if nth == 0 {
            let rule = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2)));
            text.push_str(&format!("|{}\n", rule.collect::<String>()));
        }
    }
    text
}
