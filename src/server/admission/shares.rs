//! The shares of clients in the limits on requests.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::client::Client;
use super::report::{self, Holder, Limit};
use super::request_places::FreePlaces;
use crate::client_info::client_network;
use crate::client_share::{ClientCounts, ClientLoad, ClientShare};
use crate::identity::SessionId;
use crate::server::limits::ServerLimits;

/// Limits the requests of each client, so that no client, and no number of them, can hold all places.
///
/// A client may begin a request while it holds less than its limit, and less than half of the places that are free
/// (a dynamic threshold, Choudhury and Hahne 1998). `n` clients that take all they can get hold `1 / (n + 2)` of the
/// places each, and twice as many stay free.
///
/// The limits of all threads together are unknown until [`set_free_places`](Self::set_free_places); until then only
/// the numbers for a client apply. Clones refer to the same shares.
#[derive(Clone)]
pub struct ClientShares(Arc<Inner>);

struct Inner {
    /// Distinguishes the instances of a process in the caches of its threads.
    id: u64,
    max_in_flight: AtomicUsize,
    max_open: AtomicUsize,
    front_proxy_in_flight: AtomicUsize,
    front_proxy_open: AtomicUsize,
    free: OnceLock<FreePlaces>,
    /// For the ids of users. SipHash would take a hundredth of the instructions of a proxied request.
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// A client has as many requests as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client has too many requests")]
pub struct ClientBusy;

/// Part of the table of clients.
#[derive(Default)]
struct Shard {
    counts: HashMap<Key, Arc<ClientCounts>>,
    /// Size at which clients without requests are removed.
    sweep_size: usize,
}

/// A client in the table. A user is a hash of the id, because a comparison of texts costs more.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    FrontProxies,
    Session(SessionId),
    User(u64),
}

/// The highest numbers for a client.
#[derive(Clone, Copy)]
struct Maxima {
    in_flight: usize,
    open: usize,
}

