//! The metrics and the log line about load that is shed.

use std::fmt;
use std::net::IpAddr;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::client::Client;
use crate::log_interval::is_due;

/// A limit that refuses connections or requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Open connections of a client.
    ClientConnections,
    /// Requests in flight of a client.
    ClientInFlight,
    /// Open requests of a client.
    ClientOpen,
    /// All open connections.
    Connections,
    /// Memory for unfinished heads.
    Heads,
    /// All requests in flight.
    InFlight,
    /// All open requests.
    Open,
    /// Requests of a route.
    Route,
}

/// The holder of a share that is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Client(Client),
    Route(String),
}

impl Limit {
    const ALL: [Self; 8] = [
        Self::ClientConnections,
        Self::ClientInFlight,
        Self::ClientOpen,
        Self::Connections,
        Self::Heads,
        Self::InFlight,
        Self::Open,
        Self::Route,
    ];

    /// Returns the name in the log and in the label `limit`.
    const fn as_str(self) -> &'static str {
        match self {
            Self::ClientConnections => "client_connections",
            Self::ClientInFlight => "client_in_flight",
            Self::ClientOpen => "client_open",
            Self::Connections => "connections",
            Self::Heads => "heads",
            Self::InFlight => "in_flight",
            Self::Open => "open",
            Self::Route => "route",
        }
    }

    fn count(self) {
        let limit = self.as_str();
        match self {
            Self::ClientConnections | Self::Connections => {
                metrics::counter!("sekisho_connections_refused_total", "limit" => limit).increment(1);
            }
            Self::Heads => metrics::counter!("sekisho_heads_refused_total").increment(1),
            _ => metrics::counter!("sekisho_requests_shed_total", "limit" => limit).increment(1),
        }
    }
}

/// Records that a limit was reached. `holder` returns the share that is full.
pub(crate) fn record_share(limit: Limit, holder: impl FnOnce() -> Holder) {
    record_with(limit, || Some(holder()));
}

/// Records that a limit was reached that is no share of a client or route.
pub(crate) fn record(limit: Limit) {
    record_with(limit, || None);
}

/// Records a request whose client is unknown, because its address is this one of a front proxy. `None` is the peer of a
/// Unix socket.
pub(crate) fn record_front_proxy(address: Option<IpAddr>) {
    // If another thread has the lock, a later request is recorded.
    if let Some(mut report) = REPORT.try_lock() {
        report.front_proxy = Some(FrontProxy(address));
    }
}

fn record_with(limit: Limit, holder: impl FnOnce() -> Option<Holder>) {
    limit.count();
    // If another thread has the lock, it records a refusal. The metric counts both, and the log names the most frequent.
    if let Some(mut report) = REPORT.try_lock() {
        report.add(limit, holder());
    }
}

/// Logs what was shed since the last line, if that is a minute ago.
///
/// The registries of the server call it about once a second, so that the line belongs to no request.
pub(in crate::server) fn flush() {
    let now = Instant::now();
    let mut report = REPORT.lock();
    let line = report.take_line(now);
    let front_proxy = report.take_front_proxy(now);
    drop(report);
    if let Some(Line { limits, full_shares }) = line {
        tracing::warn!(limits, full_shares, "load shed");
    }
    if let Some(peer) = front_proxy {
        tracing::warn!(%peer, "requests of a trusted proxy without the address of a client share one limit");
    }
}

/// The peer of requests that name no client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FrontProxy(Option<IpAddr>);

impl fmt::Display for FrontProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

/// Refusals since the last log line, and an unknown client since the last warning.
struct Report {
    counts: [u64; Limit::ALL.len()],
    /// The holders with most refusals, approximately: the sketch of "space saving" (Metwally et al. 2005).
    holders: Vec<(Holder, u64)>,
    last_line: Option<Instant>,
    front_proxy: Option<FrontProxy>,
    last_warning: Option<Instant>,
}

/// Fields of a log line.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    limits: String,
    full_shares: String,
}

impl Report {
    const fn new() -> Self {
        Self {
            counts: [0; Limit::ALL.len()],
            holders: Vec::new(),
            last_line: None,
            front_proxy: None,
            last_warning: None,
        }
    }

