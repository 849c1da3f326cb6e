//! What may not pass between clients and upstreams, by the ids of the checklist that it comes from: the
//! whole program on a socket, raw bytes on both sides.
//!
//! Each id, and the tests that hold it (of this module unless a path says otherwise):
//!
//! | id | what | tests |
//! |---|---|---|
//! | P-1 | a request chooses no upstream | `targets::a_request_chooses_no_upstream` |
//! | P-2 | hop-by-hop headers stop at each hop | `hops::what_concerns_one_connection_stays_there` |
//! | P-3 | `Connection` takes nothing of ours off | `hops::connection_takes_nothing_of_ours_off` |
//! | P-4 | who the user is, only we say | `gateway::rules::each_route_tells_the_user_in_its_own_way_and_clients_in_none`, `hops::trailers_tell_nothing_of_the_user` |
//! | P-5 | one framing of a body | `framing::a_request_has_one_framing_or_none`, `framing::an_old_client_s_chunks_are_refused`, `framing::chunks_that_are_none_go_no_further` |
//! | P-6 | a length is a number, once | `framing::a_length_that_is_none_is_refused` |
//! | P-7 | lines of headers are clean | `framing::lines_that_are_none_are_refused`, `framing::bare_line_feeds_are_made_whole`, `answers::an_answer_that_can_be_read_in_two_ways_is_502` |
//! | P-8 | one host | `targets::one_host_is_named_and_the_absolute_target_s_wins` |
//! | P-9 | loops end | `hops::a_gateway_in_front_of_itself_notices` |
//! | P-10 | where a request comes from, we say | `gateway::told::where_a_request_comes_from_is_told_by_those_who_know` |
//! | P-11 | the path that decides is the path that is forwarded | `targets::nothing_but_the_path_decides`, `targets::a_path_with_two_readings_is_refused` |
//! | P-12 | paths and queries pass byte for byte | `targets::five_hundred_odd_targets_pass_byte_for_byte` |
//! | P-13 | nothing is done twice | `proxy::what_an_upstream_has_read_is_not_sent_again`, `upstreams::connections::what_a_new_connection_loses_is_lost` |
//! | P-14 | a poisoned connection is not used again | `proxy::a_connection_with_bytes_left_over_is_not_used_again`, `upstreams::connections::bytes_that_come_between_two_requests_answer_none`, `upstreams::connections::an_answer_before_the_body_s_end_costs_the_connection`, `answers::answers_without_a_body_have_no_framing` |
//! | P-15 | no value becomes a line of its own | `answers::no_value_becomes_a_line_of_its_own` |
//! | P-16 | half an answer looks like half | `answers::half_an_answer_is_no_whole_one` |
//! | P-17 | HTTP/2 says nothing that HTTP/1.1 could not | `server::http2::p_17_what_http1_could_not_say_is_refused`, `server::http2::p_17_a_body_of_another_length_than_was_said_is_an_error` |
//! | P-18 | everything has a limit | `server::limits::p_18_a_head_that_does_not_come_is_cut_off_at_its_time`, `server::limits::p_18_targets_and_headers_have_a_longest_length`, `server::hostile::a_thousand_slow_clients_are_not_noticed`, `proxy::a_body_beyond_the_limit_is_refused` |
//! | P-19 | bodies stream | `upstreams::memory::large_bodies_take_no_memory`, `proxy::events_arrive_before_the_stream_ends` |
//! | P-20 | 100 is said once the session is good | `hops::the_session_is_checked_before_a_body_is_asked_for` |
//! | P-21 | WebSockets pass as they are | `streams::forwarding::messages_pass_both_ways`, `streams::forwarding::close_codes_are_kept`, `streams::forwarding::no_byte_is_changed` |
//! | P-22 | methods | `gateway::rules::a_route_lets_its_methods_through_and_no_others`, `gateway::wire::tunnels_and_stars_reach_nobody` |
//! | P-23 | answers without a body have none, nor a framing | `answers::answers_without_a_body_have_no_framing`, `answers::early_hints_are_left_out` |
//! | P-24 | every 401 says what it wants | `hops::every_401_says_what_it_wants` |
//! | P-25 | redirects are the client's | `proxy::redirects_are_the_clients_to_follow` |
//! | P-26 | certificates of upstreams are verified | `upstreams::tls::a_certificate_that_is_not_good_is_not_taken` |
//! | P-27 | both cookies arrive behind another proxy, and no script reads them | `front_proxies::curl_stays_signed_in`, `front_proxies::no_script_can_read_a_token` |
//! | C-6 | no cookie of ours comes from an upstream | `answers::no_spelling_sets_a_cookie_of_ours` |

mod answers;
mod framing;
mod hops;
mod recorder;
mod targets;

use std::net::SocketAddr;
use std::time::Duration;

use sekisho::server::ServerLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::recorder::StrictUpstream;
use crate::support::gateway::{TestGateway, TestGatewayBuilder, route};

/// The program on a socket.
struct RawServer {
    gateway: TestGateway,
    address: SocketAddr,
}

impl RawServer {
    /// With these routes.
    async fn start(toml: impl AsRef<str>) -> Self {
        let gateway = TestGatewayBuilder::new(toml).start().await;
        let address = gateway.listen(ServerLimits::default()).await;
        Self { gateway, address }
    }

    /// In front of this upstream, open to anyone.
    async fn open(upstream: &str) -> Self {
        Self::start(route("/", upstream, "auth = \"none\"")).await
    }

    /// Writes these bytes and reads until the program closes the connection, which it must do.
    async fn say(&self, bytes: impl AsRef<[u8]>) -> RawResponse {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(bytes.as_ref()).await.unwrap();
        let mut answer = Vec::new();
        // A connection that is closed with bytes unread is reset.
        let closed = timeout(Duration::from_secs(10), socket.read_to_end(&mut answer)).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(closed.is_ok(), "the connection stays open after {text:?}");
        RawResponse(text)
    }

    /// Asks once, with these header lines, each ending in `\r\n`.
    async fn get(&self, target: &str, headers: &str) -> RawResponse {
        self.say(format!("GET {target} HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n{headers}\r\n"))
            .await
    }
}

/// All that came back on a connection.
#[derive(Debug)]
struct RawResponse(String);

impl RawResponse {
    /// The status of the only answer; 0 if there is none.
    #[track_caller]
    fn status(&self) -> u16 {
        let answers: Vec<_> = self.0.match_indices("HTTP/1.1 ").collect();
        assert!(answers.len() <= 1, "{}", self.0);
        self.0.get(9..12).map_or(0, |status| status.parse().unwrap())
    }

    fn head(&self) -> &str {
        self.0.split("\r\n\r\n").next().unwrap_or_default()
    }

    fn body(&self) -> &str {
        self.0.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    /// All values of a header of the first answer.
    fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head().lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

/// The last request of a connection, which shows that what came before has ended where it should.
const LAST: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// The table above is read by people who trust it.
#[test]
fn the_table_names_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let rows = include_str!("mod.rs")
        .lines()
        .filter(|line| line.starts_with("//! | P-") || line.starts_with("//! | C-"));
    let mut named = 0;
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
            named += 1;
        }
    }
    assert!(named > 20, "the table was not read");
    for id in 1..=27 {
        assert!(include_str!("mod.rs").contains(&format!("//! | P-{id} | ")), "P-{id} has no test");
    }
}