impl ClientShares {
    /// Creates the shares of clients without requests.
    #[must_use]
    pub fn new(limits: &ServerLimits) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let shares = Self(Arc::new(Inner {
            id: NEXT_ID.fetch_add(1, Relaxed),
            max_in_flight: AtomicUsize::default(),
            max_open: AtomicUsize::default(),
            front_proxy_in_flight: AtomicUsize::default(),
            front_proxy_open: AtomicUsize::default(),
            free: OnceLock::new(),
            hasher: RandomState::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }));
        shares.set_limits(limits);
        shares
    }

    /// Replaces the limits. Requests beyond a lower limit are not ended.
    pub fn set_limits(&self, limits: &ServerLimits) {
        let Inner { max_in_flight, max_open, front_proxy_in_flight, front_proxy_open, .. } = &*self.0;
        max_in_flight.store(limits.in_flight_per_client, Relaxed);
        max_open.store(limits.open_per_client, Relaxed);
        front_proxy_in_flight.store(half(limits.in_flight), Relaxed);
        front_proxy_open.store(half(limits.max_open()), Relaxed);
    }

    /// Sets the places that the shares depend on. The first call wins.
    pub fn set_free_places(&self, free: FreePlaces) {
        let _ = self.0.free.set(free);
    }

    /// Counts a request of a client.
    ///
    /// # Errors
    ///
    /// [`ClientBusy`] if the client has as many requests as it may have.
    pub fn try_begin(&self, client: &Client, is_in_reserve: bool) -> Result<ClientShare, ClientBusy> {
        let key = self.key(client);
        let check = |load| self.check(self.maxima(key), load, is_in_reserve);
        ClientShare::try_begin(self.counts(key), is_in_reserve, check).map_err(|limit| {
            report::record_share(limit, || Holder::Client(client.clone()));
            ClientBusy
        })
    }

    /// Returns `true` if a route that holds `held` places may not hold another one.
    ///
    /// A route may hold as many places as are free. Requests of many clients could keep it there, so a client that has no
    /// other request in flight may go on until the route holds half of all places, or less than an eighth of them is
    /// free. One hung route leaves half of the places, two leave an eighth, and each further one half of the rest.
    #[must_use]
    pub fn is_route_full(&self, held: usize, is_only_request: impl FnOnce() -> bool) -> bool {
        let Some(free) = self.0.free.get() else { return false };
        if held == 0 || free.has_in_flight(held + 1) {
            return false;
        }
        let limit = free.in_flight_limit();
        held >= limit / 2 || !free.has_in_flight(limit.div_ceil(8)) || !is_only_request()
    }

    fn check(&self, maxima: Maxima, load: ClientLoad, is_in_reserve: bool) -> Result<(), Limit> {
        let free = self.0.free.get();
        let has_open = |places| free.is_none_or(|free| free.has_open(places));
        let has_in_flight = |places| match free {
            Some(free) if is_in_reserve => free.has_reserve(places),
            Some(free) => free.has_in_flight(places),
            None => true,
        };
        let held = if is_in_reserve { load.in_reserve } else { load.in_flight };
        if load.open >= maxima.open || !is_within_half(load.open, has_open) {
            return Err(Limit::ClientOpen);
        }
        let has_too_many = load.in_flight + load.in_reserve >= maxima.in_flight;
        if has_too_many || !is_within_half(held, has_in_flight) {
            return Err(Limit::ClientInFlight);
        }
        Ok(())
    }

    fn maxima(&self, key: Key) -> Maxima {
        let Inner { max_in_flight, max_open, front_proxy_in_flight, front_proxy_open, .. } = &*self.0;
        let (in_flight, open) = match key {
            Key::FrontProxies => (front_proxy_in_flight, front_proxy_open),
            _ => (max_in_flight, max_open),
        };
        Maxima { in_flight: in_flight.load(Relaxed), open: open.load(Relaxed) }
    }

    fn key(&self, client: &Client) -> Key {
        match client {
            Client::Address(address) => Key::Address(client_network(*address)),
            Client::FrontProxies => Key::FrontProxies,
            Client::Session(session) => Key::Session(*session),
            Client::User(user) => Key::User(self.0.hasher.hash_one(user)),
        }
    }

    /// Returns the numbers of a client, usually from the thread's cache.
    fn counts(&self, key: Key) -> Arc<ClientCounts> {
        let cached = CACHE.try_with(|cache| {
            let mut cache = cache.borrow_mut();
            let entry = &mut cache[key.fast_hash() % CACHE_SIZE];
            match entry {
                Some(entry) if entry.shares == self.0.id && entry.key == key => Arc::clone(&entry.counts),
                _ => {
                    let counts = self.look_up(key);
                    *entry = Some(CacheEntry { shares: self.0.id, key, counts: Arc::clone(&counts) });
                    counts
                }
            }
        });
        // The cache is gone while its thread ends.
        cached.unwrap_or_else(|_| self.look_up(key))
    }

    fn look_up(&self, key: Key) -> Arc<ClientCounts> {
        let shard = &self.0.shards[key.fast_hash() / CACHE_SIZE % SHARDS];
        shard.lock().get_or_insert(key)
    }
}

impl Shard {
    fn get_or_insert(&mut self, key: Key) -> Arc<ClientCounts> {
        if self.counts.len() >= self.sweep_size {
            // A request and a cache entry hold further references. Only a look-up, under this lock, adds one.
            self.counts.retain(|_, counts| Arc::strong_count(counts) > 1);
            self.sweep_size = (2 * self.counts.len()).max(MIN_SWEEP_SIZE);
        }
        Arc::clone(self.counts.entry(key).or_default())
    }
}

impl Key {
    /// Returns a hash that is fast to compute. Clients that choose their addresses can cause collisions, which cost a
    /// look-up.
    fn fast_hash(self) -> usize {
        let bits = match self {
            Self::Address(IpAddr::V4(address)) => u64::from(address.to_bits()),
            // The rest of the address is zero.
            Self::Address(IpAddr::V6(address)) => (address.to_bits() >> 64) as u64,
            Self::FrontProxies => 0,
            Self::Session(session) => session.0.as_u64_pair().1,
            Self::User(hash) => hash,
        };
        // Fibonacci hashing: the high bits depend on all others.
        (bits.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize
    }
}

/// Returns `true` if `held + 1` places are at most half of the free ones, or the first one.
fn is_within_half(held: usize, has_free: impl FnOnce(usize) -> bool) -> bool {
    held == 0 || has_free(2 * (held + 1))
}

fn half(limit: usize) -> usize {
    (limit / 2).max(1)
}

/// A client that a thread has counted lately.
struct CacheEntry {
    shares: u64,
    key: Key,
    counts: Arc<ClientCounts>,
}

thread_local! {
    static CACHE: RefCell<[Option<CacheEntry>; CACHE_SIZE]> = const { RefCell::new([const { None }; CACHE_SIZE]) };
}

const CACHE_SIZE: usize = 64;
const SHARDS: usize = 64;
const MIN_SWEEP_SIZE: usize = 64;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::server::admission::request_places::{Held, RequestPlaces};

