//! `SessionStore`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sekisho::clock::{Clock, SystemClock};
use sekisho::identity::{Claims, Roles, Subject};
use sekisho::services::store::{EndedSince, SessionFilter, StoreError, TokenUse};

use super::*;

pub(super) async fn missing_rows_are_no_error(stores: &Stores) {
    let (sessions, users) = (&stores.sessions, &stores.users);
    let missing = user("missing@example.com");
    let nothing = session(&missing);
    let client = ClientInfo::default();
    let used = TokenUse { session: nothing.id, generation: 1, token: token() };
    let revoked = end(EndReason::Revoked);

    assert_eq!(sessions.find_session(nothing.id).await.unwrap(), None);
    assert_eq!(sessions.rotate(&rotation(&nothing, &client)).await.unwrap(), None);
    assert_eq!(sessions.catch_up(&rotation(&nothing, &client)).await.unwrap(), None);
    assert_eq!(sessions.confirm_generation(&[used]).await.unwrap(), []);
    assert_eq!(sessions.confirm_generation(&[]).await.unwrap(), []);
    sessions.record_uses(&[replays(nothing.id, 1)], NOW).await.unwrap();
    sessions.record_uses(&[], NOW).await.unwrap();
    assert!(!sessions.set_claims(nothing.id, &claims("team"), NOW).await.unwrap());
    assert!(!sessions.end_session(nothing.id, &ending(revoked)).await.unwrap());
    assert_eq!(sessions.end_sessions(&SessionFilter::All, &ending(revoked)).await.unwrap(), []);
    assert_eq!(sessions.live_sessions(&missing.id.into(), NOW).await.unwrap(), []);
    assert_eq!(sessions.list_sessions(&SessionFilter::All, None, 10).await.unwrap(), []);

    assert!(users.find_user(missing.id).await.unwrap().is_none());
    for email in ["missing@example.com", "", "\0", "mis\0sing@example.com", "'; --"] {
        assert!(users.find_user_by_email(email).await.unwrap().is_none(), "{email:?}");
    }
    assert!(users.list_users().await.unwrap().is_empty());
    assert!(!users.enable_user(missing.id).await.unwrap());
    assert_eq!(users.disable_user(missing.id, &ending(revoked)).await.unwrap(), None);
    assert_eq!(users.delete_user(missing.id, &ending(revoked)).await.unwrap(), None);
    assert_eq!(users.set_role(missing.id, Role::Admin, &ending(revoked)).await.unwrap(), None);
}

pub(super) async fn session_round_trips(stores: &Stores) {
    let plain = any_session(stores).await;
    assert_eq!(found(stores, plain.id).await, plain);

    let full = Session {
        kind: SessionKind::Client,
        roles: Roles::new(["user", "editor"]).unwrap(),
        generation: u32::MAX,
        key_number: u8::MAX,
        asked_by: Some(AccessTokenRef { id: token(), issued_at: datetime!(2026-01-01 12:00 UTC) }),
        settled_by: Some(token()),
        rotations: 1 << 40,
        replays: 1 << 41,
        end: Some(SessionEnd { at: datetime!(2031-02-03 04:05:06.000007 UTC), reason: EndReason::Exhausted }),
        client: ClientInfo::new(Some(IpAddr::V6(Ipv6Addr::LOCALHOST)), Some("Agent/1.0 (é, 関所, '\")")),
        ..session(&user("full@example.com"))
    };
    known_session(stores, full.clone()).await;
    assert_eq!(found(stores, full.id).await, full);

    for reason in EndReason::ALL {
        let ended = known_session(stores, session(&user("ended@example.com"))).await;
        assert!(stores.sessions.end_session(ended.id, &ending(end(reason))).await.unwrap());
        assert_eq!(found(stores, ended.id).await, Session { end: Some(end(reason)), ..ended });
    }
}

pub(super) async fn session_id_is_unique(stores: &Stores) {
    let first = any_session(stores).await;
    let again = Session { id: first.id, ..session(&user("other@example.com")) };
    let answer = stores.sessions.insert_session(&new(&again)).await;
    assert!(matches!(answer, Err(StoreError::Conflict("id"))), "{answer:?}");
    assert_eq!(found(stores, first.id).await, first);
}

