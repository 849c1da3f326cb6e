//! The route table, which maps request paths to upstreams.

use std::future::Future;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body::Body;

use super::header_policy::{self, AllowedMethods, RequestHeaderPolicy, ReservedSets, ResponseHeaderPolicy};
use super::path::{self, BadPath};
use super::path_pattern::literal_prefix;
use super::preflight::is_preflight;
use super::route_error::RouteError;
use super::route_spec::RouteSpec;
use super::upstream::{LoadBalancer, TrustAnchors, UpstreamTimeouts, run_health_checks};

/// A validated route table.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Sorted by prefix length, longest first.
    routes: Arc<[Arc<Route>]>,
}

impl Routes {
    /// Builds the route table.
    ///
    /// # Errors
    ///
    /// [`RouteError`] if the settings of a route are invalid.
    pub fn new(specs: impl IntoIterator<Item = RouteSpec>) -> Result<Self, RouteError> {
        Self::rebuild_from(specs, &Self::default())
    }

    /// Builds the table that replaces `previous`.
    ///
    /// Upstreams with unchanged settings keep their health, addresses and connections.
    ///
    /// # Errors
    ///
    /// [`RouteError`] if the settings of a route are invalid.
    pub fn rebuild_from(
        specs: impl IntoIterator<Item = RouteSpec>,
        previous: &Self,
    ) -> Result<Self, RouteError> {
        let known: Vec<_> = previous.routes.iter().map(|route| &route.upstreams).collect();
        let specs: Vec<_> = specs.into_iter().collect();
        let reserved = ReservedSets::new(&specs);
        let mut trust_anchors = TrustAnchors::default();
        let mut routes: Vec<Arc<Route>> = Vec::new();
        for (index, spec) in specs.into_iter().enumerate() {
            let mut route = Route::new(spec, &reserved, &known, &mut trust_anchors)?;
            route.index = index;
            if routes.iter().any(|other| other.normalized_path == route.normalized_path) {
                return Err(RouteError::Duplicate { path: route.spec.path });
            }
            routes.push(Arc::new(route));
        }
        routes.sort_by_key(|route| std::cmp::Reverse(route.normalized_path.len()));
        Ok(Self { routes: routes.into() })
    }

    /// Returns the route for the path of a request, if there is one. The rest of the URI is ignored.
    ///
    /// # Errors
    ///
    /// [`BadPath`] if the path is not in normal form. Paths without a route are checked too.
    pub fn find(&self, uri: &Uri) -> Result<Option<MatchedRoute>, BadPath> {
        let path = uri.path();
        let found = if path::is_plain(path) {
            self.routes.iter().find(|route| path::is_plain_below(&route.normalized_path, path))
        } else {
            let matches = |route: &&Arc<Route>| path::prefix_length(&route.normalized_path, path).is_some();
            let found = self.routes.iter().find(matches);
            path::check_request_path(path, found.is_some_and(|route| route.spec.encoded_slash))?;
            found
        };
        Ok(found.map(|route| MatchedRoute(Arc::clone(route))))
    }

    /// Runs the configured health checks and updates the upstreams' gauges.
    ///
    /// The future is to be spawned. It ends once the last clone of this table is dropped.
    pub fn run_health_checks(&self) -> impl Future<Output = ()> + Send + use<> {
        let balancers: Vec<_> = self.routes.iter().map(|route| &route.upstreams).collect();
        run_health_checks(Arc::downgrade(&self.routes), &balancers)
    }
}

/// The route of a request. [`Proxy`](super::Proxy) expects it in the request's extensions.
#[derive(Clone, Debug)]
pub struct MatchedRoute(Arc<Route>);

impl MatchedRoute {
    /// Returns the configured path of the route, for log fields and metric labels.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.spec.path
    }

    /// Returns the position of the route's settings in the input of [`Routes::new`], from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// Returns the number of requests of the route that wait for the start of their response.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.upstreams.waiting()
    }

    /// Returns `true` if the request is a CORS preflight that the route forwards without a session.
    #[must_use]
    pub fn passes_preflight<B: Body>(&self, request: &Request<B>) -> bool {
        self.0.passes_preflight(request.method(), request.headers(), !request.body().is_end_stream())
    }

    pub(super) fn route(&self) -> &Route {
        &self.0
    }
}

/// A validated route and its upstreams.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) spec: RouteSpec,
    pub(super) upstreams: LoadBalancer,
    pub(super) timeouts: UpstreamTimeouts,
    pub(super) methods: AllowedMethods,
    pub(super) request_headers: Arc<RequestHeaderPolicy>,
    pub(super) response_headers: ResponseHeaderPolicy,
    /// The prefix that the route strips, for `X-Forwarded-Prefix`.
    pub(super) stripped_prefix: Option<HeaderValue>,
    index: usize,
    /// [Normalized](path::normalize) form of the path, for comparison.
    normalized_path: Vec<u8>,
}

