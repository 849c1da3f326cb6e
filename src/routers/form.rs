//! Strict parser of HTML forms: one content type, and no repeated parameters (RFC 6749 section 3.2).

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use http::{HeaderMap, StatusCode};
use url::form_urlencoded;

use super::body_timeout::is_timeout;
use super::content_type::has_media_type;

/// Fields of a form.
pub(super) struct Form(Vec<(String, String)>);

/// Reason why a form is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormError {
    /// The media type is not that of a form.
    #[error("The body must be a form, with `Content-Type: application/x-www-form-urlencoded`.")]
    ContentType,
    /// A required field is absent or empty.
    #[error("`{0}` is missing.")]
    Missing(&'static str),
    /// A field is repeated.
    #[error("`{0}` is repeated.")]
    Repeated(String),
    /// The body did not arrive in time.
    #[error("The body did not arrive in time.")]
    Timeout,
    /// The body exceeds the limit.
    #[error("The body is too large.")]
    TooLarge,
    /// The connection failed before the end of the body.
    #[error("The body is incomplete.")]
    Incomplete,
}

impl Form {
    /// Reads the body of a request as a form.
    pub(super) async fn read(request: Request) -> Result<Self, FormError> {
        if !is_form(request.headers()) {
            return Err(FormError::ContentType);
        }
        let body = Bytes::from_request(request, &()).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => FormError::TooLarge,
            _ if is_timeout(&rejection) => FormError::Timeout,
            _ => FormError::Incomplete,
        })?;
        Self::parse(&body)
    }

    /// Removes a field and returns its value.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let index = self.0.iter().position(|(field, _)| field == name)?;
        Some(self.0.swap_remove(index).1)
    }

    /// Removes a required field, which must not be empty, and returns its value.
    pub(super) fn require(&mut self, name: &'static str) -> Result<String, FormError> {
        self.take(name).filter(|value| !value.is_empty()).ok_or(FormError::Missing(name))
    }

    fn parse(body: &[u8]) -> Result<Self, FormError> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(body) {
            if fields.iter().any(|(field, _)| *field == name) {
                return Err(FormError::Repeated(name.chars().take(MAX_NAME_LENGTH).collect()));
            }
            fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(fields))
    }
}

/// Returns `true` if `Content-Type` is that of a form.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    has_media_type(headers, "application/x-www-form-urlencoded")
}

/// Maximum length of a field name in an error message, in characters.
const MAX_NAME_LENGTH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_decoded_and_removed_once_taken() {
        let mut form = Form::parse(b"username=a%40b.jp&password=x+y%2B&empty=").unwrap_or(Form(Vec::new()));
        assert_eq!(form.take("username").as_deref(), Some("a@b.jp"));
        assert_eq!(form.take("username"), None);
        assert_eq!(form.require("password").as_deref(), Ok("x y+"));
        assert_eq!(form.require("empty"), Err(FormError::Missing("empty")));
    }

    #[test]
    fn repeated_fields_are_rejected() {
        for body in ["a=1&a=2", "password=x&username=u&password=x", "a=1&%61=2", "=1&=2"] {
            assert!(matches!(Form::parse(body.as_bytes()), Err(FormError::Repeated(_))), "{body}");
        }
    }

    #[test]
    fn unusual_bodies_are_accepted() {
        for body in [&b""[..], b"&&&", b"%", b"%zz=%f0%28", b"\xff\xfe=\x00", b"==="] {
            assert!(Form::parse(body).is_ok(), "{}", body.escape_ascii());
        }
    }
}
