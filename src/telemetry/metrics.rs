//! What `/metrics` shows: every metric by its name, and the handles by which requests are counted.
//!
//! Handles are looked up once and kept, for a look-up by name and labels costs more than the count.
//! Labels come from the configuration and from short lists, never from what a client sends; of an
//! upstream's answer the status alone is one.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::session_event::SessionEvent;

/// Every metric of the program.
pub const METRICS: &[Metric] = &[
    counter("sekisho_requests_total", "Requests answered, by route, status and session event"),
    histogram("sekisho_request_duration_seconds", "From a request's arrival to its answer's end, by route"),
    gauge("sekisho_requests_in_flight", "Requests whose answer has not ended yet"),
    counter("sekisho_session_events_total", "What the session machinery did, by event"),
    gauge("sekisho_revocations_stale", "1 while the revocation list may be out of date"),
    counter(
        "sekisho_deferred_writes_dropped_total",
        "Deferred writes (confirmed uses, replay counts) dropped while the store was down",
    ),
    gauge("sekisho_clock_offset_seconds", "How far this machine's clock is ahead of the database's"),
    histogram("sekisho_store_duration_seconds", "Calls to the database, by operation and outcome"),
    gauge("sekisho_password_jobs_queued", "Password checks that wait for a thread"),
    gauge("sekisho_password_jobs_running", "Password checks under way"),
    counter("sekisho_password_jobs_refused_total", "Password checks refused because the queue was full"),
    counter("sekisho_reloads_total", "Times that the configuration was read again, by outcome"),
    gauge("sekisho_reload_last_success_timestamp_seconds", "When the configuration in force was read"),
    counter("sekisho_log_lines_lost_total", "Log lines that were not written"),
    counter("sekisho_spans_lost_total", "Spans that were not exported"),
    gauge("sekisho_connections", "Open connections of clients"),
    counter("sekisho_connections_refused_total", "Connections closed at once because there were too many"),
    counter(
        "sekisho_connections_timed_out_total",
        "Connections, and streams of HTTP/2, closed because the client was too slow, by what for",
    ),
    counter("sekisho_connections_handed_over_total", "Connections handed to a serving thread with fewer"),
    counter("sekisho_requests_shed_total", "Requests answered with 503 because there were too many"),
    gauge("sekisho_streams", "Open WebSockets, other upgraded connections and event streams"),
    counter(
        "sekisho_streams_closed_total",
        "Streams closed because their session had ended, by kind and event",
    ),
    gauge("sekisho_upstream_in_flight", "Requests under way at an upstream"),
    gauge("sekisho_upstream_idle_connections", "Connections to an upstream that wait for a request"),
    gauge("sekisho_upstream_healthy", "1 while an upstream takes requests"),
    counter("sekisho_upstream_retries_total", "Requests sent to another upstream, or once more"),
    counter("sekisho_upstream_ejections_total", "Times that an upstream was taken out"),
    counter("sekisho_upstream_connect_failures_total", "Connections to an upstream that were not made"),
];

/// A metric's name and what it means.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, kind: Kind::Counter }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, kind: Kind::Gauge }
}

const fn histogram(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, kind: Kind::Histogram }
}

/// Makes the process's recorder and describes every metric. `None` if there is a recorder already: a
/// second one in one process is a test's.
#[must_use]
pub fn install() -> Option<PrometheusHandle> {
    let whole = |name: &str| Matcher::Full(name.to_owned());
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(whole("sekisho_request_duration_seconds"), REQUEST_SECONDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(whole("sekisho_store_duration_seconds"), STORE_SECONDS)
        });
    let handle = builder.ok()?.install_recorder().ok()?;
    describe();
    Some(handle)
}

fn describe() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, Unit::Count, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, Unit::Seconds, metric.help),
        }
    }
}

/// Takes what was measured into the histograms, again and again: until then each measurement is kept
/// by itself.
pub async fn upkeep(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP_EVERY).await;
        handle.run_upkeep();
    }
}

/// The counts of requests.
pub(crate) struct HttpMetrics {
    pub(crate) in_flight: Gauge,
    events: [OnceLock<Counter>; EVENTS],
    /// By the number that [`route`](Self::route) has given. It only grows.
    routes: ArcSwap<Vec<Arc<RouteMetrics>>>,
}

