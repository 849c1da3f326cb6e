//! Property test: a session with one honest browser is never terminated.
//!
//! Requests overtake each other, responses get lost or arrive late, and after a crash the browser
//! restores the cookies that it last wrote to disk.

use proptest::prelude::*;

use super::*;
use crate::layer::TokenService;
use crate::test_seed::proptest_config;

/// Delay after which Chromium writes changed cookies to disk.
const DISK_FLUSH_DELAY: Duration = Duration::from_secs(30);

/// Maximum time that a request or its response is in flight. Cookies that take longer than a quarter of
/// the grace period are not set.
const MAX_IN_FLIGHT: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
enum Action {
    /// Advances the clock, in seconds.
    Wait(u64),
    /// Sends a request with the current cookies, which may confirm their generation.
    Use,
    /// Refreshes with the current cookies and receives the response.
    Refresh,
    /// Refreshes, and loses the response.
    LoseResponse,
    /// Refreshes, and receives the response at the next [`Action::ReceiveDelayed`].
    DelayResponse,
    /// Receives the delayed responses.
    ReceiveDelayed,
    /// Sends a request with the current cookies, which arrives at the next [`Action::DeliverDelayed`] or
    /// [`Action::UseDelayed`].
    DelayRequest,
    /// Delivers the delayed requests, which refresh, and receives their responses.
    DeliverDelayed,
    /// Delivers the delayed requests, which may confirm the generation of their cookies.
    UseDelayed,
    /// Flushes the deferred writes.
    FlushDeferred,
    /// Restarts with the cookies on disk.
    Crash,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let wait = prop_oneof![
        3 => 1_u64..20,
        3 => 20_u64..70,
        2 => 60_u64..300,
        3 => 800_u64..1_000,
        1 => 1_000_u64..100_000,
    ];
    let action = prop_oneof![
        6 => wait.prop_map(Action::Wait),
        4 => Just(Action::Use),
        4 => Just(Action::Refresh),
        2 => Just(Action::LoseResponse),
        2 => Just(Action::DelayResponse),
        2 => Just(Action::ReceiveDelayed),
        2 => Just(Action::DelayRequest),
        2 => Just(Action::DeliverDelayed),
        2 => Just(Action::UseDelayed),
        2 => Just(Action::FlushDeferred),
        2 => Just(Action::Crash),
    ];
    proptest::collection::vec(action, 1..120)
}

struct Browser {
    fixture: TokensFixture,
    client: TestClient,
    disk: TestClient,
    changed_at: OffsetDateTime,
    delayed_requests: Vec<(OffsetDateTime, TestClient)>,
    delayed_responses: Vec<(OffsetDateTime, TestClient)>,
}

impl Browser {
    async fn start() -> Self {
        let (fixture, client) = TokensFixture::with_browser().await;
        let changed_at = fixture.now();
        Self {
            fixture,
            disk: client.clone(),
            client,
            changed_at,
            delayed_requests: Vec::new(),
            delayed_responses: Vec::new(),
        }
    }

    async fn perform(&mut self, action: &Action) -> Result<(), RefreshError> {
        match action {
            Action::Wait(seconds) => self.wait(*seconds),
            Action::Use => _ = self.fixture.tokens.verify(self.client.access.as_deref().unwrap()),
            Action::Refresh => {
                let client = self.refresh(&self.client).await?;
                self.store_cookies(client);
            }
            Action::LoseResponse => _ = self.refresh(&self.client).await?,
            Action::DelayResponse => {
                let response = self.refresh(&self.client).await?;
                self.delayed_responses.push((self.fixture.now(), response));
            }
            Action::ReceiveDelayed => self.receive_delayed(),
            Action::DelayRequest => self.delayed_requests.push((self.fixture.now(), self.client.clone())),
            Action::DeliverDelayed => {
                for (_, client) in std::mem::take(&mut self.delayed_requests) {
                    let response = self.refresh(&client).await?;
                    self.store_cookies(response);
                }
            }
            Action::UseDelayed => {
                for (_, client) in std::mem::take(&mut self.delayed_requests) {
                    _ = self.fixture.tokens.verify(client.access.as_deref().unwrap());
                }
            }
            Action::FlushDeferred => self.fixture.tokens.flush_deferred().await.expect("the store responds"),
            Action::Crash => self.crash(),
        }
        Ok(())
    }

    async fn refresh(&self, client: &TestClient) -> Result<TestClient, RefreshError> {
        Ok(TestClient::new(&self.fixture.refresh(client).await?))
    }

    fn store_cookies(&mut self, client: TestClient) {
        self.client = client;
        self.changed_at = self.fixture.now();
    }

    /// Advances the clock. Requests and responses in flight for too long are lost.
    fn wait(&mut self, seconds: u64) {
        self.fixture.advance(Duration::from_secs(seconds));
        let now = self.fixture.now();
        if now - self.changed_at >= DISK_FLUSH_DELAY {
            self.disk = self.client.clone();
        }
        self.delayed_requests.retain(|(at, _)| now - *at <= MAX_IN_FLIGHT);
        self.delayed_responses.retain(|(at, _)| now - *at <= MAX_IN_FLIGHT);
    }

    fn receive_delayed(&mut self) {
        for (_, client) in std::mem::take(&mut self.delayed_responses) {
            self.store_cookies(client);
        }
    }

    fn crash(&mut self) {
        self.store_cookies(self.disk.clone());
        self.delayed_requests.clear();
        self.delayed_responses.clear();
    }

    async fn has_expired(&self) -> bool {
        self.fixture.row(&self.client).await.expires_at() <= self.fixture.now()
    }
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn honest_browser_stays_signed_in_and_generations_have_one_successor(actions in actions()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut browser = Browser::start().await;
            for (index, action) in actions.iter().enumerate() {
                if browser.has_expired().await {
                    break;
                }
                let done = browser.perform(action).await;
                prop_assert!(done.is_ok(), "{:?} at {}", done, index);
            }
            browser.fixture.tokens.flush_deferred().await.expect("the store responds");
            let row = browser.fixture.row(&browser.client).await;
            prop_assert_eq!(row.end, None);
            let generations = browser.fixture.store.rotations().into_iter().map(|row| row.generation);
            prop_assert!(generations.eq(2..=row.generation), "each generation has one successor");
            Ok(())
        })?;
    }
}
