//! Databases of the version before, in which users were UUIDs.

use std::sync::Arc;
use std::time::Duration;

use sekisho::client_info::ClientInfo;
use sekisho::clock::{Clock, ManualClock};
use sekisho::layer::RefreshRequest;
use sekisho::models::audit::{AuditEntry, AuditEvent};
use sekisho::models::session::{EndReason, Session, SessionId, SessionKind};
use sekisho::models::user::UserId;
use sekisho::services::jwt::AccessTokens;
use sekisho::services::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys};
use sekisho::services::memory::MemoryStore;
use sekisho::services::store::{EndedSince, SessionFilter, SessionStore};
use sekisho::services::token::{IssuedSession, SessionRequest, SessionSettings, Tokens};
use sekisho::session_event::SessionEvent;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::try_change;
use crate::store_contract::{NOW, ended_session, found, session, user};
use crate::support::db::{DatabaseLocation, TestDatabase, postgres_location, sqlite_location};
use crate::support::previous_version::PreviousVersion;

/// Returns a migrated SQLite database, which contains nothing any more.
pub(crate) async fn migrated_sqlite() -> Option<TestDatabase> {
    Some(migrated(sqlite_location().await?).await)
}

/// Returns a migrated PostgreSQL database, which contains nothing any more.
pub(crate) async fn migrated_postgres() -> Option<TestDatabase> {
    Some(migrated(postgres_location().await?).await)
}

async fn migrated(location: DatabaseLocation) -> TestDatabase {
    let previous = PreviousVersion::create(location).await;
    let owner = user("owner@example.com");
    for (id, row) in [(1, session(&owner)), (2, ended_session(&owner, NOW))] {
        previous.insert_session(&row).await;
        previous.insert_audit(id, &AuditEntry::login(&row)).await;
    }
    let database = previous.open().await;
    database.stores.migrate().await.unwrap();
    try_change(&database, "DELETE FROM sessions; DELETE FROM audit").await.unwrap();
    database
}

/// Position of the last termination in the database of the version before. Earlier entries have been purged.
const LAST_POSITION: i64 = 1_000;

/// A migrated database, and what the version before had put into it.
struct Upgraded {
    database: TestDatabase,
    tokens: Tokens,
    clock: Arc<ManualClock>,
    owner: UserId,
    /// Live sessions of the owner.
    live: Vec<IssuedSession>,
    /// A session of another user.
    other: IssuedSession,
    /// An ended session of the owner.
    ended: Session,
    /// The audit entry of a session that never existed.
    unknown: AuditEntry,
}

fn tokens(store: Arc<dyn SessionStore>, keys: &KeyMaterial, clock: &Arc<ManualClock>) -> Tokens {
    let keys = Arc::new(SharedKeys::new(KeyRing::from_material(keys).unwrap()));
    Tokens::new(store, keys, AccessTokens::default(), SessionSettings::default(), clock.clone())
}

impl Upgraded {
    /// Fills a database of the version before, and migrates it.
    async fn new(location: DatabaseLocation) -> Self {
        let clock = Arc::new(ManualClock::default());
        let keys = KeyMaterial::generate(1, Algorithm::Hs256, clock.now()).unwrap();
        // The rows and tokens are the same as before, apart from the type of the column.
        let before = tokens(Arc::new(MemoryStore::default()), &keys, &clock);
        let (owner, other) = (user("owner@example.com").id, user("other@example.com").id);
        let sign_in = async |user: UserId| {
            clock.advance(Duration::from_secs(1));
            before.sign_in(SessionRequest::new(user, "taro@example.jp")).await.unwrap()
        };
        let live = vec![sign_in(owner).await, sign_in(owner).await];
        let (other, ended) = (sign_in(other).await, sign_in(owner).await.session.id);
        clock.advance(Duration::from_secs(1));
        before.end(ended, EndReason::LoggedOut, &ClientInfo::default()).await.unwrap();
        let ended = before.find(ended).await.unwrap().unwrap();
        let unknown = AuditEntry {
            session: Some(SessionId(Uuid::from_u128(1))),
            ..AuditEntry::new(clock.now(), AuditEvent::UnknownSession, ClientInfo::default())
        };

        let previous = PreviousVersion::create(location).await;
        let rows = live.iter().chain([&other]).map(|issued| &issued.session).chain([&ended]);
        for (id, row) in (LAST_POSITION - 10..).zip(rows) {
            previous.insert_session(row).await;
            previous.insert_audit(id, &AuditEntry::login(row)).await;
        }
        previous.insert_audit(LAST_POSITION - 1, &unknown).await;
        previous.insert_audit(LAST_POSITION, &end_entry(&ended)).await;
        let database = previous.open().await;
        let applied = database.stores.migrate().await.unwrap();
        let applied: Vec<_> = applied.iter().map(ToString::to_string).collect();
        assert_eq!(applied, ["0008 subjects and claims"]);
        let tokens = tokens(database.stores.sessions.clone(), &keys, &clock);
        Self { database, tokens, clock, owner, live, other, ended, unknown }
    }
}

