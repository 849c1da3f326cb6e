//! What the client gets of an upstream's answer.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};

use super::reserved_headers::{RESERVED_RESPONSE_HEADERS, remove_reserved_response_headers};
use super::routes::Route;
use super::settings::ProxySettings;
use super::{content_length, hop_by_hop};

/// Makes the head of the upstream's answer ours, less what it may not say.
pub(super) fn prepare_response<B>(
    response: Response<B>,
    route: &Route,
    settings: &ProxySettings,
) -> Response<B> {
    let (mut parts, body) = response.into_parts();
    let headers = &mut parts.headers;
    // An answer of HTTP/1.1 has lost them where its head was read, unless it switches protocols.
    if parts.status == StatusCode::SWITCHING_PROTOCOLS || parts.version == Version::HTTP_2 {
        hop_by_hop::remove(headers);
        content_length::normalize_content_length(headers);
    }
    if headers.keys().any(|name| needs_filtering(name.as_str())) {
        remove_reserved_response_headers(headers);
        settings.reserved_cookies.remove_from_response(headers);
        filter_clear_site_data(headers);
    }
    if let Some(edits) = &route.answers {
        edits.apply(headers);
    }
    settings.via.write_to(parts.version, headers);
    // The version is that of each connection, not of the message.
    parts.version = Version::HTTP_11;
    Response::from_parts(parts, body)
}

/// Whether a header is one of those that are looked at: most answers have none.
fn needs_filtering(name: &str) -> bool {
    name == "set-cookie"
        || name == "clear-site-data"
        || RESERVED_RESPONSE_HEADERS.iter().any(|reserved| reserved.as_str() == name)
}

/// An upstream may clear its own data, but cookies are cleared for the whole host, ours among them:
/// that would sign the user out.
fn filter_clear_site_data(headers: &mut HeaderMap) {
    if !headers.contains_key(CLEAR_SITE_DATA) {
        return;
    }
    let mut kept = Vec::new();
    for line in headers.get_all(CLEAR_SITE_DATA) {
        for kind in line.to_str().unwrap_or_default().split(',').map(str::trim) {
            match kind {
                r#""*""# => kept.extend(ALL_BUT_COOKIES),
                r#""cookies""# | "" => {}
                other => kept.push(other),
            }
        }
    }
    let kept = HeaderValue::try_from(kept.join(", ")).ok().filter(|kept| !kept.is_empty());
    headers.remove(CLEAR_SITE_DATA);
    if let Some(kept) = kept {
        headers.insert(CLEAR_SITE_DATA, kept);
    }
}

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// What else `"*"` stands for (Clear Site Data, section 3.1).
const ALL_BUT_COOKIES: [&str; 4] =
    [r#""cache""#, r#""clientHints""#, r#""executionContexts""#, r#""storage""#];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_only_we_may_send_is_looked_for() {
        assert!(
            RESERVED_RESPONSE_HEADERS
                .iter()
                .chain([&CLEAR_SITE_DATA])
                .all(|name| needs_filtering(name.as_str()))
        );
    }

    #[test]
    fn an_upstream_clears_its_own_data_but_no_cookies() {
        for (sent, kept) in [
            (r#""cookies""#, None),
            (r#""cache", "cookies" , "storage""#, Some(r#""cache", "storage""#)),
            (r#""cache""#, Some(r#""cache""#)),
            (r#""*""#, Some(r#""cache", "clientHints", "executionContexts", "storage""#)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CLEAR_SITE_DATA, HeaderValue::from_static(sent));
            filter_clear_site_data(&mut headers);
            let left = headers.get(CLEAR_SITE_DATA).map(|value| value.to_str().expect("text"));
            assert_eq!(left, kept, "{sent}");
        }
    }
}
