//! Random scripts for checking the invariants.

use super::rules::Rules;
use super::script::{Action, Fault, Mutation, Purpose, Random, Request, Script, Settings};
use super::thief::{Thief, visits};
use super::world::MAX_DISK_DELAY;

pub(super) const SECOND: i64 = 1_000;
pub(super) const MINUTE: i64 = 60 * SECOND;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

/// Limits of the faults and delays.
struct Limits {
    /// Maximum latency of a request and of a response.
    latency: i64,
    /// True if browsers may crash. Their cookies must be on disk before a generation can be confirmed.
    crashes: bool,
}

/// Every fault except theft, with any valid settings.
pub(super) fn honest(seed: u64) -> Script {
    let random = &mut Random(seed);
    let (settings, limits) = any_settings(random);
    build(seed, random, settings, &limits, false)
}

/// Like [`honest`], with thieves at random times and thieves near the browser's requests.
pub(super) fn with_theft(seed: u64) -> Script {
    let random = &mut Random(seed);
    let (settings, limits) = any_settings(random);
    let mut script = build(seed, random, settings, &limits, true);
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

/// Like [`honest`], with wall clocks that are set, and restarts around these times.
pub(super) fn with_clock_steps(seed: u64) -> Script {
    let mut script = honest(seed);
    add_clock_steps(&mut Random(!seed), &mut script, 30 * DAY);
    script
}

/// Adds wall clocks that are set back by up to 30 days and ahead by up to `max_ahead`, and restarts.
pub(super) fn add_clock_steps(random: &mut Random, script: &mut Script, max_ahead: i64) {
    // A replica that is restarted may be ahead of the others by an eighth of the grace period.
    for clock in &mut script.settings.clocks {
        *clock /= 2;
    }
    let end = script.actions.last().map_or(0, |(time, _)| *time);
    for _ in 0..random.between(1, 6) {
        let mut time = match script.actions.get(random.up_to(script.actions.len() as i64 - 1) as usize) {
            Some((time, _)) if random.one_in(2) => time + random.skewed(5 * SECOND),
            _ => random.up_to(end),
        };
        for _ in 0..random.between(1, 3) {
            let action = match random.up_to(5) {
                0 => Action::CrashReplica { replica: random.up_to(7) as usize },
                1 | 2 => {
                    let down = if random.one_in(3) { random.up_to(HOUR) } else { random.skewed(MINUTE) };
                    Action::RestartAll { down, is_reboot: random.one_in(2) }
                }
                _ => Action::StepClock { by: any_step(random, max_ahead), only_database: random.one_in(3) },
            };
            script.actions.push((time, action));
            time += random.skewed(2 * script.settings.grace);
        }
    }
    script.actions.sort_by_key(|(time, _)| *time);
}

/// Returns a step from a second to 30 days, of any order of magnitude.
fn any_step(random: &mut Random, max_ahead: i64) -> i64 {
    let magnitude = [MINUTE, HOUR, DAY, 30 * DAY][random.up_to(3) as usize];
    let step = random.between(SECOND, magnitude);
    if random.one_in(2) { -step } else { step.min(max_ahead) }
}

/// Thefts with few requests, one after the other. No fault except crashes.
pub(super) fn sequential(seed: u64) -> Script {
    let mut script = with_theft(seed);
    let random = &mut Random(!seed);
    script.settings.jitter = 0;
    if random.one_in(3) {
        add_clock_steps(random, &mut script, HOUR);
    }
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

/// A browser whose responses are all too late to carry cookies, and which pauses for up to nine tenths of the
/// idle lifetime, for several of them.
pub(super) fn slow_responses(seed: u64) -> Script {
    let random = &mut Random(seed);
    let (mut settings, _) = any_settings(random);
    let idle = settings.access_ttl + settings.idle_ttl;
    settings.absolute_ttl = idle * 10;
    let sign_in = fast_request();
    let mut actions = vec![(0, Action::Ask { browser: 0, purpose: Purpose::SignIn, request: sign_in })];
    let mut time = settings.access_ttl + random.up_to(SECOND);
    while time < idle * 6 {
        let upstream = settings.grace / 6 + random.between(1, SECOND);
        let replica = random.up_to(7) as usize;
        let request = Request { replica, upstream, ..sign_in };
        actions.push((time, Action::Burst { browser: 0, requests: vec![request] }));
        time += random.between(idle / 20, idle * 9 / 10);
    }
    Script { seed, settings, browsers: 1, actions }
}

/// A mutation, and thefts unless it takes another script to show.
pub(super) fn with_mutation(seed: u64, mutation: Mutation) -> Script {
    let mut script = match mutation {
        Mutation::UsesIgnored => slow_responses(seed),
        Mutation::WallClocks => with_clock_steps(seed),
        _ => with_theft(seed),
    };
    script.settings.mutation = Some(mutation);
    script
}

/// Default settings without theft, with a clock skew of a quarter of the grace and response latencies of
/// up to 15 s.
pub(super) fn with_long_delays(seed: u64) -> Script {
    let random = &mut Random(seed);
    let (mut settings, _) = any_settings(random);
    settings.access_ttl = 15 * MINUTE;
    settings.grace = MINUTE;
    settings.jitter = 50;
    settings.clocks = vec![settings.grace / 4, 0];
    let limits = Limits { latency: 15 * SECOND, crashes: true };
    build(seed, random, settings, &limits, false)
}

fn build(seed: u64, random: &mut Random, settings: Settings, limits: &Limits, thief: bool) -> Script {
    let browsers = random.between(1, 3) as usize;
    let mut time = 0;
    let mut actions = Vec::new();
    for browser in 0..browsers {
        let request = any_request(random, &settings, limits);
        let request = Request { lost: false, fault: None, disconnect: None, ..request };
        actions.push((0, Action::Ask { browser, purpose: Purpose::SignIn, request }));
    }
    for _ in 0..random.between(20, 120) {
        time += any_pause(random, &settings);
        let add_episode: fn(&mut Episode<'_>) = if limits.crashes && random.one_in(15) {
            add_late_crash
        } else if random.one_in(15) {
            add_late_replay
        } else if random.one_in(25) {
            add_concurrent_actions
        } else {
            actions.push((time, any_action(random, &settings, limits, browsers, thief, time)));
            continue;
        };
        time += settings.access_ttl;
        let actions = &mut actions;
        add_episode(&mut Episode { random, settings: &settings, limits, browsers, time, actions });
    }
    actions.sort_by_key(|(time, _)| *time);
    Script { seed, settings, browsers, actions }
}

/// A place in a script at which the refresh of a session is due.
struct Episode<'a> {
    random: &'a mut Random,
    settings: &'a Settings,
    limits: &'a Limits,
    browsers: usize,
    time: i64,
    actions: &'a mut Vec<(i64, Action)>,
}

impl Episode<'_> {
    fn any_browser(&mut self) -> usize {
        self.random.up_to(self.browsers as i64 - 1) as usize
    }

    /// Returns the largest difference between the clocks of two replicas.
    fn clock_skew(&self) -> i64 {
        let clocks = &self.settings.clocks;
        clocks.iter().max().unwrap_or(&0) - clocks.iter().min().unwrap_or(&0)
    }

    fn burst(&mut self, time: i64, browser: usize, requests: Vec<Request>) {
        self.actions.push((time, Action::Burst { browser, requests }));
    }
}

