//! One order: moves are made one after the other, each when all that went before has come to rest.

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
use super::{InterleavingConfig, Who};
use crate::model::store::{Store, at};

const ACCESS_TTL: Duration = Duration::from_secs(15 * 60);

/// Longer than a result is remembered for.
const PAUSE: Duration = Duration::from_secs(6);

/// A session whose access tokens have expired, and what two jars hold of it.
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
        let (owner, thief) = (request(1), request(2));
        Self { keys: Arc::new(SharedKeys::new(keys)), session, owner, thief, now: at(0) + ACCESS_TTL }
    }
}

/// Plays one order, as `choose` picks one of so many moves at each turn.
pub(super) fn play(
    scene: &SessionFixture,
    cast: &InterleavingConfig,
    choose: impl FnMut(usize) -> usize,
) -> Result<(), String> {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut play = Interleaving::new(scene, cast).await;
        let played = play.all_the_way(choose).await;
        played.map_err(|wrong| format!("{wrong}\n{cast:?}: {:#?}", play.moves))
    })
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Ask,
    SignOut,
    Open { gate: usize },
    Fail { gate: usize },
    HangUp { request: usize },
    Pause,
    Poll { replica: usize },
}

struct Interleaving<'a> {
    scene: &'a SessionFixture,
    /// What is left to be done.
    cast: InterleavingConfig,
    store: Arc<GatedStore>,
    clock: Arc<ManualClock>,
    replicas: Vec<Replica>,
    requests: Vec<Asking>,
    sign_out: Option<(usize, JoinHandle<bool>)>,
    /// Whose cookies the session was renewed for.
    renewed: Option<Who>,
    /// What was done.
    moves: Vec<Move>,
}

struct Replica {
    tokens: Tokens,
    feed: AbortHandle,
    /// It has been told, or has found out, that the session is over.
    knows: bool,
}

struct Asking {
    who: Who,
    replica: usize,
    /// Its replica knew of the end when it came.
    too_late: bool,
    /// The store has failed while it was under way.
    excused: bool,
    running: Option<JoinHandle<Result<IssuedSession, RefreshError>>>,
}

impl Drop for Interleaving<'_> {
    fn drop(&mut self) {
        for replica in &self.replicas {
            replica.feed.abort();
        }
    }
}

impl Replica {
    /// A feed that begins looks at once; one that runs leaves the store in peace for a moment.
    fn look(&mut self) {
        self.feed.abort();
        self.feed = tokio::spawn(self.tokens.revocations().clone().run_poller()).abort_handle();
    }
}

impl<'a> Interleaving<'a> {
    async fn new(scene: &'a SessionFixture, cast: &InterleavingConfig) -> Self {
        let store = Arc::new(GatedStore::default());
        let new =
            NewSession { session: &scene.session, hashed_password: None, replaces: None, max_per_user: 1 };
        store.behind.insert_session(&new).await.unwrap();
        let clock = Arc::new(ManualClock::new(scene.now));
        let last = cast.requests.iter().map(|(replica, _)| *replica).chain(cast.sign_out).max();
        let replicas = (0..=last.unwrap_or_default()).map(|_| {
            let (store, keys, clock) = (Arc::clone(&store), Arc::clone(&scene.keys), Arc::clone(&clock));
            let tokens =
                Tokens::new(store, keys, AccessTokens::default(), SessionSettings::default(), clock as _);
            let feed = tokio::spawn(tokens.revocations().clone().run_poller()).abort_handle();
            Replica { tokens, feed, knows: false }
        });
        let replicas = replicas.collect();
        Self {
            scene,
            cast: cast.clone(),
            store,
            clock,
            replicas,
            requests: Vec::new(),
            sign_out: None,
            renewed: None,
            moves: Vec::new(),
        }
    }

