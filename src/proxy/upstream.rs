//! Talking to an upstream: connections, and how long each step may take.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum_core::BoxError;
use axum_core::body::Body;
use http::{Request, Response, Uri};
use http_body_util::LengthLimitError;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower_service::Service;

use super::body::{Stage, UploadError, UploadProgress};
use super::error::ProxyError;
use super::routes::Route;

/// Connections to a route's upstreams, kept alive between requests.
pub(super) type Client = legacy::Client<Connector, Body>;

/// A client of HTTP/1.1.
///
/// It sends a request a second time only if an idle connection turns out to have been closed
/// before the first byte went out (hyper hands such a request back untouched). Nothing that an
/// upstream may have seen is ever sent again, whatever the method.
pub(super) fn client(connect_timeout: Duration, idle_timeout: Duration) -> Client {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect_timeout));
    // Tunnels may be silent for long: an upstream that is gone without a word must be noticed.
    tcp.set_keepalive(Some(KEEP_ALIVE));
    // For an upstream that has answered, and reads neither the rest of the body nor hangs up.
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(idle_timeout));
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .retry_canceled_requests(true)
        .build(Connector { tcp, timeout: connect_timeout })
}

/// Sends a request and waits for the head of its answer.
pub(super) async fn send(
    route: &Route,
    request: Request<Body>,
    progress: &mut UploadProgress,
) -> Result<Response<Incoming>, ProxyError> {
    within_patience(route, route.client.request(request), progress).await
}

/// While the body is on its way, every piece of it that the upstream takes restarts the clock.
/// A client that keeps us waiting is the body's own concern.
async fn within_patience(
    route: &Route,
    response: legacy::ResponseFuture,
    progress: &mut UploadProgress,
) -> Result<Response<Incoming>, ProxyError> {
    let mut response = pin!(response);
    loop {
        let patience = match progress.stage() {
            Stage::AwaitingClient => None,
            Stage::Sending => Some(route.spec.idle_timeout),
            Stage::Sent => Some(route.spec.first_byte_timeout),
        };
        let out_of_patience = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            response = &mut response => return response.map_err(blame),
            () = progress.changed() => {}
            () = out_of_patience => return Err(ProxyError::UpstreamTimeout),
        }
    }
}

/// Whose fault it was.
fn blame(error: legacy::Error) -> ProxyError {
    if cause::<LengthLimitError>(&error).is_some() {
        return ProxyError::BodyTooLarge;
    }
    match cause::<UploadError>(&error) {
        Some(UploadError::Abandoned | UploadError::Client(_)) => ProxyError::BodyIncomplete(error.into()),
        Some(UploadError::Idle) => ProxyError::BodyTimeout,
        Some(UploadError::TooLarge) => ProxyError::BodyTooLarge,
        None if error.is_connect() => ProxyError::UpstreamUnreachable(error.into()),
        None => ProxyError::UpstreamError(error.into()),
    }
}

fn cause<E: StdError + 'static>(error: &legacy::Error) -> Option<&E> {
    std::iter::successors(error.source(), |&error| error.source()).find_map(|error| error.downcast_ref())
}

/// Connects by TCP, with a limit on the whole of it: [`HttpConnector`]'s own, which is shared out
/// among a name's addresses, leaves out the name's resolution.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    tcp: HttpConnector,
    timeout: Duration,
}

impl Service<Uri> for Connector {
    type Response = <HttpConnector as Service<Uri>>::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, upstream: Uri) -> Self::Future {
        let connected = tokio::time::timeout(self.timeout, self.tcp.call(upstream));
        Box::pin(async move { Ok(connected.await??) })
    }
}

/// Shorter than what common servers allow (uvicorn and Node: 5 s), so that we seldom send a
/// request down a connection that is being closed.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);

const KEEP_ALIVE: Duration = Duration::from_secs(60);
