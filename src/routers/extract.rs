//! Extractors whose rejections are [`ApiError`]s.
//!
//! Their messages name the invalid field and the expected value. They never repeat the received value, which
//! may be a password.

use std::convert::Infallible;
use std::error::Error;
use std::fmt::Display;

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::ApiError;
use super::body_timeout::is_timeout;
use super::content_type::has_media_type;
use crate::client_info::ClientInfo;

/// JSON request body.
#[derive(Clone, Copy, Debug)]
pub struct JsonBody<T>(
    /// The deserialized value.
    pub T,
);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        if !has_media_type(request.headers(), "application/json") {
            return Err(ApiError::UnsupportedMediaType);
        }
        let body =
            Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge,
                _ if is_timeout(&rejection) => ApiError::BodyTimeout,
                _ => ApiError::InvalidRequest("The body is incomplete.".to_owned()),
            })?;
        from_json(&body).map(Self)
    }
}

/// Query parameters.
///
/// Repeated parameters are rejected, and so are unknown ones if the type has `#[serde(deny_unknown_fields)]`.
#[derive(Clone, Copy, Debug)]
pub struct QueryParams<T>(
    /// The deserialized value.
    pub T,
);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let query = Query::try_from_uri(&parts.uri);
        query.map(|Query(params)| Self(params)).map_err(|error| ApiError::InvalidRequest(query_error(&error)))
    }
}

impl<S: Sync> FromRequestParts<S> for ClientInfo {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self::from_request_parts(&parts.extensions, &parts.headers))
    }
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // serde would also deserialize a struct from an array, by position.
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(ApiError::InvalidRequest("The body must be a JSON object.".to_owned()));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        json_error(&path, error.inner())
    })?;
    deserializer.end().map_err(|error| json_error(".", &error))?;
    Ok(value)
}

fn json_error(path: &str, error: &serde_json::Error) -> ApiError {
    ApiError::InvalidRequest(if error.is_data() {
        field_error(path, error)
    } else {
        format!("The body is not JSON (line {}, column {}).", error.line(), error.column())
    })
}

fn query_error(rejection: &(dyn Error + 'static)) -> String {
    let mut cause = Some(rejection);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<serde_path_to_error::Error<serde::de::value::Error>>() {
            return field_error(&error.path().to_string(), error.inner());
        }
        cause = error.source();
    }
    "The query is malformed.".to_owned()
}

/// Translates an error of serde, whose kind is only visible in its text.
///
/// A received value may itself contain `, expected`, so that only the last occurrence is serde's.
fn field_error(path: &str, error: &dyn Display) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let expected = text.rsplit_once(", expected ").map(|(_, expected)| expected);
    let field = &path[..path.floor_char_boundary(MAX_NAME_LENGTH)];

    if let Some(name) = quoted(text, "missing field `") {
        format!("`{name}` is missing.")
    } else if let Some(name) = quoted(text, "duplicate field `") {
        format!("`{name}` is repeated.")
    } else if text.starts_with("unknown field `") {
        format!("`{field}` is unknown; expected {}.", expected.unwrap_or("none"))
    } else {
        format!("`{field}` must be {}.", expected.map_or("a number in range", plain_type))
    }
}

fn quoted<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.strip_prefix(prefix)?.split('`').next()
}

fn plain_type(expected: &str) -> &str {
    match expected {
        "i32" | "i64" | "u32" | "u64" => "a whole number in range",
        "f32" | "f64" => "a number",
        other => other,
    }
}

const MAX_NAME_LENGTH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the rejections are checked")]
    struct Example {
        count: u32,
        share: Option<f64>,
        text: String,
    }

    #[test]
    fn body_errors_name_field() {
        for (body, detail) in [
            (r#"{"count":1}"#, "`text` is missing."),
            (r#"{"count":1,"count":1}"#, "`count` is repeated."),
            (r#"{"cuont":1}"#, "`cuont` is unknown; expected one of `count`, `share`, `text`."),
            (r#"{"count":-1}"#, "`count` must be a whole number in range."),
            (r#"{"count":1.5}"#, "`count` must be a whole number in range."),
            (r#"{"share":"much"}"#, "`share` must be a number."),
            (r#"{"text":null}"#, "`text` must be a string."),
            (r#"[1,null,"a"]"#, "The body must be a JSON object."),
            ("", "The body is not JSON (line 1, column 0)."),
            (r#"{"count":1,"text":""} x"#, "The body is not JSON (line 1, column 23)."),
        ] {
            let error = from_json::<Example>(body.as_bytes()).expect_err("must be rejected");
            assert_eq!(error.to_string(), detail, "{body}");
            assert_eq!(error.code(), "invalid_request");
        }
    }

    #[test]
    fn errors_do_not_repeat_value() {
        let body = r#"{"count":"correct horse, expected battery at line staple"}"#;
        let error = from_json::<Example>(body.as_bytes()).expect_err("must be rejected");
        assert_eq!(error.to_string(), "`count` must be a whole number in range.");
    }

    #[test]
    fn query_errors_name_parameter() {
        for (query, detail) in [
            ("count=1", "`text` is missing."),
            ("count=1&count=2", "`count` is repeated."),
            ("x=1", "`x` is unknown; expected one of `count`, `share`, `text`."),
            ("count=", "`count` must be a number in range."),
            ("count=99999999999", "`count` must be a number in range."),
        ] {
            let uri = format!("/?{query}").parse().expect("a URI");
            let rejection = Query::<Example>::try_from_uri(&uri).expect_err("must be rejected");
            assert_eq!(query_error(&rejection), detail, "{query}");
        }
    }
}
