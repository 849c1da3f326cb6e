//! One request to an upstream, and its answer's head.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;

use axum_core::body::Body;
use http::{Response, StatusCode};
use tokio::time::Instant;

use super::circuit_breaker::Failure;
use super::concurrency::Permit;
use super::connect::{ConnectError, connect};
use super::connection::{Connection, Lease, SendError, UpstreamBody};
use super::deadline_timer::DeadlineTimer;
use super::http1::RequestWriter;
use super::pool::Pool;
use super::{Upstream, UpstreamHttp};
use crate::proxy::error::ProxyError;
use crate::proxy::long_lived;
use crate::proxy::request_head::RequestHead;
use crate::proxy::routes::Route;
use crate::proxy::stream_error::UploadErrorKind;
use crate::proxy::upload_progress::{UploadProgress, UploadState};
use crate::request_context::RequestContext;

/// Sends a request, and waits for the head of its answer.
///
/// A request with [`upgrade`](RequestHead::upgrade) gets a connection of HTTP/1.1 of its own, which is never used again. For
/// such a request alone the answer may be 101.
pub(in crate::proxy) async fn send(
    pool: &Arc<Pool>,
    route: &Route,
    head: &impl RequestHead,
    body: Body,
    progress: &mut UploadProgress,
) -> Result<(Response<UpstreamBody>, Lease), ProxyError> {
    let upgrades = head.upgrade().is_some();
    let mut sending = RequestWriter::new(body);
    let mut search = Checkout::new(pool, route, upgrades);
    let mut may_repeat = head.method().is_safe() && progress.is_without_body();
    loop {
        let CheckedOut { connection, is_kept, mut permit, mut patience, at } = search.connection().await?;
        let upstream = &permit.upstream;
        RequestContext::with_current(|scope| scope.set_upstream(&upstream.origin.authority));
        let is_http2 = connection.is_http2();
        let answer = {
            let answer = pin!(connection.send(head, &mut sending, &upstream.origin));
            if progress.is_without_body() {
                let deadline = at + route.spec.first_byte_timeout;
                patience.timeout_at(deadline, answer).await.unwrap_or(Err(SendError::Late))
            } else {
                Box::pin(with_upload_timeouts(route, answer, progress)).await
            }
        };
        match answer {
            Ok(response) => {
                upstream.succeeded();
                permit.trial = None;
                let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                // An upstream that switches unasked is confused.
                if switches && !upgrades {
                    return Err(ProxyError::UpstreamError("the upstream switched protocols unasked".into()));
                }
                if switches || long_lived::is_event_stream(response.headers()) {
                    permit.release();
                }
                return Ok((response, Lease::new((!upgrades).then_some(pool), permit, patience)));
            }
            Err(SendError::Unsent) if is_kept => {}
            Err(SendError::Broken { has_answered: false, .. }) if is_kept && may_repeat => {
                upstream.metrics.retries.increment(1);
                sending = RequestWriter::new(Body::empty());
                may_repeat = false;
                // Where one kept connection was closed, the others were too. One of HTTP/2 knows.
                search.kept = is_http2;
            }
            Err(unanswered) => return Err(unanswered.into_proxy_error(upstream, progress)),
        }
    }
}

/// The way to a connection, over as many upstreams as it takes.
struct Checkout<'a> {
    pool: &'a Arc<Pool>,
    route: &'a Route,
    /// The upstreams that were connected to, all but the last in vain.
    tried: Vec<u64>,
    /// When connecting must have succeeded; known once it has begun.
    deadline: Option<Instant>,
    /// Whether a kept connection will do.
    kept: bool,
    upgrades: bool,
}

/// A connection, and leave to use it.
struct CheckedOut {
    connection: Connection,
    is_kept: bool,
    permit: Permit,
    patience: DeadlineTimer,
    /// When it was found.
    at: Instant,
}

impl<'a> Checkout<'a> {
    fn new(pool: &'a Arc<Pool>, route: &'a Route, upgrades: bool) -> Self {
        Self { pool, route, tried: Vec::new(), deadline: None, kept: !upgrades, upgrades }
    }

    async fn connection(&mut self) -> Result<CheckedOut, ProxyError> {
        loop {
            let permit = self.route.upstreams.pick(&self.tried).await?;
            let now = Instant::now();
            permit.upstream.refresh_dns_if_stale(now);
            if let Some((connection, patience)) = self.take_pooled(&permit.upstream, now) {
                return Ok(CheckedOut { connection, is_kept: true, permit, patience, at: now });
            }
            self.tried.push(permit.upstream.id);
            // In a box: it is large, and most requests need none.
            match Box::pin(self.connect(&permit.upstream)).await {
                Ok(connection) => {
                    let (patience, at) = (DeadlineTimer::default(), Instant::now());
                    return Ok(CheckedOut { connection, is_kept: false, permit, patience, at });
                }
                Err(error) => self.on_connect_error(&permit.upstream, error)?,
            }
        }
    }

