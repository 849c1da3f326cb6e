//! Differential tests of the model's store and the real stores: results, rows and audit log.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use sekisho::backend::db::Stores;
use sekisho::client_info::ClientInfo;
use sekisho::models::audit::AuditEntry;
use sekisho::models::session::{AccessTokenRef, EndReason, SessionId, SessionKind, TokenId};
use sekisho::models::user::Role;
use sekisho::services::store::{
    InsertOutcome, NewSession, PasswordChange, Rotation, SessionFilter, SessionTermination, SessionUse,
    TokenUse,
};
use std::time::Duration;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::script::Mutation;
use super::store::{New, Step, Store, USERS, at, hash, session_id, user, user_id};
use crate::support::db::{self, TestDatabase};
use crate::test_seed::proptest_config;

const GRACE: i64 = 60_000;

/// An operation on both stores. Session numbers are taken modulo the number of sessions; generations and
/// passwords are relative to the present ones.
#[derive(Clone, Copy, Debug)]
enum Op {
    SignIn { user: usize, password: Option<u32>, replaces: Option<usize>, max_per_user: u32 },
    Rotate { session: usize, from: u32, ahead: i64, token: Option<u128> },
    CatchUp { session: usize, from: u32, ahead: i64 },
    Settle { session: usize, generation: u32, token: u128 },
    Use { session: usize, ahead: i64, ago: i64 },
    SignOut { session: usize },
    EndByReuse { session: usize, presented: u32 },
    SignOutEverywhere { user: usize },
    ChangePassword { user: usize, old: Option<u32>, keep: Option<usize> },
    EndExpired { ago: i64 },
}

fn op() -> impl Strategy<Value = Op> {
    let (user, session, maybe) = (0..USERS, 0..64_usize, proptest::option::of(0..64_usize));
    let ahead = -GRACE..GRACE;
    let sign_in = (user.clone(), proptest::option::weighted(0.8, 0..4_u32), maybe.clone(), 1..5_u32);
    prop_oneof![
        5 => sign_in.prop_map(|(user, password, replaces, max_per_user)| {
            Op::SignIn { user, password, replaces, max_per_user }
        }),
        16 => (session.clone(), 0..4_u32, ahead.clone(), proptest::option::of(0..3_u128))
            .prop_map(|(session, from, ahead, token)| Op::Rotate { session, from, ahead, token }),
        6 => (session.clone(), 0..4_u32, ahead.clone())
            .prop_map(|(session, from, ahead)| Op::CatchUp { session, from, ahead }),
        8 => (session.clone(), 0..4_u32, 0..3_u128)
            .prop_map(|(session, generation, token)| Op::Settle { session, generation, token }),
        6 => (session.clone(), ahead.clone(), 0..GRACE)
            .prop_map(|(session, ahead, ago)| Op::Use { session, ahead, ago }),
        1 => session.clone().prop_map(|session| Op::SignOut { session }),
        1 => (session, 0..4_u32).prop_map(|(session, presented)| Op::EndByReuse { session, presented }),
        1 => user.clone().prop_map(|user| Op::SignOutEverywhere { user }),
        2 => (user, proptest::option::weighted(0.8, 0..4_u32), maybe)
            .prop_map(|(user, old, keep)| Op::ChangePassword { user, old, keep }),
        1 => (-GRACE..20 * GRACE).prop_map(|ago| Op::EndExpired { ago }),
    ]
}

/// The model's store and a real one.
struct StorePair {
    model: Store,
    real: Stores,
    /// Number of operations, which also identifies the client of each.
    done: usize,
}

impl StorePair {
    /// Creates the users with one session each.
    async fn new(real: Stores, mutation: Option<Mutation>) -> Result<Self, TestCaseError> {
        real.users.insert_users(&[0, 1].map(user)).await.unwrap();
        let mut stores = Self { model: Store::with_mutation(mutation), real, done: 0 };
        for user in 0..USERS {
            stores.apply(0, Op::SignIn { user, password: None, replaces: None, max_per_user: 9 }).await?;
        }
        Ok(stores)
    }