/// Returns a request without delays.
fn fast_request() -> Request {
    Request { up: 1, store: 1, upstream: 1, down: 1, ..Request::default() }
}

fn any_settings(random: &mut Random) -> (Settings, Limits) {
    // The defaults, the demo's settings, or any valid ones.
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
    // The grace must cover the delay to the disk, a sixth of it until the response is sent, the latency
    // and the clock skew.
    let crashes = grace >= MINUTE;
    let latency = random.up_to((grace / 8).min(5 * SECOND));
    let apart = if crashes { grace - grace / 6 - MAX_DISK_DELAY - latency } else { grace / 4 };
    let apart = apart.min(grace / 4);
    let apart = if random.one_in(3) { apart } else { random.up_to(apart) };
    let mut clocks: Vec<i64> = (0..random.between(1, 4)).map(|_| random.up_to(apart)).collect();
    if let [first, .., last] = &mut clocks[..] {
        (*first, *last) = (0, apart);
    }
    let idle_ttl = access_ttl * random.between(1, 20);
    let settings = Settings {
        rules: Rules::Sekisho,
        access_ttl,
        jitter,
        leeway: random.up_to(5 * SECOND).min(access_ttl - SECOND),
        grace,
        idle_ttl,
        absolute_ttl: idle_ttl * random.between(1, 20),
        max_per_user: if random.one_in(4) { random.between(1, 3) as u32 } else { 50 },
        refuse_on_store_loss: random.one_in(4),
        clocks,
        mutation: None,
    };
    (settings, Limits { latency, crashes })
}

