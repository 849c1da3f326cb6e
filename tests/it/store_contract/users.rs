//! `UserStore`.

use secrecy::{ExposeSecret, SecretString};
use sekisho::services::store::{PasswordChange, SessionFilter, StoreError};

use super::*;

/// Returns all stored fields of a user for comparison.
fn all(user: &User) -> impl PartialEq + std::fmt::Debug + use<> {
    let User { id, email, name, hashed_password, password_origin, role, disabled_at, created_at } =
        user.clone();
    (
        id,
        email,
        name,
        hashed_password.expose_secret().to_owned(),
        password_origin,
        role,
        disabled_at,
        created_at,
    )
}

async fn hash(stores: &Stores, user: &User) -> String {
    let user = stores.users.find_user(user.id).await.unwrap().expect("a stored user");
    user.hashed_password.expose_secret().to_owned()
}

pub(super) async fn user_round_trips(stores: &Stores) {
    let plain = user("plain@example.com");
    let full = User {
        name: Some("関 所 'O\"Brien".to_owned()),
        hashed_password: "$bcrypt-sha256$v=2,t=2b,r=12$x".into(),
        password_origin: PasswordOrigin::Imported,
        role: Role::Admin,
        disabled_at: Some(datetime!(1999-12-31 23:59:59.999999 UTC)),
        ..user("full@example.com")
    };
    stores.users.insert_users(&[plain.clone(), full.clone()]).await.unwrap();
    for user in [plain, full] {
        let by_id = stores.users.find_user(user.id).await.unwrap().expect("by id");
        assert_eq!(all(&by_id), all(&user));
        let by_email = stores.users.find_user_by_email(&user.email).await.unwrap().expect("by address");
        assert_eq!(all(&by_email), all(&user));
    }
}

pub(super) async fn users_are_inserted_all_or_none(stores: &Stores) {
    known_user(stores, "taken@example.com").await;
    let batches = [
        vec![user("a@example.com"), user("taken@example.com")],
        vec![user("b@example.com"), user("twice@example.com"), user("twice@example.com")],
    ];
    for batch in batches {
        let answer = stores.users.insert_users(&batch).await;
        assert!(matches!(answer, Err(StoreError::Conflict("email"))), "{answer:?}");
        assert!(stores.users.find_user(batch[0].id).await.unwrap().is_none());
    }
    assert_eq!(stores.users.list_users().await.unwrap().len(), 1);

    let known = known_user(stores, "known@example.com").await;
    let same_id = User { id: known.id, ..user("new@example.com") };
    let answer = stores.users.insert_users(&[same_id]).await;
    assert!(matches!(answer, Err(StoreError::Conflict("id"))), "{answer:?}");
    stores.users.insert_users(&[]).await.unwrap();
}

pub(super) async fn users_are_sorted_by_address(stores: &Stores) {
    assert!(!stores.users.has_users().await.unwrap());
    for email in ["b@example.com", "é@example.com", "a-z@example.com", "a@example.com", "ab@example.com"] {
        known_user(stores, email).await;
    }
    let users = stores.users.list_users().await.unwrap();
    assert!(stores.users.has_users().await.unwrap());
    let emails: Vec<&str> = users.iter().map(|user| user.email.as_str()).collect();
    // By code point, independent of the database's locale.
    let sorted = ["a-z@example.com", "a@example.com", "ab@example.com", "b@example.com", "é@example.com"];
    assert_eq!(emails, sorted);
}

pub(super) async fn rehash_keeps_sessions(stores: &Stores) {
    let owner = known_user(stores, "owner@example.com").await;
    let session = known_session(stores, session(&owner)).await;
    let (old, new) = (&owner.hashed_password, SecretString::from("$2b$13$new"));

    assert!(!stores.users.rehash(owner.id, &new, old).await.unwrap(), "the hash differs");
    assert!(!stores.users.rehash(UserId(id()), old, &new).await.unwrap(), "no user has the id");
    assert_eq!(hash(stores, &owner).await, old.expose_secret());
    assert!(stores.users.rehash(owner.id, old, &new).await.unwrap());
    assert_eq!(hash(stores, &owner).await, "$2b$13$new");
    assert_eq!(found(stores, session.id).await, session);
}

/// B13: a hash that replaces an imported one is no longer imported.
pub(super) async fn new_hash_is_not_imported(stores: &Stores) {
    for email in ["rehashed@example.com", "changed@example.com"] {
        let imported = User { password_origin: PasswordOrigin::Imported, ..user(email) };
        stores.users.insert_users(std::slice::from_ref(&imported)).await.unwrap();
        let (old, new) = (&imported.hashed_password, SecretString::from("$2b$12$new"));
        if email.starts_with("rehashed") {
            assert!(stores.users.rehash(imported.id, old, &new).await.unwrap());
        } else {
            let change = PasswordChange {
                user: imported.id,
                old: None,
                new: &new,
                keep: None,
                termination: &ending(end(EndReason::PasswordChanged)),
            };
            assert_eq!(stores.users.change_password(&change).await.unwrap(), Some(Vec::new()));
        }
        let found = stores.users.find_user(imported.id).await.unwrap().expect("a stored user");
        assert_eq!(found.password_origin, PasswordOrigin::Own, "{email}");
    }
}