    /// Applies an operation to both stores, and compares results, rows and audit log.
    async fn apply(&mut self, time: i64, op: Op) -> Result<(), TestCaseError> {
        self.done += 1;
        match op {
            Op::SignIn { user, password, replaces, max_per_user } => {
                let new = self.new_session(time, user, password, replaces, max_per_user);
                self.sign_in(time, new).await?;
            }
            Op::Rotate { session, from, ahead, token } => {
                let step = self.step(session, from, time + ahead, token.map(|id| token_at(id, time)));
                let product = self.real.sessions.rotate(&rotation(&step)).await.unwrap();
                prop_assert_eq!(self.model.rotate(time, &step, true), product);
            }
            Op::CatchUp { session, from, ahead } => {
                let step = self.step(session, from, time + ahead, None);
                let product = self.real.sessions.catch_up(&rotation(&step)).await.unwrap();
                prop_assert_eq!(self.model.catch_up(time, &step), product);
            }
            Op::Settle { session, generation, token } => {
                let place = self.place(session);
                let generation = self.generation(place, generation);
                let token = TokenId(Uuid::from_u128(token));
                let seen = TokenUse { session: session_id(place), generation, token };
                let product = self.real.sessions.confirm_generation(&[seen]).await.unwrap();
                prop_assert_eq!(self.model.confirm(time, place, generation, token), !product.is_empty());
            }
            Op::Use { session, ahead, ago } => {
                let place = self.place(session);
                let idle_expires_at = at(time + ahead - ago + 900_000);
                let used = SessionUse { session: session_id(place), replays: 0, idle_expires_at };
                self.real.sessions.record_uses(&[used], at(time + ahead)).await.unwrap();
                self.model.record_use(time, place, idle_expires_at, at(time + ahead));
            }
            Op::EndExpired { ago } => {
                self.model.end_expired(time, at(time - ago));
                let from = SessionId(Uuid::nil());
                self.real.sessions.end_expired(from, 1_000, at(time - ago)).await.unwrap();
            }
            other => self.end(time, other).await?,
        }
        self.compare().await
    }

    async fn sign_in(&mut self, time: i64, new: New) -> Result<(), TestCaseError> {
        let hash = new.password.map(hash);
        let product = NewSession {
            session: &new.session,
            hashed_password: hash.as_ref(),
            replaces: new.replaces.map(session_id),
            max_per_user: new.max_per_user,
        };
        let product = match self.real.sessions.insert_session(&product).await.unwrap() {
            InsertOutcome::Inserted { terminated: ended } => Some(sorted(ended)),
            InsertOutcome::Refused => None,
        };
        prop_assert_eq!(self.model.insert(time, new).map(ids), product);
        Ok(())
    }

    /// Applies an operation that only ends sessions.
    async fn end(&mut self, time: i64, op: Op) -> Result<(), TestCaseError> {
        let termination = |reason| SessionTermination::new(at(time), reason, client(self.done));
        let (model, product) = match op {
            Op::SignOut { session } => {
                let (place, ending) = (self.place(session), termination(EndReason::LoggedOut));
                self.end_one(time, place, &ending).await
            }
            Op::EndByReuse { session, presented } => {
                let ending = SessionTermination {
                    presented: Some(presented),
                    ..termination(EndReason::ReuseDetected)
                };
                self.end_one(time, self.place(session), &ending).await
            }
            Op::SignOutEverywhere { user } => {
                let ending = termination(EndReason::LoggedOut);
                let model = self.model.end_user_sessions(time, &user_id(user).into(), None, &ending);
                let which = SessionFilter::User(user_id(user).into());
                (Some(model), Some(self.real.sessions.end_sessions(&which, &ending).await.unwrap()))
            }
            Op::ChangePassword { user, old, keep } => {
                let (old, keep) =
                    (old.map(|old| self.password(user, old)), keep.map(|keep| self.place(keep)));
                let ending = termination(EndReason::PasswordChanged);
                let (old_hash, new_hash) = (old.map(hash), hash(self.model.passwords[user] + 1));
                let change = PasswordChange {
                    user: user_id(user),
                    old: old_hash.as_ref(),
                    new: &new_hash,
                    keep: keep.map(session_id),
                    termination: &ending,
                };
                let product = self.real.users.change_password(&change).await.unwrap();
                (self.model.change_password(time, user, old, keep, &ending), product)
            }
            other => unreachable!("{other:?} ends no session"),
        };
        prop_assert_eq!(model.map(ids), product.map(sorted));
        Ok(())
    }

    async fn end_one(
        &mut self,
        time: i64,
        place: usize,
        ending: &SessionTermination,
    ) -> (Option<Vec<usize>>, Option<Vec<SessionId>>) {
        let ended = self.real.sessions.end_session(session_id(place), ending).await.unwrap();
        let model = self.model.end(time, place, ending);
        (model.then(|| vec![place]), ended.then(|| vec![session_id(place)]))
    }

    async fn compare(&self) -> Result<(), TestCaseError> {
        let sessions = &self.real.sessions;
        for (place, row) in self.model.rows.iter().enumerate() {
            let id = session_id(place);
            let product = sessions.find_session(id).await.unwrap();
            prop_assert_eq!(Some(&row.session), product.as_ref());
            let model = self.model.audit.iter().filter(|entry| entry.session == Some(id));
            let product = sessions.session_audit(id, 1_000).await.unwrap();
            prop_assert_eq!(ordered(model.cloned().collect()), ordered(product));
        }
        Ok(())
    }