/// Ids of the application's own: numbers, UUIDs and text of the maximum length.
pub(super) async fn subjects_of_all_kinds_round_trip(stores: &Stores) {
    let longest = "~".repeat(Subject::MAX_LEN);
    let texts = ["auth0|5f7c8ec7c33c6c004bbafe82", "O'Hara;--", "%_", "null", &longest];
    let numbers = [i64::MIN, -1, 0, i64::MAX].map(Subject::from);
    let subjects = texts.into_iter().map(|text| Subject::new(text).unwrap()).chain(numbers);
    for subject in subjects.chain([Subject::from(id())]) {
        let row = Session { subject: subject.clone(), ..session(&user("owner@example.com")) };
        let row = known_session(stores, row).await;
        assert_eq!(found(stores, row.id).await, row);
        let sessions = &stores.sessions;
        assert_eq!(sessions.live_sessions(&subject, NOW).await.unwrap(), std::slice::from_ref(&row));
        let filter = SessionFilter::User(subject.clone());
        assert_eq!(sessions.list_sessions(&filter, None, 10).await.unwrap(), std::slice::from_ref(&row));

        let next =
            Session { created_at: NOW + MINUTE, subject: subject.clone(), ..session(&user("o@example.com")) };
        let asked = NewSession { max_per_user: 1, ..new(&next) };
        let displaced = InsertOutcome::Inserted { terminated: vec![row.id] };
        assert_eq!(sessions.insert_session(&asked).await.unwrap(), displaced);
        assert_eq!(
            sessions.end_sessions(&filter, &ending(end(EndReason::Revoked))).await.unwrap(),
            [next.id]
        );
        let audit = sessions.session_audit(next.id, 10).await.unwrap();
        let users: Vec<_> = audit.into_iter().map(|entry| entry.user).collect();
        assert_eq!(users, [Some(subject.clone()), Some(subject)], "the sign-in and the end");
    }
}

pub(super) async fn subjects_differ_by_letter_case(stores: &Stores) {
    let subjects = ["ann", "Ann", "ann.", "an"].map(|text| Subject::new(text).unwrap());
    for subject in &subjects {
        let row = Session { subject: subject.clone(), ..session(&user("ann@example.com")) };
        known_session(stores, row).await;
    }
    for subject in &subjects {
        let live = stores.sessions.live_sessions(subject, NOW).await.unwrap();
        assert_eq!(live.iter().map(|row| &row.subject).collect::<Vec<_>>(), [subject]);
    }
}

/// With a password hash the subject must be the id of a user, written as the server writes it.
pub(super) async fn subject_that_is_no_user_id_has_no_password(stores: &Stores) {
    let known = known_user(stores, "known@example.com").await;
    let id = known.id.to_string();
    for text in ["42", &id.to_uppercase(), &id.replace('-', "")] {
        let row = Session { subject: Subject::new(text).unwrap(), ..session(&known) };
        let asked = NewSession { hashed_password: Some(&known.hashed_password), ..new(&row) };
        assert_eq!(stores.sessions.insert_session(&asked).await.unwrap(), InsertOutcome::Refused, "{text}");
    }
}

fn claims(plan: &str) -> Claims {
    Claims::new(&serde_json::json!({"plan": plan, "seats": 5})).unwrap()
}

pub(super) async fn claims_round_trip(stores: &Stores) {
    let longest = "x".repeat(Claims::MAX_LEN - claims("").as_json().unwrap().len());
    for claims in [claims("team"), claims("関所 '\"\0\u{1f512}"), claims(&longest), Claims::default()] {
        let row = Session { claims, ..session(&user("owner@example.com")) };
        let row = known_session(stores, row).await;
        assert_eq!(found(stores, row.id).await, row);
    }
}

pub(super) async fn claims_of_a_live_session_are_replaced(stores: &Stores) {
    let owner = user("owner@example.com");
    let (live, other) = (known_session(stores, session(&owner)).await, any_session(stores).await);
    for claims in [claims("team"), claims("free"), Claims::default()] {
        assert!(stores.sessions.set_claims(live.id, &claims, NOW).await.unwrap());
        assert_eq!(found(stores, live.id).await, Session { claims, ..live.clone() });
    }
    assert_eq!(found(stores, other.id).await, other);
    assert_eq!(stores.sessions.session_audit(live.id, 10).await.unwrap().len(), 1, "the sign-in");

    let ended = [
        Session { end: Some(end(EndReason::Revoked)), ..session(&owner) },
        Session { idle_expires_at: NOW, ..session(&owner) },
        Session { absolute_expires_at: NOW, ..session(&owner) },
    ];
    for row in ended {
        let row = known_session(stores, row).await;
        assert!(!stores.sessions.set_claims(row.id, &claims("team"), NOW).await.unwrap());
        assert_eq!(found(stores, row.id).await, row);
    }
}

pub(super) async fn claims_survive_rotations(stores: &Stores) {
    let client = ClientInfo::default();
    let before = Session { claims: claims("team"), ..session(&user("owner@example.com")) };
    let before = known_session(stores, before).await;
    let rotated = stores.sessions.rotate(&rotation(&before, &client)).await.unwrap().expect("a rotation");
    assert_eq!(rotated.claims, claims("team"));
    assert!(stores.sessions.set_claims(before.id, &claims("free"), NOW).await.unwrap());
    let behind = Rotation { from_generation: 9, ..rotation(&rotated, &client) };
    let caught_up = stores.sessions.catch_up(&behind).await.unwrap().expect("a row behind");
    assert_eq!(caught_up.claims, claims("free"));
    assert_eq!(found(stores, before.id).await, caught_up);
}

