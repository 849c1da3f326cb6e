//! One honest browser, whatever befalls it, is never taken for two.
//!
//! The browser behaves as browsers do: requests overtake each other, answers get lost or come late,
//! and after a crash it is back with the cookies that it had last written to disk.

use proptest::prelude::*;

use super::*;
use crate::layer::TokenService;
use crate::test_seed::proptest_config;

/// Chromium writes its cookies to disk this long after a change.
const FLUSH: Duration = Duration::from_secs(30);

/// How long a request or its answer may be under way. Cookies that took longer than a quarter of
/// the grace are not handed out.
const UNDER_WAY: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
enum Act {
    /// Time passes.
    Wait(u64),
    /// A request with the cookies at hand, which may well settle their generation.
    Use,
    /// A renewal with the cookies at hand, answered at once.
    Renew,
    /// A renewal whose answer is lost.
    Lose,
    /// A renewal whose answer comes after later ones, at the next [`Act::Arrive`].
    Delay,
    /// What is under way arrives.
    Arrive,
    /// A request leaves with the cookies at hand and reaches the server at the next [`Act::Land`].
    Send,
    /// What was sent reaches the server, renews, and is answered.
    Land,
    /// Notes reach the store.
    Settle,
    /// The browser crashes and comes back with what is on disk.
    Crash,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let wait = prop_oneof![
        3 => 1_u64..20,
        3 => 20_u64..70,
        2 => 60_u64..300,
        3 => 800_u64..1_000,
        1 => 1_000_u64..100_000,
    ];
    let act = prop_oneof![
        6 => wait.prop_map(Act::Wait),
        4 => Just(Act::Use),
        4 => Just(Act::Renew),
        2 => Just(Act::Lose),
        2 => Just(Act::Delay),
        2 => Just(Act::Arrive),
        2 => Just(Act::Send),
        2 => Just(Act::Land),
        2 => Just(Act::Settle),
        2 => Just(Act::Crash),
    ];
    proptest::collection::vec(act, 1..120)
}

struct Browser {
    scene: TokensFixture,
    jar: TestClient,
    disk: TestClient,
    changed_at: OffsetDateTime,
    sent: Vec<(OffsetDateTime, TestClient)>,
    under_way: Vec<(OffsetDateTime, TestClient)>,
}

impl Browser {
    async fn start() -> Self {
        let scene = TokensFixture::new();
        let jar = scene.browser().await;
        let changed_at = scene.now();
        Self { scene, disk: jar.clone(), jar, changed_at, sent: Vec::new(), under_way: Vec::new() }
    }

    async fn act(&mut self, act: &Act) -> Result<(), RefreshError> {
        match act {
            Act::Wait(seconds) => self.wait(*seconds),
            Act::Use => _ = self.scene.tokens.verify(self.jar.access.as_deref().unwrap()),
            Act::Renew => {
                let jar = self.renewed(&self.jar).await?;
                self.take(jar);
            }
            Act::Lose => _ = self.renewed(&self.jar).await?,
            Act::Delay => {
                let answer = self.renewed(&self.jar).await?;
                self.under_way.push((self.scene.now(), answer));
            }
            Act::Arrive => self.arrive(),
            Act::Send => self.sent.push((self.scene.now(), self.jar.clone())),
            Act::Land => {
                for (_, jar) in std::mem::take(&mut self.sent) {
                    let answer = self.renewed(&jar).await?;
                    self.take(answer);
                }
            }
            Act::Settle => self.scene.tokens.flush_deferred().await.expect("an answer"),
            Act::Crash => self.crash(),
        }
        Ok(())
    }

    async fn renewed(&self, jar: &TestClient) -> Result<TestClient, RefreshError> {
        Ok(TestClient::of(&self.scene.renew(jar).await?))
    }

    fn take(&mut self, jar: TestClient) {
        (self.jar, self.changed_at) = (jar, self.scene.now());
    }

    /// What is too long under way is lost.
    fn wait(&mut self, seconds: u64) {
        self.scene.advance(Duration::from_secs(seconds));
        let now = self.scene.now();
        if now - self.changed_at >= FLUSH {
            self.disk = self.jar.clone();
        }
        self.sent.retain(|(at, _)| now - *at <= UNDER_WAY);
        self.under_way.retain(|(at, _)| now - *at <= UNDER_WAY);
    }

    fn arrive(&mut self) {
        for (_, jar) in std::mem::take(&mut self.under_way) {
            self.take(jar);
        }
    }

    fn crash(&mut self) {
        self.take(self.disk.clone());
        self.sent.clear();
        self.under_way.clear();
    }

    async fn is_over(&self) -> bool {
        self.scene.row(&self.jar).await.expires_at() <= self.scene.now()
    }
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn is_never_signed_out_and_no_generation_has_two_successors(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut browser = Browser::start().await;
            for (at, act) in acts.iter().enumerate() {
                if browser.is_over().await {
                    break;
                }
                let done = browser.act(act).await;
                prop_assert!(done.is_ok(), "{:?} at {}", done, at);
            }
            browser.scene.tokens.flush_deferred().await.expect("an answer");
            let row = browser.scene.row(&browser.jar).await;
            prop_assert_eq!(row.end, None);
            let generations = browser.scene.store.rotations().into_iter().map(|row| row.generation);
            prop_assert!(generations.eq(2..=row.generation), "one successor each");
            Ok(())
        })?;
    }
}
