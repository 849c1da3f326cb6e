//! Claims of the application's own in access tokens.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Deserializer, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Claims of the application's own: a JSON object of at most 512 bytes, or none.
///
/// They are given at sign-in, stored with the session, and travel in the access token as the claim `claims`.
/// They are signed but not encrypted: the client can read them. Clones share the text.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use sekisho::identity::Claims;
///
/// #[derive(Deserialize, Serialize)]
/// struct Plan {
///     plan: String,
///     seats: u32,
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let claims = Claims::new(&Plan { plan: "team".to_owned(), seats: 5 })?;
/// assert_eq!(claims.as_json(), Some(r#"{"plan":"team","seats":5}"#));
/// assert_eq!(claims.get::<Plan>()?.seats, 5);
/// assert!(Claims::new(&["not", "an", "object"]).is_err());
/// # Ok(()) }
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Claims(Option<Arc<str>>);

/// Reason why a value cannot be [`Claims`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidClaims {
    /// The JSON is too long.
    #[error("claims have at most {} bytes of JSON, not {len}", Claims::MAX_LEN)]
    TooLong {
        /// Length of the JSON in bytes.
        len: usize,
    },
    /// The value is not a struct or map.
    #[error("claims are a JSON object: use a struct or a map with string keys")]
    NotAnObject,
    /// The value cannot be written as JSON, or the text is not JSON.
    #[error("the claims are not valid JSON")]
    Json(#[source] serde_json::Error),
}

impl Claims {
    /// Maximum length of the JSON in bytes.
    pub const MAX_LEN: usize = 512;

    /// Creates claims from a value that serializes as a JSON object. A value that serializes as `null`, such
    /// as `None` and [`NoClaims`], makes none.
    ///
    /// # Errors
    ///
    /// [`InvalidClaims`] if the value serializes as anything else, or as more than
    /// [`MAX_LEN`](Self::MAX_LEN) bytes.
    pub fn new<C: Serialize + ?Sized>(claims: &C) -> Result<Self, InvalidClaims> {
        let json = serde_json::to_string(claims).map_err(InvalidClaims::Json)?;
        if json == NULL {
            return Ok(Self::default());
        }
        check(&json)?;
        Ok(Self(Some(json.into())))
    }

    /// Creates claims from JSON, such as [`as_json`](Self::as_json) has returned to a store.
    ///
    /// # Errors
    ///
    /// [`InvalidClaims`] if the text is not JSON, not an object, or too long.
    pub fn from_json(json: &str) -> Result<Self, InvalidClaims> {
        Self::from_raw(serde_json::from_str(json).map_err(InvalidClaims::Json)?)
    }

    /// Creates claims from JSON that was parsed. Copies it once.
    pub(crate) fn from_raw(json: &RawValue) -> Result<Self, InvalidClaims> {
        check(json.get())?;
        Ok(Self(Some(json.get().into())))
    }

    /// Returns the claims for serialization, without a copy.
    pub(crate) fn as_raw(&self) -> Option<&RawValue> {
        serde_json::from_str(self.0.as_deref()?).ok()
    }

    /// Returns the JSON. Returns `None` if there are no claims.
    #[must_use]
    pub fn as_json(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Returns `true` if there are no claims.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Deserializes the claims. None are `null`, which an `Option` reads as `None`.
    ///
    /// # Errors
    ///
    /// If the claims are not of this type. Those of a session may be as old as the session: a field that was
    /// added later needs `#[serde(default)]`.
    pub fn get<C: DeserializeOwned>(&self) -> Result<C, serde_json::Error> {
        serde_json::from_str(self.as_json().unwrap_or(NULL))
    }
}

fn check(json: &str) -> Result<(), InvalidClaims> {
    if !json.starts_with('{') {
        return Err(InvalidClaims::NotAnObject);
    }
    if json.len() > Claims::MAX_LEN {
        return Err(InvalidClaims::TooLong { len: json.len() });
    }
    Ok(())
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_json().unwrap_or("none"))
    }
}

/// The type of claims that are not read. It deserializes from all claims, and makes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct NoClaims;

impl<'de> Deserialize<'de> for NoClaims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|IgnoredAny| Self)
    }
}

const NULL: &str = "null";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    struct Plan {
        plan: String,
    }

    fn plan(len: usize) -> Plan {
        Plan { plan: "x".repeat(len - r#"{"plan":""}"#.len()) }
    }

    #[test]
    fn claims_round_trip() {
        let claims = Claims::new(&plan(20)).expect("claims");
        assert_eq!(claims.get::<Plan>().expect("a plan"), plan(20));
        assert_eq!(claims.get::<Option<Plan>>().expect("a plan"), Some(plan(20)));
        assert_eq!(claims.get::<NoClaims>().expect("ignored"), NoClaims);
        let json = claims.as_json().expect("JSON");
        assert_eq!(Claims::from_json(json).expect("claims"), claims);
        assert_eq!(claims.as_raw().map(RawValue::get), Some(json));
        assert!(claims.get::<BTreeMap<String, u32>>().is_err());
    }

    #[test]
    fn null_is_no_claims() {
        for none in [Claims::new(&None::<Plan>), Claims::new(&NoClaims), Claims::new(&())] {
            assert_eq!(none.expect("no claims"), Claims::default());
        }
        let none = Claims::default();
        assert!(none.is_none() && none.as_json().is_none() && none.as_raw().is_none());
        assert_eq!(none.get::<NoClaims>().expect("ignored"), NoClaims);
        assert_eq!(none.get::<Option<Plan>>().expect("none"), None);
        assert!(none.get::<Plan>().is_err());
    }

    #[test]
    fn claims_have_at_most_512_bytes() {
        assert_eq!(Claims::new(&plan(512)).expect("claims").as_json().map(str::len), Some(512));
        let error = Claims::new(&plan(513)).expect_err("too long");
        assert!(matches!(error, InvalidClaims::TooLong { len: 513 }), "{error:?}");
        assert_eq!(error.to_string(), "claims have at most 512 bytes of JSON, not 513");
        let json = format!(r#"{{"plan":"{}"}}"#, "x".repeat(502));
        assert!(matches!(Claims::from_json(&json), Err(InvalidClaims::TooLong { len: 513 })));
    }

    #[test]
    fn only_objects_are_claims() {
        for error in [Claims::new("text"), Claims::new(&7), Claims::new(&[1, 2]), Claims::new(&true)] {
            assert!(matches!(error, Err(InvalidClaims::NotAnObject)), "{error:?}");
        }
        let keys = BTreeMap::from([((1, 2), "a tuple is no key")]);
        assert!(matches!(Claims::new(&keys), Err(InvalidClaims::Json(_))));
        for json in ["", "null", "[1]", "\"{}\"", "{", "{}{}", "{\"a\":}"] {
            assert!(Claims::from_json(json).is_err(), "{json}");
        }
    }
}
