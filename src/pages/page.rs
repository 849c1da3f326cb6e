//! The pages and what they show.
//!
//! Fields are visible to templates by their names. Texts are given by their keys in the files with texts.

use http::StatusCode;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use uuid::Uuid;

use super::demo_page::{DemoCredentials, DemoPage, MovieForm, MoviesSection};
use crate::session_event::SessionEvent;
use crate::user_agent::DeviceName;

/// A page.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Page {
    /// The user, the password and the devices.
    Account(AccountPage),
    /// The reason why the browser did not keep the cookies of a sign-in.
    Cookies(CookieProblem),
    /// The requests and movies of the demo.
    Demo(DemoPage),
    /// A request that failed.
    Error(ErrorPage),
    /// A page that at once loads another one.
    Refresh(RefreshPage),
    /// The form for sign-in.
    SignIn(SignInPage),
    /// The button for sign-out.
    SignOut(SignOutPage),
}

impl Page {
    /// Returns the file name of the template.
    pub(super) fn template(&self) -> &'static str {
        match self {
            Self::Account(_) => "account.html",
            Self::Cookies(_) => "cookies.html",
            Self::Demo(_) => "demo.html",
            Self::Error(_) => "error.html",
            Self::Refresh(_) => "refresh.html",
            Self::SignIn(_) => "sign-in.html",
            Self::SignOut(_) => "sign-out.html",
        }
    }

    /// Returns pages in which every part of every template occurs.
    pub(super) fn examples() -> Vec<Self> {
        let mut pages = vec![
            Self::Account(AccountPage::example()),
            Self::Refresh(RefreshPage { url: "/".to_owned() }),
            Self::SignIn(SignInPage::default()),
            Self::SignIn(SignInPage::example()),
            Self::SignIn(SignInPage::demo_example()),
            Self::SignOut(SignOutPage::default()),
            Self::SignOut(SignOutPage::example()),
        ];
        pages.extend(CookieProblem::examples().map(Self::Cookies));
        pages.extend(DemoPage::examples().map(Self::Demo));
        let statuses = ERROR_STATUSES.iter().filter_map(|status| StatusCode::from_u16(*status).ok());
        pages.extend(statuses.map(|status| Self::Error(ErrorPage::new(status))));
        pages.push(Self::Error(ErrorPage::new(StatusCode::SERVICE_UNAVAILABLE).with_form(true)));
        pages.push(Self::Error(ErrorPage::for_error(StatusCode::FORBIDDEN, CROSS_SITE)));
        pages
    }

    /// Returns the status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Account(AccountPage { error: Some(error), .. })
            | Self::SignIn(SignInPage { error: Some(error), .. })
            | Self::SignOut(SignOutPage { error: Some(error), .. }) => error.status(),
            Self::Demo(DemoPage {
                movies: MoviesSection::Form(MovieForm { error: Some(_), .. }), ..
            }) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Error(page) => page.status,
            _ => StatusCode::OK,
        }
    }
}

/// Statuses whose error pages have other texts or links.
const ERROR_STATUSES: [u16; 12] = [400, 401, 403, 404, 413, 414, 429, 431, 500, 502, 503, 504];

/// The form for sign-in.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SignInPage {
    /// The path to go on to, checked.
    pub next: String,
    /// The address of the form.
    pub action: String,
    /// The address that was typed before.
    pub email: String,
    /// The event before.
    pub notice: Option<Notice>,
    /// The reason for showing the form again.
    pub error: Option<FormProblem>,
    /// The address of the user who is signed in.
    pub signed_in_as: Option<String>,
    /// True if the page follows a sign-out. It then never goes on by itself.
    pub signed_out: bool,
    /// The password that the form is filled in with, in the demo.
    pub password: Option<String>,
    /// The credentials that the page shows, in the demo.
    pub sample: Option<DemoCredentials>,
}

