//! Error responses as problem details (RFC 9457).

use std::borrow::Cow;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::http_headers::NO_STORE;

/// Problem details of a failed request (RFC 9457).
///
/// `type` is always `about:blank`, so `title` is the reason phrase of the status code (RFC 9457 section
/// 4.2.1). `code` is for programs, `detail` for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Problem {
    /// Always `about:blank`.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "server", schema(example = "about:blank"))]
    pub kind: &'static str,
    /// The reason phrase of the status code.
    #[cfg_attr(feature = "server", schema(example = "Not Found"))]
    pub title: &'static str,
    /// The status code.
    #[cfg_attr(feature = "server", schema(example = 404))]
    pub status: u16,
    /// Description of the error and its remedy.
    #[cfg_attr(feature = "server", schema(value_type = String, example = "There is no such movie."))]
    pub detail: Cow<'static, str>,
    /// Stable code of the error.
    #[cfg_attr(feature = "server", schema(example = "not_found"))]
    pub code: &'static str,
    /// Absolute URL of the sign-in page, in a 401 response to a request without a valid session. It accepts
    /// `?next=` with the path to return to. Absent if there is no such page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(example = "https://app.example.com/auth/sign-in"))]
    pub sign_in_url: Option<String>,
}

impl Problem {
    /// The media type of a problem.
    pub const CONTENT_TYPE: &'static str = "application/problem+json";

    /// The `detail` of [`forbidden`](Self::forbidden).
    pub(crate) const FORBIDDEN: &'static str = "Your account does not have access to this path.";

    /// The `detail` of [`internal`](Self::internal).
    pub(crate) const INTERNAL: &'static str = "Something went wrong on the server.";

    /// Creates a problem without a `type` of its own.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: detail.into(),
            code,
            sign_in_url: None,
        }
    }

    /// Creates the problem of a request for which the user lacks a role.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", Self::FORBIDDEN)
    }

    /// Creates the problem of an unexpected error, whose cause is only logged.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", Self::INTERNAL)
    }

    /// Returns the JSON text of the problem.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Converts the problem into a response with `Cache-Control: no-store`, and with `Retry-After: 1` if
    /// its status is 429 or 503.
    ///
    /// The problem is also in the response's extensions. Outer layers can thus tell the gateway's errors from those of
    /// upstreams, and present them in another form.
    #[must_use]
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(B::from(self.to_json()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(Self::CONTENT_TYPE));
        headers.insert(CACHE_CONTROL, NO_STORE);
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unavailable_problem_has_retry_after_and_escaped_detail() {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "a \"b\"");
        let response: Response<String> = problem.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(
            response.body(),
            r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"a \"b\"","code":"busy"}"#
        );
        let problem = response.extensions().get::<Problem>().map(|problem| problem.code);
        assert_eq!(problem, Some("busy"));
    }
}