/// Returns a pause, often close to the grace or the lifetime of an access token.
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
        up: random.skewed(limits.latency),
        store: if random.one_in(20) { random.up_to(limits.latency) } else { random.up_to(20) },
        upstream: match random.up_to(9) {
            0 => random.up_to(grace / 4),
            1 => random.up_to(grace * 2),
            _ => random.skewed(SECOND),
        },
        down: if random.one_in(3) {
            random.up_to(limits.latency)
        } else {
            random.up_to(100).min(limits.latency)
        },
        lost: random.one_in(5),
        disconnect: random.one_in(12).then(|| random.skewed(grace / 4)),
        fault: match random.up_to(39) {
            0 => Some(Fault::NotExecuted),
            1 => Some(Fault::ResultLost),
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
        1 | 2 if limits.crashes => {
            Action::CrashAfterRotation { browser, after: random.up_to(MAX_DISK_DELAY) }
        }
        3 => Action::CrashReplica { replica: random.up_to(7) as usize },
        4 => Action::CrashStore { lost: random.skewed(settings.grace * 4) },
        5 => Action::CrashStore { lost: random.up_to(SECOND) },
        6 => Action::StoreDown { until: time + random.skewed(settings.grace * 2) },
        22 | 23 => Action::Ask { browser, purpose: Purpose::Refresh, request },
        21 => Action::EndExpired { replica: random.up_to(7) as usize },
        7 | 8 => Action::Ask { browser, purpose: Purpose::SignIn, request },
        9 if random.one_in(3) => Action::Ask { browser, purpose: Purpose::SignOut, request },
        10 if random.one_in(6) => Action::Ask { browser, purpose: Purpose::SignOutAll, request },
        11 if random.one_in(2) => Action::Ask { browser, purpose: Purpose::ChangePassword, request },
        12 | 13 if thief => Action::Steal { browser },
        14..=20 if thief => {
            let requests = any_requests(random, settings, limits);
            let thief = if random.one_in(3) { Thief::Brief } else { Thief::Occasional };
            Action::Thief { thief, requests }
        }
        _ => Action::Burst { browser, requests: any_requests(random, settings, limits) },
    }
}

/// Adds a refresh with the latest valid response, and a browser crash around the disk write, when the use
/// of the new token has just been confirmed.
fn add_late_crash(episode: &mut Episode<'_>) {
    let Settings { grace, .. } = *episode.settings;
    let latency = episode.limits.latency;
    let browser = episode.any_browser();
    let request = |random: &mut Random| {
        let after = random.skewed(SECOND);
        let down = latency - random.skewed(latency);
        let upstream = random.skewed(SECOND);
        Request { after, replica: random.up_to(7) as usize, upstream, down, ..fast_request() }
    };
    let upstream = grace / 6 - episode.random.up_to(SECOND);
    let refresh = Request { after: 0, upstream, ..request(episode.random) };
    let crash = Action::CrashAfterRotation { browser, after: MAX_DISK_DELAY - episode.random.up_to(SECOND) };
    episode.actions.push((episode.time, crash));
    episode.burst(episode.time, browser, vec![refresh]);
    let lasting = episode.time + grace - episode.clock_skew();
    for after in [0, 0, 0, 1, 1, 2, 5, 20] {
        let requests = (0..3).map(|_| request(episode.random)).collect();
        let time = lasting + after * SECOND + episode.random.up_to(SECOND);
        episode.burst(time, browser, requests);
    }
}

/// Adds a rotation, an explicit refresh at the end of the grace period, which is replayed, and requests with
/// the older access token that were sent just before the response. Then the new token is confirmed.
fn add_late_replay(episode: &mut Episode<'_>) {
    let Settings { grace, .. } = *episode.settings;
    let latency = episode.limits.latency;
    let browser = episode.any_browser();
    let page = |random: &mut Random| Request {
        replica: random.up_to(7) as usize,
        up: latency - random.skewed(latency),
        down: latency - random.skewed(latency),
        ..fast_request()
    };
    let rotation = Request { up: 1, down: 1, ..page(episode.random) };
    let upstream = grace / 6 - episode.random.up_to(SECOND);
    let request = Request { up: 1, upstream, ..page(episode.random) };
    let skew = episode.clock_skew();
    let replayed = episode.time + grace + episode.random.up_to(skew + SECOND) - episode.random.skewed(SECOND);
    let arrived = replayed + request.upstream + request.down;
    episode.burst(episode.time, browser, vec![rotation]);
    episode.actions.push((replayed, Action::Ask { browser, purpose: Purpose::Refresh, request }));
    for _ in 0..3 {
        let requests = vec![page(episode.random)];
        let time = arrived - episode.random.skewed(SECOND);
        episode.burst(time, browser, requests);
    }
    for after in [0, 1, 1, 2, 4] {
        let requests = vec![Request { up: 1, ..page(episode.random) }];
        let time = replayed + grace * 5 / 3 + after * SECOND + episode.random.up_to(skew + SECOND);
        episode.burst(time, browser, requests);
    }
}

/// Adds concurrent sign-ins, sign-outs and password changes within a second of a due refresh.
fn add_concurrent_actions(episode: &mut Episode<'_>) {
    let Episode { random, settings, limits, browsers, time, actions } = episode;
    for browser in 0..*browsers {
        let requests = any_requests(random, settings, limits);
        actions.push((*time + random.skewed(SECOND), Action::Burst { browser, requests }));
        for _ in 0..random.between(1, 3) {
            let purpose = match random.up_to(9) {
                0 => Purpose::SignOut,
                1 => Purpose::SignOutAll,
                2..=5 => Purpose::SignIn,
                _ => Purpose::ChangePassword,
            };
            let mut request = any_request(random, settings, limits);
            request.upstream = random.up_to(SECOND);
            actions.push((*time + random.up_to(SECOND), Action::Ask { browser, purpose, request }));
        }
    }
}
