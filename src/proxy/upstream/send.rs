//! Sending one request to an upstream and receiving its response head.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum_core::body::Body;
use http::{Response, StatusCode};
use tokio::time::Instant;

use super::balancer::LoadBalancer;
use super::circuit_breaker::Failure;
use super::concurrency::ConcurrencyLimit;
use super::connect::ConnectError;
use super::connection::{Connection, SendError, UpstreamBody};
use super::deadline_timer::DeadlineTimer;
use super::http1::{DroppedField, RequestWriter};
use super::lease::Lease;
use super::permit::{Count, Permit};
use super::pool::Pool;
use super::settings::{UpstreamHttp, UpstreamTimeouts};
use super::upstream::Upstream;
use crate::proxy::error::ProxyError;
use crate::proxy::request_head::{ConnectionReuse, RequestHead};
use crate::proxy::stream_error::UploadErrorKind;
use crate::proxy::upload_progress::{UploadProgress, UploadState};
use crate::request_context::RequestContext;

/// Sends a request to one of the upstreams and waits for the response head.
///
/// A request with an [`upgrade`](crate::proxy::request_head::ControlData::upgrade) gets a new HTTP/1.1 connection, which is not reused.
/// Only such a request may get a 101 response.
pub(in crate::proxy) async fn send(
    pool: &Arc<Pool>,
    upstreams: &LoadBalancer,
    timeouts: UpstreamTimeouts,
    head: &impl RequestHead,
    body: Body,
    progress: &mut UploadProgress,
) -> Result<(Response<UpstreamBody>, Lease), ProxyError> {
    let is_upgrade = head.control_data().upgrade.is_some();
    let is_reusable = !is_upgrade && head.control_data().reuse == ConnectionReuse::Any;
    let mut writer = RequestWriter::new(body);
    let mut checkout = Checkout::new(pool, upstreams, timeouts, head);
    let is_safe = head.control_data().method.is_safe() && progress.is_without_body();
    let mut retries = Retries { is_safe, refusals: 0 };
    loop {
        let CheckedOut { mut connection, is_reused, mut permit, mut timer, start } =
            checkout.acquire().await?;
        let Permit { upstream, count, .. } = &mut permit;
        let upstream = &*upstream;
        RequestContext::with_current(|context| context.set_upstream(&upstream.origin.name));
        let is_http2 = connection.is_http2();
        let peer = connection.peer();
        let slot = connection.take_slot();
        let result = {
            let response = pin!(connection.send(head, &mut writer, &upstream.origin));
            if progress.is_without_body() {
                let deadline = start + timeouts.first_byte;
                timer.timeout_at(deadline, response).await.unwrap_or(Err(SendError::Timeout))
            } else {
                let on_state = |state| adjust_count(count, &upstream.concurrency, state);
                Box::pin(with_upload_timeouts(timeouts, response, progress, on_state)).await
            }
        };
        match result {
            Ok(mut response) => {
                accept_response(&mut permit, &mut response, is_upgrade)?;
                let pool = is_reusable.then(|| Arc::clone(pool));
                return Ok((response, Lease { pool, permit, _slot: slot, peer, timer }));
            }
            Err(error) => {
                let attempt = Attempt { upstream, is_reused, is_http2 };
                let pause = retries.prepare(error, &attempt, &mut checkout, &mut writer);
                let pause = pause.map_err(|error| error.into_proxy_error(upstream, progress))?;
                if pause > Duration::ZERO {
                    drop(permit);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// The remaining retries of a request.
struct Retries {
    /// True for a safe request without a body that was not retried yet.
    is_safe: bool,
    /// Number of times that the request was refused, or not sent on a new connection.
    refusals: u32,
}

/// A failed attempt to send a request.
struct Attempt<'a> {
    upstream: &'a Upstream,
    is_reused: bool,
    is_http2: bool,
}

impl Retries {
    /// Prepares another attempt after a failed one. Returns the time until then, or the error if the request may have
    /// been processed, or was tried too often.
    fn prepare(
        &mut self,
        error: SendError,
        attempt: &Attempt<'_>,
        checkout: &mut Checkout<'_>,
        writer: &mut RequestWriter,
    ) -> Result<Duration, SendError> {
        match error {
            SendError::NotSent if attempt.is_reused => return Ok(Duration::ZERO),
            // The upstream closed the connection at once, as one that shuts down does.
            SendError::NotSent if self.refusals == 0 => {
                self.refusals = 1;
                checkout.reset();
            }
            SendError::Connection { has_response_bytes: false, .. } if attempt.is_reused && self.is_safe => {
                *writer = RequestWriter::new(Body::empty());
                self.is_safe = false;
                // After one idle HTTP/1.1 connection was closed, the others probably were too. A closed
                // HTTP/2 connection leaves the pool by itself.
                checkout.may_reuse = attempt.is_http2;
            }
            SendError::Refused { is_resendable: true, is_connection, .. } if self.refusals < MAX_REFUSALS => {
                self.refusals += 1;
                checkout.reset();
                attempt.upstream.metrics.retries.increment(1);
                return Ok(refusal_backoff(self.refusals, is_connection));
            }
            error => return Err(error),
        }
        attempt.upstream.metrics.retries.increment(1);
        Ok(Duration::ZERO)
    }
}

/// Returns the time before a request that was refused this many times is sent again.
///
/// It is zero the first time, and a few times more after a GOAWAY, when the request needs another connection.
fn refusal_backoff(refusals: u32, is_connection: bool) -> Duration {
    let immediate = if is_connection { 4 } else { 1 };
    let factor = 2_u32.saturating_pow(refusals.saturating_sub(immediate)) - 1;
    (REFUSAL_BACKOFF * factor).min(MAX_REFUSAL_BACKOFF)
}

/// Records a response head. Fails for a 101 response to a request without an upgrade.
fn accept_response(
    permit: &mut Permit,
    response: &mut Response<UpstreamBody>,
    is_upgrade: bool,
) -> Result<(), ProxyError> {
    permit.record_success();
    if let Some(DroppedField(name)) = response.extensions_mut().remove() {
        permit.upstream.report_dropped_field(&name);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if !is_upgrade {
            return Err(ProxyError::UpstreamError("unexpected 101 response".into()));
        }
        permit.release();
    }
    Ok(())
}

/// Finds a connection for a request, on as many upstreams as necessary.
struct Checkout<'a> {
    pool: &'a Arc<Pool>,
    upstreams: &'a LoadBalancer,
    timeouts: UpstreamTimeouts,
    /// The upstreams to which a connection was attempted.
    tried: Vec<u64>,
    /// Deadline of all attempts to connect. It starts with the first.
    deadline: Option<Instant>,
    /// True if a pooled connection may be used.
    may_reuse: bool,
    reuse: ConnectionReuse,
    is_upgrade: bool,
    /// True if the response is expected to be a long-lived stream.
    is_stream: bool,
}

/// A connection for one request.
struct CheckedOut {
    connection: Connection,
    is_reused: bool,
    permit: Permit,
    timer: DeadlineTimer,
    /// Start of the response timeout.
    start: Instant,
}

impl<'a> Checkout<'a> {
    fn new(
        pool: &'a Arc<Pool>,
        upstreams: &'a LoadBalancer,
        timeouts: UpstreamTimeouts,
        head: &impl RequestHead,
    ) -> Self {
        let is_upgrade = head.control_data().upgrade.is_some();
        Self {
            pool,
            upstreams,
            timeouts,
            tried: Vec::new(),
            deadline: None,
            may_reuse: !is_upgrade,
            reuse: head.control_data().reuse,
            is_upgrade,
            is_stream: upstreams.offers_http2() && head.expects_stream(),
        }
    }

    /// Starts over after an upstream was connected to, but has refused the request.
    fn reset(&mut self) {
        self.tried.clear();
        self.deadline = None;
    }

    async fn acquire(&mut self) -> Result<CheckedOut, ProxyError> {
        loop {
            let permit = self.upstreams.pick(&self.tried).await?;
            let now = Instant::now();
            permit.upstream.refresh_dns_if_stale(now);
            if let Some((connection, timer)) = self.take_pooled(&permit.upstream, now) {
                return Ok(CheckedOut { connection, is_reused: true, permit, timer, start: now });
            }
            self.tried.push(permit.upstream.id);
            // Boxed: the future is large, and most requests do not need it.
            match Box::pin(self.connect(&permit.upstream)).await {
                Ok(connection) => {
                    return Ok(CheckedOut {
                        connection,
                        is_reused: false,
                        permit,
                        timer: DeadlineTimer::default(),
                        start: Instant::now(),
                    });
                }
                Err(error) => self.on_connect_error(&permit.upstream, error)?,
            }
        }
    }

    fn take_pooled(&self, upstream: &Upstream, now: Instant) -> Option<(Connection, DeadlineTimer)> {
        if self.may_reuse { self.pool.take(upstream, self.reuse, self.is_stream, now) } else { None }
    }

    /// Connects within the remaining time, or within half of it if another upstream could be tried.
    async fn connect(&mut self, upstream: &Arc<Upstream>) -> Result<Connection, ConnectError> {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + self.timeouts.connect);
        let remaining = deadline.saturating_duration_since(now);
        let deadline = if self.has_alternative() { now + remaining / 2 } else { deadline };
        let result = tokio::time::timeout_at(deadline, self.connect_or_share(upstream)).await;
        result.map_err(|_| ConnectError::Timeout)?
    }

    async fn connect_or_share(&self, upstream: &Arc<Upstream>) -> Result<Connection, ConnectError> {
        let stall_timeout = self.timeouts.idle;
        if self.reuse == ConnectionReuse::None && !self.is_upgrade {
            // Connections are authenticated over HTTP/1.1 only, which TLS can negotiate.
            let is_https = upstream.origin.is_https();
            let http = if is_https { UpstreamHttp::Http1 } else { upstream.settings.http };
            return upstream.connector.connect(http, stall_timeout).await;
        }
        if self.is_upgrade || upstream.settings.http == UpstreamHttp::Http1 {
            return upstream.connector.connect(UpstreamHttp::Http1, stall_timeout).await;
        }
        let connect_lock = self.pool.connect_lock(upstream);
        let guard = connect_lock.lock().await;
        // Another request may have connected while this one waited for the lock.
        if let Some(connection) = self.wait_for_stream(upstream).await {
            return Ok(connection);
        }
        // HTTP/1.1 connections cannot be shared, so they are made concurrently.
        let _guard = (!self.pool.is_http1_only(upstream)).then_some(guard);
        let connection = upstream.connector.connect(UpstreamHttp::Http2, stall_timeout).await?;
        match &connection {
            Connection::Http1(..) => self.pool.mark_http1_only(upstream),
            Connection::Http2(stream) => self.pool.share(upstream, stream, self.is_stream),
        }
        Ok(connection)
    }

    /// Takes a pooled connection. If one is so new that its limit of streams is unknown, waits for the limit.
    async fn wait_for_stream(&self, upstream: &Upstream) -> Option<Connection> {
        loop {
            let now = Instant::now();
            if let Some((connection, _)) = self.take_pooled(upstream, now) {
                return Some(connection);
            }
            if !self.pool.awaits_settings(upstream, self.is_stream, now) {
                return None;
            }
            tokio::time::sleep(SETTINGS_CHECK_INTERVAL).await;
        }
    }

    fn has_alternative(&self) -> bool {
        self.tried.len() < MAX_CONNECT_ATTEMPTS && self.upstreams.has_alternative(&self.tried)
    }

    /// Continues with another upstream if there is one. Nothing has been sent, so any request may be.
    fn on_connect_error(&mut self, upstream: &Upstream, error: ConnectError) -> Result<(), ProxyError> {
        upstream.record_failure(Failure::Connection);
        if self.has_alternative() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(upstream = upstream.url, error, "cannot connect to upstream, trying another");
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
    /// Attributes the error to the client or to the upstream, and records it in the latter's health.
    fn into_proxy_error(self, upstream: &Upstream, progress: &UploadProgress) -> ProxyError {
        let upload_error = match self {
            Self::Upload(kind) => Some(kind),
            _ => progress.error(),
        };
        if upload_error.is_none() && !matches!(self, Self::Refused { .. }) {
            upstream.record_failure(Failure::Response);
        }
        match (upload_error, self) {
            (Some(UploadErrorKind::Client), Self::Connection { error, .. }) => {
                ProxyError::BodyIncomplete(error)
            }
            (Some(UploadErrorKind::Client), _) => {
                ProxyError::BodyIncomplete("client aborted the request body".into())
            }
            (Some(UploadErrorKind::Idle), _) => ProxyError::BodyTimeout,
            (Some(UploadErrorKind::TooLarge), _) => ProxyError::BodyTooLarge,
            (None, Self::Connection { error, .. } | Self::Refused { error, .. }) => {
                ProxyError::UpstreamError(error)
            }
            (None, Self::Timeout) => ProxyError::UpstreamTimeout,
            (None, Self::NotSent | Self::Upload(_)) => {
                ProxyError::UpstreamError("connection closed before the request was sent".into())
            }
        }
    }
}

/// Counts a request by the state of its upload. It is not limited at the pace of the client.
fn adjust_count(count: &mut Count, limit: &ConcurrencyLimit, state: UploadState) {
    match state {
        UploadState::AwaitingClient | UploadState::Failed(_) => count.suspend(limit),
        UploadState::Sending | UploadState::Sent => count.resume(limit),
    }
}

/// Waits for the response head while the request body is sent. Calls `on_state` with each state of the upload.
///
/// The timeout restarts with each part of the body that the upstream takes. It does not run while the body
/// waits for the client, which has a timeout of its own.
async fn with_upload_timeouts(
    timeouts: UpstreamTimeouts,
    mut response: Pin<&mut impl Future<Output = Result<Response<UpstreamBody>, SendError>>>,
    progress: &mut UploadProgress,
    mut on_state: impl FnMut(UploadState),
) -> Result<Response<UpstreamBody>, SendError> {
    loop {
        let state = progress.state();
        on_state(state);
        let timeout = match state {
            UploadState::AwaitingClient => None,
            UploadState::Failed(kind) => return Err(SendError::Upload(kind)),
            UploadState::Sending => Some(timeouts.idle),
            UploadState::Sent => Some(timeouts.first_byte),
        };
        tokio::select! {
            biased;
            result = &mut response => return result,
            () = progress.changed() => {}
            () = tokio::time::sleep(timeout.unwrap_or_default()), if timeout.is_some() => {
                return Err(SendError::Timeout);
            }
        }
    }
}

/// Maximum number of upstreams that one request tries to connect to.
const MAX_CONNECT_ATTEMPTS: usize = 3;

/// Maximum number of times that a refused request is sent again. Each of the requests beyond a GOAWAY may meet
/// another GOAWAY on the next connection, if many of them share it.
const MAX_REFUSALS: u32 = 32;
const REFUSAL_BACKOFF: Duration = Duration::from_millis(1);
const MAX_REFUSAL_BACKOFF: Duration = Duration::from_millis(100);

/// Interval at which a new HTTP/2 connection is checked for its limit of streams.
const SETTINGS_CHECK_INTERVAL: Duration = Duration::from_millis(1);
