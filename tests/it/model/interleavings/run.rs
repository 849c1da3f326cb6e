//! Runs one order of moves. Each move is made once all tasks wait.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use sekisho::client_info::ClientInfo;
use sekisho::clock::ManualClock;
use sekisho::layer::{RefreshError, RefreshRequest};
use sekisho::models::audit::AuditEvent;
use sekisho::models::session::{EndReason, Session, SessionKind, TokenId};
use sekisho::services::jwt::AccessTokens;
use sekisho::services::keys::{Algorithm, KeyRing, SharedKeys};
use sekisho::services::refresh_token;
use sekisho::services::store::{AuditStore, NewSession, SessionStore};
use sekisho::services::token::{IssuedSession, SessionSettings, Tokens};
use sekisho::session_event::SessionEvent;
use time::OffsetDateTime;
use tokio::runtime::Builder;
use tokio::task::{AbortHandle, JoinHandle};
use uuid::Uuid;

use super::gated::GatedStore;
use super::{Holder, InterleavingConfig};
use crate::model::store::{Store, at};

const ACCESS_TTL: Duration = Duration::from_secs(15 * 60);

/// Longer than the time for which results are cached.
const PAUSE: Duration = Duration::from_secs(6);

/// A session with expired access tokens, and the refresh requests of two clients.
pub(super) struct SessionFixture {
    keys: Arc<SharedKeys>,
    session: Session,
    owner: RefreshRequest,
    thief: RefreshRequest,
    now: OffsetDateTime,
}

impl SessionFixture {
    pub(super) fn new() -> Self {
        let keys = KeyRing::generate(Algorithm::Hs256, at(0)).unwrap();
        let day = Duration::from_secs(86_400);
        let session = Store::default().new_session(0, SessionKind::Browser, at(0), day, day);
        let request = |id: u128| {
            let id = TokenId(Uuid::from_u128(id));
            let (access, _) = AccessTokens::default().mint(keys.signing(at(0)), &session, id, at(0)).unwrap();
            RefreshRequest {
                refresh_token: refresh_token::mint(keys.signing(at(0)), session.id, session.generation),
                access_token: Some(access),
                ..RefreshRequest::default()
            }
        };
        let owner = request(1);
        let thief = request(2);
        Self { keys: Arc::new(SharedKeys::new(keys)), session, owner, thief, now: at(0) + ACCESS_TTL }
    }
}

/// Runs one order. `choose` picks one of the given number of moves at each turn.
pub(super) fn run(
    fixture: &SessionFixture,
    config: &InterleavingConfig,
    choose: impl FnMut(usize) -> usize,
) -> Result<(), String> {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut interleaving = Interleaving::new(fixture, config).await;
        let result = interleaving.run(choose).await;
        result.map_err(|error| format!("{error}\n{config:?}: {:#?}", interleaving.moves))
    })
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Refresh,
    SignOut,
    Open { gate: usize },
    Fail { gate: usize },
    Disconnect { request: usize },
    Pause,
    Poll { replica: usize },
}

struct Interleaving<'a> {
    fixture: &'a SessionFixture,
    /// The remaining requests and faults.
    config: InterleavingConfig,
    store: Arc<GatedStore>,
    clock: Arc<ManualClock>,
    replicas: Vec<Replica>,
    requests: Vec<RefreshInFlight>,
    sign_out: Option<(usize, JoinHandle<bool>)>,
    /// The client for which the session was refreshed.
    refreshed_for: Option<Holder>,
    /// The moves so far.
    moves: Vec<Move>,
}

struct Replica {
    tokens: Tokens,
    poller: AbortHandle,
    /// True if it has polled or read the session's termination.
    knows_termination: bool,
}

struct RefreshInFlight {
    holder: Holder,
    replica: usize,
    /// True if its replica knew of the termination when it arrived.
    after_termination: bool,
    /// True if the store has failed while it was in flight.
    store_failed: bool,
    running: Option<JoinHandle<Result<IssuedSession, RefreshError>>>,
}

impl Drop for Interleaving<'_> {
    fn drop(&mut self) {
        for replica in &self.replicas {
            replica.poller.abort();
        }
    }
}

impl Replica {
    /// Polls at once, by restarting the poller.
    fn poll(&mut self) {
        self.poller.abort();
        self.poller = tokio::spawn(self.tokens.revocations().clone().run_poller()).abort_handle();
    }
}

