//! Extractors whose refusals are [`ApiError`]s.
//!
//! They say which field is at fault and what was expected, but never repeat a value: it may be a
//! password.

use std::convert::Infallible;
use std::error::Error;
use std::fmt::Display;

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;

use super::ApiError;
use crate::client_info::ClientInfo;

/// A JSON body.
#[derive(Clone, Copy, Debug)]
pub struct JsonBody<T>(
    /// What it holds.
    pub T,
);

impl<S, T> FromRequest<S> for JsonBody<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        if !is_of_type(request.headers(), "application/json") {
            return Err(ApiError::UnsupportedMediaType);
        }
        let body = Bytes::from_request(request, state).await.map_err(|refusal| match refusal.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge,
            _ => ApiError::InvalidRequest("The body could not be read to its end.".to_owned()),
        })?;
        from_json(&body).map(Self)
    }
}

/// The query, each parameter once and none that is unknown: for types that say
/// `#[serde(deny_unknown_fields)]`.
#[derive(Clone, Copy, Debug)]
pub struct QueryParams<T>(
    /// What it holds.
    pub T,
);

impl<S, T> FromRequestParts<S> for QueryParams<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let refused = |refusal| ApiError::InvalidRequest(query_problem(&refusal));
        Query::try_from_uri(&parts.uri).map(|Query(params)| Self(params)).map_err(refused)
    }
}

/// Where the request comes from.
impl<S: Sync> FromRequestParts<S> for ClientInfo {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self::from_request_parts(&parts.extensions, &parts.headers))
    }
}

/// Whether the body says that it is of this media type, whatever its parameters.
pub(super) fn is_of_type(headers: &HeaderMap, media_type: &str) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(media_type)
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // serde would also read a struct from an array, by position.
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(ApiError::InvalidRequest("The body must be a JSON object.".to_owned()));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        json_problem(&path, error.inner())
    })?;
    deserializer.end().map_err(|error| json_problem(".", &error))?;
    Ok(value)
}

fn json_problem(path: &str, error: &serde_json::Error) -> ApiError {
    ApiError::InvalidRequest(if error.is_data() {
        field_problem(path, error)
    } else {
        format!("The body is not JSON (line {}, column {}).", error.line(), error.column())
    })
}

fn query_problem(refusal: &(dyn Error + 'static)) -> String {
    let mut cause = Some(refusal);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<serde_path_to_error::Error<serde::de::value::Error>>() {
            return field_problem(&error.path().to_string(), error.inner());
        }
        cause = error.source();
    }
    "The query can't be read.".to_owned()
}

// serde tells its errors apart by their text alone. The last `, expected` is its own, whatever the
// value before it holds.
fn field_problem(path: &str, error: &dyn Display) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let expected = text.rsplit_once(", expected ").map(|(_, expected)| expected);
    let field = &path[..path.floor_char_boundary(NAME_SHOWN)];

    if let Some(name) = quoted(text, "missing field `") {
        format!("`{name}` is missing.")
    } else if let Some(name) = quoted(text, "duplicate field `") {
        format!("`{name}` comes twice.")
    } else if text.starts_with("unknown field `") {
        format!("`{field}` is unknown here; known is {}.", expected.unwrap_or("none"))
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

const NAME_SHOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the refusals are looked at")]
    struct Example {
        count: u32,
        share: Option<f64>,
        text: String,
    }

    #[test]
    fn a_body_is_refused_by_field() {
        for (body, detail) in [
            (r#"{"count":1}"#, "`text` is missing."),
            (r#"{"count":1,"count":1}"#, "`count` comes twice."),
            (r#"{"cuont":1}"#, "`cuont` is unknown here; known is one of `count`, `share`, `text`."),
            (r#"{"count":-1}"#, "`count` must be a whole number in range."),
            (r#"{"count":1.5}"#, "`count` must be a whole number in range."),
            (r#"{"share":"much"}"#, "`share` must be a number."),
            (r#"{"text":null}"#, "`text` must be a string."),
            (r#"[1,null,"a"]"#, "The body must be a JSON object."),
            ("", "The body is not JSON (line 1, column 0)."),
            (r#"{"count":1,"text":""} x"#, "The body is not JSON (line 1, column 23)."),
        ] {
            let error = from_json::<Example>(body.as_bytes()).expect_err("must be refused");
            assert_eq!(error.to_string(), detail, "{body}");
            assert_eq!(error.code(), "invalid_request");
        }
    }

    #[test]
    fn a_value_is_never_repeated() {
        let body = r#"{"count":"correct horse, expected battery at line staple"}"#;
        let error = from_json::<Example>(body.as_bytes()).expect_err("must be refused");
        assert_eq!(error.to_string(), "`count` must be a whole number in range.");
    }

    #[test]
    fn a_query_is_refused_by_parameter() {
        for (query, detail) in [
            ("count=1", "`text` is missing."),
            ("count=1&count=2", "`count` comes twice."),
            ("x=1", "`x` is unknown here; known is one of `count`, `share`, `text`."),
            ("count=", "`count` must be a number in range."),
            ("count=99999999999", "`count` must be a number in range."),
        ] {
            let uri = format!("/?{query}").parse().expect("a URI");
            let refusal = Query::<Example>::try_from_uri(&uri).expect_err("must be refused");
            assert_eq!(query_problem(&refusal), detail, "{query}");
        }
    }
}