impl SignInPage {
    fn demo_example() -> Self {
        let password = Some("example".to_owned());
        let sample = DemoCredentials { email: EXAMPLE_EMAIL.to_owned(), password: password.clone() };
        Self { password, sample: Some(sample), ..Self::default() }
    }

    fn example() -> Self {
        Self {
            next: "/a?b=c".to_owned(),
            action: "/auth/sign-in?next=%2Fa%3Fb%3Dc".to_owned(),
            email: EXAMPLE_EMAIL.to_owned(),
            notice: Some(Notice::SignedOut),
            error: Some(FormProblem::Credentials),
            signed_in_as: Some(EXAMPLE_EMAIL.to_owned()),
            signed_out: true,
            password: None,
            sample: Some(DemoCredentials { email: EXAMPLE_EMAIL.to_owned(), password: None }),
        }
    }
}

/// The button for sign-out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SignOutPage {
    /// The address of the user who is signed in.
    pub signed_in_as: Option<String>,
    /// The reason for showing the button again.
    pub error: Option<FormProblem>,
}

impl SignOutPage {
    fn example() -> Self {
        Self { signed_in_as: Some(EXAMPLE_EMAIL.to_owned()), error: Some(FormProblem::Unavailable) }
    }
}

/// A page that at once loads another one, by `<meta http-equiv="refresh">`.
///
/// Cookies with `SameSite=Strict` are not sent on redirects of a navigation that another site began, but with a
/// navigation that this page begins.
#[derive(Clone, Debug, Serialize)]
pub struct RefreshPage {
    /// The path to load, checked.
    pub url: String,
}

/// The user, the password and the devices.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AccountPage {
    /// The email address.
    pub email: String,
    /// The display name.
    pub name: Option<String>,
    /// The roles.
    pub roles: Vec<String>,
    /// Minimum length of a new password in characters.
    pub min_length: usize,
    /// The action before.
    pub notice: Option<Notice>,
    /// The reason for showing the form for the password again.
    pub error: Option<FormProblem>,
    /// The devices, the present one first.
    pub devices: Vec<Device>,
    /// The id of the user. The forms send it, so that a page of another user changes nothing.
    pub user_id: Uuid,
}

/// Text for the end of the session while the page is open.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ending {
    /// The words of the events.
    events: Vec<&'static str>,
    /// The text.
    notice: Notice,
}

impl Ending {
    /// Returns the texts for all events.
    pub(super) fn all() -> Vec<Self> {
        let mut endings: Vec<Self> = Vec::new();
        for event in SessionEvent::ALL {
            let Some(notice) = Notice::for_end_elsewhere(event) else { continue };
            match endings.iter_mut().find(|ending| ending.notice == notice) {
                Some(ending) => ending.events.push(event.as_str()),
                None => endings.push(Self { events: vec![event.as_str()], notice }),
            }
        }
        endings
    }
}

impl AccountPage {
    fn example() -> Self {
        let names = [Some("Firefox/1 Linux"), Some("Firefox/1"), Some("Linux"), Some("x"), None];
        Self {
            email: EXAMPLE_EMAIL.to_owned(),
            name: Some("Taro".to_owned()),
            roles: vec!["user".to_owned()],
            min_length: 15,
            notice: Some(Notice::PasswordSet),
            error: Some(FormProblem::PasswordTooShort),
            devices: names
                .into_iter()
                .enumerate()
                .map(|(index, agent)| Device::example(index, agent))
                .collect(),
            user_id: Uuid::nil(),
        }
    }
}

impl Device {
    fn example(index: usize, agent: Option<&str>) -> Self {
        Self {
            id: Uuid::nil(),
            current: index == 0,
            name: DeviceName::from_user_agent(agent),
            address: agent.map(|_| "192.0.2.7".to_owned()),
            first_seen: OffsetDateTime::UNIX_EPOCH,
            last_seen: OffsetDateTime::UNIX_EPOCH,
        }
    }
}

const EXAMPLE_EMAIL: &str = "taro@example.jp";