impl<'a> Interleaving<'a> {
    async fn new(fixture: &'a SessionFixture, config: &InterleavingConfig) -> Self {
        let store = Arc::new(GatedStore::default());
        let new =
            NewSession { session: &fixture.session, hashed_password: None, replaces: None, max_per_user: 1 };
        store.inner.insert_session(&new).await.unwrap();
        let clock = Arc::new(ManualClock::new(fixture.now));
        let last = config.requests.iter().map(|(replica, _)| *replica).chain(config.sign_out).max();
        let replicas = (0..=last.unwrap_or_default()).map(|_| {
            let (store, keys, clock) = (Arc::clone(&store), Arc::clone(&fixture.keys), Arc::clone(&clock));
            let tokens =
                Tokens::new(store, keys, AccessTokens::default(), SessionSettings::default(), clock as _);
            let poller = tokio::spawn(tokens.revocations().clone().run_poller()).abort_handle();
            Replica { tokens, poller, knows_termination: false }
        });
        let replicas = replicas.collect();
        Self {
            fixture,
            config: config.clone(),
            store,
            clock,
            replicas,
            requests: Vec::new(),
            sign_out: None,
            refreshed_for: None,
            moves: Vec::new(),
        }
    }

    async fn run(&mut self, mut choose: impl FnMut(usize) -> usize) -> Result<(), String> {
        self.run_until_idle().await;
        let is_stolen = self.config.requests.iter().any(|(_, holder)| *holder == Holder::Thief);
        loop {
            let moves = self.possible_moves().await;
            if moves.is_empty() {
                break;
            }
            let chosen = moves[choose(moves.len())];
            self.moves.push(chosen);
            self.apply(chosen);
            self.run_until_idle().await;
            self.collect_responses(is_stolen).await?;
        }
        if let Some(waiting) = self.requests.iter().position(|request| request.running.is_some()) {
            return Err(format!("request {waiting} never completed"));
        }
        self.check_row(is_stolen).await?;
        self.check_replicas(is_stolen).await
    }

    async fn possible_moves(&self) -> Vec<Move> {
        let InterleavingConfig { requests, sign_out, disconnects, failures, pauses, polls } = &self.config;
        let mut moves = Vec::new();
        let running = self.requests.iter().any(|request| request.running.is_some());
        if !requests.is_empty() {
            moves.push(Move::Refresh);
        }
        if sign_out.is_some() {
            moves.push(Move::SignOut);
        }
        let waiting = self.store.waiting();
        moves.extend((0..waiting).map(|gate| Move::Open { gate }));
        if *failures > 0 {
            moves.extend((0..waiting).map(|gate| Move::Fail { gate }));
        }
        if *disconnects > 0 {
            let running = (0..self.requests.len()).filter(|&nth| self.requests[nth].running.is_some());
            moves.extend(running.map(|request| Move::Disconnect { request }));
        }
        // Only while they have an effect.
        if *pauses > 0 && (running || !requests.is_empty()) && !self.requests.is_empty() {
            moves.push(Move::Pause);
        }
        if *polls > 0 && !requests.is_empty() && self.row().await.end.is_some() {
            let uninformed =
                (0..self.replicas.len()).filter(|&replica| !self.replicas[replica].knows_termination);
            moves.extend(uninformed.map(|replica| Move::Poll { replica }));
        }
        moves
    }

    fn apply(&mut self, next: Move) {
        match next {
            Move::Refresh => {
                let (replica, holder) = self.config.requests.remove(0);
                self.start_refresh(replica, holder);
            }
            Move::SignOut => {
                let replica = self.config.sign_out.take().unwrap();
                let (tokens, session) = (self.replicas[replica].tokens.clone(), self.fixture.session.id);
                let ending = async move {
                    tokens
                        .end(session, EndReason::LoggedOut, &ClientInfo::default())
                        .await
                        .is_ok_and(|ended| ended)
                };
                self.sign_out = Some((replica, tokio::spawn(ending)));
            }
            Move::Open { gate } => self.store.open_gate(gate, true),
            Move::Fail { gate } => {
                self.config.failures -= 1;
                for request in &mut self.requests {
                    request.store_failed |= request.running.is_some();
                }
                self.store.open_gate(gate, false);
            }
            Move::Disconnect { request } => {
                self.config.disconnects -= 1;
                self.requests[request].running.take().unwrap().abort();
            }
            Move::Pause => {
                self.config.pauses -= 1;
                self.clock.advance(PAUSE);
            }
            Move::Poll { replica } => {
                self.config.polls -= 1;
                self.replicas[replica].poll();
                self.replicas[replica].knows_termination = true;
            }
        }
    }

