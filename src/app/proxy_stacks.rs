//! The proxy behind the session layer, as the `auth` setting of a route requires.

use axum::body::Body;
use http::Response;
use tower::ServiceBuilder;
use tower::layer::layer_fn;

use super::catch_panic::CatchPanic;
use super::request_recorder::IdentityRecorder;
use crate::layer::{Reject401, RejectedRequest, RejectionKind, SilentRefresh, SilentRefreshLayer};
use crate::proxy::Proxy;
use crate::server::ClientShares;
use crate::services::token::Tokens;

/// A service behind the session layer. `R` decides about requests without a valid session.
pub(super) type WithSession<R, S = Proxy> = SilentRefresh<CatchPanic<IdentityRecorder<S>>, Tokens, R>;

/// Decides about a request without a valid session: the response, or `None` to forward it anyway.
pub(super) type OnReject = fn(&RejectedRequest<'_>) -> Option<Response<Body>>;

/// The proxy in three stacks, one for each value of `auth`. All share one connection pool.
#[derive(Clone)]
pub(super) struct ProxyStacks {
    session: SilentRefreshLayer<Tokens>,
    shares: ClientShares,
    /// `auth = "required"`: 401 without a session.
    pub(super) required: WithSession<Reject401>,
    /// `auth = "optional"`: forwards requests without a session as anonymous ones.
    pub(super) optional: WithSession<OnReject>,
    /// `auth = "none"`: ignores sessions.
    pub(super) open: Proxy,
}

impl ProxyStacks {
    pub(super) fn new(session: SilentRefreshLayer<Tokens>, shares: ClientShares, proxy: Proxy) -> Self {
        let allow_anonymous = allow_anonymous as OnReject;
        let required = session.clone().with_on_reject(Reject401);
        let optional = session.clone().with_on_reject(allow_anonymous);
        Self {
            required: with_session(required, shares.clone(), proxy.clone()),
            optional: with_session(optional, shares.clone(), proxy.clone()),
            open: proxy,
            session,
            shares,
        }
    }

    /// Returns the same stacks with their own connections to upstreams.
    pub(super) fn for_thread(&self) -> Self {
        Self::new(self.session.clone(), self.shares.clone(), self.open.with_own_connections())
    }
}

fn with_session<R: Clone, S>(
    session: SilentRefreshLayer<Tokens, R>,
    shares: ClientShares,
    service: S,
) -> WithSession<R, S> {
    ServiceBuilder::new()
        // Verifies the access token, and refreshes the session if necessary.
        .layer(session)
        // Inside the session layer, so that a panic does not lose the new cookies.
        .layer(layer_fn(CatchPanic))
        .layer(layer_fn(move |inner| IdentityRecorder::new(inner, shares.clone())))
        .service(service)
}

/// Continues as anonymous when there is no session; responds 503 when the session cannot be checked.
fn allow_anonymous(rejected: &RejectedRequest<'_>) -> Option<Response<Body>> {
    let rejection = &rejected.rejection;
    (rejection.kind == RejectionKind::Unavailable).then(|| rejection.problem())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use http::header::{COOKIE, SET_COOKIE};
    use http::{Request, StatusCode};
    use tower::{ServiceExt, service_fn};
    use uuid::Uuid;

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::layer::{CookiePolicy, SESSION_EVENT_HEADER};
    use crate::models::user::UserId;
    use crate::server::ServerLimits;
    use crate::services::jwt::AccessTokens;
    use crate::services::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys};
    use crate::services::memory::MemoryStore;
    use crate::services::token::{SessionRequest, SessionSettings};

    fn tokens(clock: &Arc<ManualClock>) -> Tokens {
        let key = KeyMaterial::generate(1, Algorithm::Hs256, clock.now()).expect("random bytes");
        let keys = Arc::new(SharedKeys::new(KeyRing::from_material(&key).expect("a key")));
        let store = Arc::new(MemoryStore::default());
        let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
        Tokens::new(store, keys, AccessTokens::default(), SessionSettings::default(), clock)
    }

    async fn refresh_token(tokens: &Tokens) -> String {
        let sign_in = SessionRequest::new(UserId(Uuid::from_u128(1)), "taro@example.jp");
        tokens.sign_in(sign_in).await.expect("a session").tokens.refresh_token
    }

    #[tokio::test]
    async fn panic_in_the_proxy_keeps_new_cookies() {
        let clock = Arc::new(ManualClock::default());
        let tokens = tokens(&clock);
        let cookie = format!("__Host-refresh_token={}", refresh_token(&tokens).await);
        clock.advance(Duration::from_secs(3_600));
        let session = SilentRefreshLayer::new(Arc::new(tokens), CookiePolicy::default());
        let panics = service_fn(|_| async { panic!("on purpose") });
        let request = Request::get("/").header(COOKIE, cookie).body(Body::empty()).expect("a request");
        let response = with_session(session, ClientShares::new(&ServerLimits::default()), panics)
            .oneshot(request)
            .await
            .expect("infallible");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[SESSION_EVENT_HEADER], "rotated");
        assert_eq!(response.headers().get_all(SET_COOKIE).iter().count(), 2);
    }
}