impl Route {
    fn new(
        spec: RouteSpec,
        reserved: &ReservedSets,
        known: &[&LoadBalancer],
        trust_anchors: &mut TrustAnchors,
    ) -> Result<Self, RouteError> {
        let normalized_path = normalize_path(&spec.path)?;
        header_policy::check_headers(&spec, reserved)?;
        let methods = AllowedMethods::new(&spec)?;
        if let Some(upgrade) = spec.upgrades.iter().find(|protocol| is_http_protocol(protocol)) {
            return Err(RouteError::Upgrade { path: spec.path.clone(), upgrade: upgrade.clone() });
        }
        let upstreams =
            LoadBalancer::new(&spec.path, &spec.upstreams, &spec.upstream_settings, known, trust_anchors)
                .map_err(|source| RouteError::Upstream { path: spec.path.clone(), source })?;
        let timeouts = UpstreamTimeouts {
            connect: spec.connect_timeout,
            first_byte: spec.first_byte_timeout,
            idle: spec.idle_timeout,
        };
        Ok(Self {
            upstreams,
            timeouts,
            methods,
            request_headers: Arc::new(RequestHeaderPolicy::new(&spec, reserved)),
            response_headers: ResponseHeaderPolicy::new(&spec),
            stripped_prefix: stripped_prefix(&spec),
            spec,
            index: 0,
            normalized_path,
        })
    }

    /// Returns `true` for a CORS preflight if the route forwards them without a session.
    pub(super) fn passes_preflight(&self, method: &Method, headers: &HeaderMap, has_body: bool) -> bool {
        self.spec.pass_preflight && is_preflight(method, headers, has_body)
    }

    /// Returns the path and query for the upstream: the bytes of the request, without the prefix if the
    /// route strips it.
    pub(super) fn target(&self, uri: &Uri) -> Result<PathAndQuery, BadPath> {
        let path = uri.path();
        path::check(path, self.spec.encoded_slash)?;
        let path = if self.spec.strip_prefix {
            self.strip_prefix(path)?
        } else if let Some(target) = uri.path_and_query().filter(|target| target.as_str().starts_with('/')) {
            return Ok(target.clone());
        } else {
            path.to_owned()
        };
        let target = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        PathAndQuery::try_from(target).map_err(|_| BadPath::NotAbsolute)
    }

    fn strip_prefix(&self, path: &str) -> Result<String, BadPath> {
        let length = path::prefix_length(&self.normalized_path, path).unwrap_or(0);
        let rest = match &path[length..] {
            rest if rest.starts_with('/') => rest.to_owned(),
            // `/api` itself or `/api;v=1`. An encoded slash would leave `/%2f…`, which is rejected.
            rest if rest.is_empty() || rest.starts_with(';') => format!("/{rest}"),
            _ => return Err(BadPath::EncodedSlash),
        };
        path::check(&rest, self.spec.encoded_slash)?;
        Ok(rest)
    }
}

/// Returns the prefix that a route strips, without a trailing slash.
fn stripped_prefix(spec: &RouteSpec) -> Option<HeaderValue> {
    let prefix = spec.path.trim_end_matches('/');
    (spec.strip_prefix && !prefix.is_empty()).then(|| HeaderValue::try_from(prefix).ok()).flatten()
}

/// Validates and normalizes the path of a route.
fn normalize_path(path: &str) -> Result<Vec<u8>, RouteError> {
    if let Some(prefix) = literal_prefix(path) {
        return Err(RouteError::Pattern { path: path.to_owned(), prefix });
    }
    path::check(path, false).map_err(|reason| RouteError::Path { path: path.to_owned(), reason })?;
    if path.contains([';', '?', '#']) {
        return Err(RouteError::PathExtras { path: path.to_owned() });
    }
    Ok(path::normalize(path))
}

