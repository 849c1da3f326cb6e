//! The origin that a browser uses, and why it may not keep cookies there.

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue};

use super::state::PagesState;
use crate::next::Next;
use crate::pages::CookieProblem;

/// The origin of a request, as the connection and trusted proxies report it. Without this extension it is assumed to
/// be the public origin.
#[derive(Clone, Debug)]
pub struct BrowserOrigin {
    /// True if the browser uses TLS.
    pub is_https: bool,
    /// The `Host` of the request.
    pub host: HeaderValue,
}

/// Returns the reason why the browser did not keep the cookies.
pub(super) fn cookie_problem(
    state: &PagesState,
    browser: Option<&BrowserOrigin>,
    headers: &HeaderMap,
    next: &Next,
) -> CookieProblem {
    let origin = state.public_origin.to_string();
    let (scheme, public_host) = origin.split_once("://").unwrap_or(("https", &origin));
    let url = format!("{origin}{}", state.path_with("sign-in", next, &[]));
    match browser {
        Some(browser)
            if state.auth.sessions.cookies().is_secure() && !keeps_secure_cookies(browser, headers) =>
        {
            let url = (scheme == "https").then_some(url);
            CookieProblem::Insecure { origin, url }
        }
        Some(browser) if !browser.host.as_bytes().eq_ignore_ascii_case(public_host.as_bytes()) => {
            CookieProblem::Host { origin, url }
        }
        _ => CookieProblem::Blocked,
    }
}

/// Returns `true` if the browser keeps `Secure` cookies of this origin, unless it blocks all cookies.
///
/// It does if it uses TLS. A proxy in front may not report that, but browsers send `Sec-Fetch-*` over TLS, and otherwise
/// to loopback hosts only. From those, Chromium and Firefox keep `Secure` cookies without TLS, and Safari does not.
fn keeps_secure_cookies(browser: &BrowserOrigin, headers: &HeaderMap) -> bool {
    let host = browser.host.to_str().unwrap_or_default();
    let is_loopback = ["localhost", "127.", "[::1]"].iter().any(|start| host.starts_with(start));
    let trusts_host =
        if is_loopback { trusts_loopback(headers) } else { headers.contains_key("sec-fetch-mode") };
    browser.is_https || trusts_host
}

/// Returns `true` for Chromium and Firefox. On iOS they are variants of Safari, with other tokens.
fn trusts_loopback(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    agent.contains("Chrome/") || agent.contains("Firefox/")
}
