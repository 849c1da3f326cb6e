//! Sizes of a run.

use std::net::Ipv4Addr;
use std::time::Duration;

use clap::ValueEnum;

use super::upstream::Upstream;

/// The behaviour of a group of hostile clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Attack {
    /// Slow request bodies over HTTP/2
    SlowHttp2,
    /// Slow request bodies over HTTP/1.1
    SlowHttp1,
    /// Large responses over HTTP/2 that are not read
    Unread,
    /// Requests to an upstream that does not respond
    Hung,
    /// Wrong sign-ins
    WrongSignIns,
}

impl Attack {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::SlowHttp2 => "slow HTTP/2 bodies",
            Self::SlowHttp1 => "slow HTTP/1.1 bodies",
            Self::Unread => "unread responses",
            Self::Hung => "hung upstream",
            Self::WrongSignIns => "wrong sign-ins",
        }
    }
}

/// Sizes of a run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) duration: Duration,
    /// Time of the first sign-ins.
    pub(crate) sign_ins_from: Duration,
    /// Number of addresses of the hostile clients.
    pub(crate) addresses: u8,
    pub(crate) attacks: Vec<Attack>,
    pub(crate) slow_http2_connections: usize,
    pub(crate) slow_http1_connections: usize,
    pub(crate) unread_connections: usize,
    pub(crate) hung_connections: usize,
    /// Number of requests on each HTTP/2 connection with slow bodies or to the hung upstream.
    pub(crate) streams: usize,
    /// Number of requests on each connection that does not read.
    pub(crate) unread_streams: usize,
    pub(crate) wrong_sign_ins_per_second: u32,
    /// Time between the bytes of a slow body.
    pub(crate) byte_interval: Duration,
    /// Time after which a hostile client repeats a refused connection or request.
    pub(crate) retry_interval: Duration,
    pub(crate) browsers: usize,
    pub(crate) uploads: usize,
    pub(crate) event_streams: usize,
    pub(crate) known_clients: usize,
    pub(crate) new_sign_ins_per_second: u32,
    /// Timeout of honest requests except sign-ins.
    pub(crate) request_timeout: Duration,
    pub(crate) sign_in_timeout: Duration,
    pub(crate) bcrypt_cost: u32,
    /// `tokens.access_ttl`; `session.grace` is half of it.
    pub(crate) access_ttl: Duration,
    /// Further lines of the configuration's section `server`.
    pub(crate) server_limits: &'static str,
}

impl Settings {
    /// Returns the sizes of the full load, with the default limits of the gateway.
    pub(crate) fn full(duration: Duration) -> Self {
        Self {
            duration,
            sign_ins_from: Duration::from_secs(10).min(duration / 3),
            addresses: 1,
            attacks: Attack::value_variants().to_vec(),
            slow_http2_connections: 100,
            slow_http1_connections: 3_000,
            unread_connections: 100,
            hung_connections: 20,
            streams: 100,
            unread_streams: 10,
            wrong_sign_ins_per_second: 200,
            byte_interval: Duration::from_secs(10),
            retry_interval: Duration::from_secs(5),
            browsers: 40,
            uploads: 8,
            event_streams: 10,
            known_clients: 10,
            new_sign_ins_per_second: 2,
            request_timeout: Duration::from_secs(10),
            sign_in_timeout: Duration::from_secs(5),
            bcrypt_cost: 10,
            access_ttl: Duration::from_secs(6),
            server_limits: "",
        }
    }

    /// Returns the sizes of a short form that does not depend on the speed of the machine.
    ///
    /// Each attack needs more than the lowered limits: 200 slow bodies over HTTP/2 and 50 over HTTP/1.1, 150
    /// requests to the hung upstream, 60 unread responses.
    pub(crate) fn short() -> Self {
        Self {
            addresses: 20,
            slow_http2_connections: 4,
            slow_http1_connections: 50,
            unread_connections: 6,
            hung_connections: 3,
            streams: 50,
            wrong_sign_ins_per_second: 30,
            byte_interval: Duration::from_secs(1),
            retry_interval: Duration::from_secs(1),
            browsers: 4,
            uploads: 2,
            event_streams: 2,
            known_clients: 2,
            new_sign_ins_per_second: 1,
            request_timeout: SLOW_MACHINE_TIMEOUT,
            sign_in_timeout: SLOW_MACHINE_TIMEOUT,
            // Password threads have a low priority, so that higher costs take seconds beside other tests.
            bcrypt_cost: 4,
            access_ttl: Duration::from_secs(4),
            server_limits: "max_in_flight = 100",
            ..Self::full(Duration::from_secs(8))
        }
    }

    /// Multiplies the number of hostile clients.
    pub(crate) fn scale_attacks(&mut self, scale: f64) {
        let scaled = |count: usize| ((count as f64 * scale).round() as usize).max(1);
        self.slow_http2_connections = scaled(self.slow_http2_connections);
        self.slow_http1_connections = scaled(self.slow_http1_connections);
        self.unread_connections = scaled(self.unread_connections);
        self.hung_connections = scaled(self.hung_connections);
        self.wrong_sign_ins_per_second =
            (f64::from(self.wrong_sign_ins_per_second) * scale).round().max(1.0) as u32;
    }

    /// Returns the address of a hostile client.
    pub(super) fn hostile_address(&self, client: usize) -> Ipv4Addr {
        Ipv4Addr::new(127, 200, 0, 1 + (client % usize::from(self.addresses)) as u8)
    }

    /// Returns the e-mail addresses of all users.
    pub(super) fn users(&self) -> Vec<String> {
        let clients = self.browsers + self.uploads + self.event_streams + self.known_clients;
        let own = (0..clients).map(client_user);
        own.chain((0..NEW_USERS).map(new_user)).collect()
    }

    /// Returns the configuration of the gateway.
    pub(super) fn config(&self, upstream: &Upstream) -> String {
        let Self { server_limits, access_ttl, bcrypt_cost, .. } = self;
        let Upstream { application, hung, .. } = upstream;
        let access_ttl = humantime::format_duration(*access_ttl);
        let grace = humantime::format_duration(self.access_ttl / 2);
        format!(
            r#"
[server]
listen = "127.0.0.1:0"
{server_limits}
[admin]
listen = "127.0.0.1:0"
[tokens]
access_ttl = "{access_ttl}"
leeway = "0s"
[session]
grace = "{grace}"
[login]
bcrypt_cost = {bcrypt_cost}
[[routes]]
path = "/app"
upstreams = ["http://{application}"]
auth = "optional"
[[routes]]
path = "/hung"
upstreams = ["http://{}", "http://{}"]
auth = "none"
"#,
            hung[0], hung[1]
        )
    }
}

/// Returns the e-mail address of an honest client's user.
pub(super) fn client_user(client: usize) -> String {
    format!("client-{client}@load.example")
}

/// Returns the e-mail address of the user of a sign-in from a new address.
pub(super) fn new_user(sign_in: usize) -> String {
    format!("new-{}@load.example", sign_in % NEW_USERS)
}

/// Number of users of sign-ins from new addresses, so that no user has too many sessions.
const NEW_USERS: usize = 50;

/// Timeout of the short form, for a machine that is busy with other tests.
pub(super) const SLOW_MACHINE_TIMEOUT: Duration = Duration::from_secs(30);

/// Password of every user.
pub(super) const PASSWORD: &str = "mountain-lantern-over-hakone";
