//! What happens in one run: written down beforehand, so that a failure can be shrunk.

use proptest::prelude::Rng;
use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::rules::Rules;
use super::thief::Thief;

/// SplitMix64: small, and the same everywhere.
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

    /// From 0 to `most`.
    pub(super) fn up_to(&mut self, most: i64) -> i64 {
        self.between(0, most)
    }

    pub(super) fn between(&mut self, least: i64, most: i64) -> i64 {
        let span = u64::try_from(most - least).unwrap_or(0) + 1;
        least + (self.next() % span) as i64
    }

    /// True once in so many times.
    pub(super) fn one_in(&mut self, times: i64) -> bool {
        self.up_to(times - 1) == 0
    }

    /// Often short, sometimes long: up to `most`.
    pub(super) fn skewed(&mut self, most: i64) -> i64 {
        let most = self.up_to(most);
        let most = self.up_to(most);
        self.up_to(most)
    }
}

/// Lifetimes and limits, in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) rules: Rules,
    pub(super) access_ttl: i64,
    /// In thousandths.
    pub(super) jitter: i64,
    pub(super) leeway: i64,
    pub(super) grace: i64,
    pub(super) idle_ttl: i64,
    pub(super) absolute_ttl: i64,
    pub(super) max_per_user: u32,
    /// Valid tokens are refused while nobody knows what has ended.
    pub(super) refuse_on_store_loss: bool,
    /// How far each replica's clock is ahead of the true time.
    pub(super) clocks: Vec<i64>,
    /// What the store or a replica does wrong.
    pub(super) defect: Option<Mutation>,
}

/// A mistake that the product could have made. Each breaks one invariant, which shows that the
/// invariant is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    /// A crash of the store takes entries of the audit with it whose ends it keeps.
    AuditUnflushed,
    /// A session that has ended is ended again, with another reason.
    EndsAgain,
    /// Replicas never hear of what another one has ended.
    FeedStops,
    /// A rotation does not ask which generation the row is at.
    RotationUnconditional,
    /// A session is made although the password was changed since it was checked.
    SignInOutrunsPassword,
    /// An end by reuse is not audited.
    SilentReuse,
}

impl Mutation {
    pub(super) const ALL: [Self; 6] = [
        Self::AuditUnflushed,
        Self::EndsAgain,
        Self::FeedStops,
        Self::RotationUnconditional,
        Self::SignInOutrunsPassword,
        Self::SilentReuse,
    ];

    /// Part of what is told of the invariant that it breaks.
    pub(super) fn breaks(self) -> &'static str {
        match self {
            Self::AuditUnflushed | Self::EndsAgain | Self::SilentReuse => "in the audit",
            Self::FeedStops => "was accepted after its end",
            Self::RotationUnconditional => "was made twice",
            Self::SignInOutrunsPassword => "lives on a password that was changed",
        }
    }
}

/// Where a request goes, and how long each part of its way takes, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// After the others of the burst.
    pub(super) after: i64,
    pub(super) replica: usize,
    /// To the replica.
    pub(super) up: i64,
    /// Each of the store's answers.
    pub(super) store: i64,
    /// Behind the gateway.
    pub(super) upstream: i64,
    /// The answer's way back.
    pub(super) down: i64,
    /// The answer never arrives.
    pub(super) lost: bool,
    /// The client hangs up so long after it asked.
    pub(super) hang_up: Option<i64>,
    /// What the store does wrong.
    pub(super) fault: Option<Fault>,
}

