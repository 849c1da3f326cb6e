//! The shares of clients: finds the client of a request, and rejects a request whose client has too many.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, StatusCode};

use super::client_address::TrustedProxies;
use crate::client_share::ClientShare;
use crate::identity::{Identity, SessionId};
use crate::layer::{CookiePolicy, TokenService, bearer_token};
use crate::problem::Problem;
use crate::proxy::{MatchedRoute, ProxyError};
use crate::request_context::RequestContext;
use crate::server::{
    BodyPlace, Client, ClientBusy, ClientShares, Holder, InReserve, Limit, UnixPeer, record_front_proxy,
    record_share,
};
use crate::services::token::Tokens;

/// Counts requests for their clients. Cheap to clone.
///
/// A request counts for its address until its session has been verified, and for its user then, so that users who
/// share an address do not share its limit.
#[derive(Clone)]
pub(super) struct Admission {
    shares: ClientShares,
    trusted_proxies: Arc<TrustedProxies>,
    cookies: Arc<CookiePolicy>,
    tokens: Tokens,
}

impl Admission {
    pub(super) fn new(
        shares: ClientShares,
        trusted_proxies: TrustedProxies,
        cookies: Arc<CookiePolicy>,
        tokens: Tokens,
    ) -> Self {
        Self { shares, trusted_proxies: Arc::new(trusted_proxies), cookies, tokens }
    }

    /// Returns the shares that the requests count in.
    pub(super) fn shares(&self) -> &ClientShares {
        &self.shares
    }

    /// Counts a request for its client until its [`RequestContext`] is dropped.
    ///
    /// Returns the response to a request whose client has too many. A request that did not arrive through a listener
    /// is not counted.
    pub(super) fn begin(&self, request: &mut Request, is_in_reserve: bool) -> Option<Response> {
        let context = RequestContext::current()?;
        let client = match context.client() {
            Some(address) => self.client(address),
            None => unknown_client(request)?,
        };
        if !request.body().is_end_stream()
            && let Some(place) = request.extensions_mut().remove::<BodyPlace>()
        {
            place.attach(context.clone());
        }
        let share = self.shares.try_begin(&client, is_in_reserve).or_else(|busy| {
            let session = self.session(request.headers()).ok_or(busy)?;
            self.shares.try_begin(&Client::Session(session), is_in_reserve)
        });
        match share {
            Ok(share) => {
                context.set_client_share(share);
                None
            }
            Err(ClientBusy) => Some(client_busy()),
        }
    }

    fn client(&self, address: IpAddr) -> Client {
        if !self.trusted_proxies.contains(address) {
            return Client::Address(address);
        }
        record_front_proxy(Some(address));
        Client::FrontProxies
    }

    /// Returns the response to a request for a route that may not have another one while others need the places.
    pub(super) fn check_route(&self, route: &MatchedRoute) -> Option<Response> {
        if !self.shares.is_route_full(route.waiting(), is_only_request_of_client) {
            return None;
        }
        record_share(Limit::Route, || Holder::Route(route.path().to_owned()));
        Some(ProxyError::UpstreamBusy.into_response())
    }

    /// Returns the session of a request whose tokens are genuine, unless it is known to have ended.
    ///
    /// The session is not verified, which could take a refresh.
    fn session(&self, headers: &HeaderMap) -> Option<SessionId> {
        let cookies = self.cookies.read(headers).ok()?;
        let access = cookies.access.token().or_else(|| bearer_token(headers)?);
        let session = self.tokens.identify_session(cookies.refresh.token(), access)?;
        self.tokens.session_end(session).is_none().then_some(session)
    }
}

fn is_only_request_of_client() -> bool {
    let is_only_one =
        |context: &RequestContext| context.share().is_some_and(ClientShare::is_only_one_in_flight);
    RequestContext::with_current(is_only_one).unwrap_or(false)
}

/// Returns the client of a request whose address is unknown, if it arrived on a Unix socket.
fn unknown_client(request: &mut Request) -> Option<Client> {
    request.extensions_mut().remove::<UnixPeer>()?;
    record_front_proxy(None);
    Some(Client::FrontProxies)
}

/// Counts the request for its user from now on. Returns the response if the user has too many.
pub(super) fn begin_for_user(
    shares: &ClientShares,
    identity: &Identity,
    is_in_reserve: bool,
) -> Option<Response> {
    let counted = RequestContext::with_current(|context| {
        if context.share().is_some() {
            let user = Client::User(identity.subject.clone());
            context.set_user_share(shares.try_begin(&user, is_in_reserve)?);
        }
        Ok::<_, ClientBusy>(())
    });
    counted?.err().map(|ClientBusy| client_busy())
}

/// Counts the requests of a router for their clients, as middleware.
pub(super) async fn limit_clients(
    State(admission): State<Arc<Admission>>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_in_reserve = request.extensions().get::<InReserve>().is_some();
    match admission.begin(&mut request, is_in_reserve) {
        None => next.run(request).await,
        Some(rejection) => rejection,
    }
}

/// Returns the response to a client that has too many requests.
pub(super) fn client_busy() -> Response {
    let detail = "This client has too many requests in progress. Wait for some of them, and try again.";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "client_busy", detail).into_response::<Body>()
}
