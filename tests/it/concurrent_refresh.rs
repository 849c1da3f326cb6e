//! Concurrent requests with an expired access token, in `SEKISHO_TEST_ROUNDS` rounds: all succeed, and each
//! round is one rotation.

use std::collections::HashSet;

use futures_util::future::join_all;
use sekisho::app::App;
use sekisho::layer::TokenService;

use crate::support::app::{PAST_GRACE, TestApp, on_each_database};
use crate::support::browser::{ACCESS, Browser, REFRESH};
use crate::support::db::TestDatabase;
use crate::support::http::TestResponse;
use crate::support::iterations::{rng_for, rounds};

on_each_database! {
    concurrent_requests_rotate_once
    concurrent_requests_at_two_replicas_rotate_once
}

async fn concurrent_requests_rotate_once(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    check_rotation_rounds(&app, &[&app.app]).await;
}

async fn concurrent_requests_at_two_replicas_rotate_once(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let replica = app.replica().await;
    check_rotation_rounds(&app, &[&app.app, &replica]).await;
}

/// The browser continues with the cookies of one random response, as if the others had been lost. In every
/// other round the new generation is confirmed first.
async fn check_rotation_rounds(app: &TestApp, replicas: &[&App]) {
    let round_count = rounds("SEKISHO_TEST_ROUNDS", 3);
    let mut random = rng_for("rotation rounds");
    app.user("ann@example.com").await;
    let mut ann = app.browser();
    let session = ann.sign_in("ann@example.com").await;
    for round in 1..=round_count {
        app.expire();
        let responses = get_concurrently(&ann, replicas).await;
        assert_one_rotation(&responses, replicas, round);
        ann.store_cookies(&responses[random.usize(..responses.len())]);
        if round % 2 == 0 {
            app.clock.advance(PAST_GRACE);
            assert_eq!(ann.get("/auth/session").await.event(), None, "round {round}");
            app.flush_until(session, |row| row.settled_by.is_some()).await;
        }
        let row = app.row(session).await;
        assert_eq!((row.generation as usize, row.rotations as usize), (round + 1, round));
        assert_eq!(row.end, None, "round {round}");
    }
    for replica in replicas {
        replica.tokens.flush_deferred().await.unwrap();
    }
    let replays = (round_count * (REQUESTS - 1)) as u64;
    assert_eq!(app.flush_until(session, |row| row.replays >= replays).await.replays, replays);
    println!("{round_count} rounds of {REQUESTS} requests; replicas: {}", replicas.len());
}

async fn get_concurrently(browser: &Browser, replicas: &[&App]) -> Vec<TestResponse> {
    let tabs: Vec<_> =
        replicas.iter().map(|replica| browser.clone().with_service(replica.public.clone())).collect();
    let paths = vec!["/auth/session"; REQUESTS / replicas.len()];
    join_all(tabs.iter().map(|tab| tab.get_concurrently(&paths))).await.into_iter().flatten().collect()
}

/// Checks for one rotation, one shared refresh token, and distinct access tokens that every replica accepts.
fn assert_one_rotation(responses: &[TestResponse], replicas: &[&App], round: usize) {
    assert_eq!(responses.len(), REQUESTS);
    for response in responses {
        assert_eq!(response.status, 200, "round {round}: {response:?}");
    }
    let events = |event| responses.iter().filter(|response| response.event() == Some(event)).count();
    assert_eq!((events("rotated"), events("replayed")), (1, REQUESTS - 1), "round {round}");
    let [access, refresh] = [ACCESS, REFRESH].map(|name| values(responses, name));
    assert_eq!((access.len(), refresh.len()), (REQUESTS, 1), "round {round}");
    for (token, replica) in access.iter().flat_map(|token| replicas.iter().map(move |one| (token, one))) {
        let verified = replica.tokens.verify(token);
        assert!(verified.is_ok_and(|verified| !verified.refresh_due), "round {round}");
    }
}

/// Returns the distinct values of a cookie in these responses.
fn values(responses: &[TestResponse], name: &str) -> HashSet<String> {
    let cookies = responses.iter().flat_map(TestResponse::set_cookies);
    cookies.filter(|cookie| cookie.name == name).map(|cookie| cookie.value).collect()
}

const REQUESTS: usize = 200;
