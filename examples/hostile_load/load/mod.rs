//! Hostile clients and honest clients of a real gateway.
//!
//! A `sekisho serve` process with a SQLite file, in front of an upstream in this process. All clients
//! connect over loopback, from addresses of 127.0.0.0/8 that tell them apart.
//!
//! # Hostile clients
//!
//! Without a session, from one address or from many. Each connects again soon after its connection was
//! closed, and sends its request again soon after it was refused.
//!
//! - **Slow bodies**, over HTTP/2 with 100 streams on each connection, and over HTTP/1.1: one byte in ten
//!   seconds, for the upstream of the honest clients and for the sign-in.
//! - **Clients that do not read** a large response of that upstream, over HTTP/2 with a window of one byte.
//! - **Requests to a hung upstream**, on another route.
//! - **Wrong sign-ins** at a constant rate, half of them for existing users.
//!
//! # Honest clients
//!
//! Each from an address of its own: **browsers** over HTTP/1.1 and HTTP/2 whose sessions are refreshed
//! often, **uploads** at different paces, **event streams**, **known clients** that hold session cookies and
//! sign in again, and **sign-ins from new addresses**. Sign-ins begin in the tenth second. All other
//! requests begin with the attack.
//!
//! # Bounds
//!
//! [`Bounds`] are checked at the end. The time of an upload is counted without its planned pauses, and the
//! time of an event is counted from its start at the upstream.

mod client;
mod error;
#[path = "../../race_lab/figures.rs"]
mod figures;
mod gateway;
mod honest;
mod hostile;
mod report;
mod settings;
mod sign_ins;
mod stats;
mod threads;
mod upstream;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::error::LoadError;
use self::gateway::Gateway;
use self::honest::HonestClients;
pub(crate) use self::report::{Bounds, Report};
pub(crate) use self::settings::{Attack, Settings};
use self::stats::Stats;
use self::threads::RuntimeThread;
use self::upstream::Upstream;

/// The state that all clients of a run share.
struct Load {
    settings: Settings,
    gateway: std::net::SocketAddr,
    stats: Stats,
    began: Instant,
}

impl Load {
    fn is_running(&self) -> bool {
        self.elapsed() < self.settings.duration
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Starts the gateway at `program`, runs all clients against it, and returns what they observed.
pub(crate) async fn run(settings: Settings, program: &Path) -> Result<Report, LoadError> {
    let upstream = Upstream::start()?;
    let gateway = Gateway::start(program, &settings.config(&upstream)).await?;
    gateway.import_users(&settings.users(), settings.bcrypt_cost).await?;
    let clients = HonestClients::sign_in(&settings, gateway.public).await?;
    let memory_before = gateway.peak_memory()?;
    let began = Instant::now();
    let load = Arc::new(Load { settings, gateway: gateway.public, stats: Stats::default(), began });
    let attack = RuntimeThread::start("hostile", hostile::run(Arc::clone(&load)));
    let attack = attack.map_err(LoadError::io("start a thread"))?;
    clients.run(&load).await;
    let took = load.elapsed();
    let peak_memory = gateway.peak_memory()?;
    let cpu_times = gateway.cpu_times()?;
    drop(attack);
    Ok(Report::new(&load, took, [memory_before, peak_memory], cpu_times))
}
