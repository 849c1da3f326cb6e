//! Warnings about limits of `[server]` that another limit hides.

use super::raw::RawSettings;
use crate::server::ServerLimits;

/// A limit that should be at most as high as another one.
struct Bound {
    key: &'static str,
    value: usize,
    /// The keys that determine the other limit.
    other_keys: &'static [&'static str],
    /// The other limit in words.
    other: &'static str,
    other_value: usize,
}

/// Returns a warning for each limit that cannot be reached because of another one.
///
/// The defaults fit each other, so that at least one of the keys is set.
pub(super) fn unreachable(settings: &RawSettings, limits: &ServerLimits) -> Vec<String> {
    let is_set = |key: &&str| settings.is_explicit(key);
    let hidden = bounds(limits).into_iter().filter(|bound| {
        bound.value > bound.other_value && (is_set(&bound.key) || bound.other_keys.iter().any(is_set))
    });
    let mut warnings: Vec<_> = hidden.map(|bound| bound.warning()).collect();
    if limits.streams > MAX_STREAMS_OF_FULL_BUFFER {
        warnings.push(format!(
            "server.max_streams = {}: with more than {MAX_STREAMS_OF_FULL_BUFFER}, an HTTP/2 connection may hold more \
             than 16 MiB of request bodies",
            limits.streams
        ));
    }
    warnings
}

fn bounds(limits: &ServerLimits) -> [Bound; 6] {
    let bound =
        |key, value, other_keys, other, other_value| Bound { key, value, other_keys, other, other_value };
    let places = limits.in_flight - limits.reserve();
    let streams = limits.streams as usize;
    [
        bound(
            CONNECTIONS_PER_CLIENT,
            limits.connections_per_client,
            &[CONNECTIONS],
            CONNECTIONS,
            limits.connections,
        ),
        bound(
            IN_FLIGHT_PER_CLIENT,
            limits.in_flight_per_client,
            &[IN_FLIGHT],
            "server.max_in_flight without its reserve",
            places,
        ),
        bound(
            IN_FLIGHT_PER_CLIENT,
            limits.in_flight_per_client,
            &[OPEN_PER_CLIENT],
            OPEN_PER_CLIENT,
            limits.open_per_client,
        ),
        bound(
            OPEN_PER_CLIENT,
            limits.open_per_client,
            &[IN_FLIGHT, CONNECTIONS],
            "the larger of server.max_connections and four times server.max_in_flight",
            limits.max_open(),
        ),
        bound(STREAMS, streams, &[OPEN_PER_CLIENT], OPEN_PER_CLIENT, limits.open_per_client),
        bound(
            IN_FLIGHT,
            limits.in_flight,
            &[CONNECTIONS, STREAMS],
            "server.max_connections times server.max_streams",
            limits.connections.saturating_mul(streams),
        ),
    ]
}

impl Bound {
    fn warning(&self) -> String {
        let Self { key, value, other, other_value, .. } = self;
        format!("{key} = {value} cannot be reached: {other} is {other_value}")
    }
}

const CONNECTIONS: &str = "server.max_connections";
const CONNECTIONS_PER_CLIENT: &str = "server.max_connections_per_client";
const IN_FLIGHT: &str = "server.max_in_flight";
const IN_FLIGHT_PER_CLIENT: &str = "server.max_in_flight_per_client";
const OPEN_PER_CLIENT: &str = "server.max_open_per_client";
const STREAMS: &str = "server.max_streams";

/// Number of streams up to which the windows of a connection fit into its buffer: see `server/http_builders.rs`.
const MAX_STREAMS_OF_FULL_BUFFER: u32 = 512;
