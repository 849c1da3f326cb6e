//! Shrunk scripts that once broke an invariant.

use sekisho::session_event::SessionEvent;

use super::differential_replay::replay;
use super::rules::Rules;
use super::script::{Action, Fault, Purpose, Request, Script, Settings};
use super::world::{SessionResponse, TraceEvent, World};

/// A sign-in replaces a session and its response is lost. Before every replica has polled the revocation,
/// a refresh of the old session waits three seconds for the store.
#[test]
fn session_is_replaced_shortly_before_slow_refresh() {
    let settings = settings(3_581, vec![2_464, 1_126, 3_211, 446]);
    let actions = vec![
        (0, sign_in(request(111, 0, 1_731, 18, 18, 91))),
        (905_208, sign_in(request(180, 3, 0, 17, 111_573, 23))),
        (
            3_919_191,
            burst(vec![
                request(238, 4, 1, 1, 1, 1),
                request(22, 6, 454, 12, 68, 3_714),
                request(209, 1, 159, 12, 17, 81),
            ]),
        ),
        (11_950_968, sign_in(request(23, 7, 951, 8, 8, 2_143))),
        (
            13_517_039,
            burst(vec![
                request(6, 2, 340, 9, 192, 2),
                request(257, 3, 1, 1, 1, 1),
                request(188, 0, 3, 13, 4, 75),
            ]),
        ),
        (14_382_617, sign_in(lost(request(15, 1, 298, 2, 3, 78)))),
        (
            14_383_040,
            burst(vec![lost(request(9, 7, 102, 3_021, 355, 1_953)), lost(request(261, 3, 577, 20, 0, 50))]),
        ),
    ];
    let script = Script { seed: 6_391_437_193_200_063_607, settings, browsers: 1, actions };
    assert_eq!(World::run(&script).violation, None);
}

/// A sign-in replaces a session and its result is lost. The store becomes unavailable before the other
/// replicas have polled, so they must treat their revocation lists as stale.
#[test]
fn store_becomes_unavailable_within_a_second_of_termination() {
    let result_lost = Request { fault: Some(Fault::ResultLost), ..request(0, 1, 258, 10, 255, 33) };
    let actions = vec![
        (0, sign_in(request(0, 1, 1, 1, 1, 1))),
        (60_000, sign_in(result_lost)),
        (61_200, Action::StoreDown { until: 80_000 }),
        (61_300, burst(vec![request(0, 0, 500, 7, 9, 1), request(0, 1, 500, 7, 9, 1)])),
    ];
    let script = Script { seed: 0, settings: settings(3_278, vec![0, 3_101]), browsers: 1, actions };
    assert_eq!(World::run(&script).violation, None);
}

/// A crash undoes the unflushed termination of an expired session after a password change.
#[test]
fn termination_of_expired_session_is_undone_after_password_change() {
    let single = |purpose, request| Action::Ask { browser: 2, purpose, request };
    let actions = vec![
        (5_305_442, single(Purpose::SignIn, lost(request(70, 0, 54, 14, 478, 511)))),
        (8_383_104, single(Purpose::SignIn, request(111, 5, 84, 2, 547, 454))),
        (10_197_207, Action::EndExpired { replica: 4 }),
        (10_197_679, single(Purpose::ChangePassword, request(11, 7, 73, 14, 658, 65))),
        (10_206_623, Action::CrashStore { lost: 36_122 }),
        (10_433_278, sign_in(request(51, 6, 62, 16, 2_613, 70))),
    ];
    let settings = Settings {
        access_ttl: 234_000,
        jitter: 114,
        grace: 39_000,
        idle_ttl: 4_212_000,
        absolute_ttl: 25_272_000,
        refuse_on_store_loss: true,
        ..settings(604, vec![2_934])
    };
    let script = Script { seed: 9_358_915_405_418_960_594, settings, browsers: 3, actions };
    assert_eq!(World::run(&script).violation, None);
}

/// The first termination that is still in the store applies. A crash undoes the termination for which a
/// replica responds `idle_expired`, and the user signs out: the next response is `logged_out`.
#[test]
fn sign_out_after_lost_expiry_is_reported_as_logged_out() {
    let settings =
        Settings { access_ttl: 20_000, jitter: 0, grace: 5_000, idle_ttl: 40_000, ..settings(0, vec![0]) };
    let page = || burst(vec![Request::default()]);
    let sign_out = Action::Ask { browser: 0, purpose: Purpose::SignOut, request: lost(Request::default()) };
    let actions = vec![
        (0, sign_in(Request::default())),
        (120_000, Action::EndExpired { replica: 0 }),
        // Later than the replica's next poll.
        (120_500, page()),
        (121_000, Action::CrashStore { lost: 2_000 }),
        (121_500, sign_out),
        (122_000, page()),
    ];
    let script = Script { seed: 0, settings, browsers: 1, actions };
    assert_eq!(refusals(&script), [SessionEvent::IdleExpired, SessionEvent::LoggedOut]);
    replay(&script).unwrap();
}

/// The session was terminated at another replica. The second sign-out reads that termination, so its
/// replica rejects the access token before it polls.
#[test]
fn second_sign_out_makes_its_replica_refuse_access_tokens() {
    let settings = Settings { access_ttl: 20_000, jitter: 0, grace: 5_000, ..settings(0, vec![0, 0]) };
    let at_replica = |replica| lost(Request { replica, ..Request::default() });
    let sign_out = |request| Action::Ask { browser: 0, purpose: Purpose::SignOut, request };
    let actions = vec![
        (0, sign_in(Request::default())),
        (10_000, sign_out(at_replica(0))),
        (10_050, sign_out(at_replica(1))),
        (10_100, burst(vec![at_replica(1)])),
    ];
    let script = Script { seed: 0, settings, browsers: 1, actions };
    assert_eq!(refusals(&script), [SessionEvent::LoggedOut]);
    replay(&script).unwrap();
}

/// Returns the events with which the model rejects requests, in order.
fn refusals(script: &Script) -> Vec<SessionEvent> {
    let (_, trace, _) = World::trace(script);
    let refused = trace.into_iter().filter_map(|traced| match traced.what {
        TraceEvent::Responded { response: SessionResponse::Refused(event), .. } => Some(event),
        _ => None,
    });
    refused.collect()
}

fn settings(leeway: i64, clocks: Vec<i64>) -> Settings {
    Settings {
        rules: Rules::Sekisho,
        access_ttl: 900_000,
        jitter: 50,
        leeway,
        grace: 60_000,
        idle_ttl: 7_200_000,
        absolute_ttl: 136_800_000,
        max_per_user: 50,
        refuse_on_store_loss: false,
        clocks,
        mutation: None,
    }
}

fn sign_in(request: Request) -> Action {
    Action::Ask { browser: 0, purpose: Purpose::SignIn, request }
}

fn burst(requests: Vec<Request>) -> Action {
    Action::Burst { browser: 0, requests }
}

fn request(after: i64, replica: usize, up: i64, store: i64, upstream: i64, down: i64) -> Request {
    Request { after, replica, up, store, upstream, down, ..Request::default() }
}

fn lost(request: Request) -> Request {
    Request { lost: true, ..request }
}