/// Returns `true` for HTTP itself and its tunnels.
///
/// Through such a protocol a client could send requests that no route has checked.
fn is_http_protocol(protocol: &str) -> bool {
    let protocol = protocol.to_ascii_lowercase();
    let name = protocol.split('/').next().unwrap_or_default();
    matches!(name, "http" | "tls") || protocol == "h2c"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &str) -> RouteSpec {
        RouteSpec::new(path, ["http://127.0.0.1:1"])
    }

    fn routes(specs: impl IntoIterator<Item = RouteSpec>) -> Routes {
        Routes::new(specs).unwrap()
    }

    fn find(routes: &Routes, uri: &str) -> Option<String> {
        routes.find(&uri.parse().unwrap()).unwrap().map(|route| route.path().to_owned())
    }

    fn target(spec: RouteSpec, uri: &str) -> Result<String, BadPath> {
        let route = Route::new(spec, &ReservedSets::new(&[]), &[], &mut TrustAnchors::default()).unwrap();
        route.target(&uri.parse().unwrap()).map(|target| target.to_string())
    }

    #[test]
    fn longest_prefix_wins_at_segment_boundaries() {
        let routes = routes(["/api", "/", "/api/v2", "/files/"].map(spec));
        for (route, uris) in [
            ("/", &["/", "/x", "/apiv2", "/API", "/?/api"][..]),
            ("/api", &["/api", "/api?x", "/api/", "/api/v1", "/api/v22", "http://other.example/api/x"]),
            ("/api/v2", &["/api/v2", "/api/v2/x"]),
            ("/files/", &["/files", "/files/x"]),
        ] {
            for uri in uris {
                assert_eq!(find(&routes, uri).as_deref(), Some(route), "{uri}");
            }
        }
    }

    #[test]
    fn protected_route_matches_every_spelling() {
        let routes = routes(["/", "/admin", "/a/b"].map(spec));
        for uri in ["/%61dmin", "/admin;x", "/admin;x/y", "/%61%64min/x", "/admin%3bx"] {
            assert_eq!(find(&routes, uri).as_deref(), Some("/admin"), "{uri}");
        }
        assert_eq!(find(&routes, "/a;x/b").as_deref(), Some("/a/b"));
    }

    #[test]
    fn encoded_slash_requires_permission_of_the_route() {
        let open = RouteSpec { encoded_slash: true, ..spec("/open") };
        let routes = routes([open, spec("/"), spec("/open/closed")]);
        assert_eq!(find(&routes, "/open/a%2Fb").as_deref(), Some("/open"));
        for uri in ["/a%2Fb", "/open%2Fclosed", "/open/closed/a%2Fb", "/open/%2Fclosed"] {
            assert_eq!(routes.find(&uri.parse().unwrap()).err(), Some(BadPath::EncodedSlash), "{uri}");
        }
    }

    #[test]
    fn paths_without_a_route_are_validated() {
        let routes = Routes::default();
        assert!(routes.find(&"/a".parse().unwrap()).unwrap().is_none());
        assert_eq!(routes.find(&"/a/../b".parse().unwrap()).err(), Some(BadPath::DotSegment));
    }

    #[test]
    fn target_preserves_every_byte() {
        for uri in ["/api", "/api/", "/api/x%7Ey?a=b&c=%2f../..//", "/api?", "/api/?x=/../?y"] {
            assert_eq!(target(spec("/api"), uri).as_deref(), Ok(uri));
        }
    }

    #[test]
    fn stripping_the_prefix_leaves_a_valid_path() {
        let strip = |path| RouteSpec { strip_prefix: true, encoded_slash: true, ..spec(path) };
        for (path, uri, forwarded) in [
            ("/api", "/api", Ok("/")),
            ("/api", "/api/", Ok("/")),
            ("/api", "/api?x=1", Ok("/?x=1")),
            ("/api", "/api/x", Ok("/x")),
            ("/api/", "/api/x", Ok("/x")),
            ("/api", "/%61pi/x", Ok("/x")),
            ("/api", "/api;v=1", Ok("/;v=1")),
            ("/api", "/api;v=1/x", Err(BadPath::EmptySegment)),
            ("/api", "/api%2Fx", Err(BadPath::EncodedSlash)),
            ("/", "/x", Ok("/x")),
        ] {
            assert_eq!(target(strip(path), uri).as_deref(), forwarded.as_ref().copied(), "{path} {uri}");
        }
    }

    #[test]
    fn errors_describe_the_problem() {
        let error = |path: &str, upstreams: &[&str]| {
            let spec = RouteSpec::new(path, upstreams.iter().copied());
            Routes::new([spec]).unwrap_err().to_string()
        };
        assert!(error("api", &["http://a"]).contains("`api`"));
        assert!(error("/a/../b", &["http://a"]).contains("segment"));
        assert!(error("/a;b", &["http://a"]).contains("parameters"));
        assert!(error("/a/*", &["http://a"]).contains("write `/a`"));
        assert!(error("/a", &[]).contains("empty"));
        for url in ["http://b/c", "http://b?c", "https://b/c"] {
            assert!(error("/a", &[url]).contains("without path"), "{url}");
        }
        assert!(error("/a", &["ftp://b"]).contains("https://"));
        assert!(error("/a", &["b:80"]).contains("http://"));
        let h2c = RouteSpec { upgrades: vec!["H2C".to_owned()], ..spec("/a") };
        assert!(Routes::new([h2c]).unwrap_err().to_string().contains("cannot contain `H2C`"));
        assert!(error("/a", &["http://b c"]).contains("no URL"));
        for url in ["http://user:hunter2@b", "https://user:hunter2@b", "http://user:hunter2 @b"] {
            assert!(!error("/a", &[url]).contains("hunter2"), "{url}");
        }
        assert!(Routes::new(["/a", "/a/"].map(spec)).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn http_protocols_are_recognized() {
        for protocol in ["h2c", "H2C", "HTTP/2.0", "http/1.1", "TLS/1.0", "tls"] {
            assert!(is_http_protocol(protocol), "{protocol}");
        }
        for protocol in ["websocket", "tcp", "httpx", "x/http"] {
            assert!(!is_http_protocol(protocol), "{protocol}");
        }
    }
}