/// How a store fails to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does nothing.
    Refused,
    /// It does what it was asked, and its answer is lost.
    Unheard,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Page,
    SignIn,
    SignOut,
    SignOutAll,
    ChangePassword,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Several tabs ask, each with what is in the jar when it asks.
    Burst { browser: usize, requests: Vec<Request> },
    /// One request that is more than a page.
    Ask { browser: usize, purpose: Purpose, request: Request },
    /// The browser's memory is gone; it comes back with the cookies on its disk.
    Crash { browser: usize },
    /// It crashes so long after the next cookies of another generation have arrived.
    CrashAfterRotation { browser: usize, after: i64 },
    /// The replica's memory is gone, and whatever it was about to answer.
    CrashReplica { replica: usize },
    /// The store forgets the rotations of the last so many milliseconds.
    CrashStore { lost: i64 },
    /// The store answers nobody.
    StoreDown { until: i64 },
    /// The replica ends what has expired.
    EndExpired { replica: usize },
    /// The thief copies the browser's jar.
    Steal { browser: usize },
    /// A thief of this kind uses its copy.
    Thief { thief: Thief, requests: Vec<Request> },
}

/// A run.
#[derive(Clone, Debug)]
pub(super) struct Script {
    /// What it was made from.
    pub(super) seed: u64,
    pub(super) settings: Settings,
    /// They belong to the users in turn.
    pub(super) browsers: usize,
    /// When, and what.
    pub(super) actions: Vec<(i64, Action)>,
}

/// Scripts made by a function of a seed. A failing one shrinks by leaving out actions, then
/// requests, then what is odd about the requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scripts(pub(super) fn(u64) -> Script);

impl Strategy for Scripts {
    type Tree = Shrinking;
    type Value = Script;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        Ok(Shrinking::new((self.0)(runner.rng().next_u64())))
    }
}

/// A script that is being shrunk.
#[derive(Debug)]
pub(super) struct Shrinking {
    now: Script,
    before: Vec<(i64, Action)>,
    /// How many actions are left out at once; 0 once single requests are looked at.
    chunk: usize,
    place: usize,
    calming: bool,
}

impl Shrinking {
    fn new(script: Script) -> Self {
        let chunk = script.actions.len().div_ceil(2);
        Self { before: script.actions.clone(), now: script, chunk, place: 0, calming: false }
    }

    fn leave_out_actions(&mut self) -> bool {
        while self.chunk > 0 {
            let end = self.now.actions.len().saturating_sub(self.place);
            if end > 0 {
                let start = end.saturating_sub(self.chunk);
                self.now.actions.drain(start..end);
                return true;
            }
            self.chunk /= 2;
            self.place = 0;
        }
        false
    }

    /// The request at `place`, counted over all actions, is left out, or made an ordinary one.
    fn simplify_request(&mut self) -> bool {
        let mut place = self.place;
        for (_, action) in &mut self.now.actions {
            let requests = match action {
                Action::Burst { requests, .. } | Action::Thief { requests, .. } => requests,
                _ => continue,
            };
            if place >= requests.len() {
                place -= requests.len();
            } else if self.calming {
                let Request { after, replica, up, store, upstream, down, .. } = requests[place];
                let [up, store, upstream, down] = [up, store, upstream, down].map(|delay| delay.min(1));
                requests[place] = Request { after, replica, up, store, upstream, down, ..Request::default() };
                return true;
            } else {
                requests.remove(place);
                return true;
            }
        }
        false
    }
}

impl ValueTree for Shrinking {
    type Value = Script;

    fn current(&self) -> Script {
        self.now.clone()
    }

    fn simplify(&mut self) -> bool {
        self.before.clone_from(&self.now.actions);
        if self.leave_out_actions() || self.simplify_request() {
            // What stays out needs no second look; an ordinary request stays where it is.
            self.place += usize::from(self.calming && self.chunk == 0);
            return true;
        }
        let again = self.chunk == 0 && !self.calming;
        self.calming = true;
        self.place = 0;
        again && self.simplify()
    }

    fn complicate(&mut self) -> bool {
        let changed = self.now.actions != self.before;
        self.now.actions.clone_from(&self.before);
        let calmed = self.calming && self.chunk == 0;
        if !calmed {
            self.place += self.chunk.max(1);
        }
        changed
    }
}
