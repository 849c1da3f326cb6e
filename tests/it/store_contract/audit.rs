//! Audit log: each start and end of a session has one entry with its client.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::{StreamExt, stream};
use sekisho::models::audit::{AuditEntry, AuditEvent};
use sekisho::services::store::{PasswordChange, SessionFilter};

use super::*;

fn client(last: u8, agent: &str, request: &str) -> ClientInfo {
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    ClientInfo { request_id: Some(request.to_owned()), ..ClientInfo::new(Some(address), Some(agent)) }
}

/// Returns the part of a client that is stored in the session row.
fn kept(client: &ClientInfo) -> ClientInfo {
    ClientInfo { request_id: None, ..client.clone() }
}

async fn entries(stores: &Stores, id: SessionId) -> Vec<AuditEntry> {
    stores.sessions.session_audit(id, 100).await.unwrap()
}

/// Returns the reason for the termination in the audit log, which must occur once.
async fn audited(stores: &Stores, id: SessionId) -> EndReason {
    let ends: Vec<_> = entries(stores, id)
        .await
        .into_iter()
        .filter_map(|entry| match entry.event {
            AuditEvent::Ended(reason) => Some(reason),
            _ => None,
        })
        .collect();
    let [reason] = ends[..] else { panic!("expected one end of {id}: {ends:?}") };
    reason
}

pub(super) async fn failed_operations_are_not_audited(stores: &Stores) {
    let nothing = session(&user("missing@example.com"));
    assert_eq!(entries(stores, nothing.id).await, []);
    stores.sessions.record(&[]).await.unwrap();
    let revoked = ending(end(EndReason::Revoked));
    assert!(!stores.sessions.end_session(nothing.id, &revoked).await.unwrap());
    assert_eq!(entries(stores, nothing.id).await, []);
    assert_eq!(stores.sessions.purge_audit(NOW + DAY, 10).await.unwrap(), 0);
}

pub(super) async fn sign_in_is_audited(stores: &Stores) {
    let owner = known_user(stores, "owner@example.com").await;
    let by = client(1, "Browser/1.0", "first");
    let begun = Session { client: by.clone(), ..session(&owner) };
    stores.sessions.insert_session(&new(&begun)).await.unwrap();
    let entry = AuditEntry {
        user: Some(owner.id.into()),
        session: Some(begun.id),
        held: Some(1),
        ..AuditEntry::new(NOW, AuditEvent::Login, by)
    };
    assert_eq!(entries(stores, begun.id).await, [entry]);

    let refused = session(&owner);
    let wrong = NewSession { hashed_password: Some(&"$2b$12$other".into()), ..new(&refused) };
    assert_eq!(stores.sessions.insert_session(&wrong).await.unwrap(), InsertOutcome::Refused);
    assert_eq!(entries(stores, refused.id).await, []);
}

pub(super) async fn termination_entry_has_both_clients(stores: &Stores) {
    let owner = known_user(stores, "owner@example.com").await;
    let (browser, thief) = (client(1, "Browser/1.0", "first"), client(2, "curl/8", "second"));
    let before = known_session(stores, session(&owner)).await;
    stores.sessions.rotate(&rotation(&before, &browser)).await.unwrap().expect("rotated");

    let reused =
        SessionTermination { presented: Some(1), client: thief, ..ending(end(EndReason::ReuseDetected)) };
    assert!(stores.sessions.end_session(before.id, &reused).await.unwrap());
    let entry = &entries(stores, before.id).await[0];
    assert_eq!(*entry, reused.audit_entry(before.id, owner.id.into(), 2, kept(&browser)));
    assert_eq!((entry.presented, entry.held), (Some(1), Some(2)));
    assert_eq!(entry.by.request_id.as_deref(), Some("second"));
}

pub(super) async fn every_termination_is_audited_once(stores: &Stores) {
    let first = any_session(stores).await;
    for reason in [EndReason::LoggedOut, EndReason::Revoked] {
        stores.sessions.end_session(first.id, &ending(end(reason))).await.unwrap();
        stores.sessions.end_sessions(&SessionFilter::All, &ending(end(reason))).await.unwrap();
    }
    assert_eq!(audited(stores, first.id).await, EndReason::LoggedOut);

    let owner = known_user(stores, "owner@example.com").await;
    let many = [known_session(stores, session(&owner)).await, known_session(stores, session(&owner)).await];
    let which = SessionFilter::User(owner.id.into());
    stores.sessions.end_sessions(&which, &ending(end(EndReason::Revoked))).await.unwrap();
    for one in many {
        assert_eq!(audited(stores, one.id).await, EndReason::Revoked);
    }
}

