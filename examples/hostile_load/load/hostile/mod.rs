//! Hostile clients.

mod http2;
mod slow_http1;
mod wrong_sign_ins;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use self::http2::HostileHttp2;
use super::Load;
use super::settings::Attack;

/// Runs all attacks. Never completes.
pub(super) async fn run(load: Arc<Load>) {
    let mut clients = JoinSet::new();
    for attack in load.settings.attacks.clone() {
        start(&load, attack, &mut clients);
    }
    clients.join_all().await;
    std::future::pending().await
}

fn start(load: &Arc<Load>, attack: Attack, clients: &mut JoinSet<()>) {
    let settings = &load.settings;
    match attack {
        Attack::SlowHttp2 => {
            spawn_each(clients, settings.slow_http2_connections, HTTP2_START, |client| {
                HostileHttp2::slow_bodies(load, client).run()
            });
        }
        Attack::SlowHttp1 => {
            spawn_each(clients, settings.slow_http1_connections, HTTP1_START, |client| {
                slow_http1::send_slow_bodies(Arc::clone(load), client)
            });
        }
        Attack::Unread => {
            spawn_each(clients, settings.unread_connections, HTTP2_START, |client| {
                HostileHttp2::unread_responses(load, client).run()
            });
        }
        Attack::Hung => {
            spawn_each(clients, settings.hung_connections, HTTP2_START, |client| {
                HostileHttp2::hung_upstream(load, client).run()
            });
        }
        Attack::WrongSignIns => drop(clients.spawn(wrong_sign_ins::run(Arc::clone(load)))),
    }
}

/// Spawns a number of clients, one after the other within `ramp` after its start.
fn spawn_each<F>(clients: &mut JoinSet<()>, count: usize, ramp: Ramp, client: impl Fn(usize) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    for number in 0..count {
        let delay = ramp.start + ramp.duration.mul_f64(number as f64 / count as f64);
        let client = client(number);
        clients.spawn(async move {
            sleep(delay).await;
            client.await;
        });
    }
}

/// The time in which the clients of an attack connect first.
#[derive(Clone, Copy)]
struct Ramp {
    start: Duration,
    duration: Duration,
}

/// HTTP/1.1 clients start last: they would use up the connections of an address.
const HTTP2_START: Ramp = Ramp { start: Duration::from_millis(200), duration: Duration::from_millis(300) };
const HTTP1_START: Ramp = Ramp { start: Duration::from_millis(500), duration: Duration::from_secs(2) };
