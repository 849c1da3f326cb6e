//! Sign-out.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use tower_cookies::Cookies;

use super::sign_in::SIGNED_OUT;
use super::state::{PageSession, PagesState, View, see_other};
use crate::client_info::ClientInfo;
use crate::layer::SESSION_EVENT_HEADER;
use crate::models::session::SessionId;
use crate::pages::{Page, SignOutPage};
use crate::session_event::SessionEvent;

/// The page with the button.
pub(super) async fn page(view: View, session: PageSession) -> Response {
    view.render(&Page::SignOut(SignOutPage { signed_in_as: session.email(), error: None }))
}

/// Ends the sessions whose cookies came with the request, and clears the cookies, valid or not.
pub(super) async fn submit(
    State(state): State<PagesState>,
    view: View,
    cookies: Cookies,
    headers: HeaderMap,
    client: ClientInfo,
) -> Response {
    let sessions: BTreeSet<_> = state.auth.sessions_in(&headers).collect();
    sign_out(&state, &view, &cookies, sessions.into_iter().collect(), &client).await
}

/// Ends these sessions and clears the cookies. If the store is unavailable, nothing is cleared.
pub(super) async fn sign_out(
    state: &PagesState,
    view: &View,
    cookies: &Cookies,
    sessions: Vec<SessionId>,
    client: &ClientInfo,
) -> Response {
    if let Err(error) = state.auth.auth.sign_out(sessions, client).await {
        let Some(problem) = super::problem::temporary(&error) else { return view.internal_error(&error) };
        return view.render(&Page::SignOut(SignOutPage { signed_in_as: None, error: Some(problem) }));
    }
    state.auth.clear_cookies(cookies);
    let mut response = see_other(&format!("{}?{SIGNED_OUT}", state.path("sign-in")));
    let headers = response.headers_mut();
    headers.insert(SESSION_EVENT_HEADER, HeaderValue::from_static(SessionEvent::LoggedOut.as_str()));
    // Removes what the browser's back button would show. "cookies" would also remove those of other hosts.
    headers.insert(CLEAR_SITE_DATA, HeaderValue::from_static("\"cache\""));
    response
}

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
