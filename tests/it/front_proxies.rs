//! Front proxies with the configurations in `deploy/`, and curl as the client: refreshes are invisible, and
//! no script can read a token (P-27).

use std::collections::BTreeSet;

use sekisho::models::user::Role;

use crate::support::app::{ACCESS_TTL, PASSWORD, PAST_GRACE};
use crate::support::front_proxy::{Curl, FrontProxyHarness, FrontProxyKind};
use crate::support::http::{TestResponse, decode_leniently};
use crate::support::process::until;
use crate::support::upstream::RecordedRequest;

/// Headers of a WebSocket handshake besides `Connection`, `Upgrade` and `Origin`.
const WEBSOCKET: [&str; 4] =
    ["-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];

/// Runs each test, a function of a [`FrontProxyHarness`], with each front proxy.
macro_rules! with_each_front_proxy {
    ($($test:ident)*) => {
        with_each_front_proxy!(@with caddy Caddy: $($test)*);
        with_each_front_proxy!(@with envoy Envoy: $($test)*);
        with_each_front_proxy!(@with haproxy Haproxy: $($test)*);
        with_each_front_proxy!(@with nginx Nginx: $($test)*);
        with_each_front_proxy!(@with traefik Traefik: $($test)*);
    };
    (@with $name:ident $front:ident: $($test:ident)*) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(harness) = crate::support::front_proxy::FrontProxyHarness::start(super::FrontProxyKind::$front).await {
                        super::$test(harness).await;
                    }
                }
            )*
        }
    };
}

with_each_front_proxy! {
    curl_stays_signed_in
    no_script_can_read_a_token
    identity_headers_of_the_browser_are_replaced
    connection_header_cannot_remove_identity_headers
    roles_apply_to_every_path_spelling
    only_websockets_are_upgraded
    cross_origin_requests_are_rejected
    errors_are_forwarded_to_the_client
    people_are_sent_to_sign_in
    sign_in_leads_back_to_the_deep_link
}

/// HAProxy ignores the failure of a Lua action and continues, so the configuration must fail closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_lua_action_rejects_requests() {
    let broken = |text: &str| {
        text.replace("local function ask(txn, url)", "local function ask(txn, url) error('broken')")
    };
    let Some(mut harness) = FrontProxyHarness::start_with(FrontProxyKind::Haproxy, broken).await else {
        return;
    };
    let curl = harness.curl("ann");
    for target in ["/", "/admin/"] {
        assert_eq!(curl.get(target).await.status, 503, "{target}");
    }
    sign_in(&harness, &curl, "ann@example.com", Role::Admin).await;
    assert_eq!(curl.get("/").await.status, 503);
    assert!(harness.upstream.has_no_more_requests());
}

async fn curl_stays_signed_in(mut harness: FrontProxyHarness) {
    let curl = harness.curl("ann");
    let response = curl.get("/early").await;
    response.problem(401, "missing");
    assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    assert_eq!((response.header("location"), response.header("retry-after")), (None, None));
    assert_eq!(curl.ask("/early", &["-I"]).await.status, 401);
    assert!(harness.upstream.has_no_more_requests(), "rejected by the front proxy");

    let user = sign_in(&harness, &curl, "ann@example.com", Role::User).await;
    for nth in 1..=5 {
        let before = curl.tokens().unwrap();
        harness.app.expire();
        let target = format!("/read?nth={nth}&x=%20");
        let response = curl.get(&target).await;
        assert_eq!((response.status.as_u16(), response.event()), (200, harness.told("rotated")));
        assert_fresh(&response, &curl, &before);
        assert_seen(&harness.upstream.seen().await, &target, &user);

        // A valid token is not refreshed.
        let response = curl.get("/again").await;
        assert_eq!(
            (response.status.as_u16(), response.event(), session_cookie_names(&response).len()),
            (200, None, 0)
        );
        assert_seen(&harness.upstream.seen().await, "/again", &user);
    }

    // The body arrives once and complete, and an error response of the application carries the cookies too.
    let before = curl.tokens().unwrap();
    harness.app.expire();
    std::fs::write(harness.path("upload"), "x".repeat(3_000_000)).unwrap();
    let upload = format!("@{}", harness.path("upload").display());
    let response = curl.ask("/broken", &["--data-binary", &upload]).await;
    assert_eq!((response.status.as_u16(), response.event()), (500, harness.told("rotated")));
    assert_fresh(&response, &curl, &before);
    let seen = harness.upstream.seen().await;
    assert_eq!((seen.method.as_str(), seen.length), ("POST", 3_000_000));
    assert_seen(&seen, "/broken", &user);

    let copy = harness.curl("copy");
    copy.copy(&curl);
    assert_eq!(curl.ask("/auth/logout", &["-X", "POST"]).await.status, 204);
    assert_eq!(curl.tokens(), None);
    assert_eq!(curl.get("/late").await.status, 401);
    copy.get("/late").await.problem(401, "logged_out");
    harness.app.clock.advance(ACCESS_TTL + PAST_GRACE);
    let response = copy.get("/late").await;
    response.problem(401, "logged_out");
    assert_eq!((session_cookie_names(&response).len(), copy.tokens()), (2, None), "cleared: {response:?}");
    assert!(harness.upstream.has_no_more_requests(), "each request arrived once");
}