pub(super) async fn only_allowed_users_get_a_session(stores: &Stores) {
    let known = known_user(stores, "known@example.com").await;
    let disabled = known_user(stores, "disabled@example.com").await;
    stores.users.disable_user(disabled.id, &ending(end(EndReason::UserDisabled))).await.unwrap();
    let unknown = user("unknown@example.com");
    let promoted = User { role: Role::Admin, ..known.clone() };
    let wrong = "$2b$12$wrong".into();

    for (who, hash, may) in [
        (&known, &known.hashed_password, true),
        (&known, &wrong, false),
        (&disabled, &disabled.hashed_password, false),
        (&unknown, &unknown.hashed_password, false),
        // The row has more roles than the user.
        (&promoted, &known.hashed_password, false),
    ] {
        let session = session(who);
        let asked = NewSession { hashed_password: Some(hash), ..new(&session) };
        let answer = stores.sessions.insert_session(&asked).await.unwrap();
        let expected =
            if may { InsertOutcome::Inserted { terminated: vec![] } } else { InsertOutcome::Refused };
        assert_eq!(answer, expected, "{who:?}");
        assert_eq!(stores.sessions.find_session(session.id).await.unwrap().is_some(), may);
    }
}

/// The store has no users whose password it could compare.
pub(super) async fn password_without_users_is_refused(stores: &Stores) {
    let owner = user("owner@example.com");
    let row = session(&owner);
    let asked = NewSession { hashed_password: Some(&owner.hashed_password), ..new(&row) };
    assert_eq!(stores.sessions.insert_session(&asked).await.unwrap(), InsertOutcome::Refused);
    assert_eq!(stores.sessions.find_session(row.id).await.unwrap(), None);
}

pub(super) async fn insert_without_hash_does_not_check_the_user(stores: &Stores) {
    let session = any_session(stores).await;
    assert!(stores.users.find_user(UserId::try_from(&session.subject).unwrap()).await.unwrap().is_none());
    assert_eq!(found(stores, session.id).await, session);
}

pub(super) async fn refused_sign_in_changes_nothing(stores: &Stores) {
    let known = known_user(stores, "known@example.com").await;
    let before = known_session(stores, session(&known)).await;
    let wrong = "$2b$12$wrong".into();
    let session = session(&known);
    let asked = NewSession {
        hashed_password: Some(&wrong),
        replaces: Some(before.id),
        max_per_user: 1,
        ..new(&session)
    };
    assert_eq!(stores.sessions.insert_session(&asked).await.unwrap(), InsertOutcome::Refused);
    assert_eq!(stores.sessions.list_sessions(&SessionFilter::All, None, 10).await.unwrap(), [before]);
}

pub(super) async fn new_session_replaces_another(stores: &Stores) {
    let other = any_session(stores).await;
    let first = session(&user("first@example.com"));
    let asked = NewSession { replaces: Some(other.id), ..new(&first) };
    let answer = stores.sessions.insert_session(&asked).await.unwrap();
    assert_eq!(answer, InsertOutcome::Inserted { terminated: vec![other.id] });
    let logged_out = SessionEnd { at: first.created_at, reason: EndReason::LoggedOut };
    assert_eq!(found(stores, other.id).await.end, Some(logged_out));
    assert_eq!(found(stores, first.id).await, first);

    // One that has ended already keeps its reason, and a missing one is ignored.
    let later = NOW + MINUTE;
    for gone in [other.id, SessionId(id())] {
        let next = Session { created_at: later, ..session(&user("next@example.com")) };
        let asked = NewSession { replaces: Some(gone), ..new(&next) };
        let answer = stores.sessions.insert_session(&asked).await.unwrap();
        assert_eq!(answer, InsertOutcome::Inserted { terminated: vec![] });
    }
    assert_eq!(found(stores, other.id).await.end, Some(logged_out));
}

pub(super) async fn oldest_sessions_beyond_the_limit_are_evicted(stores: &Stores) {
    let owner = user("owner@example.com");
    let mut ids = Vec::new();
    for age in [3, 5, 1, 4, 2] {
        let aged = Session { created_at: NOW - age * MINUTE, ..session(&owner) };
        ids.push((age, known_session(stores, aged).await.id));
    }
    let newest = session(&owner);
    let asked = NewSession { max_per_user: 3, ..new(&newest) };
    let answer = stores.sessions.insert_session(&asked).await.unwrap();
    let InsertOutcome::Inserted { terminated: ended } = answer else { panic!("refused") };
    let oldest = ids.iter().filter(|(age, _)| *age >= 3).map(|(_, id)| *id).collect();
    assert_eq!(sorted(ended), sorted(oldest));
    for (age, id) in ids {
        let displaced = SessionEnd { at: NOW, reason: EndReason::Displaced };
        assert_eq!(found(stores, id).await.end, (age >= 3).then_some(displaced), "{age} minutes old");
    }
    assert_eq!(found(stores, newest.id).await.end, None);
}