impl HttpMetrics {
    pub(crate) fn new() -> Self {
        Self {
            in_flight: gauge!("sekisho_requests_in_flight"),
            events: [const { OnceLock::new() }; EVENTS],
            routes: ArcSwap::from_pointee(vec![Arc::new(RouteMetrics::new(NO_ROUTE))]),
        }
    }

    /// The number of the route of this name, the same whenever it is asked for: a configuration that
    /// is read again goes on counting.
    pub(crate) fn route(&self, name: &str) -> u32 {
        self.routes.rcu(|routes| {
            let mut routes = Vec::clone(routes);
            if !routes.iter().any(|route| route.name == name) {
                routes.push(Arc::new(RouteMetrics::new(name)));
            }
            routes
        });
        let number = self.routes.load().iter().position(|route| route.name == name);
        number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
    }

    /// The counts of the routes that have a number by now.
    pub(crate) fn numbered(&self) -> RouteMetricsTable {
        RouteMetricsTable(self.routes.load_full())
    }

    pub(crate) fn count_event(&self, event: SessionEvent) {
        let handle = || counter!("sekisho_session_events_total", "event" => event.as_str());
        self.events[event as usize].get_or_init(handle).increment(1);
    }
}

/// The counts of routes by their numbers, taken once for many requests.
#[derive(Clone)]
pub(crate) struct RouteMetricsTable(Arc<Vec<Arc<RouteMetrics>>>);

impl RouteMetricsTable {
    /// Those of a request's route; one without a route counts as [`NO_ROUTE`].
    pub(crate) fn of(&self, route: Option<u32>) -> &RouteMetrics {
        let known = route.and_then(|number| self.0.get(number as usize));
        known.unwrap_or(&self.0[0])
    }
}

/// The counts of a route's requests.
pub(crate) struct RouteMetrics {
    /// What the metrics and the log call it.
    pub(crate) name: String,
    pub(crate) duration: Histogram,
    /// By event (the last place is for none) and the status's first digit.
    requests: [[OnceLock<Box<Hundred>>; CLASSES]; EVENTS + 1],
}

/// By the status's last two digits.
type Hundred = [OnceLock<Counter>; 100];

impl RouteMetrics {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            duration: histogram!("sekisho_request_duration_seconds", "route" => name.to_owned()),
            requests: [const { [const { OnceLock::new() }; CLASSES] }; EVENTS + 1],
        }
    }

    pub(crate) fn count(&self, status: StatusCode, event: Option<SessionEvent>) {
        let code = usize::from(status.as_u16());
        let classes = &self.requests[event.map_or(EVENTS, |event| event as usize)];
        // A status has three digits, of which the first is no zero.
        let Some(class) = classes.get(code / 100 - 1) else { return };
        let hundred = class.get_or_init(|| Box::new([const { OnceLock::new() }; 100]));
        let handle = || {
            let event = event.map_or("", SessionEvent::as_str);
            let (route, status) = (self.name.clone(), status.as_str().to_owned());
            counter!("sekisho_requests_total", "route" => route, "status" => status, "event" => event)
        };
        hundred[code % 100].get_or_init(handle).increment(1);
    }
}

/// The name of no route at all: refused before one was looked for, or none matched.
pub(crate) const NO_ROUTE: &str = "none";

const EVENTS: usize = SessionEvent::ALL.len();
const CLASSES: usize = 9;

const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The bounds of the histograms' buckets, in seconds.
const REQUEST_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const STORE_SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0];

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn requests_are_counted_by_route_status_and_event() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let meters = HttpMetrics::new();
            let films = meters.route("/films");
            assert_eq!((films, meters.route("/"), meters.route("/films")), (1, 2, 1));
            let numbered = meters.numbered();
            let route = numbered.of(Some(films));
            route.count(StatusCode::OK, None);
            route.count(StatusCode::OK, None);
            route.count(StatusCode::OK, Some(SessionEvent::Rotated));
            numbered.of(None).count(StatusCode::from_u16(999).expect("a status"), None);
            meters.count_event(SessionEvent::UserDisabled);
        });
        let text = recorder.handle().render();
        for line in [
            r#"sekisho_requests_total{route="/films",status="200",event=""} 2"#,
            r#"sekisho_requests_total{route="/films",status="200",event="rotated"} 1"#,
            r#"sekisho_requests_total{route="none",status="999",event=""} 1"#,
            r#"sekisho_session_events_total{event="user_disabled"} 1"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn every_metric_is_named_once() {
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
    }
}
