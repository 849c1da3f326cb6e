//! Connections that stay open: WebSockets, other upgrades and event streams.

mod admitted;
mod events;
mod passed;
mod processes;
mod told;
mod unread;

use std::sync::Arc;

use sekisho::identity::SessionId;
use sekisho::proxy::{LongLivedStreams, RouteSpec};
use sekisho::session_event::{SessionEndFuture, SessionEvent};
use tokio::sync::watch;

use crate::support::front::Front;

/// Ends all sessions, of which streams are told.
#[derive(Clone)]
struct End(Arc<watch::Sender<Option<SessionEvent>>>);

impl End {
    /// A front to this upstream, for a user whose session is still to end.
    fn of(spec: RouteSpec) -> (Front, Self) {
        let end = Self(Arc::new(watch::Sender::new(None)));
        let ended = end.clone();
        let watch = move |_: SessionId| -> SessionEndFuture {
            let mut event = ended.0.subscribe();
            Box::pin(async move { event.wait_for(Option::is_some).await.unwrap().unwrap() })
        };
        let front = Front::new([spec]).signed_in(&["user"]);
        (Front { streams: LongLivedStreams::new(Arc::new(watch)), ..front }, end)
    }

    fn now(&self, event: SessionEvent) {
        self.0.send_replace(Some(event));
    }
}