/// D15: sign-ins of a client ended the user's session in a browser.
pub(super) async fn sessions_of_each_kind_are_counted_apart(stores: &Stores) {
    let owner = user("owner@example.com");
    let aged = |kind, age: u32| Session { kind, created_at: NOW - age * MINUTE, ..session(&owner) };
    let browser = known_session(stores, aged(SessionKind::Browser, 3)).await;
    let client = known_session(stores, aged(SessionKind::Client, 2)).await;
    let another_client = aged(SessionKind::Client, 1);
    let asked = NewSession { max_per_user: 1, ..new(&another_client) };
    let answer = stores.sessions.insert_session(&asked).await.unwrap();
    assert_eq!(answer, InsertOutcome::Inserted { terminated: vec![client.id] });
    assert_eq!(found(stores, browser.id).await.end, None);
    let another_browser = aged(SessionKind::Browser, 0);
    let asked = NewSession { max_per_user: 1, ..new(&another_browser) };
    let answer = stores.sessions.insert_session(&asked).await.unwrap();
    assert_eq!(answer, InsertOutcome::Inserted { terminated: vec![browser.id] });
    assert_eq!(found(stores, another_client.id).await.end, None);
}

pub(super) async fn only_live_sessions_count_against_the_limit(stores: &Stores) {
    let owner = user("owner@example.com");
    let older = Session { created_at: NOW - MINUTE, ..session(&owner) };
    let live = known_session(stores, Session { id: SessionId(id()), ..older.clone() }).await;
    let replaced = known_session(stores, Session { id: SessionId(id()), ..older.clone() }).await;
    let idle = Session { id: SessionId(id()), idle_expires_at: NOW, ..older.clone() };
    known_session(stores, idle).await;
    let absolute = Session { id: SessionId(id()), absolute_expires_at: NOW, ..older.clone() };
    known_session(stores, absolute).await;
    let ended = known_session(stores, Session { id: SessionId(id()), ..older.clone() }).await;
    stores.sessions.end_session(ended.id, &ending(end(EndReason::Revoked))).await.unwrap();
    known_session(stores, Session { subject: id().into(), ..older }).await;

    let newest = session(&owner);
    let asked = NewSession { max_per_user: 2, replaces: Some(replaced.id), ..new(&newest) };
    let answer = stores.sessions.insert_session(&asked).await.unwrap();
    assert_eq!(answer, InsertOutcome::Inserted { terminated: vec![replaced.id] });
    assert_eq!(found(stores, live.id).await.end, None);
}

pub(super) async fn rotation_updates_the_whole_row(stores: &Stores) {
    let owner = user("owner@example.com");
    let before = Session {
        generation: 7,
        rotations: 6,
        replays: 5,
        settled_by: Some(token()),
        client: ClientInfo::new(Some(IpAddr::V6(Ipv6Addr::LOCALHOST)), Some("before")),
        ..session(&owner)
    };
    let before = known_session(stores, before).await;
    let bystander = any_session(stores).await;
    let client = ClientInfo::new(Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))), Some("after"));
    let step = rotation(&before, &client);
    let after = Session {
        generation: 8,
        key_number: 2,
        rotated_at: step.now,
        asked_by: step.asked_by,
        settled_by: None,
        rotations: 7,
        idle_expires_at: step.idle_expires_at,
        client: client.clone(),
        ..before
    };
    assert_eq!(stores.sessions.rotate(&step).await.unwrap(), Some(after.clone()));
    assert_eq!(found(stores, after.id).await, after);
    assert_eq!(found(stores, bystander.id).await, bystander);

    let nothing = ClientInfo::default();
    let next = Rotation { asked_by: None, ..rotation(&after, &nothing) };
    let rotated = stores.sessions.rotate(&next).await.unwrap().expect("a due rotation");
    assert_eq!((rotated.asked_by, rotated.client), (None, nothing));
}

pub(super) async fn rotation_does_not_exceed_the_absolute_expiry(stores: &Stores) {
    let before = any_session(stores).await;
    let client = ClientInfo::default();
    let far = Rotation { idle_expires_at: NOW + 400 * DAY, ..rotation(&before, &client) };
    let rotated = stores.sessions.rotate(&far).await.unwrap().expect("a due rotation");
    assert_eq!(rotated.idle_expires_at, before.absolute_expires_at);
}

