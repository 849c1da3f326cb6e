//! Readable names of browsers and systems from `User-Agent` headers.

use std::fmt;

use serde::Serialize;

use crate::printable::is_printable;

/// Browser and system of a client, as far as its `User-Agent` tells them.
///
/// ```
/// use sekisho::user_agent::DeviceName;
///
/// let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0";
/// assert_eq!(DeviceName::from_user_agent(Some(agent)).to_string(), "Firefox on Linux");
/// assert_eq!(DeviceName::from_user_agent(Some("curl/8.15.0")).to_string(), "curl");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceName {
    /// The browser, or another well-known program.
    pub browser: Option<&'static str>,
    /// The operating system, or the kind of the device.
    pub system: Option<&'static str>,
    /// The printable characters of the header, if neither is known, cut to [`DeviceName::MAX_OTHER_CHARS`].
    pub other: Option<String>,
}

impl DeviceName {
    /// Maximum length of an unknown `User-Agent`, in characters. A longer one ends with an ellipsis.
    pub const MAX_OTHER_CHARS: usize = 60;

    /// Returns the name for a `User-Agent` header.
    #[must_use]
    pub fn from_user_agent(agent: Option<&str>) -> Self {
        let Some(agent) = agent else { return Self::default() };
        let find = |table: &[(&str, &'static str)]| {
            table.iter().find(|(token, _)| agent.contains(token)).map(|(_, name)| *name)
        };
        let browser = find(BROWSERS);
        let system = find(SYSTEMS);
        let is_unknown = browser.is_none() && system.is_none();
        let other = is_unknown.then(|| shorten(agent)).filter(|other| !other.trim().is_empty());
        Self { browser, system, other }
    }
}

/// Returns the printable characters of `agent`, with an ellipsis in place of those beyond the limit.
fn shorten(agent: &str) -> String {
    let mut printable = agent.chars().filter(|character| is_printable(*character));
    let mut name: String = printable.by_ref().take(DeviceName::MAX_OTHER_CHARS).collect();
    if printable.next().is_some() {
        name.pop();
        name.push('…');
    }
    name
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.browser, self.system, &self.other) {
            (Some(browser), Some(system), _) => write!(f, "{browser} on {system}"),
            (Some(name), None, _) | (None, Some(name), _) => f.write_str(name),
            (None, None, Some(other)) => f.write_str(other),
            (None, None, None) => f.write_str("unknown"),
        }
    }
}

/// Tokens of browsers and other programs. The first match counts: nearly all browsers also claim to be others.
const BROWSERS: &[(&str, &str)] = &[
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("OPR/", "Opera"),
    ("OPT/", "Opera"),
    ("Vivaldi/", "Vivaldi"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("YaBrowser/", "Yandex Browser"),
    ("DuckDuckGo/", "DuckDuckGo"),
    (" Line/", "LINE"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chromium/", "Chromium"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
    ("Wget/", "Wget"),
    ("HTTPie/", "HTTPie"),
    ("PostmanRuntime/", "Postman"),
    ("python-requests/", "Python"),
    ("python-httpx/", "Python"),
    ("Python-urllib/", "Python"),
    ("aiohttp/", "Python"),
    ("okhttp/", "OkHttp"),
    ("Go-http-client/", "Go"),
];

/// Tokens of systems and devices. The first match counts: Android claims to be Linux, iPhones to be like macOS.
const SYSTEMS: &[(&str, &str)] = &[
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("Macintosh", "macOS"),
    ("Linux", "Linux"),
    ("FreeBSD", "FreeBSD"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn name(agent: &str) -> String {
        DeviceName::from_user_agent(Some(agent)).to_string()
    }

    #[test]
    fn common_browsers_are_recognized() {
        const WINDOWS: &str =
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) ";
        const IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 ";
        const ANDROID: &str = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) ";
        const MAC: &str =
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) ";
        for (system, rest, expected) in [
            (WINDOWS, "Chrome/156.0.0.0 Safari/537.36", "Chrome on Windows"),
            (WINDOWS, "Chrome/156.0.0.0 Safari/537.36 Edg/156.0.0.0", "Edge on Windows"),
            (WINDOWS, "Chrome/156.0.0.0 Safari/537.36 OPR/120.0.0.0", "Opera on Windows"),
            (IPHONE, "(KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1", "Safari on iPhone"),
            (IPHONE, "(KHTML, like Gecko) CriOS/156.0.0.0 Mobile/15E148 Safari/604.1", "Chrome on iPhone"),
            (IPHONE, "(KHTML, like Gecko) FxiOS/142.0 Mobile/15E148 Safari/605.1.15", "Firefox on iPhone"),
            (ANDROID, "Chrome/156.0.0.0 Mobile Safari/537.36", "Chrome on Android"),
            (
                ANDROID,
                "SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
                "Samsung Internet on Android",
            ),
            (MAC, "Version/18.6 Safari/605.1.15", "Safari on macOS"),
            ("Mozilla/5.0 (X11; Linux x86_64) ", "HeadlessChrome/156.0.0.0 Safari/537.36", "Chrome on Linux"),
            (
                "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) ",
                "Chrome/156.0.0.0 Safari/537.36",
                "Chrome on ChromeOS",
            ),
        ] {
            assert_eq!(name(&format!("{system}{rest}")), expected);
        }
    }

    #[test]
    fn unknown_agents_are_kept_short_and_printable() {
        assert_eq!(name("python-requests/2.32.3"), "Python");
        assert_eq!(name("Mozilla/5.0 (Windows NT 10.0) Something/1"), "Windows");
        assert_eq!(name("My\r\nApp/1.0 <b>"), "MyApp/1.0 <b>");
        assert_eq!(name("My\u{202e}ppA\u{9b}/1.0"), "MyppA/1.0");
        assert_eq!(name(&"é".repeat(60)), "é".repeat(60));
        assert_eq!(name(&"é".repeat(61)), "é".repeat(59) + "…");
        assert_eq!(name(&"é".repeat(300)).chars().count(), DeviceName::MAX_OTHER_CHARS);
        assert_eq!(name(" \t "), "unknown");
        assert_eq!(DeviceName::from_user_agent(None).to_string(), "unknown");
    }
}
