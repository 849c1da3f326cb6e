//! Concurrent calls.

use std::future::Future;
use std::sync::Arc;

use sekisho::services::store::{PasswordChange, SessionFilter, StoreError, TokenUse};
use tokio::sync::Barrier;

use super::*;

/// Runs tasks that start at the same time.
pub(crate) async fn race<T, F>(racers: usize, start: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let barrier = Arc::new(Barrier::new(racers));
    let tasks: Vec<_> = (0..racers)
        .map(|nth| {
            let (barrier, run) = (barrier.clone(), start(nth));
            tokio::spawn(async move {
                barrier.wait().await;
                run.await
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

pub(super) async fn concurrent_rotations_have_one_winner(stores: &Stores) {
    let before = any_session(stores).await;
    for generation in 1..=5 {
        let answers = race(20, |_| {
            let (sessions, before) = (stores.sessions.clone(), before.clone());
            async move {
                let client = ClientInfo::default();
                let step = Rotation {
                    from_generation: generation,
                    max_rotated_at: NOW + DAY,
                    ..rotation(&before, &client)
                };
                sessions.rotate(&step).await.unwrap()
            }
        });
        let answers = answers.await;
        let winners: Vec<&Session> = answers.iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(&found(stores, before.id).await, winners[0]);
        assert_eq!(winners[0].generation, generation + 1);
    }
}

pub(super) async fn concurrent_catch_ups_have_one_winner(stores: &Stores) {
    let before = any_session(stores).await;
    let answers = race(20, |_| {
        let (sessions, before) = (stores.sessions.clone(), before.clone());
        async move {
            let client = ClientInfo::default();
            sessions.catch_up(&Rotation { from_generation: 5, ..rotation(&before, &client) }).await.unwrap()
        }
    });
    assert_eq!(answers.await.iter().flatten().count(), 1);
    assert_eq!(found(stores, before.id).await.generation, 6);
}

pub(super) async fn concurrent_confirmations_have_one_winner(stores: &Stores) {
    let before = any_session(stores).await;
    let answers = race(20, |_| {
        let sessions = stores.sessions.clone();
        let used = TokenUse { session: before.id, generation: 1, token: token() };
        async move { sessions.confirm_generation(&[used]).await.unwrap() }
    });
    assert_eq!(answers.await.iter().filter(|conflicts| conflicts.is_empty()).count(), 1);
}

pub(super) async fn concurrent_terminations_have_one_winner(stores: &Stores) {
    let before = any_session(stores).await;
    let answers = race(EndReason::ALL.len(), |nth| {
        let sessions = stores.sessions.clone();
        let reason = EndReason::ALL[nth];
        async move { sessions.end_session(before.id, &ending(end(reason))).await.unwrap().then_some(reason) }
    });
    let reasons: Vec<EndReason> = answers.await.into_iter().flatten().collect();
    assert_eq!(reasons, [found(stores, before.id).await.end.expect("ended").reason]);
}

pub(super) async fn concurrent_uses_add_up(stores: &Stores) {
    let (one, two) = (any_session(stores).await.id, any_session(stores).await.id);
    race(10, |nth| {
        let sessions = stores.sessions.clone();
        let idle_expires_at = NOW + (20 + nth as u32) * DAY;
        let mut uses =
            [(one, 1), (two, 2)].map(|(id, count)| SessionUse { idle_expires_at, ..replays(id, count) });
        if nth % 2 == 0 {
            uses.reverse();
        }
        async move { sessions.record_uses(&uses, NOW).await.unwrap() }
    })
    .await;
    for (id, replays) in [(one, 10), (two, 20)] {
        let row = found(stores, id).await;
        assert_eq!((row.replays, row.idle_expires_at), (replays, NOW + 29 * DAY), "the last use decides");
    }
}

pub(super) async fn concurrent_sign_ins_respect_the_limit(stores: &Stores) {
    let owner = known_user(stores, "owner@example.com").await;
    race(12, |_| {
        let (sessions, session, hash) =
            (stores.sessions.clone(), session(&owner), owner.hashed_password.clone());
        async move {
            let asked = NewSession { hashed_password: Some(&hash), max_per_user: 3, ..new(&session) };
            let answer = sessions.insert_session(&asked).await.unwrap();
            assert!(matches!(answer, InsertOutcome::Inserted { .. }));
        }
    })
    .await;
    let live = stores.sessions.live_sessions(&owner.id.into(), NOW).await.unwrap();
    assert_eq!(live.len(), 3);
}

pub(super) async fn concurrent_sign_ins_without_password_respect_the_limit(stores: &Stores) {
    let owner = user("owner@example.com");
    race(12, |_| {
        let (sessions, session) = (stores.sessions.clone(), session(&owner));
        async move {
            let asked = NewSession { max_per_user: 3, ..new(&session) };
            let answer = sessions.insert_session(&asked).await.unwrap();
            assert!(matches!(answer, InsertOutcome::Inserted { .. }));
        }
    })
    .await;
    let live = stores.sessions.live_sessions(&owner.id.into(), NOW).await.unwrap();
    assert_eq!(live.len(), 3);
}

pub(super) async fn concurrent_sign_in_does_not_survive_password_change(stores: &Stores) {
    for round in 0..15 {
        let owner = known_user(stores, &format!("{round}@example.com")).await;
        let signed_in = race(6, |nth| {
            let (stores, owner, session) = (stores.clone(), owner.clone(), session(&owner));
            async move {
                if nth == 5 - round % 6 {
                    change_password(&stores, &owner).await;
                    return None;
                }
                let asked = NewSession { hashed_password: Some(&owner.hashed_password), ..new(&session) };
                let answer = stores.sessions.insert_session(&asked).await.unwrap();
                (answer != InsertOutcome::Refused).then_some(session.id)
            }
        });
        for id in signed_in.await.into_iter().flatten() {
            let reason = found(stores, id).await.end.map(|end| end.reason);
            assert_eq!(reason, Some(EndReason::PasswordChanged), "a session of the old password is active");
        }
        assert_eq!(stores.sessions.live_sessions(&owner.id.into(), NOW).await.unwrap(), []);
    }
}

async fn change_password(stores: &Stores, owner: &User) {
    let change = PasswordChange {
        user: owner.id,
        old: Some(&owner.hashed_password),
        new: &"$2b$12$new".into(),
        keep: None,
        termination: &ending(end(EndReason::PasswordChanged)),
    };
    assert!(stores.users.change_password(&change).await.unwrap().is_some());
}

pub(super) async fn concurrent_sign_in_does_not_survive_user_change(stores: &Stores) {
    for round in 0..12 {
        let owner = known_user(stores, &format!("{round}@example.com")).await;
        race(5, |nth| {
            let (stores, owner, session) = (stores.clone(), owner.clone(), session(&owner));
            async move {
                if nth == 4 - round % 5 {
                    let users = &stores.users;
                    let ended = match round % 3 {
                        0 => users.disable_user(owner.id, &ending(end(EndReason::UserDisabled))).await,
                        1 => users.delete_user(owner.id, &ending(end(EndReason::UserDeleted))).await,
                        _ => {
                            users.set_role(owner.id, Role::Admin, &ending(end(EndReason::RoleChanged))).await
                        }
                    };
                    assert!(ended.unwrap().is_some());
                    return;
                }
                let asked = NewSession { hashed_password: Some(&owner.hashed_password), ..new(&session) };
                stores.sessions.insert_session(&asked).await.unwrap();
            }
        })
        .await;
        assert_eq!(stores.sessions.live_sessions(&owner.id.into(), NOW).await.unwrap(), [], "round {round}");
    }
}

pub(super) async fn bulk_updates_do_not_deadlock(stores: &Stores) {
    let owner = known_user(stores, "owner@example.com").await;
    let mut all = Vec::new();
    for _ in 0..60 {
        all.push(known_session(stores, session(&owner)).await.id);
    }
    // In different orders. A deadlock would be an error after a second.
    race(12, |nth| {
        let (stores, owner, mut ids) = (stores.clone(), owner.clone(), all.clone());
        ids.rotate_left(5 * nth);
        async move {
            let uses: Vec<_> = ids.iter().map(|id| replays(*id, 1)).collect();
            let used: Vec<_> =
                ids.iter().map(|id| TokenUse { session: *id, generation: 1, token: token() }).collect();
            let session = session(&owner);
            // Without a hash, the user is not locked.
            let hash = (nth % 3 != 0).then_some(&owner.hashed_password);
            let asked = NewSession {
                replaces: Some(ids[0]),
                max_per_user: 20,
                hashed_password: hash,
                ..new(&session)
            };
            stores.sessions.record_uses(&uses, NOW).await.unwrap();
            stores.sessions.confirm_generation(&used).await.unwrap();
            stores.sessions.insert_session(&asked).await.unwrap();
            let which = if nth % 2 == 0 { SessionFilter::All } else { SessionFilter::User(owner.id.into()) };
            stores.sessions.end_sessions(&which, &ending(end(EndReason::Revoked))).await.unwrap();
        }
    })
    .await;
    assert_eq!(stores.sessions.live_sessions(&owner.id.into(), NOW).await.unwrap(), []);
}

pub(super) async fn concurrent_inserts_of_an_address_have_one_winner(stores: &Stores) {
    for round in 0..10 {
        let answers = race(10, |nth| {
            let users = stores.users.clone();
            let mut batch: Vec<User> = (0..6).map(|of| user(&format!("{of}-{round}@example.com"))).collect();
            // In different orders, which must not cause a deadlock.
            batch.rotate_left(nth % 6);
            async move { users.insert_users(&batch).await }
        })
        .await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        for answer in answers.into_iter().filter_map(Result::err) {
            assert!(matches!(answer, StoreError::Conflict("email")), "{answer:?}");
        }
    }
}

pub(super) async fn concurrent_setting_inserts_agree(stores: &Stores) {
    let answers = race(10, |nth| {
        let settings = stores.settings.clone();
        async move { settings.get_or_insert_setting("tokens.issuer", &nth.to_string()).await.unwrap() }
    });
    let answers = answers.await;
    assert!(answers.iter().all(|answer| answer == &answers[0]), "{answers:?}");
}