    fn start_refresh(&mut self, replica: usize, holder: Holder) {
        let request = match holder {
            Holder::Owner => self.fixture.owner.clone(),
            Holder::Thief => self.fixture.thief.clone(),
        };
        let Replica { tokens, knows_termination, .. } = &self.replicas[replica];
        let (tokens, after_termination) = (tokens.clone(), *knows_termination);
        let refresh = async move { tokens.refresh_session(request, SessionKind::Browser).await };
        let running = Some(tokio::spawn(refresh));
        self.requests.push(RefreshInFlight {
            holder,
            replica,
            after_termination,
            store_failed: false,
            running,
        });
    }

    /// Lets all tasks run until they wait. Time does not advance.
    async fn run_until_idle(&self) {
        let mut unchanged = 0;
        let mut before = 0;
        while unchanged < 5 {
            tokio::task::yield_now().await;
            let now = self.store.arrivals();
            unchanged = if now == before { unchanged + 1 } else { 0 };
            before = now;
        }
    }

    async fn collect_responses(&mut self, is_stolen: bool) -> Result<(), String> {
        if self.sign_out.as_ref().is_some_and(|(_, ending)| ending.is_finished()) {
            let (replica, ending) = self.sign_out.take().unwrap();
            // Otherwise the session was terminated already, and the poller will learn it.
            self.replicas[replica].knows_termination |= ending.await.unwrap();
        }
        for nth in 0..self.requests.len() {
            let done = self.requests[nth].running.as_ref().is_some_and(JoinHandle::is_finished);
            if done {
                let response = self.requests[nth].running.take().unwrap().await.unwrap();
                self.check(nth, response, is_stolen).await?;
            }
        }
        Ok(())
    }

    async fn check(
        &mut self,
        nth: usize,
        response: Result<IssuedSession, RefreshError>,
        is_stolen: bool,
    ) -> Result<(), String> {
        let RefreshInFlight { holder, replica, after_termination, store_failed, .. } = self.requests[nth];
        let end = self.row().await.end.map(|end| end.reason.event());
        let error = match response {
            Ok(_) if after_termination => {
                "was refreshed although its replica knew of the termination".to_owned()
            }
            Ok(issued) if issued.session.generation != 2 => format!("received {:?}", issued.session),
            Ok(_) if *self.refreshed_for.get_or_insert(holder) != holder => {
                "was refreshed, as the other client was".to_owned()
            }
            Ok(_) => return Ok(()),
            Err(RefreshError::SessionEnded { event: SessionEvent::ReuseDetected, .. }) if !is_stolen => {
                "was rejected as token reuse".to_owned()
            }
            Err(RefreshError::SessionEnded { event, .. }) if Some(event) == end => {
                self.replicas[replica].knows_termination = true;
                return Ok(());
            }
            Err(RefreshError::Unavailable) if store_failed => return Ok(()),
            Err(other) => format!("failed with {other}, and the session ended by {end:?}"),
        };
        Err(format!("request {nth} of the {holder:?} {error}"))
    }

    /// Checks that there is at most one successor and one reason for a termination.
    async fn check_row(&self, is_stolen: bool) -> Result<(), String> {
        let row = self.row().await;
        if row.rotations > 1 || row.generation > 2 {
            return Err(format!("more than one successor: {row:?}"));
        }
        let reused = row.end.is_some_and(|end| end.reason == EndReason::ReuseDetected);
        let entries = self.store.inner.session_audit(row.id, 100).await.unwrap();
        let ends: Vec<_> = entries.iter().filter(|entry| entry.event != AuditEvent::Login).collect();
        let expected: Vec<_> = row.end.iter().map(|end| AuditEvent::Ended(end.reason)).collect();
        let events: Vec<_> = ends.iter().map(|entry| entry.event).collect();
        if events != expected || reused && !is_stolen {
            return Err(format!("{row:?} and {ends:?}"));
        }
        Ok(())
    }

    /// Checks that every replica responds according to the row once no result is cached.
    async fn check_replicas(&mut self, is_stolen: bool) -> Result<(), String> {
        self.clock.advance(PAUSE);
        for replica in 0..self.replicas.len() {
            let nth = self.requests.len();
            self.start_refresh(replica, Holder::Owner);
            let ended = self.row().await.end.is_some();
            self.requests[nth].after_termination = ended;
            self.run_until_idle().await;
            while self.store.waiting() > 0 {
                self.store.open_gate(0, true);
                self.run_until_idle().await;
            }
            let Some(Ok(response)) = self.requests[nth].running.take().unwrap().now_or_never() else {
                return Err(format!("replica {replica} no longer responds"));
            };
            self.check(nth, response, is_stolen).await?;
        }
        self.check_row(is_stolen).await
    }

    async fn row(&self) -> Session {
        self.store.inner.find_session(self.fixture.session.id).await.unwrap().unwrap()
    }
}
