//! One suite over three stores: each sentence of the store traits and of their contract.

mod audit;
mod movies;
pub(crate) mod races;
mod sessions;
mod users;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sekisho::backend::db::Stores;
use sekisho::client_info::ClientInfo;
use sekisho::models::session::{
    AccessTokenRef, EndReason, Session, SessionEnd, SessionId, SessionKind, TokenId,
};
use sekisho::models::user::{Role, User, UserId};
use sekisho::services::store::{InsertOutcome, NewSession, Rotation, SessionTermination};
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

/// Makes one test of each rule for each store.
macro_rules! suite {
    ($($module:ident: $($rule:ident)*;)*) => {
        suite!(@store memory: $($module: $($rule)*;)*);
        suite!(@store sqlite: $($module: $($rule)*;)*);
        suite!(@store postgres: $($module: $($rule)*;)*);
    };
    (@store $store:ident: $($module:ident: $($rule:ident)*;)*) => {
        mod $store {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $rule() {
                    if let Some(fresh) = crate::support::db::$store().await {
                        super::$module::$rule(&fresh.stores).await;
                    }
                }
            )*)*
        }
    };
}

suite! {
    sessions:
        what_is_not_there_is_no_error
        a_session_comes_back_as_it_was
        an_id_is_taken_once
        only_who_may_sign_in_gets_a_session
        without_a_hash_nothing_is_asked_of_the_user
        a_refused_sign_in_changes_nothing
        a_new_session_takes_the_place_of_another
        the_oldest_beyond_the_limit_give_way
        only_live_sessions_count_against_the_limit
        a_rotation_sets_the_whole_row
        a_rotation_never_outlives_the_absolute_expiry
        a_rotation_that_is_not_due_changes_nothing
        a_session_behind_catches_up
        what_is_not_behind_does_not_catch_up
        the_last_generation_has_no_next
        the_first_token_in_lasting_use_settles
        only_a_live_session_at_that_generation_settles
        a_batch_settles_each_once
        replays_add_up
        a_session_ends_once
        sessions_end_by_name
        live_sessions_come_latest_rotated_first
        lists_come_latest_created_first
        what_has_ended_lately_can_be_asked_for
        the_store_tells_the_time;
    audit:
        what_nobody_did_is_not_in_the_audit
        a_sign_in_is_audited
        an_end_names_both_sides
        every_end_is_audited_once
        ever_so_many_end_and_are_audited
        sessions_that_give_way_are_audited
        changes_to_users_are_audited
        of_racing_ends_one_is_audited
        an_entry_comes_back_as_it_was
        the_audit_is_purged_in_steps
        sessions_that_expired_are_ended_in_steps
        sessions_are_purged_in_steps;
    users:
        a_user_comes_back_as_it_was
        users_come_all_or_none
        users_are_listed_by_address
        a_hash_is_renewed_without_an_end
        a_change_of_password_ends_the_others
        a_change_of_password_needs_the_old_hash
        a_change_of_role_ends_all
        a_disabled_user_may_not_sign_in
        sessions_outlive_their_user;
    movies:
        a_movie_comes_back_as_it_was
        a_movie_is_replaced_and_deleted
        movies_are_found_by_part_in_any_case
        movies_are_sorted_by_a_column_then_id
        pages_know_the_total
        the_first_setting_stays;
    races:
        one_rotation_wins
        one_catching_up_wins
        one_token_settles
        one_caller_ends_a_session
        replays_are_not_lost
        sign_ins_keep_to_the_limit
        no_sign_in_outruns_a_change_of_password
        no_sign_in_outruns_a_loss_of_right
        what_touches_many_rows_never_waits_in_a_circle
        one_address_goes_to_one_user
        processes_agree_on_a_setting;
}

/// With microseconds, which must come back.
pub(crate) const NOW: OffsetDateTime = datetime!(2026-01-01 12:34:56.123456 UTC);

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

fn id() -> Uuid {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let nth = LAST.fetch_add(1, Ordering::Relaxed);
    // Spread like random ones, but the same in every run.
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
        role: Role::User,
        disabled_at: None,
        created_at: NOW,
    }
}

/// A user that is in the store.
pub(crate) async fn known_user(stores: &Stores, email: &str) -> User {
    let user = user(email);
    stores.users.insert_users(std::slice::from_ref(&user)).await.unwrap();
    user
}

pub(crate) fn session(user: &User) -> Session {
    Session {
        id: SessionId(id()),
        user_id: user.id,
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
    }
}

fn new(session: &Session) -> NewSession<'_> {
    NewSession { session, hashed_password: None, replaces: None, max_per_user: 1_000 }
}

/// A session that is in the store.
pub(crate) async fn known_session(stores: &Stores, session: Session) -> Session {
    let inserted = stores.sessions.insert_session(&new(&session)).await.unwrap();
    assert_eq!(inserted, InsertOutcome::Inserted { terminated: vec![] });
    session
}

/// A session, in the store, of a user who isn't.
pub(crate) async fn any_session(stores: &Stores) -> Session {
    known_session(stores, session(&user("someone@example.com"))).await
}

pub(crate) async fn found(stores: &Stores, id: SessionId) -> Session {
    stores.sessions.find_session(id).await.unwrap().expect("the session is there")
}

/// A rotation of the session as it is, due at once.
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

fn end(reason: EndReason) -> SessionEnd {
    SessionEnd { at: NOW + 2 * MINUTE, reason }
}

pub(crate) fn ending(end: SessionEnd) -> SessionTermination {
    SessionTermination::new(end.at, end.reason, ClientInfo::default())
}

/// The ids, in an order to compare by.
fn sorted(mut ids: Vec<SessionId>) -> Vec<SessionId> {
    ids.sort_unstable();
    ids
}