    /// Compares the number of all audit entries, by purging them, since entries without a session cannot be
    /// is_joinable.
    async fn compare_all_entries(&self) -> Result<(), TestCaseError> {
        let purged = self.real.sessions.purge_audit(at(i64::from(u32::MAX)), 1_000_000).await.unwrap();
        prop_assert_eq!(self.model.audit.len() as u64, purged);
        Ok(())
    }

    fn new_session(
        &self,
        time: i64,
        user: usize,
        password: Option<u32>,
        replaces: Option<usize>,
        max_per_user: u32,
    ) -> New {
        let (idle, absolute) = (Duration::from_secs(900), Duration::from_secs(3_600));
        let mut session = self.model.new_session(user, SessionKind::Browser, at(time), idle, absolute);
        session.roles = Role::User.roles();
        session.client = client(self.done);
        let replaces = replaces.map(|replaced| self.place(replaced));
        New { session, password: password.map(|nth| self.password(user, nth)), replaces, max_per_user }
    }

    fn step(&self, session: usize, from: u32, ms: i64, asked_by: Option<AccessTokenRef>) -> Step {
        let place = self.place(session);
        Step {
            place,
            from: self.generation(place, from),
            now: at(ms),
            max_rotated_at: at(ms - GRACE),
            asked_by,
            idle_expires_at: at(ms + 900_000),
            client: client(self.done),
        }
    }

    fn place(&self, session: usize) -> usize {
        session % self.model.rows.len().max(1)
    }

    /// Returns a generation from two behind to one ahead of the present one.
    fn generation(&self, place: usize, relative: u32) -> u32 {
        (self.model.rows[place].session.generation + relative).saturating_sub(2)
    }

    /// Returns the present password, or the previous one for 0.
    fn password(&self, user: usize, nth: u32) -> u32 {
        self.model.passwords[user].saturating_sub(u32::from(nth == 0))
    }
}

fn client(nth: usize) -> ClientInfo {
    ClientInfo { address: None, user_agent: Some(format!("Agent/{nth}")), request_id: Some(nth.to_string()) }
}

fn token_at(id: u128, ms: i64) -> AccessTokenRef {
    AccessTokenRef { id: TokenId(Uuid::from_u128(id)), issued_at: at(ms) }
}

fn rotation(step: &Step) -> Rotation<'_> {
    Rotation {
        id: session_id(step.place),
        kind: SessionKind::Browser,
        from_generation: step.from,
        now: step.now,
        max_rotated_at: step.max_rotated_at,
        asked_by: step.asked_by,
        key_number: 1,
        idle_expires_at: step.idle_expires_at,
        client: &step.client,
    }
}

fn ids(places: Vec<usize>) -> Vec<SessionId> {
    sorted(places.into_iter().map(session_id).collect())
}

fn sorted(mut ids: Vec<SessionId>) -> Vec<SessionId> {
    ids.sort_unstable();
    ids
}

/// Sorts entries, since those of the same time have no fixed order.
fn ordered(mut entries: Vec<AuditEntry>) -> Vec<AuditEntry> {
    entries.sort_by_key(|entry| (entry.at, entry.event.as_str(), entry.by.request_id.clone()));
    entries
}

/// Compares the model's store with a new real one for `cases` random sequences of operations.
fn compare(
    cases: u32,
    mutation: Option<Mutation>,
    fresh: impl AsyncFn() -> Option<TestDatabase>,
) -> Result<(), TestError<Vec<(i64, Op)>>> {
    let runtime = Runtime::new().unwrap();
    if runtime.block_on(fresh()).is_none() {
        return Ok(());
    }
    let cases =
        std::env::var("SEKISHO_TEST_TWINS").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    let mut runner = TestRunner::new(Config { cases, max_shrink_iters: 500, ..proptest_config() });
    runner.run(&proptest::collection::vec((0..3 * GRACE, op()), 1..60), |ops| {
        runtime.block_on(async {
            let Some(fresh) = fresh().await else { return Ok(()) };
            let mut stores = StorePair::new(fresh.stores.clone(), mutation).await?;
            let mut time = 0;
            for (pause, op) in ops {
                time += pause;
                stores.apply(time, op).await?;
            }
            let compared = stores.compare_all_entries().await;
            fresh.stores.close().await;
            compared
        })
    })
}

#[test]
fn model_matches_memory_store() {
    compare(256, None, db::memory).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn model_matches_sqlite_store() {
    compare(10, None, db::sqlite).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn model_matches_postgres_store() {
    compare(5, None, db::postgres).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn mutations_are_detected() {
    let mutations = [
        Mutation::RepeatedEnd,
        Mutation::UnconditionalRotation,
        Mutation::SignInIgnoresPasswordChange,
        Mutation::UnauditedReuse,
        Mutation::UsesIgnored,
    ];
    for mutation in mutations {
        assert!(compare(200, Some(mutation), db::memory).is_err(), "{mutation:?}");
    }
}
