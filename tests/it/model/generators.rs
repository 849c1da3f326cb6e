//! Scripts made at random, wild ones, for the invariants.

use super::rules::Rules;
use super::script::{Action, Fault, Mutation, Purpose, Random, Request, Script, Settings};
use super::thief::{Thief, visits};
use super::world::DISK;

pub(super) const SECOND: i64 = 1_000;
pub(super) const MINUTE: i64 = 60 * SECOND;
pub(super) const HOUR: i64 = 60 * MINUTE;

/// What may go wrong, and how slow things are at most.
struct Limits {
    /// A request's way, and an answer's.
    way: i64,
    /// Browsers may crash: only if their cookies reach the disk before a generation can settle.
    crashes: bool,
}

/// Everything at once, under any valid settings, and no thief.
pub(super) fn honest(seed: u64) -> Script {
    let random = &mut Random(seed);
    let (settings, limits) = any_settings(random);
    wild(seed, random, settings, &limits, false)
}

/// The same with thieves: one who comes when it likes, and one who keeps near the browser's requests.
pub(super) fn robbed(seed: u64) -> Script {
    let random = &mut Random(seed);
    let (settings, limits) = any_settings(random);
    let mut script = wild(seed, random, settings, &limits, true);
    let theft = script.actions.iter().find_map(|(time, action)| match action {
        Action::Steal { browser } => Some((*time, *browser)),
        _ => None,
    });
    if let Some((stolen, browser)) = theft {
        let thief = Thief::ALL[random.between(1, 3) as usize];
        let visits = visits(random, thief, browser, stolen, &script.actions);
        script.actions.extend(visits);
        script.actions.sort_by_key(|(time, _)| *time);
    }
    script
}

/// Thieves, but one request after the other, each answered before the next is sent, and not many;
/// nothing fails but what forgets.
pub(super) fn in_turn(seed: u64) -> Script {
    let mut script = robbed(seed);
    let random = &mut Random(!seed);
    script.settings.jitter = 0;
    let actions = std::mem::take(&mut script.actions);
    script.actions =
        actions.into_iter().flat_map(|(time, action)| one_by_one(random, time, action)).collect();
    script.actions.sort_by_key(|(time, _)| *time);
    script.actions.truncate(60);
    let mut last = -1;
    for (time, _) in &mut script.actions {
        last = (last + 1).max(*time);
        *time = last;
    }
    script
}

fn one_by_one(random: &mut Random, time: i64, action: Action) -> Vec<(i64, Action)> {
    let alone =
        |request: Request| Request { replica: request.replica, lost: request.lost, ..Request::default() };
    match action {
        Action::Burst { browser, requests } => requests
            .into_iter()
            .take(2)
            .map(|request| (time + request.after, Action::Burst { browser, requests: vec![alone(request)] }))
            .collect(),
        Action::Thief { thief, requests } => requests
            .into_iter()
            .take(2)
            .map(|request| (time + request.after, Action::Thief { thief, requests: vec![alone(request)] }))
            .collect(),
        Action::Ask { browser, purpose, request } => {
            vec![(time + random.up_to(SECOND), Action::Ask { browser, purpose, request: alone(request) })]
        }
        Action::StoreDown { .. } => Vec::new(),
        other => vec![(time, other)],
    }
}

/// Thieves, and a mistake in the store or in a replica.
pub(super) fn defective(seed: u64, defect: Mutation) -> Script {
    let mut script = robbed(seed);
    script.settings.defect = Some(defect);
    script
}

/// The defaults, and nobody steals; but clocks are a quarter of the grace apart, and answers take up
/// to fifteen seconds.
pub(super) fn strained(seed: u64) -> Script {
    let random = &mut Random(seed);
    let (mut settings, _) = any_settings(random);
    (settings.access_ttl, settings.grace, settings.jitter) = (15 * MINUTE, MINUTE, 50);
    settings.clocks = vec![settings.grace / 4, 0];
    let limits = Limits { way: 15 * SECOND, crashes: true };
    wild(seed, random, settings, &limits, false)
}

