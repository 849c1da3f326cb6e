//! The planned actions of one run, which proptest shrinks after a failure.

use proptest::prelude::Rng;
use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::rules::Rules;
use super::thief::Thief;

/// The SplitMix64 generator, whose output does not depend on the platform.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a number from 0 to `max`.
    pub(super) fn up_to(&mut self, max: i64) -> i64 {
        self.between(0, max)
    }

    pub(super) fn between(&mut self, min: i64, max: i64) -> i64 {
        let span = u64::try_from(max - min).unwrap_or(0) + 1;
        min + (self.next() % span) as i64
    }

    /// Returns `true` with a probability of 1 / `times`.
    pub(super) fn one_in(&mut self, times: i64) -> bool {
        self.up_to(times - 1) == 0
    }

    /// Returns a number from 0 to `max`, small ones more often.
    pub(super) fn skewed(&mut self, max: i64) -> i64 {
        let max = self.up_to(max);
        let max = self.up_to(max);
        self.up_to(max)
    }
}

/// Lifetimes and limits, in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) rules: Rules,
    pub(super) access_ttl: i64,
    /// In thousandths of the lifetime.
    pub(super) jitter: i64,
    pub(super) leeway: i64,
    pub(super) grace: i64,
    pub(super) idle_ttl: i64,
    pub(super) absolute_ttl: i64,
    pub(super) max_per_user: u32,
    /// True if valid tokens are rejected while the revocation list is stale.
    pub(super) refuse_on_store_loss: bool,
    /// Offset of each replica's session time from the true time, at first.
    pub(super) clocks: Vec<i64>,
    /// The mutation of the store or of the replicas.
    pub(super) mutation: Option<Mutation>,
}

/// A mutation to inject. Each breaks one invariant, which shows that the invariant is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    /// A crash of the store loses audit entries of terminations that it keeps.
    AuditUnflushed,
    /// A terminated session is terminated again, for another reason.
    RepeatedEnd,
    /// The revocation pollers stop.
    PollerStops,
    /// A rotation does not check the generation of the row.
    UnconditionalRotation,
    /// A session is created although the password changed after it was checked.
    SignInIgnoresPasswordChange,
    /// A termination by reuse detection is not audited.
    UnauditedReuse,
    /// Uses do not postpone the idle expiry.
    UsesIgnored,
    /// The replicas use their wall clocks instead of session time.
    WallClocks,
}

impl Mutation {
    pub(super) const ALL: [Self; 8] = [
        Self::AuditUnflushed,
        Self::RepeatedEnd,
        Self::PollerStops,
        Self::UnconditionalRotation,
        Self::SignInIgnoresPasswordChange,
        Self::UnauditedReuse,
        Self::UsesIgnored,
        Self::WallClocks,
    ];

    /// Returns a part of the report of the invariant that it breaks.
    pub(super) fn broken_invariant(self) -> &'static str {
        match self {
            Self::AuditUnflushed | Self::RepeatedEnd | Self::UnauditedReuse => "in the audit",
            Self::PollerStops => "was accepted after its end",
            Self::UnconditionalRotation => "was created twice",
            Self::SignInIgnoresPasswordChange => "is active on an old password",
            Self::UsesIgnored => "was used, and idled out",
            Self::WallClocks => "for reuse without a theft",
        }
    }
}

/// The target of a request and its delays, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// From the start of the burst until it is sent.
    pub(super) after: i64,
    pub(super) replica: usize,
    /// From the client to the replica.
    pub(super) up: i64,
    /// Of each call of the store.
    pub(super) store: i64,
    /// Of the upstream.
    pub(super) upstream: i64,
    /// From the replica to the client.
    pub(super) down: i64,
    /// True if the response never arrives.
    pub(super) lost: bool,
    /// Time from sending until the client disconnects.
    pub(super) disconnect: Option<i64>,
    /// The fault of the store.
    pub(super) fault: Option<Fault>,
}

