//! The report of a run, and its bounds.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Load;
use super::figures::{percentile, table};
use super::settings::{Attack, SLOW_MACHINE_TIMEOUT, Settings};
use super::stats::{HonestRecord, HostileRecord, Kind};

/// Bounds of a run.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// Upper bound of the 99th percentile of each kind of requests except sign-ins.
    pub(crate) p99: Duration,
    /// Part of the sign-ins from new addresses that must succeed in time. All others must.
    pub(crate) new_sign_ins: f64,
    /// Peak resident memory of the gateway, in KiB.
    pub(crate) memory: u64,
    /// Part of the wrong sign-ins that must have been sent, since a slow load proves nothing.
    pub(crate) wrong_sign_ins: f64,
}

impl Bounds {
    /// Returns the bounds of the full load.
    pub(crate) fn full() -> Self {
        Self { p99: Duration::from_secs(1), new_sign_ins: 0.95, memory: 400 * 1024, wrong_sign_ins: 0.9 }
    }
    /// Returns the bounds of the short form.
    pub(crate) fn short() -> Self {
        Self { p99: SLOW_MACHINE_TIMEOUT, wrong_sign_ins: 0.0, ..Self::full() }
    }
}

/// The observations of all clients.
pub(crate) struct Report {
    settings: Settings,
    took: Duration,
    /// Peak memory of the gateway before the attack and at the end, in KiB.
    memory: [u64; 2],
    /// Processor time of the gateway and of the load.
    cpu_times: [Duration; 2],
    honest: BTreeMap<Kind, HonestRecord>,
    hostile: BTreeMap<Attack, HostileRecord>,
}

impl Report {
    pub(super) fn new(load: &Load, took: Duration, memory: [u64; 2], cpu_times: [Duration; 2]) -> Self {
        let mut honest = load.stats.honest();
        honest.values_mut().for_each(|record| record.times.sort_unstable());
        let hostile = load.stats.hostile();
        Self { settings: load.settings.clone(), took, memory, cpu_times, honest, hostile }
    }

    /// Returns a description of each bound that was exceeded.
    pub(crate) fn failures(&self, bounds: &Bounds) -> Vec<String> {
        let mut failures: Vec<_> =
            Kind::ALL.iter().filter_map(|kind| self.failure_of_kind(*kind, bounds)).collect();
        if self.memory[1] >= bounds.memory {
            let [limit, used] = [bounds.memory, self.memory[1]].map(|kib| kib / 1024);
            failures.push(format!("peak memory: expected less than {limit} MiB, found {used} MiB"));
        }
        if let Some(record) = self.hostile.get(&Attack::WrongSignIns) {
            let planned =
                self.settings.duration.as_secs_f64() * f64::from(self.settings.wrong_sign_ins_per_second);
            if (record.requests as f64) < planned * bounds.wrong_sign_ins {
                failures.push(format!("wrong sign-ins: sent {} of {planned:.0}", record.requests));
            }
        }
        failures
    }

    fn failure_of_kind(&self, kind: Kind, bounds: &Bounds) -> Option<String> {
        let title = kind.title();
        let Some(record) = self.honest.get(&kind) else { return Some(format!("{title}: none were sent")) };
        let HonestRecord { sent, succeeded, times, first_failure } = record;
        let required = if kind == Kind::NewSignIn { bounds.new_sign_ins } else { 1.0 };
        if (*succeeded as f64) < *sent as f64 * required {
            let first = first_failure.as_deref().unwrap_or_default();
            return Some(format!("{title}: {succeeded} of {sent} succeeded; {first}"));
        }
        let p99 = percentile(times, 0.99).filter(|_| !kind.is_sign_in())?;
        (p99 >= bounds.p99).then(|| format!("{title}: the 99th percentile is {}", millis(p99)))
    }

    fn honest_table(&self) -> String {
        let head = ["honest clients", "sent", "2xx", "p50", "p99", "max", "first failure"];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        for (kind, record) in &self.honest {
            let time = |share| percentile(&record.times, share).map_or_else(String::new, millis);
            lines.push(vec![
                kind.title().to_owned(),
                record.sent.to_string(),
                record.succeeded.to_string(),
                time(0.5),
                time(0.99),
                time(1.0),
                record.first_failure.as_deref().map_or_else(|| "–".to_owned(), shorten),
            ]);
        }
        table(&lines)
    }

    fn hostile_table(&self) -> String {
        let head = ["hostile clients", "connections", "failed", "requests", "responses"];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        for (attack, record) in &self.hostile {
            lines.push(vec![
                attack.title().to_owned(),
                record.connections.to_string(),
                record.failed_connections.to_string(),
                record.requests.to_string(),
                responses(record),
            ]);
        }
        table(&lines)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, peak] = self.memory.map(|kib| kib / 1024);
        let [gateway, load] = self.cpu_times.map(|time| time.as_secs_f64());
        let took = self.took.as_secs_f64();
        let addresses = self.settings.addresses;
        writeln!(f, "{took:.0} s, hostile clients on {addresses} address(es)\n")?;
        writeln!(f, "{}\n{}", self.honest_table(), self.hostile_table())?;
        writeln!(f, "peak memory of the gateway: {peak} MiB, {before} MiB before the attack")?;
        writeln!(f, "processor time: gateway {gateway:.1} s, load {load:.1} s")
    }
}

fn responses(record: &HostileRecord) -> String {
    let statuses = record.responses.iter().map(|(status, count)| format!("{status}: {count}"));
    let ended: usize = record.responses.values().sum::<usize>() + record.cut;
    let rest = [format!("none: {}", record.cut), format!("open: {}", record.requests.saturating_sub(ended))];
    statuses.chain(rest).collect::<Vec<_>>().join(", ")
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1_000.0)
}

/// Returns one line of a table's cell.
fn shorten(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '|' | '\n') { ' ' } else { c }).take(MAX_CELL).collect()
}

/// Maximum length of a failure in the table.
const MAX_CELL: usize = 120;
