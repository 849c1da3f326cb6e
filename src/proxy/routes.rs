//! The route table: which path goes where, and how patiently.

use std::future::Future;
use std::sync::Arc;

use http::Uri;
use http::uri::PathAndQuery;

use super::header_edits::HeaderEdits;
use super::header_policy::{self, AllowedMethods, RequestHeaderPolicy};
use super::path::{self, BadPath};
use super::reserved_headers::ReservedHeaders;
use super::route_error::RouteError;
use super::route_spec::RouteSpec;
use super::upstream::{LoadBalancer, TrustAnchors, UpstreamTimeouts, run_health_checks};

/// All routes, checked.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// The longest first.
    routes: Arc<[Arc<Route>]>,
}

impl Routes {
    /// Builds the table.
    ///
    /// # Errors
    ///
    /// [`RouteError`] names the route at fault.
    pub fn new(specs: impl IntoIterator<Item = RouteSpec>) -> Result<Self, RouteError> {
        Self::rebuild_from(specs, &Self::default())
    }

    /// Builds the table that takes the place of `previous`. Upstreams whose settings are the same keep
    /// their health, their addresses and their connections.
    ///
    /// # Errors
    ///
    /// [`RouteError`] names the route at fault.
    pub fn rebuild_from(
        specs: impl IntoIterator<Item = RouteSpec>,
        previous: &Self,
    ) -> Result<Self, RouteError> {
        let known: Vec<_> = previous.routes.iter().map(|route| &route.upstreams).collect();
        let specs: Vec<_> = specs.into_iter().collect();
        let reserved = Arc::new(header_policy::reserved(&specs));
        let mut trust_anchors = TrustAnchors::default();
        let mut routes: Vec<Arc<Route>> = Vec::new();
        for (number, spec) in specs.into_iter().enumerate() {
            let mut route = Route::new(spec, &reserved, &known, &mut trust_anchors)?;
            route.number = number;
            if routes.iter().any(|other| other.prefix == route.prefix) {
                return Err(RouteError::Twice { path: route.spec.path });
            }
            routes.push(Arc::new(route));
        }
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        Ok(Self { routes: routes.into() })
    }

    /// The route for a request's path, if there is one. Nothing else in the URI is looked at.
    ///
    /// # Errors
    ///
    /// [`BadPath`] if the path isn't in normal form. So every path on a listener can be checked
    /// by looking for its route, also those that have none.
    pub fn find(&self, uri: &Uri) -> Result<Option<MatchedRoute>, BadPath> {
        let path = uri.path();
        let found = self.routes.iter().find(|route| path::prefix_length(&route.prefix, path).is_some());
        path::check(path, found.is_some_and(|route| route.spec.encoded_slash))?;
        Ok(found.map(|route| MatchedRoute(Arc::clone(route))))
    }

    /// Checks the upstreams' health where a route asks for that, and keeps their gauges, until the last
    /// clone of this table is gone. To be run beside the requests.
    pub fn run_health_checks(&self) -> impl Future<Output = ()> + Send + use<> {
        let balancers: Vec<_> = self.routes.iter().map(|route| &route.upstreams).collect();
        run_health_checks(Arc::downgrade(&self.routes), &balancers)
    }
}

/// The route of a request: [`Proxy`](super::Proxy) wants it among the request's extensions.
#[derive(Clone, Debug)]
pub struct MatchedRoute(Arc<Route>);

impl MatchedRoute {
    /// The route's path, as configured: good as a log field or a metric's label.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.spec.path
    }

    /// Which of the table's specs it was made of, from 0, in their order.
    #[must_use]
    pub fn number(&self) -> usize {
        self.0.number
    }

    pub(super) fn route(&self) -> &Route {
        &self.0
    }
}

/// A route, with its upstreams.
pub(super) struct Route {
    pub(super) spec: RouteSpec,
    pub(super) upstreams: LoadBalancer,
    pub(super) timeouts: UpstreamTimeouts,
    pub(super) methods: AllowedMethods,
    pub(super) requests: Arc<RequestHeaderPolicy>,
    /// What changes in answers, if anything.
    pub(super) answers: Option<Arc<HeaderEdits>>,
    number: usize,
    /// The path in the form that is compared.
    prefix: Vec<u8>,
}

impl Route {
    fn new(
        spec: RouteSpec,
        reserved: &Arc<ReservedHeaders>,
        known: &[&LoadBalancer],
        trust_anchors: &mut TrustAnchors,
    ) -> Result<Self, RouteError> {
        let prefix = prefix(&spec.path)?;
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
        let edits = spec.request_headers.clone();
        let requests = Arc::new(RequestHeaderPolicy { reserved: Arc::clone(reserved), edits });
        let answers = Some(&spec.response_headers).filter(|edits| !edits.is_empty());
        let answers = answers.map(|edits| Arc::new(edits.clone()));
        Ok(Self { spec, upstreams, timeouts, methods, requests, answers, number: 0, prefix })
    }

    /// The path and query to ask an upstream for: the request's own bytes, less the prefix if it
    /// is to be stripped.
    pub(super) fn target(&self, uri: &Uri) -> Result<PathAndQuery, BadPath> {
        let path = uri.path();
        path::check(path, self.spec.encoded_slash)?;
        let whole = uri.path_and_query().filter(|target| target.as_str().starts_with('/'));
        if let (false, Some(target)) = (self.spec.strip_prefix, whole) {
            return Ok(target.clone());
        }
        let path = if self.spec.strip_prefix { self.stripped(path)? } else { path.to_owned() };
        let target = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        PathAndQuery::try_from(target).map_err(|_| BadPath::NotAbsolute)
    }