pub(super) async fn rotation_that_is_not_due_changes_nothing(stores: &Stores) {
    let owner = user("owner@example.com");
    let client = ClientInfo::default();
    let live = || Session { generation: 5, ..session(&owner) };
    let at = NOW + MINUTE;
    let revoked = Some(end(EndReason::Revoked));
    let microsecond = time::Duration::MICROSECOND;

    let of = |session: &Session| rotation(session, &client);
    type Case<'a> = (&'static str, Session, Box<dyn Fn(&Session) -> Rotation<'a> + Send + Sync + 'a>);
    let refused: [Case<'_>; 8] = [
        ("behind", live(), Box::new(move |s| Rotation { from_generation: 4, ..of(s) })),
        ("ahead", live(), Box::new(move |s| Rotation { from_generation: 6, ..of(s) })),
        (
            "rotated since",
            live(),
            Box::new(move |s| Rotation { max_rotated_at: s.rotated_at - microsecond, ..of(s) }),
        ),
        ("of the other kind", live(), Box::new(move |s| Rotation { kind: SessionKind::Client, ..of(s) })),
        ("ended", Session { end: revoked, ..live() }, Box::new(of)),
        ("idle-expired", Session { idle_expires_at: at, ..live() }, Box::new(of)),
        ("absolute-expired", Session { absolute_expires_at: at, ..live() }, Box::new(of)),
        ("unknown", live(), Box::new(move |s| Rotation { id: SessionId(id()), ..of(s) })),
    ];
    for (why, before, step) in refused {
        let before = known_session(stores, before).await;
        let step = step(&before);
        assert_eq!(stores.sessions.rotate(&step).await.unwrap(), None, "{why}");
        assert_eq!(found(stores, before.id).await, before, "{why}");
    }
    // A rotation at the limit is due.
    let just = Session { idle_expires_at: at + microsecond, absolute_expires_at: at + microsecond, ..live() };
    let just = known_session(stores, just).await;
    assert!(stores.sessions.rotate(&of(&just)).await.unwrap().is_some());
}

pub(super) async fn session_behind_catches_up(stores: &Stores) {
    let client = ClientInfo::new(None, Some("after"));
    for behind in [1, 2, 1_000] {
        let before = Session { settled_by: Some(token()), ..session(&user("owner@example.com")) };
        let before = known_session(stores, before).await;
        // Regardless of the last rotation.
        let step = Rotation {
            from_generation: before.generation + behind,
            max_rotated_at: NOW - DAY,
            ..rotation(&before, &client)
        };
        let after = Session {
            generation: before.generation + behind + 1,
            key_number: 2,
            rotated_at: step.now,
            asked_by: step.asked_by,
            settled_by: None,
            rotations: 1,
            idle_expires_at: step.idle_expires_at,
            client: client.clone(),
            ..before
        };
        assert_eq!(stores.sessions.catch_up(&step).await.unwrap(), Some(after.clone()));
        assert_eq!(found(stores, after.id).await, after);
    }
}

pub(super) async fn session_not_behind_does_not_catch_up(stores: &Stores) {
    let owner = user("owner@example.com");
    let client = ClientInfo::default();
    let live = || Session { generation: 5, ..session(&owner) };
    let at = NOW + MINUTE;
    let revoked = Some(end(EndReason::Revoked));
    let browser = SessionKind::Browser;
    for (why, before, from, kind) in [
        ("level", live(), 5, browser),
        ("ahead", live(), 4, browser),
        ("of the other kind", live(), 6, SessionKind::Client),
        ("ended", Session { end: revoked, ..live() }, 6, browser),
        ("idle-expired", Session { idle_expires_at: at, ..live() }, 6, browser),
        ("absolute-expired", Session { absolute_expires_at: at, ..live() }, 6, browser),
    ] {
        let before = known_session(stores, before).await;
        let step = Rotation { from_generation: from, kind, ..rotation(&before, &client) };
        assert_eq!(stores.sessions.catch_up(&step).await.unwrap(), None, "{why}");
        assert_eq!(found(stores, before.id).await, before, "{why}");
    }
}

pub(super) async fn last_generation_has_no_successor(stores: &Stores) {
    let owner = user("owner@example.com");
    let client = ClientInfo::default();
    let last = known_session(stores, Session { generation: u32::MAX, ..session(&owner) }).await;
    assert_eq!(stores.sessions.rotate(&rotation(&last, &client)).await.unwrap(), None);
    let behind = known_session(stores, session(&owner)).await;
    let step = Rotation { from_generation: u32::MAX, ..rotation(&behind, &client) };
    assert_eq!(stores.sessions.catch_up(&step).await.unwrap(), None);
    assert_eq!(found(stores, last.id).await, last);
    assert_eq!(found(stores, behind.id).await, behind);

    let step = Rotation { from_generation: u32::MAX - 1, ..step };
    let caught_up = stores.sessions.catch_up(&step).await.unwrap().expect("one more generation");
    assert_eq!(caught_up.generation, u32::MAX);
}

pub(super) async fn first_token_confirms_the_generation(stores: &Stores) {
    let before = any_session(stores).await;
    let first = TokenUse { session: before.id, generation: 1, token: token() };
    let second = TokenUse { token: token(), ..first };
    let settled = Session { settled_by: Some(first.token), ..before };

    assert_eq!(stores.sessions.confirm_generation(&[first]).await.unwrap(), []);
    assert_eq!(found(stores, settled.id).await, settled);
    assert_eq!(stores.sessions.confirm_generation(&[first]).await.unwrap(), []);
    assert_eq!(stores.sessions.confirm_generation(&[second]).await.unwrap(), std::slice::from_ref(&settled));
    assert_eq!(found(stores, settled.id).await, settled);
}

