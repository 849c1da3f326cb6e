use http::header::{HeaderValue, LOCATION};
use http::uri::PathAndQuery;
use http::{Response, StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::reject::{OnReject, RejectedRequest, RejectionKind};
use crate::navigation::{RequestKind, vary_by_kind};
use crate::next::Next;

/// Sends people to a sign-in page. Programs get the 401 of [`Reject401`](super::Reject401).
///
/// A [navigation](RequestKind::Navigation) without a session gets a 303 to the page with `?next=` and the path and query
/// that it asked for. Everything else gets a problem: a script's request, an image, and the `POST` of a form, whose data
/// a redirect would lose. If the session cannot be checked, the response is a 503 for all.
///
/// The sign-in page redirects to `next` once the user has signed in, after a check with [`Next::parse`]: the value comes
/// from the browser, and an unchecked one may lead to another site. The page itself is outside the layer, or behind one
/// that lets anonymous requests continue.
///
/// With axum, `nest` removes its path from requests. Put the layer around the router that contains the nested one:
/// inside of it `next` lacks that path, and a sign-in page within would redirect to itself.
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use http::{Request, StatusCode};
/// use sekisho::layer::RedirectToSignIn;
/// use sekisho::{CookiePolicy, CurrentUser, Sessions, Tokens};
/// use tower::ServiceExt;
///
/// async fn movies(user: CurrentUser) -> String {
///     format!("Movies for {}", user.email)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = Sessions::new(Tokens::in_memory()?, CookiePolicy::default());
/// let app = Router::new()
///     .route("/movies", get(movies))
///     .layer(sessions.layer().with_on_reject(RedirectToSignIn::new("/sign-in")?));
///
/// let browser = Request::get("/movies?page=2").header("accept", "text/html").body(Body::empty())?;
/// let response = app.clone().oneshot(browser).await?;
/// assert_eq!(response.status(), StatusCode::SEE_OTHER);
/// assert_eq!(response.headers()["location"], "/sign-in?next=%2Fmovies%3Fpage%3D2");
///
/// let script = Request::get("/movies").header("accept", "application/json").body(Body::empty())?;
/// assert_eq!(app.oneshot(script).await?.status(), StatusCode::UNAUTHORIZED);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectToSignIn {
    /// The path and query of the page.
    page: String,
}

impl RedirectToSignIn {
    /// Creates a redirect to the page at `path`, which may have a query.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidSignInPath`] unless `path` is a path of this origin.
    pub fn new(path: impl Into<String>) -> Result<Self, InvalidSignInPath> {
        let page = path.into();
        check_path(&page)?;
        Ok(Self { page })
    }

    fn location(&self, uri: &Uri) -> Option<HeaderValue> {
        let (path, query) =
            self.page.split_once('?').map_or((&*self.page, None), |(path, query)| (path, Some(query)));
        // A redirect of the page to itself would not end.
        if uri.path() == path {
            return None;
        }
        let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let next = Next::parse(target).unwrap_or(Next::ROOT);
        let next = utf8_percent_encode(next.as_str(), QUERY_VALUE);
        let location = match query {
            Some(query) => format!("{path}?{query}&next={next}"),
            None => format!("{path}?next={next}"),
        };
        HeaderValue::try_from(location).ok()
    }
}

impl<B: From<String>> OnReject<B> for RedirectToSignIn {
    fn on_reject(&self, rejected: &RejectedRequest<'_>) -> Option<Response<B>> {
        let is_navigation =
            RequestKind::from_head(rejected.method, rejected.headers) == RequestKind::Navigation;
        let needs_sign_in = rejected.rejection.kind == RejectionKind::Unauthenticated;
        let location = (is_navigation && needs_sign_in).then(|| self.location(rejected.uri)).flatten();
        let mut response = match location {
            Some(location) => see_other(location),
            None => rejected.rejection.problem(),
        };
        vary_by_kind(response.headers_mut());
        Some(response)
    }
}

fn see_other<B: From<String>>(location: HeaderValue) -> Response<B> {
    let mut response = Response::new(B::from(String::new()));
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Reason why a path cannot be that of a sign-in page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSignInPath {
    /// It contains a character that a path and query may not contain, or a fragment.
    #[error("{0:?} is not a path: use visible ASCII without backslashes, quotes, angle brackets and #")]
    Character(String),
    /// It names another host: browsers read `//host/path` as a URL of that host.
    #[error("{0:?} leads to another host: begin it with one slash")]
    OtherHost(String),
    /// It does not begin with a slash.
    #[error("{0:?} does not begin with a slash: give the path of a page, such as \"/sign-in\"")]
    Relative(String),
}

fn check_path(path: &str) -> Result<(), InvalidSignInPath> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !br##""#<>\"##.contains(&byte);
    if !path.starts_with('/') {
        return Err(InvalidSignInPath::Relative(path.to_owned()));
    }
    if path.starts_with("//") {
        return Err(InvalidSignInPath::OtherHost(path.to_owned()));
    }
    if !path.bytes().all(is_allowed) || path.parse::<PathAndQuery>().is_err() {
        return Err(InvalidSignInPath::Character(path.to_owned()));
    }
    Ok(())
}

/// The characters to encode in the value of a query: all but the unreserved ones (RFC 3986 section 2.3).
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
