//! Context of a request in flight, available to everything that runs for it.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::future::Either;
use http::uri::PathAndQuery;
use http::{Method, Uri};

use crate::client_share::ClientShare;
use crate::identity::{Identity, SessionId, Subject};

tokio::task_local! {
    static CURRENT_REQUEST: RequestContext;
}

/// Context of a request in flight, as a task-local value.
///
/// The outermost service creates a context and runs the handling of the request in it. Log lines written
/// there carry the request's id, method and path. Inner services record the user, the route and the
/// upstream for the access log entry. This serves the purpose of a `tracing` span at a lower cost. Outside
/// a context recorded values are discarded.
///
/// ```
/// use http::{Method, Uri};
/// use sekisho::request_context::{RequestContext, RequestId};
///
/// let id = RequestId::from_u128(7);
/// let context = RequestContext::new(id, Method::GET, &Uri::from_static("/movies?page=2"), None);
/// let path = context.enter(|| RequestContext::current().map(|context| context.path().to_owned()));
/// assert_eq!(path.as_deref(), Some("/movies"));
/// ```
#[derive(Clone)]
pub struct RequestContext(Arc<Inner>);

struct Inner {
    id: RequestId,
    method: Method,
    target: Option<PathAndQuery>,
    client: Option<IpAddr>,
    user: OnceLock<(Subject, SessionId)>,
    client_share: OnceLock<ClientShare>,
    /// Replaces `client_share` for a request with a valid session.
    user_share: OnceLock<ClientShare>,
    upstream: OnceLock<Arc<str>>,
    route: AtomicU32,
    /// Bits of [`HTTPS`] and [`HOST_REPORTED`].
    client_origin: AtomicU8,
}

impl RequestContext {
    /// Creates the context of a new request from `client`.
    #[must_use]
    pub fn new(id: RequestId, method: Method, target: &Uri, client: Option<IpAddr>) -> Self {
        Self(Arc::new(Inner {
            id,
            method,
            target: target.path_and_query().cloned(),
            client,
            user: OnceLock::new(),
            client_share: OnceLock::new(),
            user_share: OnceLock::new(),
            upstream: OnceLock::new(),
            route: AtomicU32::new(NO_ROUTE),
            client_origin: AtomicU8::new(0),
        }))
    }

    /// Returns the context of the current task, if it has one.
    #[must_use]
    pub fn current() -> Option<Self> {
        Self::with_current(Clone::clone)
    }

    /// Calls `f` with the context of the current task, if it has one.
    pub fn with_current<T>(f: impl FnOnce(&Self) -> T) -> Option<T> {
        CURRENT_REQUEST.try_with(f).ok()
    }

    /// Runs `f` in this context.
    pub fn enter<T>(&self, f: impl FnOnce() -> T) -> T {
        CURRENT_REQUEST.sync_scope(self.clone(), f)
    }

    /// Runs `future` in this context.
    pub fn scope<F: Future>(self, future: F) -> Scoped<F> {
        CURRENT_REQUEST.scope(self, future)
    }

    /// Records the user and session. The first call wins.
    pub fn set_identity(&self, identity: &Identity) {
        let _ = self.0.user.set((identity.subject.clone(), identity.session));
    }

    /// Records the request's part in the numbers of its client, which ends with the context. The first call wins.
    pub fn set_client_share(&self, share: ClientShare) {
        let _ = self.0.client_share.set(share);
    }

    /// Records the request's part in the numbers of its user, which replaces that of the client. The first call wins.
    pub fn set_user_share(&self, share: ClientShare) {
        if self.0.user_share.set(share).is_ok()
            && let Some(share) = self.0.client_share.get()
        {
            share.end();
        }
    }

    /// Returns the request's part in the numbers of its user or client, if it is counted.
    #[must_use]
    pub fn share(&self) -> Option<&ClientShare> {
        self.0.user_share.get().or_else(|| self.0.client_share.get())
    }

    /// Records the upstream that the request was sent to. The first call wins.
    pub fn set_upstream(&self, upstream: &Arc<str>) {
        let _ = self.0.upstream.set(Arc::clone(upstream));
    }

    /// Records the route by its number in the metrics.
    pub fn set_route(&self, route: u32) {
        self.0.route.store(route, Ordering::Relaxed);
    }

    /// Records whether the client is known to use TLS, and whether a trusted proxy reports the requested host.
    pub fn set_client_origin(&self, is_https: bool, is_host_reported: bool) {
        let bits = (u8::from(is_https) * HTTPS) | (u8::from(is_host_reported) * HOST_REPORTED);
        self.0.client_origin.store(bits, Ordering::Relaxed);
    }