pub(super) async fn only_live_session_at_the_generation_is_confirmed(stores: &Stores) {
    let owner = user("owner@example.com");
    let settled_by = Some(token());
    let revoked = Some(end(EndReason::Revoked));
    for settled_by in [None, settled_by] {
        for (generation, end) in [(4, None), (6, None), (5, revoked)] {
            let before = Session { generation: 5, settled_by, end, ..session(&owner) };
            let before = known_session(stores, before).await;
            let used = TokenUse { session: before.id, generation, token: token() };
            assert_eq!(stores.sessions.confirm_generation(&[used]).await.unwrap(), []);
            assert_eq!(found(stores, before.id).await, before);
        }
    }
}

pub(super) async fn batch_confirms_each_session_once(stores: &Stores) {
    let mut batch = Vec::new();
    for _ in 0..20 {
        let session = any_session(stores).await.id;
        batch.push(TokenUse { session, generation: 1, token: token() });
    }
    // Of two tokens of one session, one confirms it and the other is reported.
    let twice = TokenUse { token: token(), ..batch[7] };
    batch.insert(3, twice);
    batch.push(TokenUse { session: SessionId(id()), ..twice });

    let conflicts = stores.sessions.confirm_generation(&batch).await.unwrap();
    assert_eq!(conflicts.iter().map(|session| session.id).collect::<Vec<_>>(), [twice.session]);
    let used_twice = found(stores, twice.session).await;
    let tokens: Vec<TokenId> =
        batch.iter().filter(|used| used.session == twice.session).map(|used| used.token).collect();
    assert!(tokens.contains(&used_twice.settled_by.expect("settled")));
    for used in batch.iter().filter(|used| !tokens.contains(&used.token)) {
        let session = stores.sessions.find_session(used.session).await.unwrap();
        assert!(session.is_none_or(|session| session.settled_by == Some(used.token)));
    }
}

pub(super) async fn replays_add_up(stores: &Stores) {
    let (one, two) = (any_session(stores).await, any_session(stores).await);
    let uses = [replays(one.id, 2), replays(two.id, 1), replays(SessionId(id()), 9), replays(one.id, 3)];
    stores.sessions.record_uses(&uses, NOW).await.unwrap();
    stores.sessions.record_uses(&[replays(one.id, 5)], NOW).await.unwrap();
    assert_eq!(found(stores, one.id).await, Session { replays: 10, ..one });
    assert_eq!(found(stores, two.id).await, Session { replays: 1, ..two });
}

/// B10: up to the absolute expiry, never back, and nothing else changes.
pub(super) async fn uses_postpone_the_idle_expiry(stores: &Stores) {
    let (one, two) = (any_session(stores).await, any_session(stores).await);
    let last = one.idle_expires_at - Duration::from_micros(1);
    for (expected, days) in [(15, &[15][..]), (15, &[14]), (18, &[16, 18, 17]), (90, &[91])] {
        let uses =
            days.iter().map(|&day| SessionUse { idle_expires_at: NOW + day * DAY, ..replays(one.id, 0) });
        stores.sessions.record_uses(&uses.collect::<Vec<_>>(), last).await.unwrap();
        let idle_expires_at = NOW + expected * DAY;
        assert_eq!(found(stores, one.id).await, Session { idle_expires_at, ..one.clone() });
    }
    assert_eq!(found(stores, two.id).await, two);

    let client = ClientInfo::default();
    let due = Rotation { now: NOW + 80 * DAY, idle_expires_at: NOW + 81 * DAY, ..rotation(&one, &client) };
    let rotated = stores.sessions.rotate(&due).await.unwrap().expect("a live session");
    assert_eq!(rotated.idle_expires_at, NOW + 81 * DAY, "a rotation sets it");
}

/// B10: neither a terminated nor an expired session.
pub(super) async fn uses_revive_no_session(stores: &Stores) {
    let owner = user("owner@example.com");
    let ends = [EndReason::LoggedOut, EndReason::IdleExpired].map(|reason| Some(end(reason)));
    let sessions = [
        Session { end: ends[0], ..session(&owner) },
        Session { end: ends[1], ..session(&owner) },
        Session { idle_expires_at: NOW + DAY, ..session(&owner) },
        Session { idle_expires_at: NOW + DAY - MINUTE, ..session(&owner) },
        Session { absolute_expires_at: NOW + DAY, idle_expires_at: NOW + DAY, ..session(&owner) },
    ];
    for before in sessions {
        let before = known_session(stores, before).await;
        let used = SessionUse { idle_expires_at: NOW + 20 * DAY, ..replays(before.id, 1) };
        stores.sessions.record_uses(&[used], NOW + DAY).await.unwrap();
        assert_eq!(found(stores, before.id).await, Session { replays: 1, ..before });
    }
}