/// Any path, method or header that a script of the application could send (P-27).
async fn no_script_can_read_a_token(harness: FrontProxyHarness) {
    let curl = harness.curl("ann");
    sign_in(&harness, &curl, "ann@example.com", Role::User).await;
    let mut tokens: Vec<String> = curl.tokens().unwrap().into();
    let targets = [
        "/",
        "/echo",
        "/broken",
        "/nowhere",
        "/admin/",
        "/auth/session",
        "/auth/sessions",
        "/auth/verify",
        "/auth/verify/",
        "/auth/verify/echo",
        "/auth/verify?roles=user",
        "/AUTH/VERIFY",
        "/auth//verify",
        "/auth/%76erify",
        "/echo/../auth/verify",
        "/_sekisho",
        "/_sekisho/admin",
        "/sekisho_verify",
    ];
    let variants = [
        &["-X", "HEAD", "-I"][..],
        &["-X", "POST", "-d", "x=y"],
        &["-X", "OPTIONS"],
        &["-X", "TRACE"],
        &["-H", "X-Original-Method: GET", "-H", "X-Original-URI: /"],
        &["-H", "X-Forwarded-Method: GET", "-H", "X-Forwarded-Uri: /", "-H", "X-Forwarded-For: 127.0.0.1"],
        &["-H", "If-None-Match: *", "-H", "Range: bytes=0-10"],
        &["-H", "Connection: cookie, set-cookie"],
    ];
    let plain = targets.iter().map(|target| (*target, &[][..]));
    let varied = ["/echo", "/admin/", "/auth/verify"]
        .iter()
        .flat_map(|target| variants.map(|variant| (*target, variant)));
    for (target, args) in plain.chain(varied) {
        harness.app.expire();
        curl.ask(target, args).await;
        tokens.extend(curl.tokens().unwrap_or_else(|| panic!("{target} {args:?} signed it out")));
    }
    assert_eq!(curl.ask("/auth/refresh", &["-X", "POST"]).await.status, 200);
    tokens.extend(curl.tokens().unwrap());
    let refreshed: BTreeSet<_> = tokens.iter().collect();
    assert!(refreshed.len() > targets.len(), "refreshed");
    let readable = curl.readable();
    for token in tokens {
        assert!(!readable.contains(&token), "{readable}");
    }
    assert!(!readable.contains("x-set-") && !readable.contains("__Host-"), "{readable}");
}

