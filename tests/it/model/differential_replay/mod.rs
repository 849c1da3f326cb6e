//! Replays a run of the model with the real layer, tokens and store: the same requests in the same order,
//! one at a time. Each must have the same response and leave the same row.

mod rows;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::thread;

use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{Request, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use sekisho::client_info::ClientInfo;
use sekisho::clock::ManualClock;
use sekisho::identity::Identity;
use sekisho::layer::{
    CookiePolicy, RefreshError, RefreshRequest, Reject401, SESSION_EVENT_HEADER, SilentRefreshLayer,
    TokenService,
};
use sekisho::models::session::{EndReason, SessionId, TokenId};
use sekisho::models::user::{Role, User, UserId};
use sekisho::services::jwt::{AccessTokens, JwtSettings};
use sekisho::services::keys::{Algorithm, KeyRing, SharedKeys};
use sekisho::services::memory::MemoryStore;
use sekisho::services::store::{PasswordChange, SessionFilter, SessionStore, UserStore};
use sekisho::services::token::{IssuedSession, SessionRequest, SessionSettings, SignInError, Tokens};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;
use tower::{Layer, Service, service_fn};
use uuid::Uuid;

use self::rows::{Difference, Unflushed, differ};
use super::coverage::CoverageEvent;
use super::script::{Script, Settings};
use super::store::{Store, USERS, at, hash, user, user_id};
use super::world::{Access, Cookies, Outcome, SessionResponse, TraceEvent, TraceRecord, World};
use super::{generators, run};

#[test]
fn real_tokens_match_the_model() {
    let all = run(generators::sequential, 1_000, replay);
    all.coverage.assert_at_least(&[
        (CoverageEvent::OldCookiesRestored, 150),
        (CoverageEvent::StoreCrashed, 20),
        (CoverageEvent::Rotated, 1_500),
        (CoverageEvent::Replayed, 600),
        (CoverageEvent::CaughtUp, 5),
        (CoverageEvent::Shared, 1_500),
        (CoverageEvent::EndedByReplacement, 500),
        (CoverageEvent::EndedByLimit, 20),
        (CoverageEvent::EndedByExpiry, 30),
        (CoverageEvent::EndedByPassword, 50),
        (CoverageEvent::ReuseAtRefresh, 60),
        (CoverageEvent::ReuseByFollower, 10),
        (CoverageEvent::ReuseAtConfirmation, 10),
        (CoverageEvent::AlreadyEnded, 20),
    ]);
}

/// Runs a script in the model and replays it with the real services. Fails at the first difference.
pub(super) fn replay(script: &Script) -> Result<Outcome, String> {
    let (outcome, trace, model) = World::trace(script);
    RealServices::new(&script.settings).replay(&trace, &model)?;
    outcome.violation.clone().map_or(Ok(outcome), Err)
}

/// The real store and replicas, with the model's ids of their tokens.
struct RealServices {
    runtime: Runtime,
    settings: Settings,
    store: MemoryStore,
    keys: Arc<SharedKeys>,
    replicas: Vec<Replica>,
    /// Sessions in the order of the model's rows.
    sessions: Vec<SessionId>,
    /// The cookies with each access token, by the model's id.
    cookies: HashMap<u128, String>,
    /// The model's ids of the real access tokens.
    ids: HashMap<TokenId, TokenId>,
    unflushed: Vec<Unflushed>,
}

struct Replica {
    tokens: Tokens,
    clock: Arc<ManualClock>,
    poller: AbortHandle,
}

impl RealServices {
    fn new(settings: &Settings) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let keys = Arc::new(SharedKeys::new(KeyRing::generate(Algorithm::Hs256, at(-86_400_000)).unwrap()));
        let mut services = Self {
            runtime,
            settings: settings.clone(),
            store: MemoryStore::default(),
            keys,
            replicas: Vec::new(),
            sessions: Vec::new(),
            cookies: HashMap::new(),
            ids: HashMap::new(),
            unflushed: Vec::new(),
        };
        let users: Vec<User> = (0..USERS).map(user).collect();
        now(services.store.insert_users(&users)).unwrap();
        services.replicas = settings.clocks.iter().map(|&ahead| services.replica(ahead)).collect();
        services
    }

    fn replica(&self, clock: i64) -> Replica {
        let Settings { access_ttl, leeway, grace, idle_ttl, absolute_ttl, max_per_user, .. } = self.settings;
        let access = JwtSettings {
            leeway: duration(leeway),
            future_iat: duration(grace) / 4,
            access_ttl: duration(access_ttl),
            access_ttl_jitter: 0.0,
            ..JwtSettings::default()
        };
        let settings = SessionSettings {
            access_ttl: duration(access_ttl),
            idle_ttl: duration(idle_ttl),
            absolute_ttl: duration(absolute_ttl),
            grace: duration(grace),
            max_per_user,
            refuse_on_store_loss: false,
        };
        let clock = Arc::new(ManualClock::new(at(clock)));
        let store = Arc::new(self.store.clone());
        let access = AccessTokens::new(access);
        let tokens = Tokens::new(store, Arc::clone(&self.keys), access, settings, Arc::clone(&clock) as _);
        let poller = self.runtime.spawn(tokens.revocations().clone().run_poller()).abort_handle();
        self.wait(async {});
        Replica { tokens, clock, poller }
    }

    /// Waits for a future and lets background tasks finish. Time does not advance.
    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            let output = future.await;
            for _ in 0..6 {
                tokio::task::yield_now().await;
            }
            output
        })
    }

    fn replay(mut self, trace: &[TraceRecord], model: &Store) -> Result<(), Difference> {
        for traced in trace {
            let TraceRecord { clock, ref what, .. } = *traced;
            self.set_clock(traced);
            self.apply(traced).map_err(|difference| format!("{difference}, after {what:?} at {clock} ms"))?;
        }
        self.compare(model)
    }

    fn set_clock(&self, traced: &TraceRecord) {
        let clock = &self.replicas[traced.replica].clock;
        clock.set(at(traced.clock));
        if let Some(set_at) = traced.set_at {
            clock.mark_set_at(at(set_at));
        }
    }

    fn apply(&mut self, traced: &TraceRecord) -> Result<(), Difference> {
        let TraceRecord { at, replica, clock, ref what, .. } = *traced;
        match what {
            TraceEvent::Responded { cookies, is_explicit, response: expected_response, fresh, row } => {
                let response = self.unflushed(at, |services| match is_explicit {
                    true => services.refresh_explicitly(replica, cookies, *fresh),
                    false => services.send_request(replica, clock, cookies, *fresh),
                });
                differ("response", &expected(*expected_response), &response)?;
                self.compare_row(row, cookies.session)
            }
            TraceEvent::SignedIn { user, password, replaces, fresh } => {
                let created = self.sign_in(replica, *user, *password, *replaces, *fresh);
                differ("session created", &fresh.is_some(), &created)
            }
            TraceEvent::PasswordChanged { session, old, done } => {
                let changed = self.change_password(replica, *session, *old);
                differ("password changed", done, &changed)
            }
            TraceEvent::StoreCrashed { lost } => {
                self.crash_store(at - lost);
                Ok(())
            }
            TraceEvent::ReplicaCrashed => {
                self.replicas[replica].poller.abort();
                self.replicas[replica] = self.replica(clock);
                self.set_clock(traced);
                Ok(())
            }
            event => {
                self.unflushed(at, |services| services.apply_event(replica, event));
                Ok(())
            }
        }
    }

    /// Applies an event without a response.
    fn apply_event(&mut self, replica: usize, what: &TraceEvent) {
        let Replica { tokens, clock, .. } = &self.replicas[replica];
        let by = ClientInfo::default();
        match *what {
            TraceEvent::SignedOut { session } => {
                self.wait(tokens.end(self.sessions[session], EndReason::LoggedOut, &by)).unwrap();
            }
            TraceEvent::SignedOutEverywhere { user } => {
                let which = SessionFilter::User(user_id(user).into());
                self.wait(tokens.end_matching(&which, EndReason::LoggedOut, &by)).unwrap();
            }
            TraceEvent::DeferredFlushed => self.wait(tokens.flush_deferred()).unwrap(),
            TraceEvent::Polled => {
                // A restarted poller polls at once.
                self.replicas[replica].poller.abort();
                let poller = self.runtime.spawn(tokens.revocations().clone().run_poller()).abort_handle();
                self.wait(async {});
                self.replicas[replica].poller = poller;
            }
            TraceEvent::ExpiredEnded => {
                let by = sekisho::clock::Clock::now(&**clock) - self.settings.grace();
                now(self.store.end_expired(SessionId(Uuid::nil()), 1_000, by)).unwrap();
            }
            ref other => unreachable!("{other:?}"),
        }
    }

    /// Sends a request, and returns the status and the session event.
    fn send_request(
        &mut self,
        replica: usize,
        clock: i64,
        cookies: &Cookies,
        fresh: Option<Cookies>,
    ) -> (u16, Option<String>) {
        let tokens = Arc::new(self.replicas[replica].tokens.clone());
        let layer = SilentRefreshLayer::new(tokens, CookiePolicy::default()).with_on_reject(Reject401);
        let mut service = layer.layer(service_fn(handler));
        let request = Request::get("/").header(COOKIE, &self.cookies[&cookies.access.id]);
        let request = request.body(String::new()).unwrap();
        let runtime = self.runtime.handle();
        let call = move || {
            let _inside = runtime.enter();
            service.call(request)
        };
        // Each thread records the confirmed use of a token only once, so a new thread is needed.
        let confirms_use = clock > cookies.access.issued * 1_000 + self.settings.grace;
        let response =
            if confirms_use { thread::scope(|scope| scope.spawn(call).join()).unwrap() } else { call() };
        let response = self.wait(response).unwrap();
        let set: Vec<_> =
            response.headers().get_all(SET_COOKIE).iter().map(|set| set.to_str().unwrap()).collect();
        if let (Some(fresh), [access, refresh]) = (fresh, &set[..]) {
            let value = |set: &str| set.split(';').next().unwrap().to_owned();
            let (access, refresh) = (value(access), value(refresh));
            self.remember_tokens(
                fresh.access,
                access.split_once('=').unwrap().1,
                format!("{access}; {refresh}"),
            );
        }
        let event = response.headers().get(SESSION_EVENT_HEADER);
        (response.status().as_u16(), event.map(|value| value.to_str().unwrap().to_owned()))
    }

    /// Refreshes as `POST /auth/refresh` does, and returns the status and the session event.
    fn refresh_explicitly(
        &mut self,
        replica: usize,
        cookies: &Cookies,
        fresh: Option<Cookies>,
    ) -> (u16, Option<String>) {
        let tokens = self.replicas[replica].tokens.clone();
        let mut pairs =
            self.cookies[&cookies.access.id].split("; ").map(|pair| pair.split_once('=').unwrap());
        let (_, access_token) = pairs.next().unwrap();
        let (_, refresh_token) = pairs.next().unwrap();
        let runtime = self.runtime.handle();
        let verify = || {
            let _inside = runtime.enter();
            tokens.verify(access_token)
        };
        let verified = thread::scope(|scope| scope.spawn(verify).join()).unwrap();
        let request = RefreshRequest {
            refresh_token: refresh_token.to_owned(),
            access_token: Some(access_token.to_owned()),
            expected_session: verified.ok().map(|verified| verified.identity.session),
            ..RefreshRequest::default()
        };
        match self.wait(tokens.refresh(request)) {
            Ok(refreshed) => {
                if let Some(fresh) = fresh {
                    let policy = CookiePolicy::default();
                    let [access, refresh] = policy.names();
                    let cookies =
                        format!("{access}={}; {refresh}={}", refreshed.access_token, refreshed.refresh_token);
                    self.remember_tokens(fresh.access, &refreshed.access_token, cookies);
                }
                (200, Some(refreshed.event.to_string()))
            }
            Err(RefreshError::SessionEnded { event, .. }) => (401, Some(event.to_string())),
            Err(_) => (503, Some("store_unavailable".to_owned())),
        }
    }

    fn sign_in(
        &mut self,
        replica: usize,
        user: usize,
        password: u32,
        replaces: Option<usize>,
        fresh: Option<Cookies>,
    ) -> bool {
        let (hash, email) = (hash(password), format!("{user}@example.com"));
        let sign_in = SessionRequest {
            roles: Role::User.roles(),
            hashed_password: Some(&hash),
            replaces: replaces.map(|place| self.sessions[place]),
            ..SessionRequest::new(user_id(user), &email)
        };
        let created = self.wait(self.replicas[replica].tokens.sign_in(sign_in));
        let (Ok(IssuedSession { session, tokens: issued }), Some(fresh)) = (&created, fresh) else {
            assert!(matches!(created, Ok(_) | Err(SignInError::Refused)), "{created:?}");
            return created.is_ok();
        };
        assert_eq!(fresh.session, self.sessions.len());
        self.sessions.push(session.id);
        let [access, refresh] = CookiePolicy::default().names().map(|name| {
            format!(
                "{name}={}",
                match name.contains("access") {
                    true => &issued.access_token,
                    false => &issued.refresh_token,
                }
            )
        });
        self.remember_tokens(fresh.access, &issued.access_token, format!("{access}; {refresh}"));
        true
    }

    fn remember_tokens(&mut self, access: Access, token: &str, cookies: String) {
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&payload).unwrap();
        let id = claims["jti"].as_str().unwrap().parse().unwrap();
        self.ids.insert(TokenId(id), access.reference().id);
        self.cookies.insert(access.id, cookies);
    }

    fn change_password(&mut self, replica: usize, session: usize, old: u32) -> bool {
        let tokens = &self.replicas[replica].tokens;
        let session = now(self.store.find_session(self.sessions[session])).unwrap().unwrap();
        let ending = tokens.termination(EndReason::PasswordChanged, &ClientInfo::default());
        let change = PasswordChange {
            user: UserId::try_from(&session.subject).unwrap(),
            old: Some(&hash(old)),
            new: &hash(old + 1),
            keep: Some(session.id),
            termination: &ending,
        };
        let ended = now(self.store.change_password(&change)).unwrap();
        tokens.revocations().mark_terminated(ended.as_deref().unwrap_or_default(), ending.end());
        ended.is_some()
    }
}

async fn handler(request: Request<String>) -> Result<Response<String>, Infallible> {
    let is_signed_in = request.extensions().get::<Identity>().is_some();
    Ok(Response::builder().status(if is_signed_in { 200 } else { 500 }).body(String::new()).unwrap())
}

/// Returns the result of a call of the in-memory store, which never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

fn expected(response: SessionResponse) -> (u16, Option<String>) {
    match response {
        SessionResponse::Passed => (200, None),
        SessionResponse::Renewed(event) => (200, Some(event.to_string())),
        SessionResponse::Refused(event) => (401, Some(event.to_string())),
        SessionResponse::Unavailable => (503, Some("store_unavailable".to_owned())),
    }
}

fn duration(ms: i64) -> std::time::Duration {
    std::time::Duration::from_millis(ms.unsigned_abs())
}