fn wild(seed: u64, random: &mut Random, settings: Settings, limits: &Limits, thief: bool) -> Script {
    let browsers = random.between(1, 3) as usize;
    let mut time = 0;
    let mut actions = Vec::new();
    for browser in 0..browsers {
        let request = any_request(random, &settings, limits);
        let request = Request { lost: false, fault: None, hang_up: None, ..request };
        actions.push((0, Action::Ask { browser, purpose: Purpose::SignIn, request }));
    }
    for _ in 0..random.between(20, 120) {
        time += any_pause(random, &settings);
        if limits.crashes && random.one_in(15) {
            time += settings.access_ttl;
            brink(random, &settings, limits, browsers, time, &mut actions);
        } else if random.one_in(25) {
            time += settings.access_ttl;
            rush(random, &settings, limits, browsers, time, &mut actions);
        } else {
            actions.push((time, any_action(random, &settings, limits, browsers, thief, time)));
        }
    }
    actions.sort_by_key(|(time, _)| *time);
    Script { seed, settings, browsers, actions }
}

fn any_settings(random: &mut Random) -> (Settings, Limits) {
    // The defaults, the demonstration's, or anything that is valid.
    let (access_ttl, grace, jitter) = match random.up_to(3) {
        0 => (15 * MINUTE, MINUTE, 50),
        1 => (20 * SECOND, 5 * SECOND, 50),
        2 => {
            let grace = random.between(60, 600) * SECOND;
            (grace * random.between(4, 40) / 2, grace, random.up_to(250))
        }
        _ => {
            let grace = random.between(1, 59) * SECOND;
            (grace * random.between(4, 40) / 2, grace, random.up_to(250))
        }
    };
    // Half a minute to the disk, a sixth of the grace until the answer leaves, and its way must fit
    // into the grace beside the clocks.
    let crashes = grace >= MINUTE;
    let way = random.up_to((grace / 8).min(5 * SECOND));
    let apart = if crashes { grace - grace / 6 - DISK - way } else { grace / 4 };
    let apart = apart.min(grace / 4);
    let apart = if random.one_in(3) { apart } else { random.up_to(apart) };
    let mut clocks: Vec<i64> = (0..random.between(1, 4)).map(|_| random.up_to(apart)).collect();
    if let [first, .., last] = &mut clocks[..] {
        (*first, *last) = (0, apart);
    }
    let idle_ttl = access_ttl * random.between(1, 20);
    let settings = Settings {
        rules: Rules::Ours,
        access_ttl,
        jitter,
        leeway: random.up_to(5 * SECOND).min(access_ttl - SECOND),
        grace,
        idle_ttl,
        absolute_ttl: idle_ttl * random.between(1, 20),
        max_per_user: if random.one_in(4) { random.between(1, 3) as u32 } else { 50 },
        refuse_on_store_loss: random.one_in(4),
        clocks,
        defect: None,
    };
    (settings, Limits { way, crashes })
}

/// Pauses near what matters: a burst, the grace, the end of an access token.
fn any_pause(random: &mut Random, settings: &Settings) -> i64 {
    let Settings { access_ttl, grace, idle_ttl, .. } = *settings;
    match random.up_to(19) {
        0..=5 => random.skewed(3 * SECOND),
        6..=8 => random.up_to(grace * 2),
        9..=11 => random.between(grace - SECOND, grace + 2 * SECOND),
        12..=16 => random.between(access_ttl / 10 * 7, access_ttl / 10 * 11),
        17 | 18 => random.up_to(access_ttl * 2),
        _ => random.up_to(idle_ttl),
    }
}

fn any_request(random: &mut Random, settings: &Settings, limits: &Limits) -> Request {
    let grace = settings.grace;
    Request {
        after: random.skewed(2 * SECOND),
        replica: random.up_to(7) as usize,
        up: random.skewed(limits.way),
        store: if random.one_in(20) { random.up_to(limits.way) } else { random.up_to(20) },
        upstream: match random.up_to(9) {
            0 => random.up_to(grace / 4),
            1 => random.up_to(grace * 2),
            _ => random.skewed(SECOND),
        },
        down: if random.one_in(3) { random.up_to(limits.way) } else { random.up_to(100).min(limits.way) },
        lost: random.one_in(5),
        hang_up: random.one_in(12).then(|| random.skewed(grace / 4)),
        fault: match random.up_to(39) {
            0 => Some(Fault::Refused),
            1 => Some(Fault::Unheard),
            _ => None,
        },
    }
}