    /// Limits with 1,000 places for requests in flight, without the reserve of 111, and 4,444 for open ones.
    fn limits() -> ServerLimits {
        ServerLimits {
            connections: 1_000,
            in_flight: 1_111,
            in_flight_per_client: 200,
            open_per_client: 500,
            ..ServerLimits::default()
        }
    }

    fn address(number: u32) -> Client {
        Client::Address(Ipv4Addr::from_bits(0x7F00_0000 + number).into())
    }

    /// Requests of clients that hold their places in the server and in the shares.
    struct Load {
        places: Arc<RequestPlaces>,
        shares: ClientShares,
        held: Vec<ClientShare>,
    }

    impl Load {
        fn new() -> Self {
            let limits = limits();
            let places = RequestPlaces::new(1, &limits);
            let shares = ClientShares::new(&limits);
            shares.set_free_places(places.free());
            Self { places, shares, held: Vec::new() }
        }

        fn begin(&mut self, client: &Client) -> bool {
            let Some(held) = self.places.try_begin(0) else { return false };
            match self.shares.try_begin(client, false) {
                Ok(share) => self.held.push(share),
                Err(ClientBusy) => {
                    self.places.end(held, 0);
                    return false;
                }
            }
            true
        }

        fn end(&mut self, index: usize) {
            drop(self.held.swap_remove(index));
            self.places.end(Held::Place, 0);
        }

        /// Begins requests until one is refused, and returns their number.
        fn fill(&mut self, client: &Client) -> usize {
            std::iter::repeat_with(|| self.begin(client)).take_while(|is_begun| *is_begun).count()
        }
    }

    /// A6: the configured number is the number.
    #[test]
    fn single_client_gets_the_configured_number() {
        let mut load = Load::new();
        assert_eq!(load.fill(&address(1)), 200);
        assert_eq!(load.fill(&address(2)), 200);
        load.end(0);
        assert_eq!(load.fill(&address(1)), 1);
    }

    /// A1: a share for each of 200 addresses left no place for others.
    #[test]
    fn many_clients_leave_places_for_others() {
        let mut load = Load::new();
        let mut random = fastrand::Rng::with_seed(11);
        // All begin as many requests as they can, one client after the other.
        (0..200).for_each(|number| _ = load.fill(&address(number)));
        // A request that ends is replaced at once.
        let mut step = |load: &mut Load| {
            load.end(random.usize(..load.held.len()));
            (0..20).for_each(|_| _ = load.begin(&address(random.u32(..200))));
        };
        (0..10_000).for_each(|_| step(&mut load));
        for _ in 0..10_000 {
            step(&mut load);
            assert!(load.begin(&address(1_000)), "no place is free");
            load.end(load.held.len() - 1);
        }
    }

    #[test]
    fn open_requests_are_limited_when_none_is_in_flight() {
        let mut load = Load::new();
        let client = address(1);
        for _ in 0..500 {
            assert!(load.begin(&client));
            load.held.last().expect("a share").end_in_flight();
            load.places.end(Held::Place, 0);
        }
        assert_eq!(load.fill(&client), 0);
        assert_eq!(load.shares.try_begin(&client, false).err(), Some(ClientBusy));
        load.held.clear();
        assert!(load.begin(&client));
    }

    #[test]
    fn front_proxies_share_half_of_the_limit() {
        let mut load = Load::new();
        let held = load.fill(&Client::FrontProxies);
        // Half of what is free: a third of all.
        assert!((330..=334).contains(&held), "{held}");
        let shares = ClientShares::new(&limits());
        let begin = || shares.try_begin(&Client::FrontProxies, false).ok();
        assert_eq!(std::iter::from_fn(begin).take(2_000).collect::<Vec<_>>().len(), 555);
    }

