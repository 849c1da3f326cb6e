//! Fixtures of the proxy's unit tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Uri};
use uuid::Uuid;

use super::header_writer::HeaderWriter;
use super::request_head::{ConnectionReuse, ControlData, RequestHead};
use crate::client_share::{ClientCounts, ClientShare};
use crate::identity::SessionId;
use crate::request_context::{RequestContext, RequestId};
use crate::session_event::SessionUseRecorder;

/// A client whose requests are counted.
#[derive(Default)]
pub(super) struct TestClient(Arc<ClientCounts>);

impl TestClient {
    /// Returns the context of a new request.
    pub(super) fn request(&self) -> RequestContext {
        let context = RequestContext::new(RequestId::from_u128(1), Method::GET, &Uri::from_static("/"), None);
        let share = ClientShare::try_begin(Arc::clone(&self.0), false, |_| Ok::<_, ()>(()));
        context.set_client_share(share.expect("no limit"));
        context
    }
}

/// Counts the reported uses of [`SESSION`](Self::SESSION).
#[derive(Default)]
pub(super) struct UseCounter(AtomicUsize);

impl UseCounter {
    pub(super) const SESSION: SessionId = SessionId(Uuid::nil());
    /// Interval between two reports.
    pub(super) const INTERVAL: Duration = Duration::from_secs(60);

    /// Returns the number of uses reported since the last call.
    pub(super) fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl SessionUseRecorder for UseCounter {
    fn record_use(&self, session: SessionId) {
        assert_eq!(session, Self::SESSION);
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn interval(&self) -> Duration {
        Self::INTERVAL
    }
}

/// Builds headers from their lines, in this order.
pub(super) fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let lines = lines.iter();
    lines.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

/// Builds the lines of one field.
pub(super) fn lines(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
    values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
}

/// A request for `/a?b` without a host.
pub(super) struct TestHead {
    pub(super) method: Method,
    pub(super) upgrade: Option<HeaderValue>,
    pub(super) accepts_trailers: bool,
    pub(super) reuse: ConnectionReuse,
}

impl TestHead {
    /// A `GET` request.
    pub(super) fn get(upgrade: Option<&'static str>, accepts_trailers: bool) -> Self {
        let upgrade = upgrade.map(HeaderValue::from_static);
        Self { method: Method::GET, upgrade, accepts_trailers, reuse: ConnectionReuse::Any }
    }
}

impl RequestHead for TestHead {
    fn control_data(&self) -> ControlData<'_> {
        static TARGET: PathAndQuery = PathAndQuery::from_static("/a?b");
        ControlData {
            method: &self.method,
            target: &TARGET,
            host: None,
            upgrade: self.upgrade.as_ref(),
            accepts_trailers: self.accepts_trailers,
            reuse: self.reuse,
        }
    }

    fn write_headers(&self, writer: &mut impl HeaderWriter) {
        writer.add(&HeaderName::from_static("x-one"), b"1");
    }
}
