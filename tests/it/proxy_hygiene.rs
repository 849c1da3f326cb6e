//! Headers and requests that must not pass the proxy, in either direction.

use std::sync::Arc;

use axum_core::body::Body;
use http::{HeaderMap, HeaderValue, Response};
use sekisho::identity::Identity;
use sekisho::proxy::{RouteSpec, Routes, UpstreamTokens};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::proxy_server::{ProxyServer, exchange, forwarded, get};
use crate::support::upstream::{RecordedRequest, Upstream, listen, raw_upstream, read_head};

/// Issues a readable token to every user of the role `user`.
struct SubjectTokens;

impl UpstreamTokens for SubjectTokens {
    fn authorization(&self, identity: &Identity, audience: &str) -> Option<HeaderValue> {
        let value = format!("Bearer {audience}-{}", identity.subject);
        identity.roles.contains("user").then(|| value.parse().unwrap())
    }
}

/// Sends a request with these header lines, and returns what the upstream received.
async fn forwarded_request(proxy: ProxyServer, upstream: &mut Upstream, headers: &str) -> RecordedRequest {
    let response = get(proxy.start().await, "/", headers).await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    upstream.seen().await
}

/// Returns the response to the client when the upstream sends these header lines.
async fn proxied_response(headers: &'static str) -> String {
    let response =
        Box::leak(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{headers}\r\n").into_boxed_str());
    let proxy = ProxyServer::to(raw_upstream(response.as_bytes()).await).start().await;
    get(proxy, "/", "").await
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn hop_by_hop_headers_are_removed() {
    let mut upstream = Upstream::start().await;
    let seen = forwarded_request(
        ProxyServer::to(upstream.url()),
        &mut upstream,
        "Connection: X-One, keep-alive\r\nX-One: 1\r\nX-Two: 2\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n\
         TE: gzip\r\nUpgrade: websocket\r\nProxy-Authorization: Basic x\r\n",
    )
    .await;
    assert_eq!(names(&seen.headers), ["host", "via", "x-two"]);

    let response = proxied_response(
        "Connection: X-One, close\r\nX-One: 1\r\nX-Two: 2\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\
         Upgrade: h2c\r\n",
    )
    .await;
    assert!(response.contains("x-two: 2\r\n"));
    for gone in ["x-one", "keep-alive", "proxy-", "upgrade"] {
        assert!(!response.contains(gone), "{response}");
    }
}

#[tokio::test]
async fn chunked_body_is_reframed() {
    let mut upstream = Upstream::start().await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, content-length\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n0\r\n\r\n";
    exchange(proxy, chunked).await;
    let seen = upstream.seen().await;
    assert_eq!((seen.all("transfer-encoding"), seen.length), (vec!["chunked"], 3));

    let counted =
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, content-length\r\nContent-Length: 3\r\n\r\nabc";
    exchange(proxy, counted).await;
    let seen = upstream.seen().await;
    assert_eq!((seen.all("content-length"), seen.length), (vec!["3"], 3));
}

#[tokio::test]
async fn identity_headers_of_the_client_are_removed() {
    let forged = "X-Forwarded-User: root\r\nx_forwarded_user: root\r\nX-Forwarded_Email: root@x\r\nX-FORWARDED-GROUPS: admin\r\n\
                  X-Forwarded-Groups: admin\r\nX-Forwarded-Access-Token: t\r\nX-Forwarded-Preferred-Username: root\r\n\
                  X.Forwarded.User: root\r\n";
    let mut upstream = Upstream::start().await;
    let seen = forwarded_request(ProxyServer::to(upstream.url()), &mut upstream, forged).await;
    assert_eq!(names(&seen.headers), ["host", "via"]);

    let proxy = ProxyServer::to(upstream.url()).signed_in(&["user", "editor"]);
    let seen = forwarded_request(proxy, &mut upstream, forged).await;
    assert_eq!(seen.all("x-forwarded-user"), ["user-1"]);
    assert_eq!(seen.all("x-forwarded-email"), ["ann@example.com"]);
    assert_eq!(seen.all("x-forwarded-groups"), ["user,editor"]);
    assert_eq!(seen.headers.keys_len(), 5, "{:?}", seen.headers);
}

#[tokio::test]
async fn client_cannot_remove_gateway_headers() {
    let mut upstream = Upstream::start().await;
    let token_audience = Some("films".to_owned());
    let route = RouteSpec { token_audience, ..RouteSpec::new("/", [upstream.url()]) };
    let proxy = ProxyServer {
        forwarded: Some(forwarded()),
        upstream_tokens: Some(Arc::new(SubjectTokens)),
        ..ProxyServer::new([route]).signed_in(&["user"])
    };
    let seen = forwarded_request(
        proxy,
        &mut upstream,
        "Connection: x-forwarded-user, x-forwarded-email, x-forwarded-groups, x-forwarded-for, authorization, via, host\r\n",
    )
    .await;
    assert_eq!(seen.all("x-forwarded-user"), ["user-1"]);
    assert_eq!(seen.all("x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(seen.all("authorization"), ["Bearer films-user-1"]);
    assert_eq!(seen.all("host"), ["app.example"]);
    assert_eq!(seen.all("via").len(), 1);
}

#[tokio::test]
async fn unrepresentable_user_is_not_anonymous() {
    let mut upstream = Upstream::start().await;
    let mut proxy = ProxyServer::to(upstream.url()).signed_in(&[]);
    if let Some(identity) = &mut proxy.identity {
        identity.email = "ann@example.com\r\nX-Forwarded-Groups: admin".into();
    }
    let response = get(proxy.start().await, "/", "").await;
    assert!(response.starts_with("HTTP/1.1 500 ") && response.contains("identity_unusable"), "{response}");
    assert!(upstream.has_no_more_requests());

    let mut proxy = ProxyServer::to(upstream.url()).signed_in(&[]);
    if let Some(identity) = &mut proxy.identity {
        identity.email = "j\u{f6}rg@example.com".into();
    }
    let seen = forwarded_request(proxy, &mut upstream, "X-Forwarded-Groups: admin\r\n").await;
    assert_eq!(seen.headers["x-forwarded-email"].as_bytes(), "j\u{f6}rg@example.com".as_bytes());
    assert_eq!(seen.all("x-forwarded-groups").len(), 0);
}

#[tokio::test]
async fn authorization_is_forwarded_only_if_configured() {
    let client_token = "Authorization: Bearer theirs\r\n";
    let mut upstream = Upstream::start().await;
    for (pass, issue, signed_in, expected) in [
        (false, false, None, None),
        (true, false, None, Some("Bearer theirs")),
        (true, false, Some("user"), Some("Bearer theirs")),
        (false, true, Some("user"), Some("Bearer films-user-1")),
        (true, true, Some("user"), Some("Bearer films-user-1")),
        (false, true, None, None),
        (true, true, None, Some("Bearer theirs")),
        // No token is issued for this user.
        (true, true, Some("guest"), None),
    ] {
        let mut route = RouteSpec { pass_authorization: pass, ..RouteSpec::new("/", [upstream.url()]) };
        if issue {
            route.token_audience = Some("films".to_owned());
        }
        let proxy =
            ProxyServer { upstream_tokens: Some(Arc::new(SubjectTokens)), ..ProxyServer::new([route]) };
        let proxy = if let Some(role) = signed_in { proxy.signed_in(&[role]) } else { proxy };
        let seen = forwarded_request(proxy, &mut upstream, client_token).await;
        assert_eq!(seen.all("authorization"), Vec::from_iter(expected), "{pass} {issue} {signed_in:?}");
    }
}

#[tokio::test]
async fn session_cookies_are_not_forwarded() {
    let mut upstream = Upstream::start().await;
    let seen = forwarded_request(
        ProxyServer::to(upstream.url()),
        &mut upstream,
        "Cookie: a=1; __Host-access_token=t; b=2\r\nCookie: __Host-refresh_token=t\r\nCookie: c=\"3\";d\r\n",
    )
    .await;
    assert_eq!(seen.all("cookie"), ["a=1; b=2", "c=\"3\";d"]);
    let seen = forwarded_request(
        ProxyServer::to(upstream.url()),
        &mut upstream,
        "Cookie: __Host-access_token=t\r\n",
    )
    .await;
    assert_eq!(names(&seen.headers), ["host", "via"]);
}

#[tokio::test]
async fn upstreams_cannot_set_session_cookies_or_event_headers() {
    let response = proxied_response(
        "Set-Cookie: a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT\r\nSet-Cookie: __Host-access_token=x; Path=/\r\n\
         Set-Cookie: =__Host-refresh_token=x\r\nSet-Cookie:  __Host-access_token =x\r\nSet-Cookie: b=__Host-access_token=2\r\n\
         X-Session-Event: rotated\r\nX-Set-Access-Cookie: x\r\nX-Set-Refresh-Cookie: x\r\n\
         WWW-Authenticate: Basic realm=x\r\nX-Frame-Options: DENY\r\n",
    )
    .await;
    let cookies: Vec<&str> = response.lines().filter_map(|line| line.strip_prefix("set-cookie: ")).collect();
    assert_eq!(cookies, ["a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT", "b=__Host-access_token=2"]);
    assert!(!response.contains("x-s"), "{response}");
    assert!(response.contains("www-authenticate: Basic realm=x\r\nx-frame-options: DENY\r\n"), "{response}");
}

#[tokio::test]
async fn forwarding_headers_are_set_by_the_gateway() {
    let forged = "X-Forwarded-For: 6.6.6.6\r\nx_forwarded_for: 6.6.6.6\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-Host: evil\r\n\
                  X-Forwarded-Port: 1\r\nX-Forwarded-Uri: /\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\
                  X-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\n";
    let mut upstream = Upstream::start().await;
    let seen = forwarded_request(ProxyServer::to(upstream.url()), &mut upstream, forged).await;
    assert_eq!(names(&seen.headers), ["host", "via"]);

    let proxy = ProxyServer { forwarded: Some(forwarded()), ..ProxyServer::to(upstream.url()) };
    let seen = forwarded_request(proxy, &mut upstream, forged).await;
    for (name, value) in [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "app.example"),
        ("x-real-ip", "192.0.2.7"),
        ("forwarded", "for=192.0.2.7;host=\"app.example\";proto=https"),
    ] {
        assert_eq!(seen.all(name), [value]);
    }
    assert_eq!(seen.headers.keys_len(), 7);
}

#[tokio::test]
async fn request_headers_cannot_choose_the_upstream() {
    let mut upstream = Upstream::start().await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    for (target, host, forwarded) in [
        ("/x", "evil.example", "evil.example"),
        ("http://evil.example/x", "app.example", "evil.example"),
        ("http://evil.example:1/x", "app.example", "evil.example:1"),
        ("/@evil.example/x", "app.example", "app.example"),
        ("/http://evil.example", "app.example", ""),
    ] {
        let raw = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let response = exchange(proxy, raw).await;
        if forwarded.is_empty() {
            assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
            continue;
        }
        let seen = upstream.seen().await;
        assert_eq!(seen.all("host"), [forwarded]);
        assert_eq!(seen.target, target.strip_prefix("http://").map_or(target, |_| "/x"));
    }
}

#[tokio::test]
async fn ambiguous_host_is_rejected() {
    let mut upstream = Upstream::start().await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    for hosts in [
        "",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a b\r\n",
        "Host: u@a\r\n",
        "Host: a/b\r\n",
    ] {
        let response = exchange(proxy, format!("GET / HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{hosts} {response}");
    }
    assert!(upstream.has_no_more_requests());
}

#[tokio::test]
async fn ambiguous_paths_are_rejected() {
    let mut upstream = Upstream::start().await;
    let proxy = ProxyServer::new([RouteSpec::new("/public", [upstream.url()])]).start().await;
    for path in [
        "/public/../admin",
        "/public/..%2fadmin",
        "/public/%2e%2e/admin",
        "/public/.%2E/admin",
        "/public/..;/admin",
        "/public/..\\admin",
        "/public%5c..%5cadmin",
        "//public",
        "/public//x",
        "/public/%00",
        "/public/%0d%0aX: y",
        "/public/%g1",
        "/public/%",
        "/other/../public",
        "*",
    ] {
        let response = get(proxy, path, "").await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{path} {response}");
    }
    let response = get(proxy, "/elsewhere", "").await;
    assert!(response.starts_with("HTTP/1.1 404 ") && response.contains("no_route"), "{response}");
    assert!(upstream.has_no_more_requests());
}

#[tokio::test]
async fn connect_and_trace_are_rejected() {
    let mut upstream = Upstream::start().await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    for request in [
        "TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "CONNECT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ] {
        let response = exchange(proxy, request).await;
        assert!(response.starts_with("HTTP/1.1 405 ") && response.contains("allow: GET, "), "{response}");
    }
    let tunnel =
        exchange(proxy, "CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\nConnection: close\r\n\r\n").await;
    assert!(tunnel.starts_with("HTTP/1.1 40"), "{tunnel}");
    assert!(upstream.has_no_more_requests());
    exchange(proxy, "PROPFIND / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(upstream.seen().await.method, "PROPFIND");
}

#[tokio::test]
async fn route_requires_one_of_its_roles() {
    let mut upstream = Upstream::start().await;
    let roles = ["admin", "editor"].map(str::to_owned).to_vec();
    let routes = Routes::new([RouteSpec { roles, ..RouteSpec::new("/", [upstream.url()]) }]).unwrap();
    let proxy = ProxyServer { routes, ..ProxyServer::default() };
    for refused in [proxy.clone(), proxy.clone().signed_in(&[]), proxy.clone().signed_in(&["user", "edit"])] {
        let response = get(refused.start().await, "/", "").await;
        assert!(
            response.starts_with("HTTP/1.1 403 ") && response.contains("\"code\":\"forbidden\""),
            "{response}"
        );
    }
    assert!(upstream.has_no_more_requests());
    forwarded_request(proxy.signed_in(&["user", "editor"]), &mut upstream, "").await;
}

#[tokio::test]
async fn via_is_added_and_loops_are_detected() {
    let mut upstream = Upstream::start().await;
    let seen = forwarded_request(ProxyServer::to(upstream.url()), &mut upstream, "Via: 1.0 first\r\n").await;
    let via = seen.all("via");
    assert!(via[0] == "1.0 first" && via[1].starts_with("1.1 sekisho-"), "{via:?}");
    assert!(proxied_response("").await.contains("via: 1.1 sekisho-"));

    // The proxy is its own upstream.
    let (port, address) = tokio::sync::watch::channel(None);
    let relay = listen(move |mut socket| {
        let mut address = address.clone();
        async move {
            let proxy: std::net::SocketAddr = address.wait_for(Option::is_some).await.unwrap().unwrap();
            let mut onward = tokio::net::TcpStream::connect(proxy).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut socket, &mut onward).await;
        }
    })
    .await;
    let proxy = ProxyServer::to(format!("http://{relay}")).start().await;
    port.send(Some(proxy)).unwrap();
    let response = get(proxy, "/", "").await;
    assert!(response.starts_with("HTTP/1.1 508 ") && response.contains("loop_detected"), "{response}");
}

#[tokio::test]
async fn trailers_are_filtered_like_headers() {
    let mut upstream = Upstream::start().await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, te\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
                   Trailer: x-sum, x-forwarded-user, cookie\r\n\r\n\
                   1\r\nx\r\n0\r\nX-Sum: 7\r\nX-Forwarded-User: root\r\nCookie: __Host-access_token=t\r\n\r\n";
    exchange(proxy, request).await;
    let seen = upstream.seen().await;
    assert_eq!(names(&seen.trailers), ["x-sum"]);
    assert_eq!(seen.all("te"), ["trailers"]);

    let upstream = raw_upstream(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, x-session-event\r\n\r\n\
          1\r\nx\r\n0\r\nX-Sum: 7\r\nX-Session-Event: rotated\r\nSet-Cookie: __Host-access_token=t\r\n\r\n",
    )
    .await;
    let response = get(ProxyServer::to(upstream).start().await, "/", "TE: trailers\r\n").await;
    assert!(response.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{response}");
}

#[tokio::test]
async fn smuggled_request_gets_no_second_response() {
    let (record, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let upstream = listen(move |mut socket| {
        let record = record.clone();
        async move {
            let mut request = read_head(&mut socket).await;
            let mut body = vec![0; 64];
            let length = socket.read(&mut body).await.unwrap_or(0);
            request.extend(&body[..length]);
            record.send(String::from_utf8(request).unwrap()).unwrap();
            let _ =
                socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    })
    .await;
    let proxy = ProxyServer::to(format!("http://{upstream}")).start().await;
    let both = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                1\r\nx\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let response = exchange(proxy, both).await;
    assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{response}");
    if let Ok(request) = heads.try_recv() {
        assert!(!request.contains("content-length") && !request.contains("smuggled"), "{request}");
    }
    assert!(heads.try_recv().is_err());
}

#[tokio::test]
async fn problem_details_have_codes() {
    let proxy = ProxyServer::default().start().await;
    let response = get(proxy, "/", "").await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("content-type: application/problem+json") && head.contains("cache-control: no-store")
    );
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        problem,
        serde_json::json!({
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "Nothing is served at this path.",
            "code": "no_route",
        })
    );
}

#[tokio::test]
async fn upstream_problem_details_are_forwarded_unchanged() {
    let upstream = Upstream::responding_with(|_| {
        let response = Response::builder().status(401).header("www-authenticate", "Digest realm=\"x\"");
        response.body(Body::from("theirs")).unwrap()
    })
    .await;
    let response = get(ProxyServer::to(upstream.url()).start().await, "/", "").await;
    assert!(response.starts_with("HTTP/1.1 401 ") && response.ends_with("\r\n\r\ntheirs"), "{response}");
    assert!(response.contains("www-authenticate: Digest realm=\"x\"\r\n"), "{response}");
}
