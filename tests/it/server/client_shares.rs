//! The shares of clients, users and routes in the limits on requests.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum_core::body::Body;
use http::{Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::db::sqlite_location;
use crate::support::process::{PROCESS_TIMEOUT, ServerProcess, TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;
use crate::support::test_server::{answer, read_until_closed};
use crate::support::upstream::{GatedUpstream, Upstream, listen, serve_any};

/// A gateway with `/` for signed-in users, `/open` and `/slow` for all, and routes whose responses are held back: `/held` for all,
/// `/held-users` for signed-in users, and `/hung0` to `/hung3` with default limits.
struct Fixture {
    server: ServerProcess,
    deployment: TestDeployment,
    held: GatedUpstream,
    slow: SlowUpstream,
    _healthy: Upstream,
}

/// An upstream that responds at once, except to `/slow`: to that it never responds.
struct SlowUpstream {
    address: SocketAddr,
    arrivals: mpsc::UnboundedReceiver<()>,
}

impl SlowUpstream {
    async fn start() -> Self {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let address = listen(move |socket| {
            let arrived = arrived.clone();
            serve_any(socket, move |request| {
                let arrived = arrived.clone();
                async move {
                    if request.uri().path() == "/slow" {
                        arrived.send(()).unwrap();
                        if !request.body().is_end_stream() {
                            request.into_body().collect().await.unwrap();
                            arrived.send(()).unwrap();
                        }
                        std::future::pending::<()>().await;
                    }
                    Response::new(Body::empty())
                }
            })
        })
        .await;
        Self { address, arrivals }
    }

    /// Waits for the heads of further requests to `/slow`, or the ends of their bodies.
    async fn arrived(&mut self, count: usize) {
        for _ in 0..count {
            let arrived = timeout(PROCESS_TIMEOUT, self.arrivals.recv()).await;
            arrived.expect("the request at the upstream").unwrap();
        }
    }
}

impl Fixture {
    /// Starts the gateway with these lines below `[server]`.
    async fn start(limits: &str) -> Self {
        let healthy = Upstream::start().await;
        let held = GatedUpstream::start().await;
        let slow = SlowUpstream::start().await;
        let mut deployment = TestDeployment::new(sqlite_location().await.unwrap()).await;
        deployment.set("tokens.access_ttl", "1h");
        deployment.forward_to(healthy.url());
        let config = deployment.config();
        let open = route("/open", &healthy.url(), "auth = \"none\"");
        let slow_route = route("/slow", &format!("http://{}", slow.address), "auth = \"none\"");
        let for_all = route("/held", &held.url(), "auth = \"none\"\nmax_in_flight = 1000");
        let for_users = route("/held-users", &held.url(), "max_in_flight = 1000");
        let with_defaults = "auth = \"none\"\nqueue_timeout = \"60s\"";
        let hung =
            ["/hung0", "/hung1", "/hung2", "/hung3"].map(|path| route(path, &held.url(), with_defaults));
        deployment.write(
            "sekisho.toml",
            &format!("{config}{open}{slow_route}{for_all}{for_users}{}", hung.concat()),
        );
        deployment.set_limits(limits);
        for user in ["ann@example.com", "bob@example.com"] {
            deployment.user(user, "user").await;
        }
        let server = deployment.serve().await;
        Self { server, deployment, held, slow, _healthy: healthy }
    }

    /// Sends requests that are held back, and waits until the upstream has them.
    async fn hold(&mut self, client: &Client, path: &str, count: usize) -> Vec<TcpStream> {
        let mut held = Vec::new();
        for _ in 0..count {
            held.push(client.send(self.server.public, path).await);
            timeout(PROCESS_TIMEOUT, self.held.arrived(1)).await.expect("the request at the upstream");
        }
        held
    }

    async fn metrics(&self) -> String {
        Client::at(1).get(self.server.admin, "/metrics").await
    }
}

impl TestDeployment {
    fn config(&self) -> String {
        std::fs::read_to_string(self.path("sekisho.toml")).unwrap()
    }

    /// Replaces the lines below `[server]` but the address.
    fn set_limits(&self, limits: &str) {
        let config = self.config();
        let (start, rest) = config.split_once("[server]\n").unwrap();
        let rest = &rest[rest.find("[admin]").unwrap()..];
        let server = format!("[server]\nlisten = \"127.0.0.1:0\"\n{limits}\n");
        self.write("sekisho.toml", &format!("{start}{server}{rest}"));
    }
}

fn route(path: &str, upstream: &str, lines: &str) -> String {
    format!("[[routes]]\npath = \"{path}\"\nupstreams = [\"{upstream}\"]\n{lines}\n")
}

/// A client with an address of its own.
#[derive(Clone)]
struct Client {
    address: IpAddr,
    /// Lines of the head.
    headers: String,
}

impl Client {
    /// Returns the client at 127.0.0.0 plus `number`.
    fn at(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        Self { address: IpAddr::from([127, 0, high, low]), headers: String::new() }
    }

    fn with(&self, header: &str) -> Self {
        Self { headers: format!("{}{header}\r\n", self.headers), ..self.clone() }
    }

    fn with_cookies_of(&self, browser: &SocketBrowser) -> Self {
        self.with(&format!("Cookie: {}", browser.cookie_header()))
    }

    async fn connect(&self, server: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((self.address, 0))).unwrap();
        socket.connect(server).await.unwrap()
    }

    async fn send(&self, server: SocketAddr, path: &str) -> TcpStream {
        let mut socket = self.connect(server).await;
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n", self.headers);
        socket.write_all(head.as_bytes()).await.unwrap();
        socket
    }

    /// Returns the whole response.
    async fn get(&self, server: SocketAddr, path: &str) -> String {
        read_until_closed(&mut self.send(server, path).await).await
    }

    async fn status(&self, server: SocketAddr, path: &str) -> String {
        let response = self.get(server, path).await;
        response.split(' ').nth(1).unwrap_or_default().to_owned()
    }
}

/// A1: one address could hold all requests in flight.
#[tokio::test]
async fn client_with_too_many_requests_in_flight_is_busy() {
    let limits =
        "max_in_flight = 100\nmax_in_flight_per_client = 5\nallowed_origins = [\"http://page.example\"]";
    let mut fixture = Fixture::start(limits).await;
    let server = fixture.server.public;
    let client = Client::at(0x0102);
    let mut held = fixture.hold(&client, "/held", 5).await;

    let refusal = client.with("Origin: http://page.example").get(server, "/open/refused").await;
    assert!(refusal.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{refusal}");
    for part in [
        "content-type: application/problem+json\r\n",
        "retry-after: 1\r\n",
        "x-request-id: ",
        "access-control-allow-origin: http://page.example\r\n",
        r#""code":"client_busy""#,
    ] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    // Sign-in too: the reserve is not for a client that is busy.
    assert_eq!(client.status(server, "/auth/session").await, "429");
    assert_eq!(Client::at(0x0103).status(server, "/open").await, "200");

    fixture.server.wait_for_log("load shed", 1).await;
    let log = fixture.server.log();
    let line = log.lines().find(|line| line.contains("load shed")).unwrap();
    assert!(line.contains("client_in_flight ") && line.contains("127.0.1.2 "), "{line}");
    assert_eq!(log.matches("load shed").count(), 1, "{log}");
    fixture.server.wait_for_log("/open/refused", 1).await;
    assert!(fixture.server.log().lines().any(|line| line.contains("/open/refused") && line.contains("429")));
    let metrics = fixture.metrics().await;
    let refused = r#"sekisho_requests_shed_total{limit="client_in_flight"} 2"#;
    assert!(metrics.contains(refused), "{metrics}");

    fixture.held.release(5);
    let response = answer(&mut held[0]).await;
    assert!(response.ends_with(GatedUpstream::ANSWER), "{response}");
    assert_eq!(client.status(server, "/open").await, "200");
}

/// A1: a share for each address does not help against many addresses.
#[tokio::test]
async fn many_clients_leave_places_for_others() {
    let mut fixture = Fixture::start("max_in_flight = 100\nmax_in_flight_per_client = 50").await;
    let server = fixture.server.public;
    let mut held = Vec::new();
    for number in (0x0200..0x02C8).cycle().take(600) {
        held.push(Client::at(number).send(server, "/held").await);
    }
    // Of 90 places, each client gets one, while the route may only hold as many as are free.
    timeout(PROCESS_TIMEOUT, fixture.held.arrived(40)).await.expect("requests at the upstream");
    for number in 0x0300..0x0314 {
        assert_eq!(Client::at(number).status(server, "/open").await, "200");
    }
    let mut browser = SocketBrowser::signed_in(server, "ann@example.com").await;
    assert_eq!(browser.status(server, "/").await, StatusCode::OK);
}

/// A1: bodies that arrived at the same time took more than all places, of the upstream and of the server.
#[tokio::test]
async fn bodies_that_arrive_together_leave_places_for_others() {
    let mut fixture = Fixture::start("max_in_flight = 100\nmin_body_rate = \"0\"").await;
    let server = fixture.server.public;
    let mut uploads = Vec::new();
    for number in (0x0200..0x020C).cycle().take(120) {
        let mut socket = Client::at(number).connect(server).await;
        let head = "POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx";
        socket.write_all(head.as_bytes()).await.unwrap();
        fixture.slow.arrived(1).await;
        uploads.push(socket);
    }
    for socket in &mut uploads {
        socket.write_all(b"x").await.unwrap();
    }
    fixture.slow.arrived(120).await;
    for number in 0x0300..0x030A {
        assert_eq!(Client::at(number).status(server, "/slow/not").await, "200");
        assert_eq!(Client::at(number).status(server, "/open").await, "200");
    }
    let mut browser = SocketBrowser::signed_in(server, "ann@example.com").await;
    assert_eq!(browser.status(server, "/").await, StatusCode::OK);
}

/// A1: three clients whose requests took long held all places of an upstream.
#[tokio::test]
async fn slow_requests_of_a_few_clients_leave_places_of_their_upstream() {
    let mut fixture = Fixture::start("max_in_flight = 100").await;
    let server = fixture.server.public;
    let mut held = Vec::new();
    // Of 12 open places and 13 others, of which each client holds as many as are free, or 4.
    for (number, places) in [(0x0201, 10), (0x0202, 2 + 7), (0x0203, 4)] {
        for _ in 0..places {
            held.push(Client::at(number).send(server, "/slow").await);
            fixture.slow.arrived(1).await;
        }
        // The next one waits in the queue.
        held.push(Client::at(number).send(server, "/slow").await);
    }
    for number in 0x0300..0x030A {
        assert_eq!(Client::at(number).status(server, "/slow/not").await, "200");
    }
}

/// A4: several routes that hung could hold all requests in flight, each with its share.
#[tokio::test]
async fn several_hung_routes_leave_places_for_others() {
    let mut fixture = Fixture::start("max_in_flight = 100\nmax_in_flight_per_client = 90").await;
    let server = fixture.server.public;
    let mut held = Vec::new();
    for number in 0..400_u16 {
        let path = format!("/hung{}", number / 100);
        held.push(Client::at(0x0400 + number).send(server, &path).await);
    }
    // Of 90 places, four routes leave a few.
    timeout(PROCESS_TIMEOUT, fixture.held.arrived(50)).await.expect("requests at the upstream");
    for number in 0x0800..0x080A {
        assert_eq!(Client::at(number).status(server, "/open").await, "200");
    }
    let mut browser = SocketBrowser::signed_in(server, "ann@example.com").await;
    assert_eq!(browser.status(server, "/").await, StatusCode::OK);
    let refusal = Client::at(0x0900).get(server, "/hung0").await;
    assert!(refusal.contains(r#""code":"upstream_busy""#), "{refusal}");
    let metrics = fixture.metrics().await;
    assert!(metrics.contains(r#"sekisho_requests_shed_total{limit="route"}"#), "{metrics}");
    fixture.server.wait_for_log("route=/hung", 1).await;
}

/// A4: a route that held as many places as were free was full for all clients, also for those without requests.
#[tokio::test]
async fn requests_of_others_do_not_make_a_route_full_for_a_client_without_any() {
    let mut fixture = Fixture::start("max_in_flight = 100").await;
    let server = fixture.server.public;
    let mut held = Vec::new();
    // Of 90 places, 30 stay free.
    for (path, first, count) in [("/held", 0x0400, 30), ("/hung0", 0x0500, 20), ("/hung1", 0x0600, 10)] {
        for number in first..first + count {
            held.extend(fixture.hold(&Client::at(number), path, 1).await);
        }
    }
    let refusal = Client::at(0x0400).get(server, "/held").await;
    assert!(refusal.contains(r#""code":"upstream_busy""#), "{refusal}");
    // Until the route holds half of the places.
    for number in 0x0700..0x070F {
        held.extend(fixture.hold(&Client::at(number), "/held", 1).await);
    }
    let refusal = Client::at(0x0800).get(server, "/held").await;
    assert!(refusal.contains(r#""code":"upstream_busy""#), "{refusal}");
    assert_eq!(Client::at(0x0800).status(server, "/open").await, "200");
}

/// A4: two routes that hung, each with requests from many addresses, could leave no place for a third one.
#[tokio::test]
async fn two_hung_routes_leave_places_for_a_third() {
    let mut fixture = Fixture::start("max_in_flight = 100").await;
    let server = fixture.server.public;
    let mut waiting = Vec::new();
    for number in 0..400_u16 {
        let path = format!("/hung{}", number % 2);
        waiting.push(Client::at(0x0400 + number).send(server, &path).await);
    }
    // Both have all requests that their upstreams take at a time; the others are queued.
    timeout(PROCESS_TIMEOUT, fixture.held.arrived(50)).await.expect("requests at the upstream");
    // An eighth of the places, of which a route may hold half.
    for number in 0x0800..0x0805 {
        waiting.extend(fixture.hold(&Client::at(number), "/held", 1).await);
    }
    assert_eq!(Client::at(0x0900).status(server, "/open").await, "200");
    let mut browser = SocketBrowser::signed_in(server, "ann@example.com").await;
    assert_eq!(browser.status(server, "/").await, StatusCode::OK);
}

/// A1: users behind one address share no limit.
#[tokio::test]
async fn users_of_one_address_have_shares_of_their_own() {
    let mut fixture = Fixture::start("max_in_flight = 100\nmax_in_flight_per_client = 4").await;
    let server = fixture.server.public;
    let (ann, _) = sign_in(server, "ann@example.com").await;
    let (bob, refresh_token) = sign_in(server, "bob@example.com").await;
    let _of_ann = fixture.hold(&ann, "/held-users", 4).await;
    let refusal = ann.get(server, "/").await;
    assert!(refusal.starts_with("HTTP/1.1 429") && refusal.contains(r#""code":"client_busy""#), "{refusal}");
    assert_eq!(bob.status(server, "/").await, "200");
    // Another session of the same user.
    let (second, _) = sign_in(server, "ann@example.com").await;
    assert_eq!(second.status(server, "/").await, "429");

    // The address itself is not full, until requests without a session fill it.
    let _anonymous = fixture.hold(&Client::at(1), "/held", 4).await;
    assert_eq!(Client::at(1).status(server, "/open").await, "429");
    assert_eq!(Client::at(1).with("Cookie: __Host-access_token=forged").status(server, "/").await, "429");
    assert_eq!(bob.status(server, "/").await, "200");
    // Without an access token, the session is refreshed.
    let response = Client::at(1).with(&format!("Cookie: {refresh_token}")).get(server, "/").await;
    assert!(response.starts_with("HTTP/1.1 200") && response.contains("x-session-event: "), "{response}");
    fixture.server.wait_for_log("load shed", 1).await;
    assert!(fixture.server.log().contains("user="), "{}", fixture.server.log());
}

/// Returns a client at 127.0.0.1 with the cookies of a new session, and the refresh token's cookie.
async fn sign_in(server: SocketAddr, email: &str) -> (Client, String) {
    let browser = SocketBrowser::signed_in(server, email).await;
    let name = "__Host-refresh_token";
    (Client::at(1).with_cookies_of(&browser), format!("{name}={}", browser.cookies[name]))
}

/// A1: streams and slow bodies, which are not in flight, had no limit for a client.
#[tokio::test]
async fn client_with_too_many_open_requests_is_busy() {
    let mut fixture =
        Fixture::start("max_open_per_client = 6\nmax_in_flight_per_client = 5\nmin_body_rate = \"0\"").await;
    let server = fixture.server.public;
    let client = Client::at(0x0102);
    let mut bodies = Vec::new();
    for _ in 0..6 {
        let mut socket = client.connect(server).await;
        let head = "POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx";
        socket.write_all(head.as_bytes()).await.unwrap();
        // In flight until the server has seen that the rest is missing.
        timeout(PROCESS_TIMEOUT, fixture.held.arrived(1)).await.expect("the request at the upstream");
        bodies.push(socket);
    }
    let refusal = client.get(server, "/open").await;
    assert!(refusal.starts_with("HTTP/1.1 429") && refusal.contains(r#""code":"client_busy""#), "{refusal}");
    assert_eq!(Client::at(0x0103).status(server, "/open").await, "200");
    let metrics = fixture.metrics().await;
    assert!(metrics.contains(r#"sekisho_requests_shed_total{limit="client_open"} 1"#), "{metrics}");
    bodies.pop();
    until("the request to end", async || (client.status(server, "/open").await == "200").then_some(())).await;
}

/// The numbers for a client follow the configuration, and requests in flight stay.
#[tokio::test]
async fn shares_follow_a_reload() {
    let mut fixture = Fixture::start("max_in_flight = 100\nmax_in_flight_per_client = 2").await;
    let server = fixture.server.public;
    let client = Client::at(0x0102);
    let mut held = fixture.hold(&client, "/held", 2).await;
    assert_eq!(client.status(server, "/open").await, "429");

    fixture.reload("max_in_flight = 100\nmax_in_flight_per_client = 4", 1).await;
    held.extend(fixture.hold(&client, "/held", 2).await);
    assert_eq!(client.status(server, "/open").await, "429");

    fixture.reload("max_in_flight = 100\nmax_in_flight_per_client = 1", 2).await;
    assert_eq!(client.status(server, "/open").await, "429");
    fixture.held.release(4);
    for socket in &mut held {
        assert!(answer(socket).await.ends_with(GatedUpstream::ANSWER));
    }
    until("the requests to end", async || (client.status(server, "/open").await == "200").then_some(()))
        .await;
    let _held = fixture.hold(&client, "/held", 1).await;
    assert_eq!(client.status(server, "/open").await, "429");
}

impl Fixture {
    async fn reload(&self, limits: &str, times: usize) {
        self.deployment.set_limits(limits);
        self.server.hang_up();
        self.server.wait_for_log("configuration reloaded", times).await;
    }
}

/// Requests of a front proxy count for the client that it names, and otherwise share half of the limit.
#[tokio::test]
async fn clients_behind_a_front_proxy_are_told_apart() {
    let limits = "max_in_flight = 100\nmax_in_flight_per_client = 4\ntrusted_proxies = [\"127.0.0.1\"]";
    let mut fixture = Fixture::start(limits).await;
    let server = fixture.server.public;
    let proxy = Client::at(1);
    let first = proxy.with("X-Forwarded-For: 192.0.2.1");
    let mut held = fixture.hold(&first, "/held", 4).await;
    assert_eq!(first.status(server, "/open").await, "429");
    assert_eq!(proxy.with("X-Forwarded-For: 192.0.2.2").status(server, "/open").await, "200");
    assert!(!fixture.server.log().contains("without the address"), "{}", fixture.server.log());

    // More than a client, less than half.
    held.extend(fixture.hold(&proxy, "/held", 20).await);
    assert_eq!(proxy.status(server, "/open").await, "200");
    fixture.server.wait_for_log("without the address of a client", 1).await;
    assert_eq!(fixture.server.log().matches("without the address").count(), 1, "once a minute");
    timeout(Duration::from_secs(5), fixture.metrics()).await.expect("the other listener is not affected");
}
