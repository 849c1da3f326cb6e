//! List of all metrics, and the handles of the HTTP metrics.
//!
//! Handles are cached, because a lookup by name and labels costs more than an increment. Label values come
//! from the configuration and from fixed lists, never from a client. The status is the only label that
//! comes from an upstream response.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::session_event::SessionEvent;

/// All metrics of the program.
pub const METRICS: &[Metric] = &[
    counter("sekisho_requests_total", "Completed requests, by route, status and session event"),
    histogram(
        "sekisho_request_duration_seconds",
        "Time from the arrival of a request to the end of its response, by route",
    ),
    gauge("sekisho_requests_in_flight", "Requests whose response has not ended"),
    counter("sekisho_session_events_total", "Session events, by event"),
    gauge("sekisho_revocations_stale", "1 while the revocation list may be out of date"),
    counter(
        "sekisho_deferred_writes_dropped_total",
        "Deferred writes (confirmed uses, replay counts) dropped while the store was down",
    ),
    gauge("sekisho_clock_offset_seconds", "Offset of the local clock from the clock of the database"),
    histogram("sekisho_store_duration_seconds", "Duration of store calls, by operation and outcome"),
    gauge("sekisho_password_jobs_queued", "Password jobs that wait for a thread"),
    gauge("sekisho_password_jobs_running", "Password jobs that run"),
    counter("sekisho_password_jobs_refused_total", "Password jobs refused because the queue was full"),
    counter("sekisho_reloads_total", "Configuration reloads, by outcome"),
    gauge(
        "sekisho_reload_last_success_timestamp_seconds",
        "Time of the last successful configuration reload",
    ),
    counter("sekisho_log_lines_lost_total", "Log lines dropped"),
    counter("sekisho_spans_lost_total", "Spans dropped or not exported"),
    gauge("sekisho_connections", "Open client connections"),
    counter("sekisho_connections_refused_total", "Client connections refused, by limit"),
    counter(
        "sekisho_connections_timed_out_total",
        "HTTP connections and HTTP/2 streams closed by a client timeout, by what they waited for",
    ),
    counter(
        "sekisho_connections_handed_over_total",
        "Connections handed to a worker thread with fewer connections",
    ),
    counter(
        "sekisho_heads_refused_total",
        "Connections closed because too many request heads were unfinished",
    ),
    counter("sekisho_requests_shed_total", "Requests refused with 429 or 503, by limit"),
    gauge("sekisho_places_held", "Places held in a limit, by limit"),
    gauge("sekisho_streams", "Open WebSockets, other upgraded connections, event streams and gRPC streams"),
    counter("sekisho_streams_closed_total", "Streams closed at the end of their session, by kind and event"),
    gauge("sekisho_upstream_in_flight", "Requests in flight to an upstream"),
    gauge("sekisho_upstream_idle_connections", "Idle connections to an upstream"),
    gauge("sekisho_upstream_healthy", "1 while an upstream is not ejected"),
    counter("sekisho_upstream_retries_total", "Requests retried, on the same or another upstream"),
    counter("sekisho_upstream_ejections_total", "Ejections of an upstream"),
    counter("sekisho_upstream_connect_failures_total", "Failed connection attempts to an upstream"),
];

/// Name and description of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name.
    pub name: &'static str,
    /// Description.
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

/// Installs the recorder of the process and describes all metrics. Returns `None` if a recorder is already
/// installed, as in tests.
#[must_use]
pub fn install() -> Option<PrometheusHandle> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(full("sekisho_request_duration_seconds"), REQUEST_SECONDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(full("sekisho_store_duration_seconds"), STORE_SECONDS)
        });
    let handle = builder.ok()?.install_recorder().ok()?;
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, Unit::Count, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, Unit::Seconds, metric.help),
        }
    }
    Some(handle)
}

/// Merges recorded samples into the histograms at an interval. Samples use memory until they are merged.
pub async fn upkeep(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        handle.run_upkeep();
    }
}

/// Handles of the HTTP metrics.
pub(crate) struct HttpMetrics {
    pub(crate) in_flight: Gauge,
    events: [OnceLock<Counter>; EVENTS],
    /// Indexed by the number that [`route`](Self::route) returns. Entries are never removed.
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

    /// Returns the number of a route, adding it if it is new. A name keeps its number across reloads.
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

    /// Returns the metrics of all current routes.
    pub(crate) fn numbered(&self) -> RouteMetricsTable {
        RouteMetricsTable(self.routes.load_full())
    }

    pub(crate) fn count_event(&self, event: SessionEvent) {
        let handle = || counter!("sekisho_session_events_total", "event" => event.as_str());
        self.events[event as usize].get_or_init(handle).increment(1);
    }
}

/// Metrics of routes by number. One snapshot serves many requests.
#[derive(Clone)]
pub(crate) struct RouteMetricsTable(Arc<Vec<Arc<RouteMetrics>>>);

impl RouteMetricsTable {
    /// Returns the metrics of a route, or those of [`NO_ROUTE`] for a request without a known route.
    pub(crate) fn of(&self, route: Option<u32>) -> &RouteMetrics {
        let known = route.and_then(|number| self.0.get(number as usize));
        known.unwrap_or(&self.0[0])
    }
}

/// Metrics of the requests of a route.
pub(crate) struct RouteMetrics {
    /// Name in metrics and logs.
    pub(crate) name: String,
    pub(crate) duration: Histogram,
    /// Indexed by event, with the last entry for none, and by the first digit of the status.
    requests: [[OnceLock<Box<StatusCounters>>; CLASSES]; EVENTS + 1],
}

/// Counters indexed by the last two digits of the status.
type StatusCounters = [OnceLock<Counter>; 100];

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
        // A status code has three digits and does not begin with 0.
        let Some(class) = classes.get(code / 100 - 1) else { return };
        let counters = class.get_or_init(|| Box::new([const { OnceLock::new() }; 100]));
        let handle = || {
            let event = event.map_or("", SessionEvent::as_str);
            let (route, status) = (self.name.clone(), status.as_str().to_owned());
            counter!("sekisho_requests_total", "route" => route, "status" => status, "event" => event)
        };
        counters[code % 100].get_or_init(handle).increment(1);
    }
}

/// Name for requests without a route: refused before routing, or without a match.
pub(crate) const NO_ROUTE: &str = "none";

const EVENTS: usize = SessionEvent::ALL.len();
const CLASSES: usize = 9;

const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Upper bounds of the buckets for request durations, in seconds.
const REQUEST_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Upper bounds of the buckets for store calls, in seconds.
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
            let metrics = HttpMetrics::new();
            let movies = metrics.route("/movies");
            assert_eq!((movies, metrics.route("/"), metrics.route("/movies")), (1, 2, 1));
            let numbered = metrics.numbered();
            let route = numbered.of(Some(movies));
            route.count(StatusCode::OK, None);
            route.count(StatusCode::OK, None);
            route.count(StatusCode::OK, Some(SessionEvent::Rotated));
            numbered.of(None).count(StatusCode::from_u16(999).expect("a status"), None);
            metrics.count_event(SessionEvent::UserDisabled);
        });
        let text = recorder.handle().render();
        for line in [
            r#"sekisho_requests_total{route="/movies",status="200",event=""} 2"#,
            r#"sekisho_requests_total{route="/movies",status="200",event="rotated"} 1"#,
            r#"sekisho_requests_total{route="none",status="999",event=""} 1"#,
            r#"sekisho_session_events_total{event="user_disabled"} 1"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn metric_names_are_unique() {
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
    }
}
