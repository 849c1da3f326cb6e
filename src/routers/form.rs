//! HTML forms, read strictly: one content type, and no parameter twice (RFC 6749, section 3.2).

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use http::{HeaderMap, StatusCode};
use url::form_urlencoded;

use super::extract::is_of_type;

/// The fields of a form.
pub(super) struct Form(Vec<(String, String)>);

/// Why a form can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormError {
    /// Not a form.
    #[error("The body must be a form, with `Content-Type: application/x-www-form-urlencoded`.")]
    ContentType,
    /// A field is not there, or empty.
    #[error("`{0}` is missing.")]
    Missing(&'static str),
    /// A field comes twice.
    #[error("`{0}` comes twice.")]
    Repeated(String),
    /// The body is larger than we read.
    #[error("The body is too large.")]
    TooLarge,
    /// The body broke off.
    #[error("The body could not be read to its end.")]
    Unreadable,
}

impl Form {
    /// Reads the form in a request's body.
    pub(super) async fn read(request: Request) -> Result<Self, FormError> {
        if !is_form(request.headers()) {
            return Err(FormError::ContentType);
        }
        let body = Bytes::from_request(request, &()).await.map_err(|refusal| match refusal.status() {
            StatusCode::PAYLOAD_TOO_LARGE => FormError::TooLarge,
            _ => FormError::Unreadable,
        })?;
        Self::parse(&body)
    }

    /// Takes a field out.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(field, _)| field == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Takes a field out that must be there and not be empty.
    pub(super) fn require(&mut self, name: &'static str) -> Result<String, FormError> {
        self.take(name).filter(|value| !value.is_empty()).ok_or(FormError::Missing(name))
    }

    fn parse(body: &[u8]) -> Result<Self, FormError> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(body) {
            if fields.iter().any(|(field, _)| *field == name) {
                return Err(FormError::Repeated(name.chars().take(64).collect()));
            }
            fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(fields))
    }
}

/// Whether the body says that it is a form.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    is_of_type(headers, "application/x-www-form-urlencoded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_decoded_and_taken_once() {
        let mut form = Form::parse(b"username=a%40b.jp&password=x+y%2B&empty=").unwrap_or(Form(Vec::new()));
        assert_eq!(form.take("username").as_deref(), Some("a@b.jp"));
        assert_eq!(form.take("username"), None);
        assert_eq!(form.require("password").as_deref(), Ok("x y+"));
        assert_eq!(form.require("empty"), Err(FormError::Missing("empty")));
    }

    #[test]
    fn a_repeated_field_is_refused_whatever_it_is() {
        for body in ["a=1&a=2", "password=x&username=u&password=x", "a=1&%61=2", "=1&=2"] {
            assert!(matches!(Form::parse(body.as_bytes()), Err(FormError::Repeated(_))), "{body}");
        }
    }

    #[test]
    fn odd_bodies_do_no_harm() {
        for body in [&b""[..], b"&&&", b"%", b"%zz=%f0%28", b"\xff\xfe=\x00", b"==="] {
            assert!(Form::parse(body).is_ok(), "{}", body.escape_ascii());
        }
    }
}
