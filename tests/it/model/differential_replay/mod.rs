//! What the model says happened, done with the product: the same requests in the same order, one at a
//! time, through the real layer, tokens and store. Each must be told the same, and leave the same row.

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
use sekisho::layer::{CookiePolicy, Reject401, SESSION_EVENT_HEADER, SilentRefreshLayer};
use sekisho::models::session::{EndReason, SessionId, TokenId};
use sekisho::models::user::{Role, User};
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
use super::coverage::Seen;
use super::script::{Script, Settings};
use super::store::{Store, USERS, at, hash, user, user_id};
use super::world::{Access, Cookies, Outcome, SessionResponse, TraceEvent, TraceRecord, World};
use super::{generators, run};

#[test]
fn the_product_says_what_the_model_says() {
    let all = run(generators::in_turn, 1_000, replay);
    all.tally.assert_at_least(&[
        (Seen::BackWithOldCookies, 150),
        (Seen::StoreCrashed, 20),
        (Seen::Rotated, 1_500),
        (Seen::Replayed, 600),
        (Seen::CaughtUp, 5),
        (Seen::Shared, 1_500),
        (Seen::EndedByReplacement, 500),
        (Seen::EndedByLimit, 20),
        (Seen::EndedByExpiry, 30),
        (Seen::EndedByPassword, 50),
        (Seen::ReuseAtRenewal, 60),
        (Seen::ReuseAmongSharers, 10),
        (Seen::ReuseAtSettling, 10),
        (Seen::EndTooLate, 20),
    ]);
}

/// Plays a script in the model and replays it with the product. Fails at the first difference.
pub(super) fn replay(script: &Script) -> Result<Outcome, String> {
    let (outcome, trace, model) = World::trace(script);
    Product::new(&script.settings).replay(&trace, &model)?;
    outcome.broken.clone().map_or(Ok(outcome), Err)
}

/// The product's store and replicas, and what its tokens are called in the model.
struct Product {
    runtime: Runtime,
    settings: Settings,
    store: MemoryStore,
    keys: Arc<SharedKeys>,
    replicas: Vec<Replica>,
    /// By their places among the model's rows.
    sessions: Vec<SessionId>,
    /// The two cookies in which each of the model's access tokens came.
    cookies: HashMap<u128, String>,
    /// The product's access tokens, by the model's ids.
    ids: HashMap<TokenId, TokenId>,
    unflushed: Vec<Unflushed>,
}

struct Replica {
    tokens: Tokens,
    clock: Arc<ManualClock>,
    feed: AbortHandle,
}

impl Product {
    fn new(settings: &Settings) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let keys = Arc::new(SharedKeys::new(KeyRing::generate(Algorithm::Hs256, at(-86_400_000)).unwrap()));
        let mut product = Self {
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
        now(product.store.insert_users(&users)).unwrap();
        product.replicas = settings.clocks.iter().map(|&ahead| product.replica(ahead)).collect();
        product
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
        let feed = self.runtime.spawn(tokens.revocations().clone().run_poller()).abort_handle();
        self.wait(async {});
        Replica { tokens, clock, feed }
    }