async fn identity_headers_of_the_browser_are_replaced(mut harness: FrontProxyHarness) {
    let curl = harness.curl("ann");
    let spelled = spellings();
    let mut forged = vec![
        "x-forwarded-user: liar",
        "X_FORWARDED_USER: liar",
        "X-Original-URI: /liar",
        "X-Original-Method: LIAR",
        "X-Forwarded-Uri: /liar",
        "X-Forwarded-Method: LIAR",
        "X-Sekisho-Roles: liar",
        "Forwarded: for=liar",
        "Authorization: Bearer liar",
        "X-Set-Access-Cookie: liar",
    ];
    forged.extend(spelled.iter().map(String::as_str));
    // HAProxy accepts at most a hundred headers.
    let forged: Vec<Vec<&str>> =
        forged.chunks(60).map(|some| some.iter().flat_map(|forged| ["-H", *forged]).collect()).collect();
    curl.ask("/liar", &forged[0]).await.problem(401, "malformed");
    assert!(harness.upstream.has_no_more_requests());

    let user = sign_in(&harness, &curl, "ann@example.com", Role::User).await;
    let identity =
        ["x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "authorization", "forwarded"];
    for args in forged {
        assert_eq!(curl.ask("/true", &args).await.status, 200);
        let seen = harness.upstream.seen().await;
        assert_seen(&seen, "/true", &user);
        for (name, value) in &seen.headers {
            let plain = name.as_str().replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
            let forged_value = identity.contains(&&*plain) && value.to_str().unwrap().contains("liar");
            assert!(!forged_value, "{name}: {value:?}");
        }
    }
    // Nor can they replace the method, which the CSRF check uses, or the host.
    for forged in ["X-Original-Method: GET", "X-Forwarded-Method: GET", "X-Forwarded-Host: evil.example"] {
        let response =
            curl.ask("/", &["-X", "POST", "-H", forged, "-H", "Origin: http://evil.example"]).await;
        assert_eq!(response.status, 403, "{forged}");
    }
    assert!(harness.upstream.has_no_more_requests());
}

/// Returns the identity headers with other separators, which CGI and similar interfaces treat alike.
fn spellings() -> Vec<String> {
    let signs = "-_.~!|";
    let mut spellings = Vec::new();
    for name in ["User", "Email", "Groups"] {
        let pairs = signs.chars().flat_map(|one| signs.chars().map(move |other| (one, other)));
        spellings.extend(pairs.map(|(one, other)| format!("X{one}Forwarded{other}{name}: liar")));
    }
    spellings
}

/// A compliant proxy removes the headers that `Connection` names.
async fn connection_header_cannot_remove_identity_headers(mut harness: FrontProxyHarness) {
    let curl = harness.curl("ann");
    let user = sign_in(&harness, &curl, "ann@example.com", Role::User).await;
    let origin = format!("Origin: http://{}", harness.address);
    let from = [&WEBSOCKET[..], &["-H", &origin]].concat();
    for connection in [
        "Connection: x-forwarded-user, x-forwarded-email, x-forwarded-groups",
        "Connection: close, X-Forwarded-User, X-Forwarded-Groups",
        "Connection: Upgrade, x-forwarded-user, x-forwarded-groups",
    ] {
        for upgrade in ["X-None: 0", "Upgrade: websocket"] {
            let response =
                curl.ask("/taken", &[&from[..], &["-H", connection, "-H", upgrade]].concat()).await;
            assert_eq!(response.status, 200, "{connection}, {upgrade}");
            let seen = harness.upstream.seen().await;
            assert_seen(&seen, "/taken", &user);
            let left = seen.all("connection").join(", ").to_lowercase();
            assert!(!left.contains("forwarded"), "{connection}, {upgrade}: {left}");
        }
    }
}

/// After any other upgrade, the browser could send the application arbitrary requests with forged identity
/// headers.
async fn only_websockets_are_upgraded(mut harness: FrontProxyHarness) {
    let curl = harness.curl("ann");
    sign_in(&harness, &curl, "ann@example.com", Role::Admin).await;
    let origin = format!("Origin: http://{}", harness.address);
    let from = [&WEBSOCKET[..], &["-H", &origin]].concat();
    let settings =
        ["-H", "Connection: Upgrade, HTTP2-Settings", "-H", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"];
    for target in ["/chat", "/admin/chat"] {
        for lines in [
            ["Upgrade: h2c", "X-None: 1"],
            ["Upgrade: H2C", "X-None: 1"],
            ["Upgrade: xproto", "X-None: 1"],
            ["Upgrade: websocketx", "X-None: 1"],
            ["Upgrade: websocket, h2c", "X-None: 1"],
            ["Upgrade: h2c, websocket", "X-None: 1"],
            ["Upgrade: websocket", "Upgrade: h2c"],
            ["Upgrade: h2c", "Upgrade: websocket"],
        ] {
            let upgrade = lines.map(|line| ["-H", line]).concat();
            curl.ask(target, &[&from[..], &settings, &upgrade].concat()).await;
            while let Some(seen) = harness.upstream.try_next_request() {
                let upgrade = seen.all("upgrade");
                assert!(upgrade.is_empty() || upgrade == ["websocket"], "{target} {lines:?}: {upgrade:?}");
                assert!(seen.all("http2-settings").is_empty(), "{target} {lines:?}");
            }
        }
        for upgrade in ["Upgrade: websocket", "Upgrade: WebSocket"] {
            let headers = ["-H", "Connection: keep-alive, Upgrade", "-H", upgrade];
            let response = curl.ask(target, &[&from[..], &headers].concat()).await;
            assert_eq!(response.status, 200, "{target} {upgrade}");
            let seen = harness.upstream.seen().await;
            assert!(seen.all("upgrade").concat().eq_ignore_ascii_case("websocket"), "{:?}", seen.headers);
            assert!(seen.all("connection").concat().eq_ignore_ascii_case("upgrade"), "{:?}", seen.headers);
        }
    }
}

async fn roles_apply_to_every_path_spelling(mut harness: FrontProxyHarness) {
    let [ann, bob] = ["ann", "bob"].map(|name| harness.curl(name));
    sign_in(&harness, &ann, "ann@example.com", Role::Admin).await;
    sign_in(&harness, &bob, "bob@example.com", Role::User).await;
    for target in ["/admin/", "/admin", "/admin/x?roles=user"] {
        assert_eq!(ann.get(target).await.status, 200, "{target}");
        assert_eq!(harness.upstream.seen().await.all("x-forwarded-groups"), ["admin"]);
        harness.app.expire();
        let before = bob.tokens().unwrap();
        let response = bob.get(target).await;
        response.problem(403, "forbidden");
        assert_fresh(&response, &bob, &before);
        assert!(harness.upstream.has_no_more_requests(), "{target}");
    }
    for target in [
        "/%61dmin/x",
        "/ADMIN/x",
        "/%41dmin/x",
        "/admin%2fx",
        "/admin%2Fx",
        "/%61dmin%2Fx",
        "/admin%3b",
        "/admin%3bx",
        "/admin%3B",
        "/admin%3Bv=1/x",
        "/admin%3Bv=1%2Fx",
        "/admin;v=1",
        "/admin;v=1/x",
        "/x/../admin/x",
        "/x/%2e%2e/admin/x",
        "//admin/x",
        "/./admin/x",
        "/x%2f..%2fadmin/x",
        "/x/..%2fadmin/x",
        "/x/%2E%2E%2Fadmin/x",
        "/%2Fadmin/x",
        "/%2e%2Fadmin/x",
        "/%5Cadmin/x",
        "/%3b/admin/x",
        "/admin%5cx",
        "/admin%00",
        "/\\admin/x",
        "/x/..;/admin/x",
        "/admin/../admin/x",
        "/%2561dmin/x",
    ] {
        bob.get(target).await;
        // No application may interpret a forwarded path as one below `/admin`.
        while let Some(seen) = harness.upstream.try_next_request() {
            assert!(!leads_to_admin(&seen.target), "{target} got through as {}", seen.target);
        }
    }
    // The query belongs to the application.
    for target in ["/?roles=admin", "/x?roles=", "/x?roles=user&roles=admin", "/x?y=%zz"] {
        assert_eq!(bob.get(target).await.status, 200, "{target}");
        assert_eq!(harness.upstream.seen().await.target, target);
    }
}

/// Returns `true` if the path, decoded once and normalized, is `/admin` or below.
fn leads_to_admin(target: &str) -> bool {
    let path = decode_leniently(target.split('?').next().unwrap());
    path.split('/').nth(1).is_some_and(|first| first.eq_ignore_ascii_case("admin"))
}

async fn cross_origin_requests_are_rejected(mut harness: FrontProxyHarness) {
    let curl = harness.curl("ann");
    sign_in(&harness, &curl, "ann@example.com", Role::User).await;
    let own_origin = format!("Origin: http://{}", harness.address);
    let websocket = [&WEBSOCKET[..], &["-H", "Connection: Upgrade", "-H", "Upgrade: websocket"]].concat();
    for (origin, site, allowed) in [
        (&*own_origin, "Sec-Fetch-Site: same-origin", true),
        (&*own_origin, "X-None: 0", true),
        ("Origin: http://evil.example", "Sec-Fetch-Site: cross-site", false),
        ("Origin: http://evil.example", "X-None: 0", false),
        ("Origin: null", "Sec-Fetch-Site: cross-site", false),
    ] {
        let from = ["-H", origin, "-H", site];
        let posted = curl.ask("/form", &[&from[..], &["-d", "x=y"]].concat()).await;
        let opened = curl.ask("/chat", &[&from[..], &websocket[..]].concat()).await;
        for response in [posted, opened] {
            if allowed {
                assert_eq!(response.status, 200, "{origin} {site}");
                harness.upstream.seen().await;
            } else {
                assert_eq!(response.status, 403, "{origin} {site}");
            }
        }
        assert_eq!(curl.ask("/read", &from).await.status, 200);
        assert_eq!(harness.upstream.seen().await.target, "/read");
        assert!(harness.upstream.has_no_more_requests(), "{origin} {site}");
    }
    // Preflights are anonymous.
    let preflight = ["-X", "OPTIONS", "-H", &own_origin, "-H", "Access-Control-Request-Method: PUT"];
    curl.ask("/form", &preflight).await.problem(401, "missing");
}

async fn errors_are_forwarded_to_the_client(mut harness: FrontProxyHarness) {
    let curl = harness.curl("ann");
    sign_in(&harness, &curl, "ann@example.com", Role::User).await;
    let cookies = curl.tokens();
    for target in ["/x/%2e%2e/y", "/x%00", "/x\\y"] {
        let status = curl.get(target).await.status.as_u16();
        assert!(matches!(status, 200 | 400 | 404), "{target} {status}");
        while let Some(seen) = harness.upstream.try_next_request() {
            assert!(!seen.target.contains("..") && !seen.target.contains('\\'), "{}", seen.target);
        }
    }
    harness.app.break_store().await;
    harness.app.expire();
    let response = curl.get("/").await;
    assert_eq!((response.status.as_u16(), curl.tokens()), (503, cookies.clone()));
    // Envoy treats a 503 as a failure of the auth service, and sends a 503 without details.
    if harness.front != FrontProxyKind::Envoy {
        response.problem(503, "store_unavailable");
        assert_eq!(response.header("retry-after"), Some("1"));
    }
    harness.app.repair_store().await;
    assert_eq!(curl.get("/").await.status, 200);
    harness.upstream.seen().await;

    // Without Sekisho all requests are rejected.
    harness.stop_forward_auth();
    let cookies = curl.tokens();
    let status = until("the end of its connections", async || {
        let status = curl.get("/").await.status.as_u16();
        while harness.upstream.try_next_request().is_some() {}
        (status != 200).then_some(status)
    })
    .await;
    assert!(matches!(status, 500 | 502 | 503), "{status}");
    assert_eq!(curl.get("/").await.status, status);
    assert_eq!(curl.tokens(), cookies);
    assert!(harness.upstream.has_no_more_requests());
}

const DEEP_LINK: &str = "/films?title=%E9%96%A2%20%26&page=2";

/// A deep link with a query leads to the sign-in page. A request of a script is not redirected, nor is a form.
async fn people_are_sent_to_sign_in(mut harness: FrontProxyHarness) {
    let curl = harness.curl("ann");
    let sign_in = redirect_target(&harness, &navigate(&curl, DEEP_LINK, &[]).await);
    let next = "%2Ffilms%3Ftitle%3D%25E9%2596%25A2%2520%2526%26page%3D2";
    assert_eq!(sign_in, format!("/auth/sign-in?next={next}"));
    let head = curl.ask(DEEP_LINK, &[&["-I"][..], &NAVIGATION].concat()).await;
    assert_eq!(redirect_target(&harness, &head), sign_in);
    let fetch = ["-H", "Sec-Fetch-Mode: cors", "-H", "Sec-Fetch-Dest: empty"];
    for args in [&fetch[..], &[&fetch[..], &["-X", "POST", "-d", "a=b"]].concat(), &[]] {
        let response = curl.ask(DEEP_LINK, args).await;
        response.problem(401, "missing");
        assert_eq!(response.header("location"), None, "{args:?}");
    }
    let form = navigate(&curl, DEEP_LINK, &["-d", "a=b"]).await;
    assert_eq!((form.status.as_u16(), form.header("location")), (401, None));
    assert!(harness.upstream.has_no_more_requests());
}

/// The sign-in form leads back to exactly the address that was opened, with the requests of a browser.
async fn sign_in_leads_back_to_the_deep_link(mut harness: FrontProxyHarness) {
    harness.app.user("ann@example.com").await;
    let curl = harness.curl("ann");
    let sign_in = redirect_target(&harness, &navigate(&curl, DEEP_LINK, &[]).await);
    let page = navigate(&curl, &sign_in, &[]).await;
    assert_eq!(page.status, 200, "{page:?}");
    let origin = format!("Origin: http://{}", harness.address);
    let password = format!("password={PASSWORD}");
    let fields = ["--data-urlencode", "email=ann@example.com", "--data-urlencode", &password, "-H", &origin];
    let mut target = redirect_target(&harness, &navigate(&curl, &form_action(&page), &fields).await);
    while target.starts_with("/auth/") {
        target = redirect_target(&harness, &navigate(&curl, &target, &[]).await);
    }
    assert_eq!(target, DEEP_LINK);
    assert_eq!(navigate(&curl, &target, &[]).await.status, 200);
    assert_eq!(harness.upstream.seen().await.target, DEEP_LINK);
    assert!(harness.upstream.has_no_more_requests());
    // A sign-in page in another tab leads on.
    assert_eq!(redirect_target(&harness, &navigate(&curl, &sign_in, &[]).await), DEEP_LINK);
}

/// The headers of a navigation, as arguments of curl.
const NAVIGATION: [&str; 8] = [
    "-H",
    "Sec-Fetch-Site: same-origin",
    "-H",
    "Sec-Fetch-Mode: navigate",
    "-H",
    "Sec-Fetch-Dest: document",
    "-H",
    "Accept: text/html,application/xhtml+xml,*/*;q=0.8",
];

async fn navigate(curl: &Curl, target: &str, args: &[&str]) -> TestResponse {
    curl.ask(target, &[&NAVIGATION[..], args].concat()).await
}

/// Returns the path and query of a redirect, which must stay on the front proxy's origin and be stored nowhere.
#[track_caller]
fn redirect_target(harness: &FrontProxyHarness, response: &TestResponse) -> String {
    assert_eq!(response.status, 303, "{response:?}");
    let caching: Vec<_> = response.headers.get_all("cache-control").iter().collect();
    assert!(caching.iter().any(|line| *line == "private, no-store"), "{caching:?}");
    let location = response.header("location").unwrap();
    let origin = format!("http://{}", harness.address);
    let target = location.strip_prefix(&origin).unwrap_or(location);
    assert!(target.starts_with('/') && !target.starts_with("//"), "{location}");
    target.to_owned()
}

/// Returns the address to which the form of a page is sent.
fn form_action(page: &TestResponse) -> String {
    let html = String::from_utf8(page.body.clone()).unwrap();
    let (_, rest) = html.split_once("action=\"").unwrap();
    let action = rest.split('"').next().unwrap();
    action.replace("&amp;", "&").replace("&#x2f;", "/")
}

/// Creates a user, signs in, and returns the user's ID.
async fn sign_in(harness: &FrontProxyHarness, curl: &Curl, email: &str, role: Role) -> String {
    let user = harness.app.user_as(email, role).await;
    let (email, password) = (format!("email={email}"), format!("password={PASSWORD}"));
    let response =
        curl.ask("/auth/login", &["--data-urlencode", &email, "--data-urlencode", &password]).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert!(curl.tokens().is_some());
    user.id.to_string()
}

/// Checks that both cookies were replaced, that the response is not cacheable, and that the application's
/// cookie is there unless the request was rejected.
fn assert_fresh(response: &TestResponse, curl: &Curl, before: &[String; 2]) {
    let after = curl.tokens().unwrap();
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?} {after:?}");
    let cookies = response.set_cookies();
    let session_cookies: Vec<_> =
        cookies.iter().filter(|cookie| cookie.name.starts_with("__Host-")).collect();
    assert_eq!(session_cookies.len(), 2);
    for cookie in session_cookies {
        assert_eq!(cookie.attributes, ["httponly", "path=/", "samesite=lax", "secure"]);
    }
    assert_eq!(cookies.iter().any(|cookie| cookie.name == "theme"), response.status != 403, "{cookies:?}");
    let caching: Vec<_> = response.headers.get_all("cache-control").iter().collect();
    assert!(caching.iter().any(|line| *line == "private, no-store"), "{caching:?}");
}

/// Returns the names of the session cookies that the response sets or clears.
fn session_cookie_names(response: &TestResponse) -> Vec<String> {
    let names = response.set_cookies().into_iter().map(|cookie| cookie.name);
    names.filter(|name| name.starts_with("__Host-")).collect()
}

/// Checks that the application received the identity and no session cookie.
fn assert_seen(seen: &RecordedRequest, target: &str, user: &str) {
    assert_eq!(seen.target, target);
    assert_eq!(seen.all("x-forwarded-user"), [user]);
    assert_eq!(seen.all("x-forwarded-email"), ["ann@example.com"]);
    assert_eq!(seen.all("x-forwarded-groups"), ["user"]);
    let cookies = seen.all("cookie").join("; ");
    assert!(!cookies.contains("__Host-"), "{cookies}");
}