    #[test]
    fn ipv6_clients_count_by_network_and_users_by_id() {
        let limits = ServerLimits { in_flight_per_client: 1, ..limits() };
        let shares = ClientShares::new(&limits);
        let ipv6 = |text: &str| Client::Address(text.parse().expect("an address"));
        let _share = shares.try_begin(&ipv6("2001:db8::1"), false).expect("the first");
        assert!(shares.try_begin(&ipv6("2001:db8::2"), false).is_err());
        assert!(shares.try_begin(&ipv6("2001:db8:0:1::1"), false).is_ok());
        let user = |id: &str| Client::User(id.parse().expect("a subject"));
        let _share = shares.try_begin(&user("ann"), false).expect("the first");
        assert!(shares.try_begin(&user("ann"), false).is_err());
        assert!(shares.try_begin(&user("bob"), false).is_ok());
    }

    #[test]
    fn requests_in_the_reserve_have_shares_of_it() {
        let mut load = Load::new();
        for number in 0..1_000 {
            assert!(load.begin(&address(number)));
        }
        assert_eq!(load.places.try_begin(0), Some(Held::Reserve));
        // 110 places are left in the reserve.
        let begin = || load.shares.try_begin(&address(1), true).ok();
        assert_eq!(std::iter::from_fn(begin).take(200).collect::<Vec<_>>().len(), 55);
    }

    #[test]
    fn limits_change_while_requests_are_open() {
        let shares = ClientShares::new(&limits());
        let client = address(1);
        let mut held: Vec<_> = (0..200).filter_map(|_| shares.try_begin(&client, false).ok()).collect();
        assert_eq!(held.len(), 200);
        assert!(shares.try_begin(&client, false).is_err());
        shares.set_limits(&ServerLimits { in_flight_per_client: 201, ..limits() });
        held.extend(shares.try_begin(&client, false).ok());
        assert_eq!(held.len(), 201);
        shares.set_limits(&ServerLimits { in_flight_per_client: 10, ..limits() });
        held.truncate(10);
        assert!(shares.try_begin(&client, false).is_err());
        held.truncate(9);
        assert!(shares.try_begin(&client, false).is_ok());
    }

    #[test]
    fn route_may_hold_as_much_as_is_free() {
        let mut load = Load::new();
        let is_full = |load: &Load, held| load.shares.is_route_full(held, || false);
        assert!(!is_full(&load, 0));
        assert!(!is_full(&load, 499));
        (0..500).for_each(|number| _ = load.begin(&address(number)));
        assert!(!is_full(&load, 499));
        assert!(is_full(&load, 500));
    }

    /// A4: requests of other clients made a route full for a client without any.
    #[test]
    fn client_without_requests_may_use_a_route_that_holds_as_much_as_is_free() {
        let mut load = Load::new();
        (0..700).for_each(|number| _ = load.begin(&address(number)));
        assert!(load.shares.is_route_full(300, || false));
        assert!(!load.shares.is_route_full(300, || true));
        assert!(!load.shares.is_route_full(499, || true));
        assert!(load.shares.is_route_full(500, || true));
        (700..875).for_each(|number| _ = load.begin(&address(number)));
        assert!(!load.shares.is_route_full(300, || true));
        assert!(load.begin(&address(875)));
        assert!(load.shares.is_route_full(300, || true));
    }

    /// A4: routes that hang, each with requests of many clients, held all places.
    #[test]
    fn hung_routes_leave_places_for_others() {
        let mut load = Load::new();
        let mut clients = (0..).map(address);
        for expected in [500, 375, 62, 31] {
            let mut held = 0;
            for client in clients.by_ref().take(1_000) {
                assert!(load.begin(&client));
                if load.shares.is_route_full(held, || true) {
                    load.end(load.held.len() - 1);
                } else {
                    held += 1;
                }
            }
            assert_eq!(held, expected);
        }
    }

    #[test]
    fn clients_without_requests_are_forgotten() {
        let shares = ClientShares::new(&limits());
        for number in 0..100_000 {
            drop(shares.try_begin(&address(number), false));
        }
        let known: usize = shares.0.shards.iter().map(|shard| shard.lock().counts.len()).sum();
        assert!(known <= SHARDS * MIN_SWEEP_SIZE, "{known}");
    }
}