/// A device: a session of the user.
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// The id of the session.
    pub id: Uuid,
    /// True for the device that sent the request.
    pub current: bool,
    /// Browser and system, as far as they are known.
    pub name: DeviceName,
    /// The address of the last refresh.
    pub address: Option<String>,
    /// The time of the sign-in.
    #[serde(with = "time::serde::rfc3339")]
    pub first_seen: OffsetDateTime,
    /// The time of the last refresh.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen: OffsetDateTime,
}

/// The reason why the browser did not keep the cookies of a sign-in.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum CookieProblem {
    /// Cookies are off.
    Blocked,
    /// The browser uses another address than the public origin.
    Host {
        /// The public origin.
        origin: String,
        /// The page for sign-in there.
        url: String,
    },
    /// The cookies are `Secure`, but the connection is plain http.
    Insecure {
        /// The public origin.
        origin: String,
        /// The page for sign-in there, if the public origin has TLS.
        url: Option<String>,
    },
}

impl CookieProblem {
    fn examples() -> [Self; 4] {
        let origin = "https://app.example.com".to_owned();
        let url = format!("{origin}/auth/sign-in");
        [
            Self::Blocked,
            Self::Host { origin: origin.clone(), url: url.clone() },
            Self::Insecure { origin: origin.clone(), url: Some(url) },
            Self::Insecure { origin, url: None },
        ]
    }
}

/// A request that failed.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorPage {
    /// The status of the response.
    #[serde(serialize_with = "as_number")]
    pub status: StatusCode,
    title: &'static str,
    text: &'static str,
    action: ErrorAction,
    is_form: bool,
}

/// The link of an error page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum ErrorAction {
    /// To `/`.
    Home,
    /// To the same page.
    Retry,
    /// To the page for sign-in, in another tab.
    SignIn,
    /// To the page for sign-out, to sign in as another user.
    SwitchUser,
}

impl ErrorPage {
    /// Creates the page for a response with this status.
    #[must_use]
    pub fn new(status: StatusCode) -> Self {
        let (title, text, action) = match status.as_u16() {
            401 => ("error.401.title", "error.401.text", ErrorAction::SignIn),
            403 => ("error.403.title", "error.403.text", ErrorAction::SwitchUser),
            404 => ("error.404.title", "error.404.text", ErrorAction::Home),
            413 => ("error.413.title", "error.413.text", ErrorAction::Home),
            414 => ("error.414.title", "error.414.text", ErrorAction::Home),
            429 => ("error.429.title", "error.429.text", ErrorAction::Retry),
            431 => ("error.431.title", "error.431.text", ErrorAction::Retry),
            502 => ("error.502.title", "error.502.text", ErrorAction::Retry),
            503 => ("error.503.title", "error.503.text", ErrorAction::Retry),
            504 => ("error.504.title", "error.504.text", ErrorAction::Retry),
            400..500 => ("error.client.title", "error.client.text", ErrorAction::Home),
            _ => ("error.server.title", "error.server.text", ErrorAction::Retry),
        };
        Self { status, title, text, action, is_form: false }
    }

    /// Creates the page for a response with this status and the `code` of its problem.
    #[must_use]
    pub fn for_error(status: StatusCode, code: &str) -> Self {
        if code != CROSS_SITE {
            return Self::new(status);
        }
        let title = "error.cross_site.title";
        let text = "error.cross_site.text";
        Self { status, title, text, action: ErrorAction::Home, is_form: false }
    }

    /// Sets whether the request was a form. Its page has no link to try again, which would lose the data of the form.
    #[must_use]
    pub fn with_form(self, is_form: bool) -> Self {
        Self { is_form, ..self }
    }
}

/// Code of the problem of a form that another site sent.
const CROSS_SITE: &str = "cross_site";

fn as_number<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

