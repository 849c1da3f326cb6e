//! HTTP conformance: request smuggling, header spoofing and request targets, with raw bytes on both sides of a
//! real gateway.
//!
//! The ids are those of `docs/security.md`. Tests are named relative to this module, or to `tests/it`:
//!
//! | id | requirement | tests |
//! |---|---|---|
//! | P-1 | requests cannot choose the upstream | `targets::request_cannot_choose_the_upstream` |
//! | P-2 | hop-by-hop headers are removed | `hops::hop_by_hop_headers_are_not_forwarded` |
//! | P-3 | `Connection` cannot remove the gateway's headers | `hops::connection_header_cannot_remove_gateway_headers` |
//! | P-4 | identity headers come from the gateway only | `gateway::rules::identity_headers_follow_the_route_and_never_the_client`, `hops::trailers_cannot_set_identity_headers` |
//! | P-5 | a message has one framing | `framing::request_has_at_most_one_framing`, `framing::http10_chunked_request_is_rejected`, `framing::malformed_chunks_are_not_forwarded`, `framing::other_spellings_of_framing_headers_are_not_forwarded`, `framing::body_without_meaning_is_not_read_as_a_request`, `http2::empty_body_is_forwarded_as_none` |
//! | P-6 | `Content-Length` is one valid number | `framing::invalid_content_length_is_rejected` |
//! | P-7 | malformed field lines are rejected | `framing::malformed_header_lines_are_rejected`, `framing::bare_line_feeds_are_normalized`, `responses::ambiguous_response_is_502`, `responses::whitespace_before_the_colon_is_removed`, `responses::response_fields_with_odd_names_are_dropped` |
//! | P-8 | a request has one valid host | `targets::absolute_target_host_wins_over_host_header`, `targets::invalid_host_is_rejected`, `http2::invalid_authority_is_rejected` |
//! | P-9 | proxy loops are detected | `hops::proxy_loop_is_detected` |
//! | P-10 | forwarding headers come from trusted proxies only | `gateway::upstream_headers::forwarded_headers_are_set_by_trusted_proxies_only`, `gateway::upstream_headers::only_configured_headers_of_trusted_proxies_are_believed`, `gateway::upstream_headers::upstream_is_told_the_public_origin`, `gateway::upstream_headers::invalid_host_of_a_trusted_proxy_is_ignored` |
//! | P-11 | the forwarded path is the path that selects the route | `targets::only_the_path_selects_the_route`, `targets::ambiguous_path_is_rejected`, `targets::path_with_raw_utf8_is_rejected`, `gateway::paths::builtin_paths_win_in_any_spelling`, `gateway::paths::overlong_utf8_is_400` |
//! | P-12 | path and query are forwarded byte for byte | `targets::five_hundred_targets_are_forwarded_byte_for_byte` |
//! | P-13 | requests that may have been processed are not retried | `proxy::request_read_by_an_upstream_is_not_retried`, `upstreams::connections::failure_on_a_new_connection_is_not_retried`, `upstreams::http2::requests_beyond_a_goaway_are_sent_again` |
//! | P-14 | a connection in an unknown state is not reused | `proxy::connection_with_leftover_bytes_is_not_reused`, `upstreams::connections::unsolicited_bytes_answer_no_request`, `upstreams::connections::early_response_closes_the_connection`, `responses::bodiless_responses_have_no_framing`, `upstreams::connections::authenticated_connections_serve_no_other_client` |
//! | P-15 | values cannot start header lines | `responses::header_values_cannot_inject_lines` |
//! | P-16 | truncated responses look incomplete | `responses::truncated_response_is_not_complete`, `http2::upload_reset_without_error_does_not_look_complete`, `upstreams::http2::response_without_end_of_stream_does_not_look_complete` |
//! | P-17 | HTTP/2 requests without an HTTP/1.1 equivalent are rejected | `server::http2::http2_headers_invalid_in_http1_are_rejected`, `server::http2::http2_content_length_mismatch_is_an_error`, `http2::names_that_are_no_tokens_are_rejected`, `http2::data_beyond_a_length_of_zero_reaches_no_upstream` |
//! | P-18 | sizes, numbers and times are limited | `server::limits::header_timeout_closes_the_connection`, `server::limits::oversized_targets_and_headers_are_rejected`, `server::slow_clients::thousand_slow_clients_do_not_affect_others`, `proxy::body_beyond_the_limit_is_413` |
//! | P-19 | bodies are streamed | `upstreams::memory::large_bodies_are_not_buffered`, `proxy::events_arrive_before_the_stream_ends` |
//! | P-20 | the session is checked before `100 Continue` | `hops::session_is_checked_before_100_continue` |
//! | P-21 | WebSocket frames pass unchanged | `streams::forwarding::websocket_messages_are_forwarded_both_ways`, `streams::forwarding::websocket_close_codes_are_forwarded`, `streams::forwarding::websocket_bytes_are_unchanged` |
//! | P-22 | methods are limited | `gateway::rules::route_allows_only_its_methods`, `gateway::wire::connect_and_asterisk_targets_are_rejected`, `gateway::upstream_headers::method_overrides_do_not_reach_routes_with_methods` |
//! | P-23 | bodiless responses have no body and no framing | `responses::bodiless_responses_have_no_framing`, `responses::early_hints_are_dropped` |
//! | P-24 | every 401 has a challenge | `hops::every_401_has_www_authenticate` |
//! | P-25 | redirects are forwarded | `proxy::redirects_are_forwarded_to_the_client` |
//! | P-26 | upstream certificates are verified | `upstreams::tls::invalid_certificate_is_rejected` |
//! | P-27 | both cookies pass front proxies, and scripts cannot read them | `front_proxies::curl_stays_signed_in`, `front_proxies::no_script_can_read_a_token` |
//! | C-6 | upstreams cannot set session cookies | `responses::upstream_cannot_set_session_cookies_in_any_spelling` |