pub(super) async fn session_is_terminated_once(stores: &Stores) {
    let before = any_session(stores).await;
    let first = end(EndReason::ReuseDetected);
    assert!(stores.sessions.end_session(before.id, &ending(first)).await.unwrap());
    let later = SessionEnd { at: first.at + MINUTE, reason: EndReason::LoggedOut };
    assert!(!stores.sessions.end_session(before.id, &ending(later)).await.unwrap());
    assert_eq!(stores.sessions.end_sessions(&SessionFilter::All, &ending(later)).await.unwrap(), []);
    assert_eq!(found(stores, before.id).await, Session { end: Some(first), ..before });

    let expired = Session { idle_expires_at: NOW - DAY, ..session(&user("owner@example.com")) };
    let expired = known_session(stores, expired).await;
    assert!(stores.sessions.end_session(expired.id, &ending(first)).await.unwrap());
}

pub(super) async fn sessions_are_terminated_by_filter(stores: &Stores) {
    let (one, two) = (user("one@example.com"), user("two@example.com"));
    let of_one = known_session(stores, session(&one)).await.id;
    let kept = known_session(stores, session(&one)).await.id;
    let of_two = known_session(stores, Session { key_number: 9, ..session(&two) }).await.id;
    let expired = Session { absolute_expires_at: NOW - DAY, ..session(&two) };
    let expired = known_session(stores, expired).await.id;
    let sessions = &stores.sessions;

    let which = SessionFilter::UserExcept(one.id.into(), kept);
    assert_eq!(
        sessions.end_sessions(&which, &ending(end(EndReason::PasswordChanged))).await.unwrap(),
        [of_one]
    );
    let which = SessionFilter::User(one.id.into());
    assert_eq!(sessions.end_sessions(&which, &ending(end(EndReason::LoggedOut))).await.unwrap(), [kept]);
    let which = SessionFilter::SignedBy(9);
    assert_eq!(sessions.end_sessions(&which, &ending(end(EndReason::Revoked))).await.unwrap(), [of_two]);
    let ended = sessions.end_sessions(&SessionFilter::All, &ending(end(EndReason::Revoked))).await.unwrap();
    assert_eq!(ended, [expired]);

    let reason = async |id| found(stores, id).await.end.expect("ended").reason;
    assert_eq!(reason(of_one).await, EndReason::PasswordChanged);
    assert_eq!(reason(kept).await, EndReason::LoggedOut);
    assert_eq!(reason(of_two).await, EndReason::Revoked);
    assert_eq!(found(stores, expired).await.end, Some(end(EndReason::Revoked)));
}

pub(super) async fn sessions_are_terminated_by_id(stores: &Stores) {
    let owner = user("owner@example.com");
    let first = known_session(stores, session(&owner)).await.id;
    let second = known_session(stores, session(&owner)).await.id;
    let kept = known_session(stores, session(&owner)).await.id;
    let unknown = session(&owner).id;
    let terminate = async |ids: &[SessionId], reason| {
        let mut ended = stores.sessions.end_session_list(ids, &ending(end(reason))).await.unwrap();
        ended.sort();
        ended
    };
    assert_eq!(terminate(&[unknown, second], EndReason::LoggedOut).await, [second]);
    assert_eq!(terminate(&[second, first, first, unknown], EndReason::Revoked).await, [first]);
    assert_eq!(terminate(&[unknown], EndReason::Revoked).await, []);
    assert_eq!(terminate(&[], EndReason::Revoked).await, []);
    assert_eq!(found(stores, first).await.end, Some(end(EndReason::Revoked)));
    assert_eq!(found(stores, second).await.end, Some(end(EndReason::LoggedOut)));
    assert_eq!(found(stores, kept).await.end, None);
    for id in [first, second] {
        assert_eq!(stores.sessions.session_audit(id, 10).await.unwrap().len(), 2, "sign-in and end");
    }
}

pub(super) async fn live_sessions_are_sorted_by_rotation(stores: &Stores) {
    let owner = user("owner@example.com");
    let rotated = |minutes| Session { rotated_at: NOW - minutes * MINUTE, ..session(&owner) };
    let middle = known_session(stores, rotated(2)).await;
    let last = known_session(stores, rotated(3)).await;
    let first = known_session(stores, rotated(1)).await;
    known_session(stores, Session { idle_expires_at: NOW, ..rotated(0) }).await;
    known_session(stores, Session { absolute_expires_at: NOW, ..rotated(0) }).await;
    known_session(stores, Session { end: Some(end(EndReason::Revoked)), ..rotated(0) }).await;
    any_session(stores).await;
    let live = stores.sessions.live_sessions(&owner.id.into(), NOW).await.unwrap();
    assert_eq!(live, [first, middle, last]);
}

