//! Wrong sign-ins at a constant rate.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::interval;

use super::super::Load;
use super::super::client::{Client, Protocol, RequestError};
use super::super::settings::{Attack, client_user};

/// Sends wrong sign-ins, from each address in turn.
pub(super) async fn run(load: Arc<Load>) {
    let addresses = usize::from(load.settings.addresses);
    let idle: Arc<[_]> = (0..addresses).map(|_| IdleClients::default()).collect();
    let concurrent = Arc::new(Semaphore::new(MAX_CONCURRENT));
    let mut ticks = interval(Duration::from_secs(1) / load.settings.wrong_sign_ins_per_second);
    for number in 0.. {
        ticks.tick().await;
        // Beyond the limit, all of them wait for the gateway.
        let Ok(permit) = Arc::clone(&concurrent).try_acquire_owned() else { continue };
        let (load, idle) = (Arc::clone(&load), Arc::clone(&idle));
        tokio::spawn(async move {
            sign_in(&load, &idle[number % addresses], number).await;
            drop(permit);
        });
    }
}

/// Clients of an address whose connections are not in use.
#[derive(Default)]
struct IdleClients(Mutex<Vec<Client>>);

impl IdleClients {
    fn take(&self) -> Option<Client> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, client: Client) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    }
}

async fn sign_in(load: &Load, idle: &IdleClients, number: usize) {
    let mut client = idle.take().unwrap_or_else(|| {
        load.stats.count(Attack::WrongSignIns, |record| record.connections += 1);
        Client::new(load.gateway, load.settings.hostile_address(number), Protocol::Http1)
    });
    // Half of the users exist.
    let user = if number.is_multiple_of(2) {
        client_user(number % 50)
    } else {
        format!("unknown-{number}@load.example")
    };
    load.stats.count(Attack::WrongSignIns, |record| record.requests += 1);
    let result = client.sign_in(&user, "a wrong password", RESPONSE_TIMEOUT).await;
    let status = match result {
        Ok(()) => Some(200),
        Err(RequestError::Status { status, .. }) => Some(status),
        Err(_) => None,
    };
    load.stats.count_end(Attack::WrongSignIns, status);
    idle.put(client);
}

/// Maximum number of sign-ins that wait for a response.
const MAX_CONCURRENT: usize = 2_000;
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
