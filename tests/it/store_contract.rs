//! Contract tests of the store traits, run on the in-memory, SQLite and PostgreSQL stores, on databases that were
//! migrated from the version before, and on stores in the databases of applications.

mod audit;
mod movies;
pub(crate) mod races;
mod sessions;
mod users;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sekisho::backend::db::Stores;
use sekisho::client_info::ClientInfo;
use sekisho::identity::Claims;
use sekisho::models::session::{
    AccessTokenRef, EndReason, Session, SessionEnd, SessionId, SessionKind, TokenId,
};
use sekisho::models::user::{PasswordOrigin, Role, User, UserId};
use sekisho::services::store::{InsertOutcome, NewSession, Rotation, SessionTermination, SessionUse};
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

/// The stores of the suite.
mod stores {
    pub(super) use crate::support::db::{memory, postgres, sqlite};
    pub(super) use crate::support::library::{application_postgres, application_sqlite};
    pub(super) use crate::support::pgbouncer::transaction_pool;
    pub(super) use crate::upgrade::{migrated_postgres, migrated_sqlite};
}

/// Defines one test of each function for each store.
macro_rules! suite {
    (all { $($all:tt)* } gateway { $($gateway:tt)* } library { $($library:tt)* }) => {
        suite!(@store memory: $($all)* $($gateway)*);
        suite!(@store sqlite: $($all)* $($gateway)*);
        suite!(@store postgres: $($all)* $($gateway)*);
        // B7: PostgreSQL behind PgBouncer, which pools transactions.
        suite!(@store transaction_pool: $($all)* $($gateway)*);
        // Databases that the version before has made and used.
        suite!(@store migrated_sqlite: $($all)* $($gateway)*);
        suite!(@store migrated_postgres: $($all)* $($gateway)*);
        // Databases of applications, with users of their own.
        suite!(@store application_sqlite: $($all)* $($library)*);
        suite!(@store application_postgres: $($all)* $($library)*);
    };
    (@store $store:ident: $($module:ident: $($test:ident)*;)*) => {
        mod $store {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $test() {
                    if let Some(fresh) = super::stores::$store().await {
                        super::$module::$test(&fresh.stores).await;
                    }
                }
            )*)*
        }
    };
}

suite! {
    all {
        sessions:
            missing_rows_are_no_error
            session_round_trips
            session_id_is_unique
            subjects_of_all_kinds_round_trip
            subjects_differ_by_letter_case
            subject_that_is_no_user_id_has_no_password
            claims_round_trip
            claims_of_a_live_session_are_replaced
            claims_survive_rotations
            insert_without_hash_does_not_check_the_user
            refused_sign_in_changes_nothing
            new_session_replaces_another
            oldest_sessions_beyond_the_limit_are_evicted
            sessions_of_each_kind_are_counted_apart
            only_live_sessions_count_against_the_limit
            rotation_updates_the_whole_row
            rotation_does_not_exceed_the_absolute_expiry
            rotation_that_is_not_due_changes_nothing
            session_behind_catches_up
            session_not_behind_does_not_catch_up
            last_generation_has_no_successor
            first_token_confirms_the_generation
            only_live_session_at_the_generation_is_confirmed
            batch_confirms_each_session_once
            replays_add_up
            uses_postpone_the_idle_expiry
            uses_revive_no_session
            session_is_terminated_once
            sessions_are_terminated_by_filter
            sessions_are_terminated_by_id
            live_sessions_are_sorted_by_rotation
            session_lists_are_sorted_by_creation
            recently_ended_sessions_are_listed
            store_returns_the_database_time;
        audit:
            failed_operations_are_not_audited
            sign_in_is_audited
            termination_entry_has_both_clients
            every_termination_is_audited_once
            bulk_termination_is_audited
            evicted_sessions_are_audited
            concurrent_terminations_are_audited_once
            audit_entry_round_trips
            audit_is_purged_in_steps
            expired_sessions_are_ended_in_steps
            sessions_are_purged_in_steps;
        movies:
            first_setting_is_kept
            settings_can_be_replaced_and_deleted;
        races:
            concurrent_rotations_have_one_winner
            concurrent_catch_ups_have_one_winner
            concurrent_confirmations_have_one_winner
            concurrent_terminations_have_one_winner
            concurrent_uses_add_up
            bulk_updates_do_not_deadlock
            concurrent_setting_inserts_agree;
    }
    gateway {
        sessions:
            only_allowed_users_get_a_session
            terminations_with_a_wrong_time_are_listed;
        audit:
            user_changes_are_audited;
        users:
            user_round_trips
            users_are_inserted_all_or_none
            users_are_sorted_by_address
            rehash_keeps_sessions
            new_hash_is_not_imported
            password_change_ends_other_sessions
            password_change_requires_the_old_hash
            role_change_ends_all_sessions
            disabled_user_cannot_sign_in
            sessions_remain_after_user_is_deleted;
        movies:
            movie_round_trips
            movie_is_replaced_and_deleted
            movies_are_found_by_substring_ignoring_case
            movies_are_sorted_by_a_column_then_id
            pages_have_the_total;
        races:
            concurrent_sign_ins_respect_the_limit
            concurrent_sign_in_does_not_survive_password_change
            concurrent_sign_in_does_not_survive_user_change
            concurrent_inserts_of_an_address_have_one_winner;
    }
    library {
        sessions:
            password_without_users_is_refused;
        races:
            concurrent_sign_ins_without_password_respect_the_limit;
    }
}