pub(super) async fn session_lists_are_sorted_by_creation(stores: &Stores) {
    let (one, two) = (user("one@example.com"), user("two@example.com"));
    let created = |user, minutes| Session { created_at: NOW - minutes * MINUTE, ..session(user) };
    let b = known_session(stores, created(&one, 2)).await;
    let c = known_session(stores, Session { key_number: 9, ..created(&two, 3) }).await;
    let a = Session { end: Some(end(EndReason::Revoked)), ..created(&one, 1) };
    let a = known_session(stores, a).await;
    let d = known_session(stores, Session { idle_expires_at: NOW - DAY, ..created(&one, 4) }).await;

    let list = async |which, limit| stores.sessions.list_sessions(&which, None, limit).await.unwrap();
    assert_eq!(list(SessionFilter::All, 10).await, [a.clone(), b.clone(), c.clone(), d.clone()]);
    assert_eq!(list(SessionFilter::All, 2).await, [a.clone(), b.clone()]);
    assert_eq!(list(SessionFilter::User(one.id.into()), 10).await, [a.clone(), b.clone(), d.clone()]);
    assert_eq!(list(SessionFilter::UserExcept(one.id.into(), b.id), 10).await, [a, d]);
    assert_eq!(list(SessionFilter::SignedBy(9), 10).await, std::slice::from_ref(&c));

    let live = stores.sessions.list_sessions(&SessionFilter::All, Some(NOW), 10).await.unwrap();
    assert_eq!(live, [b.clone(), c], "without the ended and the expired session");
    assert_eq!(
        stores.sessions.list_sessions(&SessionFilter::User(one.id.into()), Some(NOW), 10).await.unwrap(),
        [b]
    );
}

pub(super) async fn recently_ended_sessions_are_listed(stores: &Stores) {
    let owner = user("owner@example.com");
    known_session(stores, session(&owner)).await;
    let old = SessionEnd { at: NOW - MINUTE, reason: EndReason::LoggedOut };
    let recent = SessionEnd { at: NOW, reason: EndReason::Revoked };
    let a = known_session(stores, Session { end: Some(old), ..session(&owner) }).await;
    let b = known_session(stores, Session { end: Some(recent), ..session(&owner) }).await;
    let since = async |at| {
        // After all terminations, so that the time decides.
        let position = stores.sessions.ended_since(EndedSince::time(NOW)).await.unwrap().position;
        let since = EndedSince { position, ..EndedSince::time(at) };
        let mut ended = stores.sessions.ended_since(since).await.unwrap().sessions;
        ended.sort_by_key(|(_, end)| end.at);
        ended
    };
    assert_eq!(since(NOW - MINUTE).await, [(a.id, old), (b.id, recent)], "including the time itself");
    assert_eq!(since(NOW).await, [(b.id, recent)]);
    assert_eq!(since(NOW + MINUTE).await, []);
}

/// B5: a process with a wrong clock terminates sessions. The store's time or order decides which are new.
pub(super) async fn terminations_with_a_wrong_time_are_listed(stores: &Stores) {
    let sessions = &stores.sessions;
    let owner = known_user(stores, "owner@example.com").await;
    let [one, listed, filtered, replaced, of_user] = std::array::from_fn(|_| session(&owner));
    let filtered = Session { key_number: 9, ..filtered };
    for row in [&one, &listed, &filtered, &replaced, &of_user] {
        known_session(stores, row.clone()).await;
    }
    let start = sessions.ended_since(EndedSince::time(NOW)).await.unwrap();
    assert_eq!(start.sessions, []);

    let wrong = &ending(SessionEnd { at: NOW - 30 * DAY, reason: EndReason::Revoked });
    assert!(sessions.end_session(one.id, wrong).await.unwrap());
    sessions.end_session_list(&[listed.id], wrong).await.unwrap();
    sessions.end_sessions(&SessionFilter::SignedBy(9), wrong).await.unwrap();
    let next = Session { created_at: NOW - 30 * DAY, ..session(&user("next@example.com")) };
    let asked = NewSession { replaces: Some(replaced.id), ..new(&next) };
    sessions.insert_session(&asked).await.unwrap();
    stores.users.disable_user(owner.id, wrong).await.unwrap();

    let since = EndedSince { position: start.position, ..EndedSince::time(start.store_time) };
    let found = sessions.ended_since(since).await.unwrap().sessions;
    let expected = [one.id, listed.id, filtered.id, replaced.id, of_user.id];
    assert_eq!(sorted(found.into_iter().map(|(id, _)| id).collect()), sorted(expected.to_vec()));
}

pub(super) async fn store_returns_the_database_time(stores: &Stores) {
    let polled = stores.sessions.ended_since(EndedSince::time(NOW)).await.unwrap();
    for store_time in [stores.sessions.database_time().await.unwrap(), polled.store_time] {
        let apart = store_time - SystemClock.now();
        assert!(apart.abs() < time::Duration::MINUTE, "{apart}");
    }
}