    fn take_pooled(&self, upstream: &Upstream, now: Instant) -> Option<(Connection, DeadlineTimer)> {
        if self.kept { self.pool.take(upstream, now) } else { None }
    }

    /// Connects in the time that is left; in half of it, if there is another upstream to try.
    async fn connect(&mut self, upstream: &Arc<Upstream>) -> Result<Connection, ConnectError> {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + self.route.spec.connect_timeout);
        let left = deadline.saturating_duration_since(now);
        let deadline = if self.has_another() { now + left / 2 } else { deadline };
        let connected = tokio::time::timeout_at(deadline, self.connect_or_share(upstream)).await;
        connected.map_err(|_| ConnectError::Timeout)?
    }

    async fn connect_or_share(&self, upstream: &Arc<Upstream>) -> Result<Connection, ConnectError> {
        let may_stall = self.route.spec.idle_timeout;
        if self.upgrades || upstream.settings.http == UpstreamHttp::Http1 {
            return connect(upstream, UpstreamHttp::Http1, may_stall).await;
        }
        let connecting = self.pool.connecting(upstream);
        let one_at_a_time = connecting.lock().await;
        // Another request may have made one meanwhile.
        if let Some((connection, _)) = self.take_pooled(upstream, Instant::now()) {
            return Ok(connection);
        }
        // What can't be shared need not be waited for.
        let _held = (!self.pool.speaks_http1_alone(upstream)).then_some(one_at_a_time);
        let connection = connect(upstream, UpstreamHttp::Http2, may_stall).await?;
        match &connection {
            Connection::Http1(_) => self.pool.mark_http1_only(upstream),
            Connection::Http2(sender, peer) => self.pool.share(upstream, sender.clone(), *peer),
        }
        Ok(connection)
    }

    fn has_another(&self) -> bool {
        self.tried.len() < CONNECT_TRIES && self.route.upstreams.has_alternative(&self.tried)
    }

    /// Nothing was sent, so whatever the request is, another upstream may have it.
    fn on_connect_error(&mut self, upstream: &Upstream, error: ConnectError) -> Result<(), ProxyError> {
        upstream.failed(Failure::Connection);
        if self.has_another() {
            let error = &error as &dyn StdError;
            tracing::warn!(upstream = upstream.url(), error, "an upstream can't be reached; trying another");
            upstream.metrics.retries.increment(1);
            return Ok(());
        }
        Err(match error {
            ConnectError::Timeout => ProxyError::UpstreamConnectTimeout,
            error => ProxyError::UpstreamUnreachable(error.into()),
        })
    }
}

impl SendError {
    /// Whose fault it was.
    fn into_proxy_error(self, upstream: &Upstream, progress: &UploadProgress) -> ProxyError {
        let fault = match self {
            Self::Uploading(fault) => Some(fault),
            _ => progress.error(),
        };
        match (fault, self) {
            (Some(UploadErrorKind::Client), Self::Broken { error, .. }) => ProxyError::BodyIncomplete(error),
            (Some(UploadErrorKind::Client), _) => ProxyError::BodyIncomplete("the client broke off".into()),
            (Some(UploadErrorKind::Idle), _) => ProxyError::BodyTimeout,
            (Some(UploadErrorKind::TooLarge), _) => ProxyError::BodyTooLarge,
            (None, unanswered) => {
                upstream.failed(Failure::Answer);
                match unanswered {
                    Self::Broken { error, .. } => ProxyError::UpstreamError(error),
                    Self::Late => ProxyError::UpstreamTimeout,
                    _ => ProxyError::UpstreamError("the connection was closed at once".into()),
                }
            }
        }
    }
}

/// While the body is on its way, every piece of it that the upstream takes restarts the clock.
/// A client that keeps us waiting is the body's own concern.
async fn with_upload_timeouts(
    route: &Route,
    mut answer: Pin<&mut impl Future<Output = Result<Response<UpstreamBody>, SendError>>>,
    progress: &mut UploadProgress,
) -> Result<Response<UpstreamBody>, SendError> {
    loop {
        let patience = match progress.state() {
            UploadState::AwaitingClient => None,
            UploadState::Failed(fault) => return Err(SendError::Uploading(fault)),
            UploadState::Sending => Some(route.spec.idle_timeout),
            UploadState::Sent => Some(route.spec.first_byte_timeout),
        };
        let out_of_patience = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            () = progress.changed() => {}
            () = out_of_patience => return Err(SendError::Late),
        }
    }
}

/// How many upstreams a request is tried on.
const CONNECT_TRIES: usize = 3;
