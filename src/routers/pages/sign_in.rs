//! Sign-in, and the way on to the requested page.

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode, Uri};
use secrecy::SecretString;
use tower_cookies::Cookies;

use super::super::form::{Form, FormError};
use super::origin::BrowserOrigin;
use super::state::{PageSession, PagesState, View, query_value, see_other};
use crate::client_info::ClientInfo;
use crate::layer::SameSite;
use crate::models::session::SessionKind;
use crate::next::Next;
use crate::pages::{FormProblem, Notice, Page, RefreshPage, SignInPage};
use crate::services::auth::{AuthError, Credentials};
use crate::services::continue_token;

/// The sign-in page. Goes on at once if there is a session.
pub(super) async fn page(
    State(state): State<PagesState>,
    view: View,
    session: PageSession,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let next = state.next(&uri);
    let signed_out = query_value(&uri, SIGNED_OUT).is_some();
    let notice = match &session {
        PageSession::SignedIn(_) if !signed_out => return see_other(next.as_str()),
        PageSession::Unavailable => return view.error(StatusCode::SERVICE_UNAVAILABLE),
        _ if signed_out => Some(Notice::SignedOut),
        PageSession::Anonymous(event) => Notice::for_event(*event),
        PageSession::SignedIn(_) => None,
    };
    if !signed_out && lacks_strict_cookies(&state, &headers) && query_value(&uri, AGAIN).is_none() {
        return refresh(&view, state.path_with("sign-in", &next, &[(AGAIN, "")]));
    }
    if let Some(own) = &state.own_sign_in {
        return see_other(&own.location(&next));
    }
    let page = SignInPage { signed_in_as: session.email(), notice, signed_out, ..form_for(&state, &next) };
    view.render(&Page::SignIn(page))
}

/// Signs in. The former session of this browser ends.
pub(super) async fn submit(
    State(state): State<PagesState>,
    view: View,
    cookies: Cookies,
    client: ClientInfo,
    request: Request,
) -> Response {
    let next = state.next(request.uri());
    let replaced = state.auth.sessions.sessions_in(request.headers()).next();
    let failed = |email, problem| {
        let page = SignInPage { email, password: None, error: Some(problem), ..form_for(&state, &next) };
        view.render(&Page::SignIn(page))
    };
    let credentials = match read_credentials(request).await {
        Ok(credentials) => credentials,
        Err((email, problem)) => return failed(email, problem),
    };
    match state.auth.auth.sign_in(&credentials, SessionKind::Browser, client, replaced).await {
        Ok((_, issued)) => {
            state.auth.set_cookies(&cookies, &issued.tokens);
            let now = state.auth.clock.now();
            let token = continue_token::issue(&state.auth.auth.tokens().keys().load(), now);
            see_other(&state.path_with("continue", &next, &[(TOKEN, &token)]))
        }
        Err(AuthError::Credentials) => failed(credentials.email, FormProblem::Credentials),
        Err(error) => match super::problem::temporary(&error) {
            Some(problem) => failed(credentials.email, problem),
            None => view.internal_error(&error),
        },
    }
}

/// Goes on after a sign-in, or tells why the browser did not keep the cookies.
pub(super) async fn go_on(
    State(state): State<PagesState>,
    view: View,
    session: PageSession,
    origin: Option<Extension<BrowserOrigin>>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let next = state.next(&uri);
    let is_strict = state.auth.sessions.cookies().same_site() == SameSite::Strict;
    let token = query_value(&uri, TOKEN).unwrap_or_default();
    let keys = state.auth.auth.tokens().keys().load();
    match session {
        PageSession::SignedIn(_) if is_strict => refresh(&view, next.as_str().to_owned()),
        PageSession::SignedIn(_) => see_other(next.as_str()),
        PageSession::Unavailable => view.error(StatusCode::SERVICE_UNAVAILABLE),
        PageSession::Anonymous(_) if !continue_token::is_valid(&keys, &token, state.auth.clock.now()) => {
            see_other(&state.path_with("sign-in", &next, &[]))
        }
        PageSession::Anonymous(_) if is_strict && query_value(&uri, AGAIN).is_none() => {
            refresh(&view, state.path_with("continue", &next, &[(TOKEN, &token), (AGAIN, "")]))
        }
        PageSession::Anonymous(_) => {
            let problem = super::origin::cookie_problem(&state, origin.as_deref(), &headers, &next);
            view.render(&Page::Cookies(problem))
        }
    }
}

/// Returns `true` if the browser may have `SameSite=Strict` cookies that it did not send, because the request came
/// from a page of another site.
fn lacks_strict_cookies(state: &PagesState, headers: &HeaderMap) -> bool {
    let is_strict = state.auth.sessions.cookies().same_site() == SameSite::Strict;
    let is_cross_site = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    is_strict && is_cross_site && !state.auth.sessions.cookies().present_in(headers)
}

fn refresh(view: &View, url: String) -> Response {
    view.render(&Page::Refresh(RefreshPage { url }))
}

fn form_for(state: &PagesState, next: &Next) -> SignInPage {
    let sample = state.sample.as_deref().cloned();
    SignInPage {
        next: next.to_string(),
        action: state.path_with("sign-in", next, &[]),
        email: sample.as_ref().map(|sample| sample.email.clone()).unwrap_or_default(),
        password: sample.as_ref().and_then(|sample| sample.password.clone()),
        sample,
        ..SignInPage::default()
    }
}

/// Reads the form. An error comes with the address, if that can be read.
async fn read_credentials(request: Request) -> Result<Credentials, (String, FormProblem)> {
    let mut form = Form::read(request).await.map_err(|error| (String::new(), form_problem(&error)))?;
    let email = form.take("email").unwrap_or_default();
    let email = email.trim().to_owned();
    let password = form.take("password").unwrap_or_default();
    if email.is_empty() || password.is_empty() {
        return Err((email, FormProblem::Empty));
    }
    Ok(Credentials { email, password: SecretString::from(password) })
}

pub(super) fn form_problem(error: &FormError) -> FormProblem {
    match error {
        FormError::Missing(_) => FormProblem::Empty,
        _ => FormProblem::Invalid,
    }
}

/// The query parameter for a sign-in page that follows a sign-out.
pub(super) const SIGNED_OUT: &str = "signed_out";

/// The query parameter for the second load of a page, which comes from this origin.
const AGAIN: &str = "again";

/// The query parameter for the token of a recent sign-in.
const TOKEN: &str = "t";
