//! The account: profile, devices, password.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri};
use secrecy::SecretString;
use uuid::Uuid;

use super::super::ApiError;
use super::super::form::Form;
use super::sign_in::form_problem;
use super::sign_out;
use super::state::{PagesState, SignedIn, View, query_value, see_other};
use crate::client_info::ClientInfo;
use crate::identity::{Identity, SessionId};
use crate::models::session::Session;
use crate::pages::{AccountPage, Device, FormProblem, Notice, Page};
use crate::services::auth::AuthError;
use crate::user_agent::DeviceName;

/// The page.
pub(super) async fn page(
    State(state): State<PagesState>,
    view: View,
    SignedIn(identity): SignedIn,
    uri: Uri,
) -> Response {
    let done = query_value(&uri, DONE);
    let notice =
        NOTICES.into_iter().find(|(word, _)| done.as_deref() == Some(word)).map(|(_, notice)| notice);
    show(&state, &view, &identity, notice, None).await
}

/// Redirects to the page, for password managers.
pub(super) async fn change_password_redirect(State(state): State<PagesState>) -> Response {
    see_other(&state.path("account"))
}

/// Sets a new password, and ends the user's other sessions.
pub(super) async fn set_password(
    State(state): State<PagesState>,
    view: View,
    SignedIn(identity): SignedIn,
    client: ClientInfo,
    request: Request,
) -> Response {
    let form = match PasswordForm::read(request).await {
        Ok(form) => form,
        Err(problem) => return show(&state, &view, &identity, None, Some(problem)).await,
    };
    if is_for_another_user(form.user.as_deref(), &identity) {
        return see_other(&done(&state, Notice::OtherUser));
    }
    let auth = &state.auth.auth;
    let changed = match auth.change_password(&identity, &form.current, &form.new, &client).await {
        // The form was sent twice: the password is already the new one.
        Err(AuthError::Credentials) if auth.has_password(&identity, &form.new).await.unwrap_or(false) => {
            Ok(())
        }
        result => result.map(drop),
    };
    match changed {
        Ok(()) => see_other(&done(&state, Notice::PasswordSet)),
        Err(error) => match super::problem::of_password_change(&error) {
            Some(problem) => show(&state, &view, &identity, None, Some(problem)).await,
            None => failed(&view, error),
        },
    }
}

/// Ends one of the user's sessions. One that has ended already is no error: the form may have been sent twice.
pub(super) async fn sign_out_device(
    State(state): State<PagesState>,
    view: View,
    SignedIn(identity): SignedIn,
    client: ClientInfo,
    request: Request,
) -> Response {
    let Ok(mut form) = Form::read(request).await else { return view.error(StatusCode::BAD_REQUEST) };
    if is_for_another_user(form.take("user").as_deref(), &identity) {
        return see_other(&done(&state, Notice::OtherUser));
    }
    let device = form.take("device").and_then(|id| id.parse::<Uuid>().ok());
    let Some(device) = device.map(SessionId) else { return view.error(StatusCode::BAD_REQUEST) };
    if device == identity.session {
        let ended = state.auth.sessions.sign_out_of(vec![device], &client).await;
        return sign_out::respond(&state, &view, ended);
    }
    match state.auth.auth.end_session(&identity, device, &client).await {
        Ok(()) | Err(AuthError::UnknownSession) => see_other(&done(&state, Notice::DeviceSignedOut)),
        Err(error) => failed(&view, error),
    }
}

/// Ends all of the user's sessions but the present one.
pub(super) async fn sign_out_others(
    State(state): State<PagesState>,
    view: View,
    SignedIn(identity): SignedIn,
    client: ClientInfo,
    request: Request,
) -> Response {
    let user = Form::read(request).await.ok().and_then(|mut form| form.take("user"));
    if is_for_another_user(user.as_deref(), &identity) {
        return see_other(&done(&state, Notice::OtherUser));
    }
    match state.auth.auth.sign_out_others(&identity, &client).await {
        Ok(_) => see_other(&done(&state, Notice::OthersSignedOut)),
        Err(error) => failed(&view, error),
    }
}

/// Returns `true` for a form of a page of another user: since it was loaded, someone else has signed in, in another tab.
///
/// A template of the operator may lack the field.
fn is_for_another_user(user: Option<&str>, identity: &Identity) -> bool {
    user.is_some_and(|user| user != &*identity.subject)
}

/// Returns the page for an error that no form can solve.
fn failed(view: &View, error: AuthError) -> Response {
    if matches!(error, AuthError::SessionGone | AuthError::UserGone) {
        return ApiError::from(error).into_response();
    }
    match super::problem::temporary(&error) {
        Some(_) => view.error(StatusCode::SERVICE_UNAVAILABLE),
        None => view.internal_error(&error),
    }
}

/// Returns the address of the page after something was done.
fn done(state: &PagesState, notice: Notice) -> String {
    let word = NOTICES.into_iter().find(|(_, known)| *known == notice).map_or("", |(word, _)| word);
    format!("{}?{DONE}={word}", state.path("account"))
}

async fn show(
    state: &PagesState,
    view: &View,
    identity: &Identity,
    notice: Option<Notice>,
    error: Option<FormProblem>,
) -> Response {
    let auth = &state.auth.auth;
    let user = auth.current_session(identity).await;
    let sessions = auth.sessions(identity).await;
    let (user, sessions) = match (user, sessions) {
        (Ok((user, _)), Ok(sessions)) => (user, sessions),
        (Err(error), _) | (_, Err(error)) => return failed(view, error),
    };
    let mut devices: Vec<_> = sessions.iter().map(|session| device(session, identity)).collect();
    // Stable: the others stay in the order of their last use.
    devices.sort_by_key(|device| !device.current);
    view.render(&Page::Account(AccountPage {
        user_id: user.id.0,
        roles: user.role.roles().iter().map(str::to_owned).collect(),
        email: user.email,
        name: user.name,
        min_length: state.min_password_length,
        notice,
        error,
        devices,
    }))
}

fn device(session: &Session, identity: &Identity) -> Device {
    Device {
        id: session.id.0,
        current: session.id == identity.session,
        name: DeviceName::from_user_agent(session.client.user_agent.as_deref()),
        address: session.client.address.map(|address| address.to_string()),
        first_seen: session.created_at,
        last_seen: session.rotated_at,
    }
}

/// The form for a new password.
struct PasswordForm {
    /// The id of the user of the page.
    user: Option<String>,
    current: SecretString,
    new: SecretString,
}

impl PasswordForm {
    async fn read(request: Request) -> Result<Self, FormProblem> {
        let mut form = Form::read(request).await.map_err(|error| form_problem(&error))?;
        let user = form.take("user");
        let mut require = |name| form.require(name).map_err(|error| form_problem(&error));
        let current = require("current_password")?;
        let new = require("new_password")?;
        // A page of the operator may do without.
        if form.take("new_password_again").is_some_and(|again| again != new) {
            return Err(FormProblem::PasswordsDiffer);
        }
        Ok(Self { user, current: current.into(), new: new.into() })
    }
}

/// The query parameter for what was done, and its words.
const DONE: &str = "done";
const NOTICES: [(&str, Notice); 4] = [
    ("device", Notice::DeviceSignedOut),
    ("other_user", Notice::OtherUser),
    ("others", Notice::OthersSignedOut),
    ("password", Notice::PasswordSet),
];
