//! The response as it is sent to the client.

use http::header::{ALT_SVC, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use super::reserved_headers::{RESERVED_RESPONSE_HEADERS, remove_reserved_response_headers};
use super::routes::Route;
use super::settings::ProxySettings;
use super::upstream::EMPTY_REASON;
use super::{content_length, hop_by_hop};
use crate::http_headers;

/// Rewrites the head of an upstream's response.
///
/// Removes hop-by-hop headers, reserved headers, reserved cookies and `Alt-Svc`, applies the route's edits and
/// adds `Via` unless the route removes it. With `Alt-Svc` (RFC 7838) browsers would send their requests, with the
/// gateway's cookies, past the gateway.
pub(super) fn prepare_response<B>(
    response: Response<B>,
    route: &Route,
    settings: &ProxySettings,
) -> Response<B> {
    let (mut parts, body) = response.into_parts();
    let headers = &mut parts.headers;
    // `http1` has done this already, except for a protocol switch.
    if parts.status == StatusCode::SWITCHING_PROTOCOLS || parts.version == Version::HTTP_2 {
        hop_by_hop::remove(headers);
        content_length::normalize_content_length(headers);
    }
    if headers.keys().any(|name| needs_filtering(name.as_str())) {
        remove_reserved_response_headers(headers);
        settings.reserved_cookies.remove_from_response(headers);
        headers.remove(ALT_SVC);
        filter_clear_site_data(headers);
    }
    if let Some(edits) = &route.response_headers.edits {
        edits.apply(headers);
    }
    if route.response_headers.sends_via {
        settings.via.write_to(parts.version, headers);
    }
    if parts.status.canonical_reason().is_none() && parts.extensions.get::<ReasonPhrase>().is_none() {
        // hyper would write `<none>`.
        parts.extensions.insert(EMPTY_REASON);
    }
    // The version belongs to the connection, not to the message.
    parts.version = Version::HTTP_11;
    Response::from_parts(parts, body)
}

/// Returns `true` for a header that the filters below may remove. Most responses have none.
fn needs_filtering(name: &str) -> bool {
    matches!(name, "set-cookie" | "clear-site-data" | "alt-svc")
        || RESERVED_RESPONSE_HEADERS.iter().any(|reserved| reserved.as_str() == name)
}

/// Removes `"cookies"` from `Clear-Site-Data`.
///
/// Cookies are cleared for the whole host, including those of the gateway. That would sign the user out.
fn filter_clear_site_data(headers: &mut HeaderMap) {
    if !headers.contains_key(CLEAR_SITE_DATA) {
        return;
    }
    let mut kept = Vec::new();
    for directive in http_headers::list_elements(headers, &CLEAR_SITE_DATA) {
        match directive {
            br#""*""# => kept.extend(ALL_EXCEPT_COOKIES),
            br#""cookies""# | b"" => {}
            other if other.is_ascii() => kept.push(other),
            _ => {}
        }
    }
    let kept = HeaderValue::try_from(kept.join(&b", "[..])).ok().filter(|kept| !kept.is_empty());
    headers.remove(CLEAR_SITE_DATA);
    if let Some(kept) = kept {
        headers.insert(CLEAR_SITE_DATA, kept);
    }
}

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// The other directives that `"*"` includes (Clear Site Data, section 3.1).
const ALL_EXCEPT_COOKIES: [&[u8]; 4] =
    [br#""cache""#, br#""clientHints""#, br#""executionContexts""#, br#""storage""#];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_filtered_headers_trigger_the_filter() {
        for name in RESERVED_RESPONSE_HEADERS.iter().chain([&CLEAR_SITE_DATA, &ALT_SVC]) {
            assert!(needs_filtering(name.as_str()), "{name}");
        }
    }

    #[test]
    fn clear_site_data_loses_cookies_only() {
        for (sent, kept) in [
            (r#""cookies""#, None),
            (r#""cache", "cookies" , "storage""#, Some(r#""cache", "storage""#)),
            (r#""cache""#, Some(r#""cache""#)),
            (r#""*""#, Some(r#""cache", "clientHints", "executionContexts", "storage""#)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CLEAR_SITE_DATA, HeaderValue::from_static(sent));
            filter_clear_site_data(&mut headers);
            let value = headers.get(CLEAR_SITE_DATA).map(|value| value.to_str().expect("text"));
            assert_eq!(value, kept, "{sent}");
        }
    }
}