pub(super) async fn bulk_termination_is_audited(stores: &Stores) {
    const MANY: usize = 1_050;
    let owners = [user("one@example.com"), user("two@example.com")];
    let rows: Vec<_> = (0..MANY).map(|nth| session(&owners[nth % 2])).collect();
    stream::iter(&rows)
        // Fewer than the store's connections: waiting for one has a timeout, which a busy disk exceeds.
        .for_each_concurrent(4, |row| async { drop(known_session(stores, row.clone()).await) })
        .await;
    let revoked = end(EndReason::Revoked);
    let ended = stores.sessions.end_sessions(&SessionFilter::All, &ending(revoked)).await.unwrap();
    assert_eq!(sorted(ended), sorted(rows.iter().map(|row| row.id).collect()));
    for row in rows.iter().step_by(50) {
        let end = found(stores, row.id).await.end.expect("ended");
        assert_eq!((end.reason, end.at >= revoked.at), (EndReason::Revoked, true));
        assert_eq!(audited(stores, row.id).await, EndReason::Revoked);
    }
}

pub(super) async fn evicted_sessions_are_audited(stores: &Stores) {
    let owner = known_user(stores, "owner@example.com").await;
    let oldest = known_session(stores, Session { created_at: NOW - 2 * MINUTE, ..session(&owner) }).await;
    let replaced = known_session(stores, Session { created_at: NOW - MINUTE, ..session(&owner) }).await;
    let kept = known_session(stores, session(&owner)).await;
    let by = client(3, "Browser/1.0", "third");
    let next = Session { client: by.clone(), created_at: NOW + MINUTE, ..session(&owner) };
    let next = NewSession { replaces: Some(replaced.id), max_per_user: 2, ..new(&next) };
    stores.sessions.insert_session(&next).await.unwrap();
    assert_eq!(audited(stores, oldest.id).await, EndReason::Displaced);
    assert_eq!(audited(stores, replaced.id).await, EndReason::LoggedOut);
    assert_eq!(entries(stores, replaced.id).await[0].by, by, "the sign-in that replaced it");
    assert_eq!(entries(stores, kept.id).await.len(), 1);
}

pub(super) async fn user_changes_are_audited(stores: &Stores) {
    let users = &stores.users;
    let owner = known_user(stores, "owner@example.com").await;
    let mut ended = Vec::new();
    for reason in [EndReason::PasswordChanged, EndReason::RoleChanged, EndReason::UserDisabled] {
        let live = known_session(stores, session(&owner)).await;
        let ending = ending(end(reason));
        match reason {
            EndReason::PasswordChanged => {
                let new = &"$2b$12$new".into();
                let change =
                    PasswordChange { user: owner.id, old: None, new, keep: None, termination: &ending };
                users.change_password(&change).await.unwrap();
            }
            EndReason::RoleChanged => drop(users.set_role(owner.id, Role::Admin, &ending).await.unwrap()),
            _ => drop(users.disable_user(owner.id, &ending).await.unwrap()),
        }
        ended.push((live.id, reason));
    }
    let last = known_session(stores, session(&owner)).await;
    users.delete_user(owner.id, &ending(end(EndReason::UserDeleted))).await.unwrap();
    ended.push((last.id, EndReason::UserDeleted));
    for (id, reason) in ended {
        assert_eq!(audited(stores, id).await, reason);
    }
}

pub(super) async fn concurrent_terminations_are_audited_once(stores: &Stores) {
    let before = any_session(stores).await;
    let reasons = [EndReason::LoggedOut, EndReason::Revoked, EndReason::ReuseDetected];
    let won = races::race(12, |nth| {
        let (sessions, reason) = (stores.sessions.clone(), reasons[nth % 3]);
        async move { sessions.end_session(before.id, &ending(end(reason))).await.unwrap() }
    });
    assert_eq!(won.await.into_iter().filter(|won| *won).count(), 1);
    let reason = found(stores, before.id).await.end.expect("ended").reason;
    assert_eq!(audited(stores, before.id).await, reason);
}

