//! CORS preflight requests (Fetch, section 3.2.2).

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, ORIGIN, UPGRADE};
use http::{HeaderName, Method};

use super::reserved_headers::{METHOD_OVERRIDES, eq_cgi_name};

/// Returns `true` for a preflight.
///
/// A request that an application could take for another one is no preflight: with a body, with an upgrade, or with a
/// header that overrides the method.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap, has_body: bool) -> bool {
    *method == Method::OPTIONS
        && !has_body
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        && !headers.contains_key(UPGRADE)
        && !headers.keys().any(overrides_method)
}

fn overrides_method(name: &HeaderName) -> bool {
    METHOD_OVERRIDES.iter().any(|other| eq_cgi_name(other, name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::test_support::headers;

    #[test]
    fn preflight_has_no_other_meaning() {
        let preflight = [("origin", "https://a.example"), ("access-control-request-method", "PUT")];
        assert!(is_preflight(&Method::OPTIONS, &headers(&preflight), false));
        assert!(!is_preflight(&Method::OPTIONS, &headers(&preflight), true));
        assert!(!is_preflight(&Method::GET, &headers(&preflight), false));
        for line in preflight {
            assert!(!is_preflight(&Method::OPTIONS, &headers(&[line]), false), "{line:?}");
        }
        for line in [("upgrade", "websocket"), ("x_http_method_override", "PUT"), ("x-http-method", "PUT")] {
            let lines = [preflight[0], preflight[1], line];
            assert!(!is_preflight(&Method::OPTIONS, &headers(&lines), false), "{line:?}");
        }
    }
}
