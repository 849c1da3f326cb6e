//! Restarts of the database server cause no sign-out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::db::DatabaseLocation;
use crate::support::iterations::{rng_for, rounds};
use crate::support::postgres::{Server, Stop};
use crate::support::process::{TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;

/// Two replicas. `SEKISHO_TEST_RESTARTS` sets the number of restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_restart_causes_no_sign_out() {
    let restarts = rounds("SEKISHO_TEST_RESTARTS", 2);
    let mut random = rng_for("database restarts");
    let Some(server) = tokio::task::spawn_blocking(Server::start).await.unwrap() else { return };
    let server = Arc::new(server);
    let deployment = TestDeployment::new(DatabaseLocation::at(&server.url)).await;
    deployment.user("ann@example.com", "user").await;
    let replicas = [deployment.serve().await, deployment.serve().await];
    let addresses = [replicas[0].public, replicas[1].public];
    let counts = Arc::new(Counts::default());
    let mut pages = JoinSet::new();
    for nth in 0..PAGES {
        let browser = SocketBrowser::signed_in(addresses[nth % 2], "ann@example.com").await;
        let page = Page { nth, browser, counts: Arc::clone(&counts) };
        pages.spawn(page.poll(addresses));
    }
    for round in 0..restarts {
        let mode = if round % 2 == 0 { Stop::Immediate } else { Stop::Fast };
        until_each_page_is_served(&counts, &mut pages).await;
        tokio::time::sleep(Duration::from_micros(random.u64(..1_000_000))).await;
        let stopped = Instant::now();
        let restarting = Arc::clone(&server);
        tokio::task::spawn_blocking(move || restarting.restart(mode)).await.unwrap();
        let (back, down) = (Instant::now(), stopped.elapsed());
        until_each_page_is_served(&counts, &mut pages).await;
        println!("round {round}: {mode:?}, down for {down:?}; all pages answered {:?} later", back.elapsed());
    }
    counts.enough.store(true, Ordering::Relaxed);
    pages.join_all().await;
    println!("{restarts} restarts: {counts:?}");
    for replica in replicas {
        replica.stop().await;
    }
}

/// A page that polls both replicas in turn.
struct Page {
    nth: usize,
    browser: SocketBrowser,
    counts: Arc<Counts>,
}

impl Page {
    async fn poll(mut self, replicas: [SocketAddr; 2]) {
        let mut ticks = tokio::time::interval(Duration::from_millis(25));
        for tick in 0.. {
            ticks.tick().await;
            if self.counts.enough.load(Ordering::Relaxed) {
                return;
            }
            // Half of the pages send the refresh token alone, as after an idle night.
            if self.nth.is_multiple_of(2) {
                self.browser.cookies.remove("__Host-access_token");
            }
            let had = self.browser.cookies.clone();
            let response = self.browser.get(replicas[tick % 2], "/auth/session").await;
            match response.status.as_u16() {
                200 => self.counts.record(self.nth, response.event()),
                503 => {
                    assert!(response.header("retry-after").is_some(), "{response:?}");
                    // If the database is lost after a refresh, the 503 still carries the new cookies.
                    let refreshed = matches!(response.event(), Some("rotated" | "replayed" | "caught_up"));
                    assert!(refreshed || self.browser.cookies == had, "{response:?}");
                    assert!(self.browser.cookies.contains_key("__Host-refresh_token"), "{response:?}");
                    self.counts.unavailable.fetch_add(1, Ordering::Relaxed);
                }
                _ => panic!("page {}: {response:?}", self.nth),
            }
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    pages: [AtomicU64; PAGES],
    rotated: AtomicU64,
    caught_up: AtomicU64,
    unavailable: AtomicU64,
    enough: AtomicBool,
}

impl Counts {
    fn record(&self, page: usize, event: Option<&str>) {
        self.pages[page].fetch_add(1, Ordering::Relaxed);
        let count = match event {
            Some("rotated") => &self.rotated,
            Some("caught_up") => &self.caught_up,
            _ => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn responses(&self) -> [u64; PAGES] {
        std::array::from_fn(|page| self.pages[page].load(Ordering::Relaxed))
    }
}

/// Waits until each page has received another response.
async fn until_each_page_is_served(counts: &Counts, pages: &mut JoinSet<()>) {
    let before = counts.responses();
    until("a response for each page", async || {
        if let Some(ended) = pages.try_join_next() {
            ended.unwrap();
        }
        counts.responses().iter().zip(before).all(|(now, before)| *now > before).then_some(())
    })
    .await;
}

const PAGES: usize = 12;