/// The event before a page was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Notice {
    /// The session ended for a reason that needs no explanation.
    #[serde(rename = "notice.ended")]
    Ended,
    /// The session expired.
    #[serde(rename = "notice.expired")]
    Expired,
    /// The password was changed on another device.
    #[serde(rename = "notice.password_changed")]
    PasswordChanged,
    /// The user changed the password on this device.
    #[serde(rename = "notice.password_set")]
    PasswordSet,
    /// The tokens of the session were used twice.
    #[serde(rename = "notice.reused")]
    Reused,
    /// One of the user's other sessions was ended.
    #[serde(rename = "notice.device_signed_out")]
    DeviceSignedOut,
    /// All of the user's other sessions were ended.
    #[serde(rename = "notice.others_signed_out")]
    OthersSignedOut,
    /// The page belonged to another user than the one who is signed in.
    #[serde(rename = "notice.other_user")]
    OtherUser,
    /// The user signed out.
    #[serde(rename = "notice.signed_out")]
    SignedOut,
    /// The user signed out in another tab or on another device.
    #[serde(rename = "notice.signed_out_elsewhere")]
    SignedOutElsewhere,
}

impl Notice {
    /// Returns the notice for a session that ended by this event. There is none if there was no session.
    #[must_use]
    pub fn for_event(event: SessionEvent) -> Option<Self> {
        match event {
            SessionEvent::AbsoluteExpired | SessionEvent::IdleExpired => Some(Self::Expired),
            SessionEvent::LoggedOut => Some(Self::SignedOut),
            SessionEvent::PasswordChanged => Some(Self::PasswordChanged),
            SessionEvent::ReuseDetected => Some(Self::Reused),
            SessionEvent::Displaced
            | SessionEvent::Exhausted
            | SessionEvent::Revoked
            | SessionEvent::RoleChanged
            | SessionEvent::UserDeleted
            | SessionEvent::UserDisabled => Some(Self::Ended),
            _ => None,
        }
    }

    /// Returns the notice for a page whose session ended by this event while the page was open.
    fn for_end_elsewhere(event: SessionEvent) -> Option<Self> {
        match event {
            SessionEvent::CaughtUp
            | SessionEvent::Replayed
            | SessionEvent::Rotated
            | SessionEvent::StoreUnavailable => None,
            SessionEvent::LoggedOut => Some(Self::SignedOutElsewhere),
            other => Some(Self::for_event(other).unwrap_or(Self::Ended)),
        }
    }
}

/// The reason for showing a form again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum FormProblem {
    /// Too many forms are in progress.
    #[serde(rename = "form.busy")]
    Busy,
    /// The email address or the password is wrong.
    #[serde(rename = "form.credentials")]
    Credentials,
    /// A field is empty.
    #[serde(rename = "form.empty")]
    Empty,
    /// The form cannot be read.
    #[serde(rename = "form.invalid")]
    Invalid,
    /// The new password is easy to guess.
    #[serde(rename = "form.password_guessable")]
    PasswordGuessable,
    /// The new password is too long.
    #[serde(rename = "form.password_too_long")]
    PasswordTooLong,
    /// The new password is too short.
    #[serde(rename = "form.password_too_short")]
    PasswordTooShort,
    /// The new password and its repetition differ.
    #[serde(rename = "form.passwords_differ")]
    PasswordsDiffer,
    /// There were too many attempts.
    #[serde(rename = "form.too_many_attempts")]
    TooManyAttempts,
    /// The service is not available.
    #[serde(rename = "form.unavailable")]
    Unavailable,
    /// The current password is wrong.
    #[serde(rename = "form.wrong_password")]
    WrongPassword,
}

impl FormProblem {
    /// Returns the status of a page with this error.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Busy | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Credentials | Self::Empty => StatusCode::UNAUTHORIZED,
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::TooManyAttempts => StatusCode::TOO_MANY_REQUESTS,
            Self::WrongPassword => StatusCode::FORBIDDEN,
            Self::PasswordGuessable
            | Self::PasswordTooLong
            | Self::PasswordTooShort
            | Self::PasswordsDiffer => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }
}
