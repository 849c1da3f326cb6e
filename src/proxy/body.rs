//! Bodies on their way through: streamed, counted, and ended when they stand still.
//!
//! Neither holds anything back: a piece is asked for when the other side can take it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum_core::BoxError;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, Sleep};

use super::routes::Route;
use super::{hop_by_hop, request, response};
use crate::identity::SessionEvent;

pin_project! {
    /// A request's body on its way to an upstream.
    pub(super) struct Upload<B> {
        #[pin]
        body: B,
        // How much more may come, in bytes.
        left: Option<u64>,
        idle: Idle,
        stage: watch::Sender<Stage>,
        abandoned: oneshot::Receiver<Infallible>,
    }
}

impl<B> Upload<B> {
    /// The body within the route's limits, and how far it has come.
    pub(super) fn new(body: B, route: &Route) -> (Self, UploadProgress) {
        let (stage, watched) = watch::channel(Stage::Sending);
        let (wanted, abandoned) = oneshot::channel();
        let idle = Idle::new(route.spec.idle_timeout);
        let upload = Self { body, left: route.spec.max_body, idle, stage, abandoned };
        (upload, UploadProgress { stage: Some(watched), _wanted: Some(wanted) })
    }
}

/// Why a request's body can't be sent on.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("the answer ended before the body")]
    Abandoned,
    #[error("the client broke off")]
    Client(#[source] BoxError),
    #[error("the client sent nothing for too long")]
    Idle,
    #[error("the body is larger than the route allows")]
    TooLarge,
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = self.project();
        let Poll::Ready(frame) = this.body.poll_frame(cx) else {
            this.stage
                .send_if_modified(|stage| std::mem::replace(stage, Stage::AwaitingClient) == Stage::Sending);
            if Pin::new(this.abandoned).poll(cx).is_ready() {
                return Poll::Ready(Some(Err(UploadError::Abandoned)));
            }
            ready!(this.idle.poll_over(cx));
            return Poll::Ready(Some(Err(UploadError::Idle)));
        };
        this.idle.stop();
        this.stage.send_replace(Stage::Sending);
        let Some(frame) = frame else { return Poll::Ready(None) };
        let mut frame = frame.map_err(|error| UploadError::Client(error.into()))?;
        if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers);
        }
        take(this.left, &frame)?;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn take(left: &mut Option<u64>, frame: &Frame<Bytes>) -> Result<(), UploadError> {
    if let (Some(left), Some(data)) = (left, frame.data_ref()) {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        *left = left.checked_sub(length).ok_or(UploadError::TooLarge)?;
    }
    Ok(())
}

/// How far a request's body has come. Once it is dropped, with the answer's end, the upload stops:
/// an upstream that has answered may never read the rest.
pub(super) struct UploadProgress {
    stage: Option<watch::Receiver<Stage>>,
    _wanted: Option<oneshot::Sender<Infallible>>,
}

/// Who is to make the next move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The client: the upstream would take more.
    AwaitingClient,
    /// The upstream: it has not asked for more yet.
    Sending,
    /// The upstream: it has all of the body, or wants no more of it.
    Sent,
}

impl UploadProgress {
    /// Of a request without a body.
    pub(super) fn sent() -> Self {
        Self { stage: None, _wanted: None }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.as_ref().map_or(Stage::Sent, |stage| *stage.borrow())
    }

    /// Waits for the body to move. Dropping it, as hyper does at its end, is its last move.
    pub(super) async fn changed(&mut self) {
        let Some(stage) = &mut self.stage else { return std::future::pending().await };
        if stage.changed().await.is_err() {
            self.stage = None;
        }
    }

    /// Whether it has moved since it was last asked.
    fn has_moved(&mut self) -> bool {
        let Some(stage) = &mut self.stage else { return false };
        let moved = stage.has_changed();
        stage.mark_unchanged();
        moved.unwrap_or(false)
    }
}

pin_project! {
    /// A response's body on its way to the client.
    pub(super) struct Download<B> {
        #[pin]
        body: B,
        idle: Idle,
        upload: UploadProgress,
    }
}

impl<B> Download<B> {
    /// The body within the route's limits. It may stand still while `upload` moves: some upstreams
    /// begin to answer long before they have read it all.
    pub(super) fn new(body: B, route: &Route, upload: UploadProgress) -> Self {
        Self { body, idle: Idle::new(route.spec.idle_timeout), upload }
    }
}

/// Why a response's body ends too early. The client sees its connection close in the middle of
/// the message, not a message that looks whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    #[error("the upstream sent nothing for too long")]
    Idle,
    #[error("the session has ended: {0}")]
    SessionEnded(SessionEvent),
    #[error("the upstream broke off")]
    Upstream(#[source] BoxError),
}

impl<B> Body for Download<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        let mut this = self.project();
        let Poll::Ready(frame) = this.body.as_mut().poll_frame(cx) else {
            loop {
                ready!(this.idle.poll_over(cx));
                if !this.upload.has_moved() {
                    return Poll::Ready(Some(Err(logged(DownloadError::Idle))));
                }
                this.idle.stop();
            }
        };
        this.idle.stop();
        let Some(frame) = frame else { return Poll::Ready(None) };
        let mut frame = frame.map_err(|error| logged(DownloadError::Upstream(error.into())))?;
        if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The head has gone out, so nobody else can tell.
fn logged(error: DownloadError) -> DownloadError {
    tracing::warn!(error = &error as &dyn std::error::Error, "answer broken off");
    error
}

/// Some servers merge trailers into the headers, so they must not bring in what was kept out there.
fn clean_trailers(trailers: &mut HeaderMap) {
    hop_by_hop::remove(trailers);
    request::remove_reserved(trailers);
    response::remove_reserved(trailers);
    for name in [http::header::AUTHORIZATION, http::header::COOKIE, http::header::SET_COOKIE] {
        trailers.remove(name);
    }
}

/// Measures how long nothing comes while something is waited for.
struct Idle {
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
    running: bool,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self { limit, sleep: Box::pin(tokio::time::sleep(limit)), running: false }
    }

    fn stop(&mut self) {
        self.running = false;
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.running {
            self.sleep.as_mut().reset(Instant::now() + self.limit);
            self.running = true;
        }
        self.sleep.as_mut().poll(cx)
    }
}