mod framing;
mod hops;
mod http2;
mod recorder;
mod responses;
mod targets;

use std::net::SocketAddr;
use std::time::Duration;

use sekisho::server::ServerLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::recorder::StrictUpstream;
use crate::support::gateway::{TestGateway, TestGatewayBuilder, route};

/// A gateway on a socket.
struct RawServer {
    gateway: TestGateway,
    address: SocketAddr,
}

impl RawServer {
    /// Starts a gateway with these routes.
    async fn start(toml: impl AsRef<str>) -> Self {
        let gateway = TestGatewayBuilder::new(toml).start().await;
        let address = gateway.listen(ServerLimits::default()).await;
        Self { gateway, address }
    }

    /// Starts a gateway in front of this upstream, with a route that needs no session.
    async fn with_upstream(upstream: &str) -> Self {
        Self::start(route("/", upstream, "auth = \"none\"")).await
    }

    /// Sends these bytes and reads until the gateway closes the connection, which it must do.
    async fn send(&self, bytes: impl AsRef<[u8]>) -> RawResponse {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(bytes.as_ref()).await.unwrap();
        let mut received = Vec::new();
        // The gateway resets a connection that it closes with unread bytes.
        let closed = timeout(Duration::from_secs(10), socket.read_to_end(&mut received)).await;
        let text = String::from_utf8_lossy(&received).into_owned();
        assert!(closed.is_ok(), "the connection stays open after {text:?}");
        RawResponse(text)
    }

    /// Sends a `GET` with these header lines, each terminated by CRLF.
    async fn get(&self, target: &str, headers: &str) -> RawResponse {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n{headers}\r\n"))
            .await
    }
}

/// All bytes received on a connection.
#[derive(Debug)]
struct RawResponse(String);

impl RawResponse {
    /// Returns the status of the only response, or 0 if there is none.
    #[track_caller]
    fn status(&self) -> u16 {
        let responses: Vec<_> = self.0.match_indices("HTTP/1.1 ").collect();
        assert!(responses.len() <= 1, "{}", self.0);
        self.0.get(9..12).map_or(0, |status| status.parse().unwrap())
    }

    fn head(&self) -> &str {
        self.0.split("\r\n\r\n").next().unwrap_or_default()
    }

    fn body(&self) -> &str {
        self.0.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    /// Returns the values of a header of the first response.
    fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head().lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

/// The last request of a connection. It is read only if the request before it ended at the right byte.
const LAST: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Checks that every requirement has a test and that every named test exists.
#[test]
fn requirements_table_names_existing_tests() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let rows = include_str!("mod.rs")
        .lines()
        .filter(|line| line.starts_with("//! | P-") || line.starts_with("//! | C-"));
    let mut tests = 0;
    for row in rows {
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for test in cell.split(", ").map(|test| test.trim_matches('`')) {
            let (modules, name) = test.rsplit_once("::").unwrap();
            let path = modules.replace("::", "/");
            let files =
                [format!("http_conformance/{path}.rs"), format!("{path}.rs"), format!("{path}/mod.rs")];
            let source = files.iter().find_map(|file| std::fs::read_to_string(root.join(file)).ok());
            let source = source.unwrap_or_else(|| panic!("{test}: no such file"));
            assert!(source.contains(&format!("fn {name}(")), "{test}: no such test");
            tests += 1;
        }
    }
    assert!(tests > 20, "the table has too few rows");
    for id in 1..=27 {
        assert!(include_str!("mod.rs").contains(&format!("//! | P-{id} | ")), "P-{id} has no test");
    }
}