    async fn all_the_way(&mut self, mut choose: impl FnMut(usize) -> usize) -> Result<(), String> {
        self.rest().await;
        let robbed = self.cast.requests.iter().any(|(_, who)| *who == Who::Thief);
        loop {
            let moves = self.possible().await;
            if moves.is_empty() {
                break;
            }
            let chosen = moves[choose(moves.len())];
            self.moves.push(chosen);
            self.make(chosen);
            self.rest().await;
            self.hear_answers(robbed).await?;
        }
        if let Some(waiting) = self.requests.iter().position(|request| request.running.is_some()) {
            return Err(format!("request {waiting} was never answered"));
        }
        self.check_row(robbed).await?;
        self.ask_again(robbed).await
    }

    async fn possible(&self) -> Vec<Move> {
        let InterleavingConfig { requests, sign_out, hang_ups, failures, pauses, polls } = &self.cast;
        let mut moves = Vec::new();
        let running = self.requests.iter().any(|request| request.running.is_some());
        if !requests.is_empty() {
            moves.push(Move::Ask);
        }
        if sign_out.is_some() {
            moves.push(Move::SignOut);
        }
        let waiting = self.store.waiting();
        moves.extend((0..waiting).map(|gate| Move::Open { gate }));
        if *failures > 0 {
            moves.extend((0..waiting).map(|gate| Move::Fail { gate }));
        }
        if *hang_ups > 0 {
            let running = (0..self.requests.len()).filter(|&nth| self.requests[nth].running.is_some());
            moves.extend(running.map(|request| Move::HangUp { request }));
        }
        // Only while they can make a difference.
        if *pauses > 0 && (running || !requests.is_empty()) && !self.requests.is_empty() {
            moves.push(Move::Pause);
        }
        if *polls > 0 && !requests.is_empty() && self.row().await.end.is_some() {
            let unaware = (0..self.replicas.len()).filter(|&replica| !self.replicas[replica].knows);
            moves.extend(unaware.map(|replica| Move::Poll { replica }));
        }
        moves
    }

    fn make(&mut self, next: Move) {
        match next {
            Move::Ask => {
                let (replica, who) = self.cast.requests.remove(0);
                self.ask(replica, who);
            }
            Move::SignOut => {
                let replica = self.cast.sign_out.take().unwrap();
                let (tokens, session) = (self.replicas[replica].tokens.clone(), self.scene.session.id);
                let ending = async move {
                    tokens
                        .terminate(session, EndReason::LoggedOut, &ClientInfo::default())
                        .await
                        .is_ok_and(|ended| ended)
                };
                self.sign_out = Some((replica, tokio::spawn(ending)));
            }
            Move::Open { gate } => self.store.open(gate, true),
            Move::Fail { gate } => {
                self.cast.failures -= 1;
                for request in &mut self.requests {
                    request.excused |= request.running.is_some();
                }
                self.store.open(gate, false);
            }
            Move::HangUp { request } => {
                self.cast.hang_ups -= 1;
                self.requests[request].running.take().unwrap().abort();
            }
            Move::Pause => {
                self.cast.pauses -= 1;
                self.clock.advance(PAUSE);
            }
            Move::Poll { replica } => {
                self.cast.polls -= 1;
                self.replicas[replica].look();
                self.replicas[replica].knows = true;
            }
        }
    }

    fn ask(&mut self, replica: usize, who: Who) {
        let request = match who {
            Who::Owner => self.scene.owner.clone(),
            Who::Thief => self.scene.thief.clone(),
        };
        let Replica { tokens, knows, .. } = &self.replicas[replica];
        let (tokens, too_late) = (tokens.clone(), *knows);
        let renewal = async move { tokens.refresh_session(request, SessionKind::Browser).await };
        let running = Some(tokio::spawn(renewal));
        self.requests.push(Asking { who, replica, too_late, excused: false, running });
    }

