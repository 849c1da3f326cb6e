//! The model's store and the product's do the same.

use futures_util::FutureExt;
use proptest::prelude::*;
use sekisho::identity::Client;
use sekisho::models::session::{AccessRef, EndReason, Session, SessionEnd, SessionKind, TokenId};
use sekisho::services::memory::MemoryStore;
use sekisho::services::store::{LastingUse, NewSession, Rotation, SessionStore};
use std::time::Duration;
use uuid::Uuid;

use super::store::{Step, Store, at, session_id};
use crate::store_contract::ending;

const GRACE: i64 = 60_000;

#[derive(Clone, Copy, Debug)]
enum Op {
    Rotate { from: u32, ahead: i64, token: Option<u128> },
    CatchUp { from: u32, ahead: i64 },
    Settle { generation: u32, token: u128 },
    End,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..4_u32, -GRACE..GRACE, proptest::option::of(0..3_u128))
            .prop_map(|(from, ahead, token)| Op::Rotate { from, ahead, token }),
        3 => (0..4_u32, -GRACE..GRACE).prop_map(|(from, ahead)| Op::CatchUp { from, ahead }),
        4 => (0..4_u32, 0..3_u128).prop_map(|(generation, token)| Op::Settle { generation, token }),
        1 => Just(Op::End),
    ]
}

fn token(id: u128, ms: i64) -> AccessRef {
    AccessRef { id: TokenId(Uuid::from_u128(id)), issued_at: at(ms) }
}

/// Both stores, with one session in each.
struct Twins {
    model: Store,
    product: MemoryStore,
}

impl Twins {
    fn new() -> Self {
        let mut model = Store::default();
        let (idle, absolute) = (Duration::from_secs(900), Duration::from_secs(3_600));
        let session = model.new_session(SessionKind::Browser, at(0), idle, absolute);
        model.insert(0, session.clone(), 0, None);
        let product = MemoryStore::default();
        let new = NewSession { session: &session, hashed_password: None, replaces: None, max_per_user: 9 };
        now(product.insert_session(&new)).unwrap();
        Self { model, product }
    }

    /// Does the same to both, and compares the answers and the rows.
    fn both(&mut self, time: i64, op: Op) -> Result<(), TestCaseError> {
        let generation = self.model.rows[0].session.generation;
        let relative = |from: u32| (generation + from).saturating_sub(2);
        match op {
            Op::Rotate { from, ahead, token: id } => {
                let asked_by = id.map(|id| token(id, time));
                let step = step(relative(from), time + ahead, asked_by);
                let product = now(self.product.rotate(&rotation(&step))).unwrap();
                prop_assert_eq!(self.model.rotate(time, &step, true), product);
            }
            Op::CatchUp { from, ahead } => {
                let step = step(relative(from), time + ahead, None);
                let product = now(self.product.catch_up(&rotation(&step))).unwrap();
                prop_assert_eq!(self.model.catch_up(time, &step), product);
            }
            Op::Settle { generation, token } => {
                let (generation, token) = (relative(generation), TokenId(Uuid::from_u128(token)));
                let seen = LastingUse { session: session_id(0), generation, token };
                let product = now(self.product.settle(&[seen])).unwrap();
                prop_assert_eq!(self.model.settle(time, 0, generation, token), !product.is_empty());
            }
            Op::End => {
                let end = SessionEnd { at: at(time), reason: EndReason::LoggedOut };
                let product = now(self.product.end_session(session_id(0), &ending(end))).unwrap();
                prop_assert_eq!(self.model.end(time, 0, end), product);
            }
        }
        let product: Option<Session> = now(self.product.find_session(session_id(0))).unwrap();
        prop_assert_eq!(Some(&self.model.rows[0].session), product.as_ref());
        Ok(())
    }
}

fn step(from: u32, ms: i64, asked_by: Option<AccessRef>) -> Step {
    let last_rotated_by = at(ms - GRACE);
    Step { place: 0, from, now: at(ms), last_rotated_by, asked_by, idle_expires_at: at(ms + 900_000) }
}

fn rotation(step: &Step) -> Rotation<'_> {
    static NOBODY: Client = Client { address: None, user_agent: None, request_id: None };
    Rotation {
        id: session_id(step.place),
        kind: SessionKind::Browser,
        from: step.from,
        now: step.now,
        last_rotated_by: step.last_rotated_by,
        asked_by: step.asked_by,
        key_number: 1,
        idle_expires_at: step.idle_expires_at,
        client: &NOBODY,
    }
}

/// The memory store never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

proptest! {
    #[test]
    fn the_model_keeps_rows_as_the_product_does(
        ops in proptest::collection::vec((0..3 * GRACE, op()), 1..40),
    ) {
        let mut twins = Twins::new();
        let mut time = 0;
        for (pause, op) in ops {
            time += pause;
            twins.both(time, op)?;
        }
    }
}
