//! Bodies on their way through: streamed, counted, and ended when they stand still.
//!
//! Neither holds anything back: a piece is asked for when the other side can take it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum_core::BoxError;
use axum_core::body::Body as AnyBody;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, Sleep};

use super::header_edits::HeaderEdits;
use super::header_policy::RequestHeaderPolicy;
use super::hop_by_hop;
use super::reserved_headers::{
    ReservedHeaders, eq_cgi_name, remove_matching, remove_reserved_response_headers,
};
use super::routes::Route;
use super::stream_error::{DownloadError, UploadError};
use super::upload_progress::{UploadProgress, UploadState};
use super::upstream::{Lease, UpstreamBody};

pin_project! {
    /// A request's body on its way to an upstream.
    pub(super) struct UpstreamRequestBody<B> {
        #[pin]
        body: B,
        // How much more may come, in bytes.
        left: Option<u64>,
        idle: IdleTimer,
        stage: watch::Sender<UploadState>,
        abandoned: oneshot::Receiver<Infallible>,
        headers: Arc<RequestHeaderPolicy>,
    }
}

impl<B> UpstreamRequestBody<B> {
    /// The body within the route's limits, and how far it has come.
    pub(super) fn new(body: B, route: &Route) -> (Self, UploadProgress) {
        let (stage, progress) = watch::channel(UploadState::Sending);
        let (wanted, abandoned) = oneshot::channel();
        let idle = IdleTimer::new(route.spec.idle_timeout);
        let (left, headers) = (route.spec.max_body, Arc::clone(&route.requests));
        let upload = Self { body, left, idle, stage, abandoned, headers };
        (upload, UploadProgress::new(progress, wanted))
    }
}

impl<B> Body for UpstreamRequestBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let frame = ready!(self.as_mut().poll_data(cx));
        if let Some(Err(error)) = &frame {
            self.stage.send_replace(UploadState::Failed(error.kind()));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> UpstreamRequestBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll_data(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = self.project();
        let Poll::Ready(frame) = this.body.poll_frame(cx) else {
            this.stage.send_if_modified(|stage| {
                std::mem::replace(stage, UploadState::AwaitingClient) == UploadState::Sending
            });
            if Pin::new(this.abandoned).poll(cx).is_ready() {
                return Poll::Ready(Some(Err(UploadError::Abandoned)));
            }
            ready!(this.idle.poll_expired(cx));
            return Poll::Ready(Some(Err(UploadError::Idle)));
        };
        this.idle.stop();
        this.stage.send_replace(UploadState::Sending);
        let Some(frame) = frame else { return Poll::Ready(None) };
        let mut frame = frame.map_err(|error| UploadError::from_client(error.into()))?;
        if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers, &this.headers.reserved);
            this.headers.edits.remove_from(trailers);
        }
        check_limit(this.left, &frame)?;
        Poll::Ready(Some(Ok(frame)))
    }
}

fn check_limit(left: &mut Option<u64>, frame: &Frame<Bytes>) -> Result<(), UploadError> {
    if let (Some(left), Some(data)) = (left, frame.data_ref()) {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        *left = left.checked_sub(length).ok_or(UploadError::TooLarge)?;
    }
    Ok(())
}

/// A response's body on its way to the client.
pub(super) struct DownstreamResponseBody {
    /// What is still to come of it, and what it holds on to until then.
    coming: Option<InProgress>,
    idle: IdleTimer,
    edits: Option<Arc<HeaderEdits>>,
    /// The upstream has broken off, which is told next.
    broken: Option<BoxError>,
}

struct InProgress {
    body: UpstreamBody,
    lease: Lease,
    upload: UploadProgress,
}

impl InProgress {
    /// A connection that an upstream has answered on before it had read the request may hold the
    /// rest of it for the next answer: such a one is closed.
    fn finish(self) {
        if self.upload.is_finished() {
            self.lease.finish(self.body);
        }
    }
}