pub(super) async fn password_change_ends_other_sessions(stores: &Stores) {
    let owner = known_user(stores, "owner@example.com").await;
    let kept = known_session(stores, session(&owner)).await;
    let others =
        [known_session(stores, session(&owner)).await.id, known_session(stores, session(&owner)).await.id];
    let bystander = any_session(stores).await;
    let change = PasswordChange {
        user: owner.id,
        old: Some(&owner.hashed_password),
        new: &"$2b$12$new".into(),
        keep: Some(kept.id),
        termination: &ending(end(EndReason::PasswordChanged)),
    };
    let ended = stores.users.change_password(&change).await.unwrap().expect("changed");
    assert_eq!(sorted(ended), sorted(others.to_vec()));
    assert_eq!(hash(stores, &owner).await, "$2b$12$new");
    assert_eq!(found(stores, kept.id).await, kept);
    assert_eq!(found(stores, bystander.id).await, bystander);
    for other in others {
        assert_eq!(found(stores, other).await.end, Some(change.termination.end()));
    }

    // An operator gives no old password and keeps no session.
    let change = PasswordChange { old: None, keep: None, new: &"$2b$12$newer".into(), ..change };
    assert_eq!(stores.users.change_password(&change).await.unwrap(), Some(vec![kept.id]));
    assert_eq!(hash(stores, &owner).await, "$2b$12$newer");
}

pub(super) async fn password_change_requires_the_old_hash(stores: &Stores) {
    let owner = known_user(stores, "owner@example.com").await;
    let session = known_session(stores, session(&owner)).await;
    let change = PasswordChange {
        user: owner.id,
        old: Some(&"$2b$12$other".into()),
        new: &"$2b$12$new".into(),
        keep: None,
        termination: &ending(end(EndReason::PasswordChanged)),
    };
    assert_eq!(stores.users.change_password(&change).await.unwrap(), None);
    assert_eq!(hash(stores, &owner).await, owner.hashed_password.expose_secret());
    assert_eq!(found(stores, session.id).await, session);
    let unknown_user = PasswordChange { user: UserId(id()), old: None, ..change };
    assert_eq!(stores.users.change_password(&unknown_user).await.unwrap(), None);
}

pub(super) async fn role_change_ends_all_sessions(stores: &Stores) {
    let owner = known_user(stores, "owner@example.com").await;
    let session = known_session(stores, session(&owner)).await;
    let changed = end(EndReason::RoleChanged);
    let set_role = async |role| stores.users.set_role(owner.id, role, &ending(changed)).await.unwrap();

    assert_eq!(set_role(Role::User).await, Some(vec![]));
    assert_eq!(found(stores, session.id).await, session);
    assert_eq!(set_role(Role::Admin).await, Some(vec![session.id]));
    assert_eq!(found(stores, session.id).await.end, Some(changed));
    assert_eq!(stores.users.find_user(owner.id).await.unwrap().expect("there").role, Role::Admin);
    assert_eq!(set_role(Role::Admin).await, Some(vec![]));
}

pub(super) async fn disabled_user_cannot_sign_in(stores: &Stores) {
    let owner = known_user(stores, "owner@example.com").await;
    let before = known_session(stores, session(&owner)).await;
    let disabled = end(EndReason::UserDisabled);
    assert_eq!(stores.users.disable_user(owner.id, &ending(disabled)).await.unwrap(), Some(vec![before.id]));
    assert_eq!(found(stores, before.id).await.end, Some(disabled));
    let again = SessionEnd { at: disabled.at + MINUTE, ..disabled };
    assert_eq!(stores.users.disable_user(owner.id, &ending(again)).await.unwrap(), Some(vec![]));
    let stored = stores.users.find_user(owner.id).await.unwrap().expect("there");
    assert_eq!(stored.disabled_at, Some(disabled.at), "the first time is kept");

    let session = session(&owner);
    let asked = NewSession { hashed_password: Some(&owner.hashed_password), ..new(&session) };
    assert_eq!(stores.sessions.insert_session(&asked).await.unwrap(), InsertOutcome::Refused);
    assert!(stores.users.enable_user(owner.id).await.unwrap());
    assert_eq!(stores.users.find_user(owner.id).await.unwrap().expect("there").disabled_at, None);
    let answer = stores.sessions.insert_session(&asked).await.unwrap();
    assert_eq!(answer, InsertOutcome::Inserted { terminated: vec![] });
    assert!(found(stores, before.id).await.end.is_some(), "an ended session stays ended");
}

pub(super) async fn sessions_remain_after_user_is_deleted(stores: &Stores) {
    let owner = known_user(stores, "owner@example.com").await;
    let live = known_session(stores, session(&owner)).await;
    let ended = known_session(stores, session(&owner)).await;
    stores.sessions.end_session(ended.id, &ending(end(EndReason::LoggedOut))).await.unwrap();
    let deleted = end(EndReason::UserDeleted);
    assert_eq!(stores.users.delete_user(owner.id, &ending(deleted)).await.unwrap(), Some(vec![live.id]));
    assert!(stores.users.find_user(owner.id).await.unwrap().is_none());
    assert!(stores.users.find_user_by_email(&owner.email).await.unwrap().is_none());
    assert_eq!(found(stores, live.id).await, Session { end: Some(deleted), ..live });
    assert_eq!(found(stores, ended.id).await.end, Some(end(EndReason::LoggedOut)));
    assert_eq!(
        stores.sessions.list_sessions(&SessionFilter::User(owner.id.into()), None, 10).await.unwrap().len(),
        2
    );

    let successor = known_user(stores, &owner.email).await;
    let theirs =
        stores.sessions.list_sessions(&SessionFilter::User(successor.id.into()), None, 10).await.unwrap();
    assert_eq!(theirs, [], "addresses are reused, ids are not");
}
