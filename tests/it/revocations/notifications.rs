//! PostgreSQL notifications about ended sessions, and the polling fallback.

use sekisho::backend::db::{self, DatabaseOptions, Stores};
use sekisho::client_info::ClientInfo;
use sekisho::models::session::{EndReason, SessionEnd};
use sekisho::models::user::{Role, User};
use sekisho::services::store::{InsertOutcome, NewSession, PasswordChange, SessionFilter};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgListener};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{replicas_on, sign_in, wait_for_rejection};
use crate::store_contract::{NOW, ending, known_session, known_user, session};
use crate::support::chaos_proxy::TcpChaosProxy;
use crate::support::db::{TestDatabase, postgres, run};
use crate::support::process::PROCESS_TIMEOUT;

#[tokio::test]
async fn only_session_ends_send_notifications() {
    let Some(database) = postgres().await else { return };
    let mut counter = NotificationCounter::on(&database).await;
    let (sessions, users) = (&database.stores.sessions, &database.stores.users);
    let owner = known_user(&database.stores, "owner@example.com").await;
    let one = known_session(&database.stores, session(&owner)).await;
    assert_eq!(counter.count().await, 0, "sign-in terminates no session");

    assert!(sessions.end_session(one.id, &ending(END)).await.unwrap());
    assert_eq!(counter.count().await, 1);
    assert!(!sessions.end_session(one.id, &ending(END)).await.unwrap());
    assert!(sessions.end_sessions(&SessionFilter::All, &ending(END)).await.unwrap().is_empty());
    assert_eq!(counter.count().await, 0, "no session left");

    known_session(&database.stores, session(&owner)).await;
    sessions.end_sessions(&SessionFilter::User(owner.id.into()), &ending(END)).await.unwrap();
    assert_eq!(counter.count().await, 1);

    known_session(&database.stores, session(&owner)).await;
    displace(&database.stores, &owner).await;
    assert_eq!(counter.count().await, 1, "one session was displaced");

    let change = PasswordChange {
        user: owner.id,
        old: None,
        new: &"$2b$12$new".into(),
        keep: None,
        termination: &ending(END),
    };
    users.change_password(&change).await.unwrap().unwrap();
    assert_eq!(counter.count().await, 1);
    known_session(&database.stores, session(&owner)).await;
    users.set_role(owner.id, Role::Admin, &ending(END)).await.unwrap().unwrap();
    assert_eq!(counter.count().await, 1);
    users.disable_user(owner.id, &ending(END)).await.unwrap().unwrap();
    assert_eq!(counter.count().await, 0);
    known_session(&database.stores, session(&owner)).await;
    users.delete_user(owner.id, &ending(END)).await.unwrap().unwrap();
    assert_eq!(counter.count().await, 1);
}

#[tokio::test]
async fn disconnected_listener_reconnects() {
    let Some(database) = postgres().await else { return };
    let mut wakes = WakeCounter::start(&database.stores);
    wakes.wait().await;
    for _ in 0..2 {
        end_one(&database).await;
        wakes.wait().await;
    }
    for _ in 0..2 {
        let listeners = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        run(database.url(), listeners).await;
        wakes.wait().await;
        end_one(&database).await;
        wakes.wait().await;
    }
}

#[tokio::test]
async fn revocations_arrive_by_polling_without_notifications() {
    let Some(database) = postgres().await else { return };
    let network = TcpChaosProxy::to(database.url()).await;
    network.drop_listen();
    let remote_stores = db::open(&network.url, &DatabaseOptions::default()).await.unwrap();
    let mut wakes = WakeCounter::start(&remote_stores);
    wakes.wait().await;
    let [local, remote] = replicas_on([&database.stores, &remote_stores]);
    remote.revocations().load().await.unwrap();
    let poller = tokio::spawn(remote.revocations().clone().run_poller());
    for _ in 0..3 {
        let issued = sign_in(&local).await;
        local.end(issued.session.id, EndReason::LoggedOut, &ClientInfo::default()).await.unwrap();
        wait_for_rejection(&remote, &issued.tokens.access_token).await;
    }
    assert!(wakes.0.try_recv().is_err(), "no notification arrived");
    poller.abort();
}

#[tokio::test]
async fn sessions_end_without_notification_support() {
    let Some(database) = postgres().await else { return };
    let role = format!("sekisho_silent_{}", std::process::id());
    let prepare = "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'lantern'; \
        GRANT USAGE ON SCHEMA myapi TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA myapi TO {role}; \
        REVOKE EXECUTE ON FUNCTION pg_catalog.pg_notify(text, text) FROM PUBLIC";
    run(database.url(), &prepare.replace("{role}", &role)).await;
    let url: PgConnectOptions = database.url().parse().unwrap();
    let url = url.username(&role).password("lantern").to_url_lossy().to_string();
    let stores = db::open(&url, &DatabaseOptions::default()).await.unwrap();

    let owner = known_user(&stores, "owner@example.com").await;
    let one = known_session(&stores, session(&owner)).await;
    assert!(stores.sessions.end_session(one.id, &ending(END)).await.unwrap());
    let two = known_session(&stores, session(&owner)).await;
    assert_eq!(stores.users.delete_user(owner.id, &ending(END)).await.unwrap(), Some(vec![two.id]));
    for id in [one.id, two.id] {
        assert_eq!(stores.sessions.find_session(id).await.unwrap().unwrap().end, Some(END));
    }
    stores.close().await;
    run(database.url(), &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// Signs in with a session limit of one, which displaces the other sessions.
async fn displace(stores: &Stores, owner: &User) {
    let new = NewSession { session: &session(owner), hashed_password: None, replaces: None, max_per_user: 1 };
    let inserted = stores.sessions.insert_session(&new).await.unwrap();
    assert!(matches!(inserted, InsertOutcome::Inserted { terminated: ended } if ended.len() == 1));
}

async fn end_one(database: &TestDatabase) {
    let row = crate::store_contract::any_session(&database.stores).await;
    assert!(database.stores.sessions.end_session(row.id, &ending(END)).await.unwrap());
}

/// Counts notifications on a connection of its own.
struct NotificationCounter {
    listener: PgListener,
    url: String,
}

impl NotificationCounter {
    async fn on(database: &TestDatabase) -> Self {
        let mut listener = PgListener::connect(database.url()).await.unwrap();
        listener.listen("sekisho_session_ended").await.unwrap();
        Self { listener, url: database.url().to_owned() }
    }

    /// Returns the number of notifications since the last call. PostgreSQL delivers them in order, so a
    /// marker ends the count.
    async fn count(&mut self) -> usize {
        run(&self.url, "NOTIFY sekisho_session_ended, 'enough'").await;
        let mut count = 0;
        while self.listener.recv().await.unwrap().payload() != "enough" {
            count += 1;
        }
        count
    }
}

/// Runs the listener and counts its wake-ups.
struct WakeCounter(mpsc::UnboundedReceiver<()>, JoinHandle<()>);

impl WakeCounter {
    fn start(stores: &Stores) -> Self {
        let (wake, wakes) = mpsc::unbounded_channel();
        let stores = stores.clone();
        let listener =
            async move { stores.listen_for_revocations(move || wake.send(()).unwrap_or_default()).await };
        Self(wakes, tokio::spawn(listener))
    }

    async fn wait(&mut self) {
        timeout(PROCESS_TIMEOUT, self.0.recv()).await.expect("woken").unwrap();
    }
}

impl Drop for WakeCounter {
    fn drop(&mut self) {
        self.1.abort();
    }
}

const END: SessionEnd = SessionEnd { at: NOW, reason: EndReason::Revoked };