    /// Lets everything run until it waits for a move. No time passes.
    async fn rest(&self) {
        let (mut still, mut before) = (0, 0);
        while still < 5 {
            tokio::task::yield_now().await;
            let now = self.store.arrivals();
            still = if now == before { still + 1 } else { 0 };
            before = now;
        }
    }

    async fn hear_answers(&mut self, robbed: bool) -> Result<(), String> {
        if self.sign_out.as_ref().is_some_and(|(_, ending)| ending.is_finished()) {
            let (replica, ending) = self.sign_out.take().unwrap();
            // If another was faster, the feed will tell.
            self.replicas[replica].knows |= ending.await.unwrap();
        }
        for nth in 0..self.requests.len() {
            let done = self.requests[nth].running.as_ref().is_some_and(JoinHandle::is_finished);
            if done {
                let answer = self.requests[nth].running.take().unwrap().await.unwrap();
                self.check(nth, answer, robbed).await?;
            }
        }
        Ok(())
    }

    async fn check(
        &mut self,
        nth: usize,
        answer: Result<IssuedSession, RefreshError>,
        robbed: bool,
    ) -> Result<(), String> {
        let Asking { who, replica, too_late, excused, .. } = self.requests[nth];
        let end = self.row().await.end.map(|end| end.reason.event());
        let wrong = match answer {
            Ok(_) if too_late => {
                "was renewed although its replica knew that the session had ended".to_owned()
            }
            Ok(issued) if issued.session.generation != 2 => format!("was given {:?}", issued.session),
            Ok(_) if *self.renewed.get_or_insert(who) != who => "was renewed as the other jar was".to_owned(),
            Ok(_) => return Ok(()),
            Err(RefreshError::SessionEnded { event: SessionEvent::ReuseDetected, .. }) if !robbed => {
                "was taken for a thief's".to_owned()
            }
            Err(RefreshError::SessionEnded { event, .. }) if Some(event) == end => {
                self.replicas[replica].knows = true;
                return Ok(());
            }
            Err(RefreshError::Unavailable) if excused => return Ok(()),
            Err(error) => format!("was told {error}, and the session ended by {end:?}"),
        };
        Err(format!("request {nth}, of the {who:?}, {wrong}"))
    }

    /// At most one successor, and one reason for an end.
    async fn check_row(&self, robbed: bool) -> Result<(), String> {
        let row = self.row().await;
        if row.rotations > 1 || row.generation > 2 {
            return Err(format!("more than one successor: {row:?}"));
        }
        let reused = row.end.is_some_and(|end| end.reason == EndReason::ReuseDetected);
        let entries = self.store.behind.session_audit(row.id, 100).await.unwrap();
        let ends: Vec<_> = entries.iter().filter(|entry| entry.event != AuditEvent::Login).collect();
        let expected: Vec<_> = row.end.iter().map(|end| AuditEvent::Ended(end.reason)).collect();
        let told: Vec<_> = ends.iter().map(|entry| entry.event).collect();
        if told != expected || reused && !robbed {
            return Err(format!("{row:?} and {ends:?}"));
        }
        Ok(())
    }

    /// Once nothing is remembered, every replica says what the row says.
    async fn ask_again(&mut self, robbed: bool) -> Result<(), String> {
        self.clock.advance(PAUSE);
        for replica in 0..self.replicas.len() {
            let nth = self.requests.len();
            self.ask(replica, Who::Owner);
            let ended = self.row().await.end.is_some();
            self.requests[nth].too_late = ended;
            self.rest().await;
            while self.store.waiting() > 0 {
                self.store.open(0, true);
                self.rest().await;
            }
            let Some(Ok(answer)) = self.requests[nth].running.take().unwrap().now_or_never() else {
                return Err(format!("replica {replica} answers no more"));
            };
            self.check(nth, answer, robbed).await?;
        }
        self.check_row(robbed).await
    }

    async fn row(&self) -> Session {
        self.store.behind.find_session(self.scene.session.id).await.unwrap().unwrap()
    }
}