    /// Returns `true` if the client is known to use TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.client_origin.load(Ordering::Relaxed) & HTTPS != 0
    }

    /// Returns `true` if a trusted proxy reports the host that the client requested.
    #[must_use]
    pub fn is_host_reported(&self) -> bool {
        self.0.client_origin.load(Ordering::Relaxed) & HOST_REPORTED != 0
    }

    /// Returns the id of the request.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.0.id
    }

    /// Returns the method of the request.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.0.method
    }

    /// Returns the path and query as the client sent them. The query may contain secrets.
    #[must_use]
    pub fn target(&self) -> &str {
        self.0.target.as_ref().map_or("/", PathAndQuery::as_str)
    }

    /// Returns the path as the client sent it, unescaped.
    ///
    /// The query is left out because it may contain secrets.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.target.as_ref().map_or("", PathAndQuery::path)
    }

    /// Returns the client's address, if it is known.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        self.0.client
    }

    /// Returns the user's id and the session, if they have been recorded.
    #[must_use]
    pub fn user(&self) -> Option<(&str, SessionId)> {
        self.0.user.get().map(|(user, session)| (user.as_str(), *session))
    }

    /// Returns the upstream that the request was sent to.
    #[must_use]
    pub fn upstream(&self) -> Option<&str> {
        self.0.upstream.get().map(|upstream| &**upstream)
    }

    /// Returns the number of the route.
    #[must_use]
    pub fn route(&self) -> Option<u32> {
        Some(self.0.route.load(Ordering::Relaxed)).filter(|route| *route != NO_ROUTE)
    }
}

/// Omits everything that the client sent.
impl fmt::Debug for RequestContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestContext").field("id", &self.0.id.as_str()).finish_non_exhaustive()
    }
}

/// Future of [`RequestContext::scope`].
pub type Scoped<F> = tokio::task::futures::TaskLocalFuture<RequestContext, F>;

/// Runs `future` in the current context, for tasks spawned on behalf of a request.
pub fn with_current_context<F: Future>(future: F) -> impl Future<Output = F::Output> {
    match RequestContext::current() {
        Some(context) => Either::Left(context.scope(future)),
        None => Either::Right(future),
    }
}

/// Id of a request in the log, in `X-Request-Id` and at the upstream: a UUID in hyphenated form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    bits: u128,
    text: [u8; Self::LENGTH],
}

impl RequestId {
    /// Length of the text, in bytes.
    pub const LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;

    /// Creates an id from random bits. Six of them are replaced by the version and variant of a random UUID
    /// (RFC 9562 section 5.4).
    #[must_use]
    pub fn from_u128(bits: u128) -> Self {
        let id = uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid();
        let mut text = [0; Self::LENGTH];
        id.hyphenated().encode_lower(&mut text);
        Self { bits: id.as_u128(), text }
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.text).unwrap_or_default()
    }

    /// Returns the bytes of the text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// Returns the id as a number.
    #[must_use]
    pub fn as_u128(&self) -> u128 {
        self.bits
    }
}

const NO_ROUTE: u32 = u32::MAX;

const HTTPS: u8 = 1;
const HOST_REPORTED: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> RequestContext {
        RequestContext::new(RequestId::from_u128(1), Method::GET, &Uri::from_static("/a?secret"), None)
    }

    #[test]
    fn id_is_a_random_uuid_of_its_bits() {
        let id = RequestId::from_u128(u128::MAX);
        assert_eq!(id.as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(RequestId::from_u128(id.as_u128()), id);
    }

    #[test]
    fn query_is_not_exposed() {
        let context = context();
        assert_eq!(context.path(), "/a");
        assert!(!format!("{context:?}").contains("secret"));
        let asterisk = RequestContext::new(context.id(), Method::OPTIONS, &Uri::from_static("*"), None);
        assert_eq!(asterisk.path(), "*");
    }

    #[tokio::test]
    async fn spawned_task_inherits_context() {
        let current_id = || RequestContext::with_current(|context| context.id());
        let spawned = context().enter(|| tokio::spawn(with_current_context(async move { current_id() })));
        assert_eq!(spawned.await.expect("no panic"), Some(RequestId::from_u128(1)));
        assert_eq!(with_current_context(async move { current_id() }).await, None);
        let without_context = tokio::spawn(async move { current_id() });
        assert_eq!(without_context.await.expect("no panic"), None);
    }
}
