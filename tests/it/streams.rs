//! Connections and calls that stay open: WebSockets, other upgrades, event streams and gRPC streams.

mod events;
mod forwarding;
mod grpc;
mod idle_expiry;
mod origin_check;
mod processes;
mod session_end;
mod slow_reader;

use std::sync::Arc;

use sekisho::identity::SessionId;
use sekisho::long_lived_streams::LongLivedStreams;
use sekisho::proxy::RouteSpec;
use sekisho::session_event::{SessionEndFuture, SessionEvent};
use tokio::sync::watch;

use crate::support::proxy_server::ProxyServer;

/// A session watcher that ends all sessions at once.
#[derive(Clone)]
struct SessionEndTrigger(Arc<watch::Sender<Option<SessionEvent>>>);

impl SessionEndTrigger {
    /// Builds a proxy to this upstream for a signed-in user, and the trigger that ends the session.
    fn proxy_with_trigger(spec: RouteSpec) -> (ProxyServer, Self) {
        let trigger = Self(Arc::new(watch::Sender::new(None)));
        let ended = trigger.clone();
        let watch = move |_: SessionId| -> SessionEndFuture {
            let mut event = ended.0.subscribe();
            Box::pin(async move { event.wait_for(Option::is_some).await.unwrap().unwrap() })
        };
        let proxy = ProxyServer::new([spec]).signed_in(&["user"]);
        (ProxyServer { streams: LongLivedStreams::new(Arc::new(watch)), ..proxy }, trigger)
    }

    fn fire(&self, event: SessionEvent) {
        self.0.send_replace(Some(event));
    }
}
