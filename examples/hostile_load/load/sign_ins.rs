//! Honest sign-ins.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use super::Load;
use super::client::{Client, Protocol};
use super::settings::{PASSWORD, new_user};
use super::stats::Kind;

/// Signs a known client in again and again. It sends the cookies of its last session.
pub(super) async fn sign_in_repeatedly(load: Arc<Load>, mut client: Client, user: String) {
    sleep(load.settings.sign_ins_from).await;
    while load.is_running() {
        sign_in(&load, Kind::KnownSignIn, &mut client, &user).await;
        client.disconnect();
        sleep(KNOWN_INTERVAL).await;
    }
}

/// Signs in at a constant rate, each time from an address that no client has used before.
pub(super) async fn sign_in_from_new_addresses(load: Arc<Load>) {
    sleep(load.settings.sign_ins_from).await;
    let mut sign_ins = JoinSet::new();
    let mut ticks = interval(Duration::from_secs(1) / load.settings.new_sign_ins_per_second);
    for number in 0.. {
        ticks.tick().await;
        if !load.is_running() {
            break;
        }
        let load = Arc::clone(&load);
        sign_ins.spawn(async move {
            let mut client = Client::new(load.gateway, new_address(number), Protocol::Http1);
            sign_in(&load, Kind::NewSignIn, &mut client, &new_user(number)).await;
        });
    }
    sign_ins.join_all().await;
}

async fn sign_in(load: &Load, kind: Kind, client: &mut Client, user: &str) {
    let sent = Instant::now();
    let result = client.sign_in(user, PASSWORD, load.settings.sign_in_timeout).await;
    load.stats.record(kind, load.elapsed(), sent.elapsed(), &result);
}

fn new_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 2, (number / 250) as u8, 1 + (number % 250) as u8)
}

const KNOWN_INTERVAL: Duration = Duration::from_secs(3);