/// A time with microseconds, which stores must keep.
pub(crate) const NOW: OffsetDateTime = datetime!(2026-01-01 12:34:56.123456 UTC);

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

fn id() -> Uuid {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let nth = LAST.fetch_add(1, Ordering::Relaxed);
    // Distributed like random ids, but the same in every run.
    Uuid::from_u128(u128::from(nth + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

pub(crate) fn token() -> TokenId {
    TokenId(id())
}

pub(crate) fn user(email: &str) -> User {
    User {
        id: UserId(id()),
        email: email.to_owned(),
        name: None,
        hashed_password: "$2b$12$old".into(),
        password_origin: PasswordOrigin::Own,
        role: Role::User,
        disabled_at: None,
        created_at: NOW,
    }
}

/// Inserts a user.
pub(crate) async fn known_user(stores: &Stores, email: &str) -> User {
    let user = user(email);
    stores.users.insert_users(std::slice::from_ref(&user)).await.unwrap();
    user
}

pub(crate) fn session(user: &User) -> Session {
    Session {
        id: SessionId(id()),
        subject: user.id.into(),
        kind: SessionKind::Browser,
        email: user.email.clone(),
        roles: user.role.roles(),
        generation: 1,
        key_number: 1,
        created_at: NOW,
        rotated_at: NOW,
        asked_by: None,
        settled_by: None,
        rotations: 0,
        replays: 0,
        idle_expires_at: NOW + 14 * DAY,
        absolute_expires_at: NOW + 90 * DAY,
        end: None,
        client: ClientInfo::default(),
        claims: Claims::default(),
    }
}

/// Returns a session that ended at a time.
pub(crate) fn ended_session(user: &User, at: OffsetDateTime) -> Session {
    Session { end: Some(SessionEnd { at, reason: EndReason::LoggedOut }), ..session(user) }
}

fn new(session: &Session) -> NewSession<'_> {
    NewSession { session, hashed_password: None, replaces: None, max_per_user: 1_000 }
}

/// Inserts a session.
pub(crate) async fn known_session(stores: &Stores, session: Session) -> Session {
    let inserted = stores.sessions.insert_session(&new(&session)).await.unwrap();
    assert_eq!(inserted, InsertOutcome::Inserted { terminated: vec![] });
    session
}

/// Inserts a session of a user who is not in the store.
pub(crate) async fn any_session(stores: &Stores) -> Session {
    known_session(stores, session(&user("someone@example.com"))).await
}

pub(crate) async fn found(stores: &Stores, id: SessionId) -> Session {
    stores.sessions.find_session(id).await.unwrap().expect("a stored session")
}

/// Returns a rotation of the session that is due.
fn rotation<'a>(session: &Session, client: &'a ClientInfo) -> Rotation<'a> {
    Rotation {
        id: session.id,
        kind: session.kind,
        from_generation: session.generation,
        now: NOW + MINUTE,
        max_rotated_at: session.rotated_at,
        asked_by: Some(AccessTokenRef { id: token(), issued_at: NOW - MINUTE }),
        key_number: 2,
        idle_expires_at: NOW + 15 * DAY,
        client,
    }
}

/// Returns a number of replays that postpone no expiry.
pub(crate) fn replays(session: SessionId, replays: u64) -> SessionUse {
    SessionUse { session, replays, idle_expires_at: NOW }
}

fn end(reason: EndReason) -> SessionEnd {
    SessionEnd { at: NOW + 2 * MINUTE, reason }
}

pub(crate) fn ending(end: SessionEnd) -> SessionTermination {
    SessionTermination::new(end.at, end.reason, ClientInfo::default())
}

/// Sorts ids for comparison.
fn sorted(mut ids: Vec<SessionId>) -> Vec<SessionId> {
    ids.sort_unstable();
    ids
}
