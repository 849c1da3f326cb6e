//! What the model says happened, done with the product: the same requests in the same order, one at a
//! time, through the real layer, tokens and store. Each must be told the same, and leave the same row.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::thread;

use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{Request, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use secrecy::SecretString;
use sekisho::clock::ManualClock;
use sekisho::identity::{Client, Identity};
use sekisho::layer::{CookiePolicy, Reject401, SESSION_EVENT_HEADER, SilentRefreshLayer};
use sekisho::models::audit::{AuditEntry, AuditEvent};
use sekisho::models::session::{AccessRef, EndReason, Session, SessionEnd, SessionId, TokenId};
use sekisho::models::user::{Role, User};
use sekisho::services::jwt::{AccessTokens, JwtSettings};
use sekisho::services::keys::{Algorithm, KeyRing, SharedKeys};
use sekisho::services::memory::MemoryStore;
use sekisho::services::store::{AuditStore, NewSession, PasswordChange, SessionStore, UserStore, Which};
use sekisho::services::token::{Issued, SessionSettings, SignIn, SignInError, Tokens};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;
use tower::{Layer, Service, service_fn};
use uuid::Uuid;

use super::script::Settings;
use super::store::{Store, USERS, at, user_id};
use super::tally::Seen;
use super::world::{Access, Cookies, Told, Traced, What, World};
use super::{chance, run};

#[test]
fn the_product_says_what_the_model_says() {
    let all = run(chance::in_turn, 1_000, |script| {
        let (outcome, trace, model) = World::trace(script);
        Product::new(&script.settings).replay(&trace, &model)?;
        outcome.broken.clone().map_or(Ok(outcome), Err)
    });
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

/// A row before a write that a crash may undo.
struct Unflushed {
    at: i64,
    before: Session,
    ended: bool,
}

/// What is told of something that differs.
type Difference = String;

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
        let feed = self.runtime.spawn(tokens.clone().follow_ends()).abort_handle();
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

    fn replay(mut self, trace: &[Traced], model: &Store) -> Result<(), Difference> {
        for traced in trace {
            let Traced { replica, clock, ref what, .. } = *traced;
            self.replicas[replica].clock.set(at(clock));
            self.act(traced).map_err(|difference| format!("{difference}, after {what:?} at {clock} ms"))?;
        }
        self.compare(model)
    }

    fn act(&mut self, traced: &Traced) -> Result<(), Difference> {
        let Traced { at, replica, clock, ref what } = *traced;
        match what {
            What::Asked { cookies, told, fresh, row } => {
                let heard = self.unflushed(at, |product| product.ask(replica, clock, cookies, *fresh));
                differ("told", &expected(*told), &heard)?;
                self.compare_row(row, cookies.session)
            }
            What::SignedIn { user, password, replaces, fresh } => {
                let made = self.sign_in(replica, *user, *password, *replaces, *fresh);
                differ("a session", &fresh.is_some(), &made)
            }
            What::PasswordChanged { session, old, done } => {
                let changed = self.change_password(replica, *session, *old);
                differ("changed the password", done, &changed)
            }
            What::StoreCrashed { lost } => {
                self.crash_store(at - lost);
                Ok(())
            }
            What::ReplicaCrashed => {
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
    fn do_quietly(&mut self, replica: usize, what: &What) {
        let Replica { tokens, clock, .. } = &self.replicas[replica];
        let by = Client::default();
        match *what {
            What::SignedOut { session } => {
                self.wait(tokens.end(self.sessions[session], EndReason::LoggedOut, &by)).unwrap();
            }
            What::SignedOutEverywhere { user } => {
                let which = Which::OfUser(user_id(user));
                self.wait(tokens.end_all(&which, EndReason::LoggedOut, &by)).unwrap();
            }
            What::NotesWritten => self.wait(tokens.write_notes()).unwrap(),
            What::Polled => {
                tokens.wake();
                self.wait(async {});
            }
            What::ExpiredEnded => {
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
        let sign_in = SignIn {
            roles: Role::User.roles(),
            hashed_password: Some(&hash),
            replaces: replaces.map(|place| self.sessions[place]),
            ..SignIn::new(user_id(user), &email)
        };
        let made = self.wait(self.replicas[replica].tokens.sign_in(sign_in));
        let (Ok(Issued { session, renewal }), Some(fresh)) = (&made, fresh) else {
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
        let ending = tokens.ending(EndReason::PasswordChanged, &Client::default());
        let change = PasswordChange {
            user: session.user_id,
            old: Some(&hash(old)),
            new: &hash(old + 1),
            keep: Some(session.id),
            ending: &ending,
        };
        let ended = now(self.store.change_password(&change)).unwrap();
        tokens.note_ended(ended.as_deref().unwrap_or_default(), ending.end());
        ended.is_some()
    }

    // The crash of a store that had not flushed everything.

    /// Remembers the rows that `act` changes in ways that a crash may undo.
    fn unflushed<T>(&mut self, at: i64, act: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.rows();
        let done = act(self);
        for (id, after) in self.rows() {
            let Some(before) = before.get(&id) else { continue };
            let expired =
                |end: SessionEnd| matches!(end.reason, EndReason::IdleExpired | EndReason::AbsoluteExpired);
            let ended = before.end.is_none() && after.end.is_some_and(expired);
            let written = |row: &Session| (row.generation, row.rotations, row.settled_by);
            if ended || written(before) != written(&after) {
                self.unflushed.push(Unflushed { at, before: before.clone(), ended });
            }
        }
        done
    }

    /// Undoes what was written after this time and not flushed.
    fn crash_store(&mut self, after: i64) {
        let mut rows = self.rows();
        let mut trail: Vec<_> = rows.keys().flat_map(|&id| self.trail(id)).collect();
        while let Some(last) = self.unflushed.pop_if(|last| last.at > after) {
            let row = rows.get_mut(&last.before.id).unwrap();
            let end = row.end.filter(|_| !last.ended);
            if last.ended {
                trail.retain(|entry| entry.session != Some(row.id) || entry.event == AuditEvent::Login);
            }
            *row = Session { end, ..last.before };
        }
        self.unflushed.clear();
        now(async {
            let (store, all, far) = (&self.store, Which::All, at(i64::from(u32::MAX)));
            let ending = self.replicas[0].tokens.ending(EndReason::Revoked, &Client::default());
            store.end_sessions(&all, &ending).await.unwrap();
            store.purge_sessions(far, u32::MAX).await.unwrap();
            for session in rows.values() {
                let new =
                    NewSession { session, hashed_password: None, replaces: None, max_per_user: u32::MAX };
                store.insert_session(&new).await.unwrap();
            }
            store.purge_audit(far, u32::MAX).await.unwrap();
            store.record(&trail).await.unwrap();
        });
    }

    // Comparing.

    fn rows(&self) -> HashMap<SessionId, Session> {
        let rows = now(self.store.list_sessions(&Which::All, None, u32::MAX)).unwrap();
        rows.into_iter().map(|row| (row.id, row)).collect()
    }

    fn trail(&self, id: SessionId) -> Vec<AuditEntry> {
        now(self.store.audit_of(id, 1_000)).unwrap()
    }

    fn compare(&self, model: &Store) -> Result<(), Difference> {
        for (place, row) in model.rows.iter().enumerate() {
            self.compare_row(&row.session, place)?;
            let trail = self.trail(self.sessions[place]);
            let product = trail.iter().filter(|entry| entry.event != AuditEvent::CaughtUp);
            let model = model.audit.iter().filter(|entry| entry.session == Some(row.session.id));
            differ(&format!("the audit of session {place}"), &told(model), &told(product))?;
        }
        Ok(())
    }

    fn compare_row(&self, model: &Session, place: usize) -> Result<(), Difference> {
        let product = now(self.store.find_session(self.sessions[place])).unwrap().unwrap();
        let named = |id: TokenId| self.ids.get(&id).copied();
        let asked_by = product.asked_by.and_then(|token| Some(AccessRef { id: named(token.id)?, ..token }));
        let product = Session {
            id: model.id,
            email: model.email.clone(),
            roles: model.roles.clone(),
            client: model.client.clone(),
            replays: model.replays,
            asked_by,
            // Of two tokens in one batch either may be the first.
            settled_by: if product.end.is_some() {
                model.settled_by
            } else {
                product.settled_by.and_then(named)
            },
            ..product
        };
        differ(&format!("the row of session {place}"), model, &product)
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

/// What and when, in an order of its own: clocks are apart.
fn told<'a>(trail: impl Iterator<Item = &'a AuditEntry>) -> Vec<(OffsetDateTime, &'static str)> {
    let mut told: Vec<_> = trail.map(|entry| (entry.at, entry.event.as_str())).collect();
    told.sort_unstable();
    told
}

fn expected(told: Told) -> (u16, Option<String>) {
    match told {
        Told::Passed => (200, None),
        Told::Renewed(event) => (200, Some(event.to_string())),
        Told::Refused(event) => (401, Some(event.to_string())),
        Told::Unavailable => (503, Some("store_unavailable".to_owned())),
    }
}

fn differ<T: PartialEq + std::fmt::Debug>(what: &str, model: &T, product: &T) -> Result<(), Difference> {
    if model == product {
        Ok(())
    } else {
        Err(format!("{what}: the model {model:?}, the product {product:?}"))
    }
}

fn user(number: usize) -> User {
    User {
        id: user_id(number),
        email: format!("{number}@example.com"),
        name: None,
        hashed_password: hash(0),
        role: Role::User,
        disabled_at: None,
        created_at: at(0),
    }
}

fn hash(password: u32) -> SecretString {
    format!("$2b$12${password}").into()
}

fn duration(ms: i64) -> std::time::Duration {
    std::time::Duration::from_millis(ms.unsigned_abs())
}
