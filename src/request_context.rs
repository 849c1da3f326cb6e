//! The request under way: what marks its log lines, and what is found out about it on its way.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::future::Either;
use http::uri::{Authority, PathAndQuery};
use http::{Method, Uri};

use crate::identity::{Identity, SessionId};

tokio::task_local! {
    static CURRENT_REQUEST: RequestContext;
}

/// A request under way.
///
/// Whoever lets requests in makes one and runs all that is done for the request within it. What is
/// written to the log there carries its id, method and path, and the parts that learn something about
/// the request note it here, for the line that ends it: what `tracing` does with a span, without its
/// cost. Outside of any scope notes are lost, and nothing else changes.
///
/// ```
/// use http::{Method, Uri};
/// use sekisho::request_context::{RequestId, RequestContext};
///
/// let id = RequestId::from_u128(7);
/// let scope = RequestScope::new(id, Method::GET, &Uri::from_static("/films?page=2"), None);
/// let path = scope.enter(|| RequestScope::current().map(|scope| scope.path().to_owned()));
/// assert_eq!(path.as_deref(), Some("/films"));
/// ```
#[derive(Clone)]
pub struct RequestContext(Arc<Inner>);

struct Inner {
    id: RequestId,
    method: Method,
    target: Option<PathAndQuery>,
    client: Option<IpAddr>,
    user: OnceLock<(Arc<str>, SessionId)>,
    upstream: OnceLock<Authority>,
    route: AtomicU32,
}

impl RequestContext {
    /// Of a request that has just come in.
    #[must_use]
    pub fn new(id: RequestId, method: Method, target: &Uri, client: Option<IpAddr>) -> Self {
        Self(Arc::new(Inner {
            id,
            method,
            target: target.path_and_query().cloned(),
            client,
            user: OnceLock::new(),
            upstream: OnceLock::new(),
            route: AtomicU32::new(NO_ROUTE),
        }))
    }

    /// Of the request for which this code runs, if it is for one.
    #[must_use]
    pub fn current() -> Option<Self> {
        Self::with_current(Clone::clone)
    }

    /// Asks, or tells, the scope of the request for which this code runs.
    pub fn with_current<T>(ask: impl FnOnce(&Self) -> T) -> Option<T> {
        CURRENT_REQUEST.try_with(ask).ok()
    }

    /// Runs `f` for this request.
    pub fn enter<T>(&self, f: impl FnOnce() -> T) -> T {
        CURRENT_REQUEST.sync_scope(self.clone(), f)
    }

    /// Runs `future` for this request.
    pub fn scope<F: Future>(self, future: F) -> Scoped<F> {
        CURRENT_REQUEST.scope(self, future)
    }

    /// Notes whose request it is.
    pub fn set_identity(&self, identity: &Identity) {
        let _ = self.0.user.set((Arc::clone(&identity.subject), identity.session));
    }

    /// Notes the upstream that it was sent to. The first one stays.
    pub fn set_upstream(&self, upstream: &Authority) {
        let _ = self.0.upstream.set(upstream.clone());
    }

    /// Notes its route, by the number that the composition root has given it.
    pub fn set_route(&self, route: u32) {
        self.0.route.store(route, Ordering::Relaxed);
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.0.id
    }

    /// Its method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.0.method
    }

    /// Its path, without the query, which may hold anything. Not escaped: as the client sent it.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.target.as_ref().map_or("", PathAndQuery::path)
    }

    /// Where it really comes from, if that is known.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        self.0.client
    }

    /// The user's id and the session, once they are known.
    #[must_use]
    pub fn user(&self) -> Option<(&str, SessionId)> {
        self.0.user.get().map(|(user, session)| (&**user, *session))
    }

    /// The upstream that it was sent to.
    #[must_use]
    pub fn upstream(&self) -> Option<&str> {
        self.0.upstream.get().map(Authority::as_str)
    }

    /// Its route's number.
    #[must_use]
    pub fn route(&self) -> Option<u32> {
        Some(self.0.route.load(Ordering::Relaxed)).filter(|route| *route != NO_ROUTE)
    }
}

/// Without what the client sent.
impl fmt::Debug for RequestContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestScope").field("id", &self.0.id.as_str()).finish_non_exhaustive()
    }
}

/// A future that runs for a request.
pub type Scoped<F> = tokio::task::futures::TaskLocalFuture<RequestContext, F>;

/// Keeps what is spawned for the request that asks for it: its log lines name that request too.
pub fn with_current_context<F: Future>(future: F) -> impl Future<Output = F::Output> {
    match RequestContext::current() {
        Some(scope) => Either::Left(scope.scope(future)),
        None => Either::Right(future),
    }
}

/// What the log, the answer's `X-Request-Id` and the upstream call a request by: a UUID in its usual
/// form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    bits: u128,
    text: [u8; Self::LENGTH],
}

impl RequestId {
    /// How long it is, in bytes.
    pub const LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;

    /// Of these bits, less the six that say that it is a random UUID (RFC 9562, section 5.4).
    #[must_use]
    pub fn from_u128(bits: u128) -> Self {
        let id = uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid();
        let mut text = [0; Self::LENGTH];
        id.hyphenated().encode_lower(&mut text);
        Self { bits: id.as_u128(), text }
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.text).unwrap_or_default()
    }

    /// The text's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// As a number.
    #[must_use]
    pub fn as_u128(&self) -> u128 {
        self.bits
    }
}

const NO_ROUTE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> RequestContext {
        RequestContext::new(RequestId::from_u128(1), Method::GET, &Uri::from_static("/a?secret"), None)
    }

    #[test]
    fn an_id_is_a_random_uuid_of_its_bits() {
        let id = RequestId::from_u128(u128::MAX);
        assert_eq!(id.as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(RequestId::from_u128(id.as_u128()), id);
    }

    #[test]
    fn it_says_nothing_of_the_query() {
        let scope = scope();
        assert_eq!(scope.path(), "/a");
        assert!(!format!("{scope:?}").contains("secret"));
        let asterisk = RequestContext::new(scope.id(), Method::OPTIONS, &Uri::from_static("*"), None);
        assert_eq!(asterisk.path(), "*");
    }

    #[tokio::test]
    async fn what_is_spawned_for_a_request_knows_it() {
        let here = || RequestContext::with_current(|scope| scope.id());
        let spawned = scope().enter(|| tokio::spawn(with_current_context(async move { here() })));
        assert_eq!(spawned.await.expect("no panic"), Some(RequestId::from_u128(1)));
        let (nowhere, plain) =
            (with_current_context(async move { here() }).await, tokio::spawn(async move { here() }));
        assert_eq!((nowhere, plain.await.expect("no panic")), (None, None));
    }
}
