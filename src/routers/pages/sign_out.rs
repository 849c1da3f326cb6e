//! Sign-out.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderName, HeaderValue};

use super::sign_in::SIGNED_OUT;
use super::state::{PageSession, PagesState, View, see_other};
use crate::pages::{Page, SignOutPage};
use crate::services::auth::AuthError;
use crate::services::store::StoreError;
use crate::sessions::SignOut;

/// The page with the button.
pub(super) async fn page(view: View, session: PageSession) -> Response {
    view.render(&Page::SignOut(SignOutPage { signed_in_as: session.email(), error: None }))
}

/// Ends the sessions whose cookies came with the request, and clears the cookies, valid or not.
pub(super) async fn submit(State(state): State<PagesState>, view: View, request: Parts) -> Response {
    respond(&state, &view, state.auth.sessions.sign_out(&request).await)
}

/// Responds to a sign-out. If the store is unavailable, no cookie is cleared.
pub(super) fn respond(state: &PagesState, view: &View, result: Result<SignOut, StoreError>) -> Response {
    let signed_out = match result.map_err(AuthError::from) {
        Ok(signed_out) => signed_out,
        Err(error) => {
            let Some(problem) = super::problem::temporary(&error) else { return view.internal_error(&error) };
            return view.render(&Page::SignOut(SignOutPage { signed_in_as: None, error: Some(problem) }));
        }
    };
    // Removes what the browser's back button would show. "cookies" would also remove those of other hosts.
    let clear_site_data = [(CLEAR_SITE_DATA, HeaderValue::from_static("\"cache\""))];
    let sign_in_page = see_other(&format!("{}?{SIGNED_OUT}", state.path("sign-in")));
    (signed_out, clear_site_data, sign_in_page).into_response()
}

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