/// A fault of a store call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The call is not executed.
    NotExecuted,
    /// The call is executed, and its result is lost.
    ResultLost,
}

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Page,
    /// `POST /auth/refresh`, which refreshes a valid access token too.
    Refresh,
    SignIn,
    SignOut,
    SignOutAll,
    ChangePassword,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Several tabs send requests, each with the cookies at that time.
    Burst { browser: usize, requests: Vec<Request> },
    /// One request that signs in or out or changes the password.
    Ask { browser: usize, purpose: Purpose, request: Request },
    /// The browser crashes and restarts with the cookies on its disk.
    Crash { browser: usize },
    /// The browser crashes `after` the next cookies of another generation have arrived.
    CrashAfterRotation { browser: usize, after: i64 },
    /// The replica loses its memory and its requests in flight, and starts again.
    CrashReplica { replica: usize },
    /// All replicas stop, and start again after `down`.
    RestartAll { down: i64, is_reboot: bool },
    /// The wall clocks of the database and of all replicas, or only the database's, are set.
    StepClock { by: i64, only_database: bool },
    /// The store loses the rotations of the last `lost` milliseconds.
    CrashStore { lost: i64 },
    /// The store is unavailable.
    StoreDown { until: i64 },
    /// The replica terminates expired sessions.
    EndExpired { replica: usize },
    /// The thief copies the browser's cookies.
    Steal { browser: usize },
    /// The thief sends requests with its copy.
    Thief { thief: Thief, requests: Vec<Request> },
}

/// A planned run.
#[derive(Clone, Debug)]
pub(super) struct Script {
    /// The seed that it was generated from.
    pub(super) seed: u64,
    pub(super) settings: Settings,
    /// Number of browsers, which belong to the users in turn.
    pub(super) browsers: usize,
    /// Times and actions.
    pub(super) actions: Vec<(i64, Action)>,
}

/// Generates scripts from seeds. ShrinkingScript removes actions, then requests, then the faults and delays of
/// the requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scripts(pub(super) fn(u64) -> Script);

impl Strategy for Scripts {
    type Tree = ShrinkingScript;
    type Value = Script;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        Ok(ShrinkingScript::new((self.0)(runner.rng().next_u64())))
    }
}

/// A script that is being shrunk.
#[derive(Debug)]
pub(super) struct ShrinkingScript {
    current: Script,
    previous: Vec<(i64, Action)>,
    /// Number of actions to remove at a time, 0 while requests are simplified.
    chunk: usize,
    position: usize,
    removes_faults: bool,
}

impl ShrinkingScript {
    fn new(script: Script) -> Self {
        let chunk = script.actions.len().div_ceil(2);
        Self { previous: script.actions.clone(), current: script, chunk, position: 0, removes_faults: false }
    }

    fn remove_actions(&mut self) -> bool {
        while self.chunk > 0 {
            let end = self.current.actions.len().saturating_sub(self.position);
            if end > 0 {
                let start = end.saturating_sub(self.chunk);
                self.current.actions.drain(start..end);
                return true;
            }
            self.chunk /= 2;
            self.position = 0;
        }
        false
    }

    /// Removes the request at `position`, counted over all actions, or removes its faults.
    fn simplify_request(&mut self) -> bool {
        let mut position = self.position;
        for (_, action) in &mut self.current.actions {
            let requests = match action {
                Action::Burst { requests, .. } | Action::Thief { requests, .. } => requests,
                _ => continue,
            };
            if position >= requests.len() {
                position -= requests.len();
            } else if self.removes_faults {
                let Request { after, replica, up, store, upstream, down, .. } = requests[position];
                let [up, store, upstream, down] = [up, store, upstream, down].map(|delay| delay.min(1));
                requests[position] =
                    Request { after, replica, up, store, upstream, down, ..Request::default() };
                return true;
            } else {
                requests.remove(position);
                return true;
            }
        }
        false
    }
}

impl ValueTree for ShrinkingScript {
    type Value = Script;

    fn current(&self) -> Script {
        self.current.clone()
    }

    fn simplify(&mut self) -> bool {
        self.previous.clone_from(&self.current.actions);
        if self.remove_actions() || self.simplify_request() {
            // A removed action or request moves the next one to `position`; a simplified request stays there.
            self.position += usize::from(self.removes_faults && self.chunk == 0);
            return true;
        }
        let continues = self.chunk == 0 && !self.removes_faults;
        self.removes_faults = true;
        self.position = 0;
        continues && self.simplify()
    }

    fn complicate(&mut self) -> bool {
        let has_changed = self.current.actions != self.previous;
        self.current.actions.clone_from(&self.previous);
        let has_advanced = self.removes_faults && self.chunk == 0;
        if !has_advanced {
            self.position += self.chunk.max(1);
        }
        has_changed
    }
}