    fn add(&mut self, limit: Limit, holder: Option<Holder>) {
        self.counts[limit as usize] += 1;
        let Some(holder) = holder else { return };
        if let Some((_, count)) = self.holders.iter_mut().find(|(known, _)| *known == holder) {
            *count += 1;
        } else if self.holders.len() < MAX_HOLDERS {
            self.holders.push((holder, 1));
        } else if let Some(least) = self.holders.iter_mut().min_by_key(|(_, count)| *count) {
            *least = (holder, least.1 + 1);
        }
    }

    /// Returns the next line, unless nothing was shed or the last line is less than a minute ago.
    fn take_line(&mut self, now: Instant) -> Option<Line> {
        if !is_due(self.last_line, now) || self.counts.iter().all(|count| *count == 0) {
            return None;
        }
        let counts = Limit::ALL.into_iter().map(|limit| (limit.as_str(), self.counts[limit as usize]));
        let limits = list(counts.filter(|(_, count)| *count > 0));
        self.holders.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let full_shares =
            list(self.holders.iter().take(NAMED_HOLDERS).map(|(holder, count)| (holder, *count)));
        self.counts = [0; Limit::ALL.len()];
        self.holders.clear();
        self.last_line = Some(now);
        Some(Line { limits, full_shares })
    }

    /// Returns the front proxy to warn of, unless the last warning is less than a minute ago.
    fn take_front_proxy(&mut self, now: Instant) -> Option<FrontProxy> {
        if !is_due(self.last_warning, now) {
            return None;
        }
        let address = self.front_proxy.take()?;
        self.last_warning = Some(now);
        Some(address)
    }
}

/// Formats names with their numbers, as in `in_flight 3, open 1`.
fn list<N: fmt::Display>(items: impl Iterator<Item = (N, u64)>) -> String {
    let items: Vec<_> = items.map(|(name, count)| format!("{name} {count}")).collect();
    items.join(", ")
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(client) => write!(f, "{client}"),
            Self::Route(path) => write!(f, "route={path}"),
        }
    }
}

static REPORT: Mutex<Report> = Mutex::new(Report::new());

/// Number of holders that are counted, and of those in a log line.
const MAX_HOLDERS: usize = 16;
const NAMED_HOLDERS: usize = 3;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> Option<Holder> {
        Some(Holder::Client(Client::Address([192, 0, 2, last].into())))
    }

    #[test]
    fn line_names_the_limits_and_the_busiest_clients() {
        let mut report = Report::new();
        let start = Instant::now();
        assert_eq!(report.take_line(start), None);
        report.add(Limit::InFlight, None);
        let line = report.take_line(start).expect("the first line at once");
        assert_eq!(line, Line { limits: "in_flight 1".to_owned(), full_shares: String::new() });
        for last in 0..200 {
            report.add(Limit::ClientOpen, address(last));
            report.add(Limit::ClientInFlight, address(7));
        }
        report.add(Limit::Route, Some(Holder::Route("/hung".to_owned())));
        assert_eq!(report.take_line(start + Duration::from_secs(59)), None);
        let line = report.take_line(start + Duration::from_secs(60)).expect("a line each minute");
        assert_eq!(line.limits, "client_in_flight 200, client_open 200, route 1");
        assert!(line.full_shares.starts_with("192.0.2.7 20"), "{line:?}");
        assert_eq!(line.full_shares.matches(", ").count(), NAMED_HOLDERS - 1, "{line:?}");
        assert_eq!(report.take_line(start + Duration::from_secs(3_600)), None);
    }

    #[test]
    fn front_proxy_is_a_warning_once_a_minute() {
        let mut report = Report::new();
        let start = Instant::now();
        let proxy = FrontProxy(Some([10, 0, 0, 1].into()));
        let mut warnings = 0;
        for second in 0..121 {
            report.front_proxy = Some(proxy);
            let warning = report.take_front_proxy(start + Duration::from_secs(second));
            warnings += usize::from(warning == Some(proxy));
        }
        assert_eq!(warnings, 3);
    }
}
