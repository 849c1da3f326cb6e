//! Thieves, and 12-hour scripts with and without a thief for the rule comparison.

use super::coverage::CoverageEvent;
use super::generators::{HOUR, MINUTE, SECOND};
use super::rules::Rules;
use super::script::{Action, Purpose, Random, Request, Script, Settings};

const DAY: i64 = 24 * HOUR;

/// The way a thief uses copied cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thief {
    /// At random times.
    Occasional,
    /// Together with the browser.
    Alongside,
    /// A few seconds before the browser.
    Ahead,
    /// Together with the browser, but only while the token is young.
    Brief,
}

impl Thief {
    pub(super) const ALL: [Self; 4] = [Self::Occasional, Self::Alongside, Self::Ahead, Self::Brief];

    pub(super) fn seen(self) -> CoverageEvent {
        match self {
            Self::Occasional => CoverageEvent::ThiefOccasional,
            Self::Alongside => CoverageEvent::ThiefAlongside,
            Self::Ahead => CoverageEvent::ThiefAhead,
            Self::Brief => CoverageEvent::ThiefBrief,
        }
    }
}

/// Generates 12 hours of one user with the default settings: bursts from several tabs, a fifth of the
/// responses lost, crashes within seconds of a rotation, and optionally a thief.
pub(super) fn day(seed: u64, rules: Rules, thief: Option<Thief>) -> Script {
    let random = &mut Random(seed);
    let settings = Settings {
        rules,
        access_ttl: 15 * MINUTE,
        jitter: 50,
        leeway: 5 * SECOND,
        grace: MINUTE,
        idle_ttl: 14 * 24 * HOUR,
        absolute_ttl: 90 * 24 * HOUR,
        max_per_user: 50,
        refuse_on_store_loss: false,
        mutation: None,
        clocks: vec![random.up_to(2 * SECOND), random.up_to(2 * SECOND)],
    };
    let sign_in = Request { up: 20, store: 5, upstream: 250, down: 20, ..Request::default() };
    let mut actions = vec![(0, Action::Ask { browser: 0, purpose: Purpose::SignIn, request: sign_in })];
    let stolen = thief.map(|_| random.between(10 * MINUTE, HOUR));
    let mut time = MINUTE;
    while time < 12 * HOUR {
        if random.one_in(40) {
            actions.push((time, Action::CrashAfterRotation { browser: 0, after: random.up_to(10 * SECOND) }));
        }
        let requests = (0..random.between(1, 5)).map(|_| usual_request(random, 5)).collect();
        actions.push((time, Action::Burst { browser: 0, requests }));
        time += if random.one_in(40) {
            random.between(20, 90) * MINUTE
        } else {
            random.between(10, 5 * 60) * SECOND
        };
    }
    if let (Some(thief), Some(stolen)) = (thief, stolen) {
        actions.extend(visits(random, thief, 0, stolen, &actions));
        actions.push((stolen, Action::Steal { browser: 0 }));
        actions.sort_by_key(|(time, _)| *time);
    }
    Script { seed, settings, browsers: 1, actions }
}

fn usual_request(random: &mut Random, lost_one_in: i64) -> Request {
    Request {
        after: random.skewed(2 * SECOND),
        replica: random.up_to(1) as usize,
        up: random.between(5, 200),
        store: random.between(1, 10),
        upstream: random.skewed(3 * SECOND),
        down: random.between(5, 200),
        lost: random.one_in(lost_one_in),
        ..Request::default()
    }
}

/// Generates the requests of a thief with the cookies of `victim`.
pub(super) fn visits(
    random: &mut Random,
    thief: Thief,
    victim: usize,
    stolen: i64,
    actions: &[(i64, Action)],
) -> Vec<(i64, Action)> {
    let mut visits = Vec::new();
    let mut visit = |random: &mut Random, time: i64| {
        let requests = vec![Request { lost: false, ..usual_request(random, 5) }];
        visits.push((time, Action::Thief { thief, requests }));
    };
    if thief == Thief::Occasional {
        let mut time = stolen + random.up_to(40 * MINUTE);
        while time < 12 * HOUR {
            visit(random, time);
            time += random.between(MINUTE, 80 * MINUTE);
        }
        return visits;
    }
    let bursts = actions.iter().filter(|(time, action)| {
        let is_victims = matches!(action, Action::Burst { browser, .. } if *browser == victim);
        is_victims && *time > stolen + 10 * SECOND
    });
    for &(time, _) in bursts {
        let shift = match thief {
            Thief::Ahead => -random.between(2 * SECOND, 8 * SECOND),
            _ => random.up_to(2 * SECOND),
        };
        visit(random, time + shift);
    }
    visits
}

/// Generates the theft of cookies whose refresh token was replaced in a response that was too late to carry new
/// ones. The owner leaves, and returns after `absence`, if at all. Every three hours the thief sends the stolen
/// cookies, and keeps none of the new ones: a replay each time.
pub(super) fn replaying(seed: u64, absence: Option<i64>) -> Script {
    let random = &mut Random(seed);
    let mut script = day(seed, Rules::Sekisho, None);
    script.settings.idle_ttl = 4 * HOUR;
    script.settings.absolute_ttl = 2 * DAY;
    let sign_in = script.actions.swap_remove(0);
    let slow = Request { upstream: 11 * SECOND, lost: false, ..usual_request(random, 5) };
    script.actions = vec![
        sign_in,
        (16 * MINUTE, Action::Burst { browser: 0, requests: vec![slow] }),
        (20 * MINUTE, Action::Steal { browser: 0 }),
    ];
    let mut time = 20 * MINUTE;
    while time < 3 * DAY {
        time += random.between(2 * HOUR, 4 * HOUR);
        let requests = vec![Request { lost: true, ..usual_request(random, 5) }];
        script.actions.push((time, Action::Thief { thief: Thief::Occasional, requests }));
    }
    if let Some(absence) = absence {
        let visit = || Action::Burst { browser: 0, requests: vec![Request::default()] };
        script.actions.extend((0..6).map(|nth| (absence + nth * 5 * MINUTE, visit())));
    }
    script.actions.sort_by_key(|(time, _)| *time);
    script
}