fn any_requests(random: &mut Random, settings: &Settings, limits: &Limits) -> Vec<Request> {
    (0..random.between(1, 6)).map(|_| any_request(random, settings, limits)).collect()
}

fn any_action(
    random: &mut Random,
    settings: &Settings,
    limits: &Limits,
    browsers: usize,
    thief: bool,
    time: i64,
) -> Action {
    let browser = random.up_to(browsers as i64 - 1) as usize;
    let request = any_request(random, settings, limits);
    match random.up_to(39) {
        0 if limits.crashes => Action::Crash { browser },
        1 | 2 if limits.crashes => Action::CrashAfterRotation { browser, after: random.up_to(DISK) },
        3 => Action::CrashReplica { replica: random.up_to(7) as usize },
        4 => Action::CrashStore { lost: random.skewed(settings.grace * 4) },
        5 => Action::CrashStore { lost: random.up_to(SECOND) },
        6 => Action::StoreDown { until: time + random.skewed(settings.grace * 2) },
        21 => Action::EndExpired { replica: random.up_to(7) as usize },
        7 | 8 => Action::Ask { browser, purpose: Purpose::SignIn, request },
        9 if random.one_in(3) => Action::Ask { browser, purpose: Purpose::SignOut, request },
        10 if random.one_in(6) => Action::Ask { browser, purpose: Purpose::SignOutAll, request },
        11 if random.one_in(2) => Action::Ask { browser, purpose: Purpose::ChangePassword, request },
        12 | 13 if thief => Action::Steal { browser },
        14..=20 if thief => {
            let requests = any_requests(random, settings, limits);
            let thief = if random.one_in(3) { Thief::Brief } else { Thief::NowAndThen };
            Action::Thief { thief, requests }
        }
        _ => Action::Burst { browser, requests: any_requests(random, settings, limits) },
    }
}

/// A renewal whose answer leaves as late as may be; then a browser that crashes about when its
/// cookies reach the disk, while the new token has just come into lasting use.
fn brink(
    random: &mut Random,
    settings: &Settings,
    limits: &Limits,
    browsers: usize,
    time: i64,
    actions: &mut Vec<(i64, Action)>,
) {
    let Settings { grace, ref clocks, .. } = *settings;
    let browser = random.up_to(browsers as i64 - 1) as usize;
    let request = |random: &mut Random| {
        let after = random.skewed(SECOND);
        let down = limits.way - random.skewed(limits.way);
        let upstream = random.skewed(SECOND);
        Request {
            after,
            replica: random.up_to(7) as usize,
            up: 1,
            store: 1,
            upstream,
            down,
            ..Request::default()
        }
    };
    let upstream = grace / 6 - random.up_to(SECOND);
    let renewal = Request { after: 0, upstream, ..request(random) };
    let crash = Action::CrashAfterRotation { browser, after: DISK - random.up_to(SECOND) };
    let requests = vec![renewal];
    actions.extend([(time, crash), (time, Action::Burst { browser, requests })]);
    let apart = clocks.iter().max().unwrap_or(&0) - clocks.iter().min().unwrap_or(&0);
    let lasting = time + grace - apart;
    for after in [0, 0, 0, 1, 1, 2, 5, 20] {
        let requests = (0..3).map(|_| request(random)).collect();
        actions.push((lasting + after * SECOND + random.up_to(SECOND), Action::Burst { browser, requests }));
    }
}

/// All that may happen to a session within a second, while its renewal is due.
fn rush(
    random: &mut Random,
    settings: &Settings,
    limits: &Limits,
    browsers: usize,
    time: i64,
    actions: &mut Vec<(i64, Action)>,
) {
    for browser in 0..browsers {
        let requests = any_requests(random, settings, limits);
        actions.push((time + random.skewed(SECOND), Action::Burst { browser, requests }));
        for _ in 0..random.between(1, 3) {
            let purpose = match random.up_to(9) {
                0 => Purpose::SignOut,
                1 => Purpose::SignOutAll,
                2..=5 => Purpose::SignIn,
                _ => Purpose::ChangePassword,
            };
            let mut request = any_request(random, settings, limits);
            request.upstream = random.up_to(SECOND);
            actions.push((time + random.up_to(SECOND), Action::Ask { browser, purpose, request }));
        }
    }
}