    /// Waits for an answer, and lets what goes on behind its back come to rest. No time passes.
    fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            let answer = answer.await;
            for _ in 0..6 {
                tokio::task::yield_now().await;
            }
            answer
        })
    }

    fn replay(mut self, trace: &[TraceRecord], model: &Store) -> Result<(), Difference> {
        for traced in trace {
            let TraceRecord { replica, clock, ref what, .. } = *traced;
            self.replicas[replica].clock.set(at(clock));
            self.act(traced).map_err(|difference| format!("{difference}, after {what:?} at {clock} ms"))?;
        }
        self.compare(model)
    }

    fn act(&mut self, traced: &TraceRecord) -> Result<(), Difference> {
        let TraceRecord { at, replica, clock, ref what } = *traced;
        match what {
            TraceEvent::Asked { cookies, told, fresh, row } => {
                let heard = self.unflushed(at, |product| product.ask(replica, clock, cookies, *fresh));
                differ("told", &expected(*told), &heard)?;
                self.compare_row(row, cookies.session)
            }
            TraceEvent::SignedIn { user, password, replaces, fresh } => {
                let made = self.sign_in(replica, *user, *password, *replaces, *fresh);
                differ("a session", &fresh.is_some(), &made)
            }
            TraceEvent::PasswordChanged { session, old, done } => {
                let changed = self.change_password(replica, *session, *old);
                differ("changed the password", done, &changed)
            }
            TraceEvent::StoreCrashed { lost } => {
                self.crash_store(at - lost);
                Ok(())
            }
            TraceEvent::ReplicaCrashed => {
                self.replicas[replica].feed.abort();
                self.replicas[replica] = self.replica(clock);
                Ok(())
            }
            quiet => {
                self.unflushed(at, |product| product.do_quietly(replica, quiet));
                Ok(())
            }
        }
    }

    /// What nobody is answered.
    fn do_quietly(&mut self, replica: usize, what: &TraceEvent) {
        let Replica { tokens, clock, .. } = &self.replicas[replica];
        let by = ClientInfo::default();
        match *what {
            TraceEvent::SignedOut { session } => {
                self.wait(tokens.terminate(self.sessions[session], EndReason::LoggedOut, &by)).unwrap();
            }
            TraceEvent::SignedOutEverywhere { user } => {
                let which = SessionFilter::User(user_id(user));
                self.wait(tokens.terminate_matching(&which, EndReason::LoggedOut, &by)).unwrap();
            }
            TraceEvent::NotesWritten => self.wait(tokens.flush_deferred()).unwrap(),
            TraceEvent::Polled => {
                // A feed that begins looks at once; one that runs leaves the store in peace for a moment.
                self.replicas[replica].feed.abort();
                let feed = self.runtime.spawn(tokens.revocations().clone().run_poller()).abort_handle();
                self.wait(async {});
                self.replicas[replica].feed = feed;
            }
            TraceEvent::ExpiredEnded => {
                let by = sekisho::clock::Clock::now(&**clock) - self.settings.grace();
                now(self.store.end_expired(SessionId(Uuid::nil()), 1_000, by)).unwrap();
            }
            ref other => unreachable!("{other:?}"),
        }
    }

    /// Status, and the word for what happened.
    fn ask(
        &mut self,
        replica: usize,
        clock: i64,
        cookies: &Cookies,
        fresh: Option<Cookies>,
    ) -> (u16, Option<String>) {
        let tokens = Arc::new(self.replicas[replica].tokens.clone());
        let layer = SilentRefreshLayer::new(tokens, CookiePolicy::default()).with_on_reject(Reject401);
        let mut service = layer.layer(service_fn(greet));
        let request = Request::get("/").header(COOKIE, &self.cookies[&cookies.access.id]);
        let request = request.body(String::new()).unwrap();
        let runtime = self.runtime.handle();
        let call = move || {
            let _inside = runtime.enter();
            service.call(request)
        };
        // A thread notes only once that a token is in lasting use: each such look is another one's.
        let lasting = clock > cookies.access.issued * 1_000 + self.settings.grace;
        let answer = if lasting { thread::scope(|scope| scope.spawn(call).join()).unwrap() } else { call() };
        let answer = self.wait(answer).unwrap();
        let set: Vec<_> =
            answer.headers().get_all(SET_COOKIE).iter().map(|set| set.to_str().unwrap()).collect();
        if let (Some(fresh), [access, refresh]) = (fresh, &set[..]) {
            let value = |set: &str| set.split(';').next().unwrap().to_owned();
            let (access, refresh) = (value(access), value(refresh));
            self.keep(fresh.access, access.split_once('=').unwrap().1, format!("{access}; {refresh}"));
        }
        let event = answer.headers().get(SESSION_EVENT_HEADER);
        (answer.status().as_u16(), event.map(|event| event.to_str().unwrap().to_owned()))
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
        let made = self.wait(self.replicas[replica].tokens.sign_in(sign_in));
        let (Ok(IssuedSession { session, tokens: renewal }), Some(fresh)) = (&made, fresh) else {
            assert!(matches!(made, Ok(_) | Err(SignInError::Refused)), "{made:?}");
            return made.is_ok();
        };
        assert_eq!(fresh.session, self.sessions.len());
        self.sessions.push(session.id);
        let [access, refresh] = CookiePolicy::default().names().map(|name| {
            format!(
                "{name}={}",
                match name.contains("access") {
                    true => &renewal.access_token,
                    false => &renewal.refresh_token,
                }
            )
        });
        self.keep(fresh.access, &renewal.access_token, format!("{access}; {refresh}"));
        true
    }

    fn keep(&mut self, access: Access, token: &str, cookies: String) {
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
            user: session.user_id,
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

async fn greet(request: Request<String>) -> Result<Response<String>, Infallible> {
    let known = request.extensions().get::<Identity>().is_some();
    Ok(Response::builder().status(if known { 200 } else { 500 }).body(String::new()).unwrap())
}

/// The store in memory never waits.
fn now<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().unwrap()
}

fn expected(told: SessionResponse) -> (u16, Option<String>) {
    match told {
        SessionResponse::Passed => (200, None),
        SessionResponse::Renewed(event) => (200, Some(event.to_string())),
        SessionResponse::Refused(event) => (401, Some(event.to_string())),
        SessionResponse::Unavailable => (503, Some("store_unavailable".to_owned())),
    }
}

fn duration(ms: i64) -> std::time::Duration {
    std::time::Duration::from_millis(ms.unsigned_abs())
}