    fn stripped(&self, path: &str) -> Result<String, BadPath> {
        let length = path::prefix_length(&self.prefix, path).unwrap_or(0);
        let rest = match &path[length..] {
            rest if rest.starts_with('/') => rest.to_owned(),
            // `/api` itself, or `/api;v=1`. An encoded slash would leave `/%2f…`.
            rest if rest.is_empty() || rest.starts_with(';') => format!("/{rest}"),
            _ => return Err(BadPath::EncodedSlash),
        };
        path::check(&rest, self.spec.encoded_slash)?;
        Ok(rest)
    }
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route")
            .field("path", &self.spec.path)
            .field("upstreams", &self.upstreams)
            .finish_non_exhaustive()
    }
}

fn prefix(path: &str) -> Result<Vec<u8>, RouteError> {
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

    fn found(routes: &Routes, uri: &str) -> Option<String> {
        routes.find(&uri.parse().unwrap()).unwrap().map(|route| route.path().to_owned())
    }

    fn target(spec: RouteSpec, uri: &str) -> Result<String, BadPath> {
        let route = Route::new(spec, &Arc::default(), &[], &mut TrustAnchors::default()).unwrap();
        route.target(&uri.parse().unwrap()).map(|target| target.to_string())
    }

    #[test]
    fn the_longest_route_wins_at_segment_boundaries() {
        let routes = routes(["/api", "/", "/api/v2", "/files/"].map(spec));
        for (uri, route) in [
            ("/", "/"),
            ("/x", "/"),
            ("/api", "/api"),
            ("/api?x", "/api"),
            ("/api/", "/api"),
            ("/api/v1", "/api"),
            ("/api/v2", "/api/v2"),
            ("/api/v2/x", "/api/v2"),
            ("/api/v22", "/api"),
            ("/apiv2", "/"),
            ("/API", "/"),
            ("/files", "/files/"),
            ("/files/x", "/files/"),
            ("/?/api", "/"),
            ("http://other.example/api/x", "/api"),
        ] {
            assert_eq!(found(&routes, uri).as_deref(), Some(route), "{uri}");
        }
    }

    #[test]
    fn a_protected_route_is_not_escaped_by_another_spelling() {
        let routes = routes(["/", "/admin", "/a/b"].map(spec));
        for uri in ["/%61dmin", "/admin;x", "/admin;x/y", "/%61%64min/x", "/admin%3bx"] {
            assert_eq!(found(&routes, uri).as_deref(), Some("/admin"), "{uri}");
        }
        assert_eq!(found(&routes, "/a;x/b").as_deref(), Some("/a/b"));
    }

    #[test]
    fn an_encoded_slash_passes_only_where_the_route_says_so() {
        let open = RouteSpec { encoded_slash: true, ..spec("/open") };
        let routes = routes([open, spec("/"), spec("/open/closed")]);
        assert_eq!(found(&routes, "/open/a%2Fb").as_deref(), Some("/open"));
        for uri in ["/a%2Fb", "/open%2Fclosed", "/open/closed/a%2Fb", "/open/%2Fclosed"] {
            assert_eq!(routes.find(&uri.parse().unwrap()).err(), Some(BadPath::EncodedSlash), "{uri}");
        }
    }

    #[test]
    fn paths_without_a_route_are_checked_too() {
        let routes = Routes::default();
        assert!(routes.find(&"/a".parse().unwrap()).unwrap().is_none());
        assert_eq!(routes.find(&"/a/../b".parse().unwrap()).err(), Some(BadPath::DotSegment));
    }

    #[test]
    fn targets_keep_every_byte() {
        for uri in ["/api", "/api/", "/api/x%7Ey?a=b&c=%2f../..//", "/api?", "/api/?x=/../?y"] {
            assert_eq!(target(spec("/api"), uri).as_deref(), Ok(uri));
        }
    }

    #[test]
    fn a_stripped_prefix_leaves_a_path() {
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
    fn mistakes_are_named() {
        let error = |path: &str, upstreams: &[&str]| {
            let spec = RouteSpec::new(path, upstreams.iter().copied());
            Routes::new([spec]).unwrap_err().to_string()
        };
        assert!(error("api", &["http://a"]).contains("`api`"));
        assert!(error("/a/../b", &["http://a"]).contains("segment"));
        assert!(error("/a;b", &["http://a"]).contains("parameters"));
        assert!(error("/a", &[]).contains("empty"));
        assert!(error("/a", &["http://b/c"]).contains("without path"));
        assert!(error("/a", &["http://b?c"]).contains("without path"));
        assert!(error("/a", &["https://b/c"]).contains("without path"));
        assert!(error("/a", &["ftp://b"]).contains("https://"));
        assert!(error("/a", &["b:80"]).contains("http://"));
        let h2c = RouteSpec { upgrades: vec!["H2C".to_owned()], ..spec("/a") };
        assert!(Routes::new([h2c]).unwrap_err().to_string().contains("`H2C` takes requests"));
        assert!(error("/a", &["http://b c"]).contains("no URL"));
        for url in ["http://user:hunter2@b", "https://user:hunter2@b", "http://user:hunter2 @b"] {
            assert!(!error("/a", &[url]).contains("hunter2"), "{url}");
        }
        let twice = Routes::new(["/a", "/a/"].map(spec)).unwrap_err().to_string();
        assert!(twice.contains("twice"));
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