fn end_entry(ended: &Session) -> AuditEntry {
    let end = ended.end.expect("an end");
    AuditEntry {
        user: Some(ended.subject.clone()),
        session: Some(ended.id),
        held: Some(ended.generation),
        ..AuditEntry::new(end.at, AuditEvent::Ended(end.reason), ClientInfo::default())
    }
}

/// Defines each test for each database.
macro_rules! each_database {
    ($($name:ident;)*) => {
        mod sqlite {
            $(each_database!(@one $name(sqlite_location));)*
        }
        mod postgres {
            $(each_database!(@one $name(postgres_location));)*
        }
    };
    (@one $name:ident($location:ident)) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            if let Some(location) = super::$location().await {
                super::$name(super::Upgraded::new(location).await).await;
            }
        }
    };
}

each_database! {
    rows_are_unchanged;
    sessions_from_before_are_refreshed;
    sessions_from_before_are_ended;
    indexes_and_trigger_are_there;
}

async fn rows_are_unchanged(upgraded: Upgraded) {
    let Upgraded { database, live, other, ended, unknown, .. } = &upgraded;
    let rows = live.iter().chain([other]).map(|issued| &issued.session).chain([ended]);
    for row in rows {
        assert_eq!(found(&database.stores, row.id).await, *row);
    }
    let audit = async |id| database.stores.sessions.session_audit(id, 10).await.unwrap();
    assert_eq!(audit(ended.id).await, [end_entry(ended), AuditEntry::login(ended)]);
    assert_eq!(audit(other.session.id).await, [AuditEntry::login(&other.session)]);
    assert_eq!(audit(unknown.session.unwrap()).await, std::slice::from_ref(unknown));
}

async fn sessions_from_before_are_refreshed(upgraded: Upgraded) {
    let Upgraded { tokens, clock, owner, live, ended, .. } = &upgraded;
    clock.advance(SessionSettings::default().access_ttl);
    for issued in live {
        let request = RefreshRequest {
            refresh_token: issued.tokens.refresh_token.clone(),
            access_token: Some(issued.tokens.access_token.clone()),
            ..RefreshRequest::default()
        };
        let refreshed = tokens.refresh_session(request, SessionKind::Browser).await.unwrap().tokens;
        assert_eq!(refreshed.event, SessionEvent::Rotated);
        assert_eq!(refreshed.identity.subject.as_str(), owner.to_string());
        assert_eq!(refreshed.identity.session, issued.session.id);
        assert!(refreshed.identity.claims.is_none());
    }
    let mut listed: Vec<_> = tokens.sessions_of(*owner).await.unwrap();
    listed.sort_by_key(|row| row.created_at);
    let expected: Vec<_> = live.iter().map(|issued| issued.session.id).collect();
    assert_eq!(listed.iter().map(|row| row.id).collect::<Vec<_>>(), expected);
    assert!(tokens.update_claims(expected[0], &serde_json::json!({"plan": "team"})).await.unwrap());
    assert!(!tokens.update_claims(ended.id, &serde_json::json!({"plan": "team"})).await.unwrap());
}

async fn sessions_from_before_are_ended(upgraded: Upgraded) {
    let Upgraded { database, tokens, owner, live, other, ended, .. } = &upgraded;
    let sessions = &database.stores.sessions;
    let end_of_time = time::macros::datetime!(9999-01-01 00:00 UTC);
    let ended_since = async |time: OffsetDateTime, position| {
        let since = EndedSince { position, ..EndedSince::time(time) };
        let mut ended: Vec<_> = sessions.ended_since(since).await.unwrap().sessions;
        ended.sort_by_key(|(id, _)| *id);
        ended.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    let start = sessions.ended_since(EndedSince::time(OffsetDateTime::UNIX_EPOCH)).await.unwrap();
    assert_eq!(start.sessions, [(ended.id, ended.end.unwrap())]);
    let embedded = database.stores.is_embedded();
    assert_eq!(start.position, embedded.then_some(LAST_POSITION));
    assert_eq!(ended_since(end_of_time, start.position).await, []);
    if embedded {
        assert_eq!(ended_since(end_of_time, Some(LAST_POSITION - 1)).await, [ended.id]);
    }

    let (by, filter) = (ClientInfo::default(), SessionFilter::User((*owner).into()));
    let mut terminated = tokens.end_matching(&filter, EndReason::Revoked, &by).await.unwrap();
    terminated.sort_unstable();
    let mut expected: Vec<_> = live.iter().map(|issued| issued.session.id).collect();
    expected.sort_unstable();
    assert_eq!(terminated, expected);
    let since = if embedded { end_of_time } else { start.store_time };
    assert_eq!(ended_since(since, start.position).await, expected);
    assert_eq!(found(&database.stores, other.session.id).await, other.session);
}

async fn indexes_and_trigger_are_there(upgraded: Upgraded) {
    let database = &upgraded.database;
    let error = try_change(database, "UPDATE audit SET event = 'logged_out'").await.unwrap_err();
    assert!(error.to_string().contains("rows of the audit are never changed"), "{error}");
    for index in ["sessions_user_id", "sessions_ended_at", "audit_session_id", "audit_at"] {
        try_change(database, &format!("DROP INDEX {index}")).await.expect(index);
    }
}