impl DownstreamResponseBody {
    /// The body within the route's limits. It may stand still while `upload` moves: some upstreams
    /// begin to answer long before they have read it all.
    pub(super) fn new(body: UpstreamBody, route: &Route, lease: Lease, upload: UploadProgress) -> Self {
        Self::of(InProgress { body, lease, upload }, route)
    }

    /// The same, at once if it has come already: most are small.
    pub(super) fn body(
        mut body: UpstreamBody,
        route: &Route,
        lease: Lease,
        upload: UploadProgress,
    ) -> AnyBody {
        let whole = body.take_buffered();
        let coming = InProgress { body, lease, upload };
        match whole {
            Some(whole) => {
                coming.finish();
                AnyBody::from(whole)
            }
            None => AnyBody::new(Self::of(coming, route)),
        }
    }

    fn of(coming: InProgress, route: &Route) -> Self {
        let idle = IdleTimer::new(route.spec.idle_timeout);
        let edits = route.answers.clone();
        let mut download = Self { coming: Some(coming), idle, edits, broken: None };
        if download.is_end_stream() {
            download.finish();
        }
        download
    }

    fn finish(&mut self) {
        self.coming.take().into_iter().for_each(InProgress::finish);
    }
}

impl Body for DownstreamResponseBody {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(logged(DownloadError::Upstream(error)))));
        }
        let Self { coming, idle, .. } = &mut *self;
        let Some(InProgress { body, upload, .. }) = coming else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
            loop {
                ready!(idle.poll_expired(cx));
                if !upload.has_advanced() {
                    return Poll::Ready(Some(Err(logged(DownloadError::Idle))));
                }
                idle.stop();
            }
        };
        idle.stop();
        // Whoever reads us may not ask again after the last piece.
        if frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers))
            || frame.as_ref().is_some_and(Result::is_ok) && body.is_end_stream()
        {
            self.finish();
        }
        let Some(frame) = frame else { return Poll::Ready(None) };
        let mut frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                // When a body fails, hyper drops what it has yet to write, the head perhaps. It writes when
                // it must wait.
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        };
        if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers, &ReservedHeaders::default());
            if let Some(edits) = &self.edits {
                edits.remove_from(trailers);
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.coming.as_ref().is_none_or(|coming| coming.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.coming.as_ref().map_or(SizeHint::with_exact(0), |coming| coming.body.size_hint())
    }
}

/// The head has gone out, so nobody else can tell.
fn logged(error: DownloadError) -> DownloadError {
    tracing::warn!(error = &error as &dyn std::error::Error, "answer broken off");
    error
}

/// Some servers merge trailers into the headers, so they must not bring in what was kept out there.
fn clean_trailers(trailers: &mut HeaderMap, reserved: &ReservedHeaders) {
    hop_by_hop::remove(trailers);
    reserved.remove_from(trailers);
    remove_reserved_response_headers(trailers);
    remove_matching(trailers, |name| NEVER_TRAILERS.iter().any(|never| eq_cgi_name(never, name.as_str())));
}

/// What says how a message is to be read or handled comes before its body (RFC 9110, section 6.5.1), and so
/// does what only we may say.
const NEVER_TRAILERS: [&str; 31] = [
    "age",
    "authorization",
    "cache-control",
    "clear-site-data",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "set-cookie",
    "traceparent",
    "trailer",
    "vary",
    "via",
    "www-authenticate",
    "x-http-method-override",
    "x-request-id",
];

/// Measures how long nothing comes while something is waited for. Most bodies come in one piece, and
/// never need the timer.
struct IdleTimer {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl IdleTimer {
    fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, running: false }
    }

    fn stop(&mut self) {
        self.running = false;
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.limit)));
        if !self.running {
            sleep.as_mut().reset(Instant::now() + self.limit);
            self.running = true;
        }
        sleep.as_mut().poll(cx)
    }
}