pub(super) async fn audit_entry_round_trips(stores: &Stores) {
    let about = SessionId(id());
    let by = client(4, "Agent/1.0 (é, 関所, '\")", "0198c0de-0000-4000-8000-000000000000");
    let full = AuditEntry {
        user: Some(id().into()),
        session: Some(about),
        presented: Some(u32::MAX),
        held: Some(u32::MAX - 1),
        key_number: Some(u8::MAX),
        holder: kept(&client(5, "Browser/1.0", "")),
        ..AuditEntry::new(datetime!(2031-02-03 04:05:06.000007 UTC), AuditEvent::CaughtUp, by)
    };
    let bare = AuditEntry {
        session: Some(about),
        ..AuditEntry::new(NOW, AuditEvent::UnknownSession, ClientInfo::default())
    };
    stores.sessions.record(&[bare.clone(), full.clone()]).await.unwrap();
    assert_eq!(entries(stores, about).await, [full.clone(), bare], "newest first");
    assert_eq!(stores.sessions.session_audit(about, 1).await.unwrap(), [full]);
}

pub(super) async fn audit_is_purged_in_steps(stores: &Stores) {
    let about = SessionId(id());
    let at = |minutes| AuditEntry {
        session: Some(about),
        ..AuditEntry::new(NOW + minutes * MINUTE, AuditEvent::UnknownSession, ClientInfo::default())
    };
    stores.sessions.record(&[at(0), at(1), at(2), at(3)]).await.unwrap();
    let purge = async |most| stores.sessions.purge_audit(NOW + 3 * MINUTE, most).await.unwrap();
    assert_eq!((purge(2).await, purge(2).await, purge(2).await), (2, 1, 0));
    assert_eq!(entries(stores, about).await, [at(3)], "an entry at the time is not purged");
}

pub(super) async fn expired_sessions_are_ended_in_steps(stores: &Stores) {
    let owner = user("owner@example.com");
    let idle = Session { idle_expires_at: NOW - MINUTE, ..session(&owner) };
    let absolute = Session { absolute_expires_at: NOW, idle_expires_at: NOW, ..session(&owner) };
    let ended = Session { end: Some(end(EndReason::LoggedOut)), ..idle.clone() };
    let ended = Session { id: SessionId(id()), ..ended };
    let live = session(&owner);
    for row in [&idle, &absolute, &ended, &live] {
        known_session(stores, row.clone()).await;
    }
    let (mut from, mut steps) = (SessionId(Uuid::nil()), 0);
    while let Some(last) = stores.sessions.end_expired(from, 3, NOW).await.unwrap() {
        assert!(last > from);
        (from, steps) = (last, steps + 1);
    }
    assert_eq!(steps, 2, "four sessions in steps of three");

    let over = async |row: &Session| found(stores, row.id).await.end;
    let idle_end = SessionEnd { at: NOW - MINUTE, reason: EndReason::IdleExpired };
    assert_eq!(over(&idle).await, Some(idle_end), "the end is at the expiry");
    let absolute_end = SessionEnd { at: NOW, reason: EndReason::AbsoluteExpired };
    assert_eq!(over(&absolute).await, Some(absolute_end));
    assert_eq!(over(&ended).await, ended.end);
    assert_eq!(over(&live).await, None);

    assert!(stores.sessions.end_expired(SessionId(Uuid::nil()), 10, NOW).await.unwrap().is_some());
    assert_eq!(audited(stores, idle.id).await, EndReason::IdleExpired);
    assert_eq!(audited(stores, absolute.id).await, EndReason::AbsoluteExpired);
    assert_eq!(entries(stores, idle.id).await[0].by, ClientInfo::default(), "an expiry has no client");
}

pub(super) async fn sessions_are_purged_in_steps(stores: &Stores) {
    let owner = user("owner@example.com");
    let ended = |minutes| {
        let end = SessionEnd { at: NOW + minutes * MINUTE, reason: EndReason::LoggedOut };
        Session { end: Some(end), ..session(&owner) }
    };
    let live = known_session(stores, Session { idle_expires_at: NOW - DAY, ..session(&owner) }).await;
    let rows = [0, 1, 2, 3].map(ended);
    for row in &rows {
        known_session(stores, row.clone()).await;
    }
    let purge = async |most| stores.sessions.purge_sessions(NOW + 3 * MINUTE, most).await.unwrap();
    assert_eq!((purge(2).await, purge(2).await, purge(2).await), (2, 1, 0));
    let left = stores.sessions.list_sessions(&SessionFilter::User(owner.id.into()), None, 10).await.unwrap();
    assert_eq!(sorted(left.iter().map(|row| row.id).collect()), sorted(vec![live.id, rows[3].id]));
    assert_eq!(entries(stores, rows[0].id).await.len(), 1, "the audit is kept longer");
}
