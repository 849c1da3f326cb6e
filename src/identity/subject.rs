//! The id of a user, in the words of the application that knows the user.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of a user: the application's own, as text of 1 to 128 visible ASCII characters.
///
/// It is the `sub` of access tokens and the value of `X-Forwarded-User`. Numbers are written in decimal, and
/// UUIDs in lower case with hyphens. Ids of other kinds are text for [`new`](Self::new). Clones share the
/// text.
///
/// Two subjects are the same user only if their texts are equal, letter case included. An id must never
/// be reused for another user.
///
/// ```
/// use sekisho::identity::{InvalidSubject, Subject};
///
/// let number = Subject::from(42_i64);
/// assert_eq!(number.as_str(), "42");
/// assert_eq!(number.parse::<i64>(), Ok(42));
///
/// let text = Subject::new("acct_1NxQ")?;
/// assert_eq!(&*text, "acct_1NxQ");
/// assert_eq!(Subject::new("two words"), Err(InvalidSubject::Character));
/// assert_eq!(Subject::new("x".repeat(129)), Err(InvalidSubject::Length(129)));
/// # Ok::<(), InvalidSubject>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Subject(Arc<str>);

/// Reason why a text is not a [`Subject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSubject {
    /// The text is empty or too long. The value is its length in bytes.
    #[error("a subject has from 1 to {max} bytes, not {0}", max = Subject::MAX_LEN)]
    Length(usize),
    /// The text contains a space, a control character or a character outside of ASCII.
    #[error("a subject has visible ASCII characters only: no spaces, no control characters")]
    Character,
}

impl Subject {
    /// Maximum length of a subject in bytes.
    pub const MAX_LEN: usize = 128;

    /// Creates a subject from text.
    ///
    /// # Errors
    ///
    /// [`InvalidSubject`] if the text is not from 1 to [`MAX_LEN`](Self::MAX_LEN) bytes long, or contains
    /// anything but visible ASCII, which a header could not carry.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidSubject> {
        let text = text.as_ref();
        check(text)?;
        Ok(Self(text.into()))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(text: &str) -> Result<(), InvalidSubject> {
    if text.is_empty() || text.len() > Subject::MAX_LEN {
        return Err(InvalidSubject::Length(text.len()));
    }
    // Without an early exit the compiler compares many bytes at once.
    if !text.bytes().fold(true, |is_visible, byte| is_visible & byte.is_ascii_graphic()) {
        return Err(InvalidSubject::Character);
    }
    Ok(())
}

impl Deref for Subject {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Subject {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Subject {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&Subject> for Subject {
    fn from(subject: &Subject) -> Self {
        subject.clone()
    }
}

impl FromStr for Subject {
    type Err = InvalidSubject;

    fn from_str(text: &str) -> Result<Self, InvalidSubject> {
        Self::new(text)
    }
}

impl TryFrom<&str> for Subject {
    type Error = InvalidSubject;

    fn try_from(text: &str) -> Result<Self, InvalidSubject> {
        Self::new(text)
    }
}

impl TryFrom<String> for Subject {
    type Error = InvalidSubject;

    fn try_from(text: String) -> Result<Self, InvalidSubject> {
        Self::new(text)
    }
}

/// Numbers are written in decimal.
macro_rules! from_integer {
    ($($integer:ty)*) => {
        $(impl From<$integer> for Subject {
            fn from(id: $integer) -> Self {
                Self(id.to_string().into())
            }
        })*
    };
}

from_integer!(i32 i64 u32 u64);

impl From<Uuid> for Subject {
    /// Writes the UUID in lower case with hyphens.
    fn from(id: Uuid) -> Self {
        let mut buffer = Uuid::encode_buffer();
        let text: &str = id.hyphenated().encode_lower(&mut buffer);
        Self(text.into())
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_uuids_round_trip() {
        for id in [i64::MIN, -1, 0, 1, i64::MAX] {
            assert_eq!(Subject::from(id).parse(), Ok(id));
        }
        assert_eq!(Subject::from(u64::MAX).parse(), Ok(u64::MAX));
        let id = Uuid::from_u128(0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8);
        assert_eq!(Subject::from(id).as_str(), "67e55044-10b1-426f-9247-bb680e5fe0c8");
        assert_eq!(Subject::from(id).parse(), Ok(id));
        assert_eq!(Subject::new(id.to_string()), Ok(id.into()));
    }

    #[test]
    fn text_of_visible_ascii_is_accepted() {
        let all: String = ('!'..='~').collect();
        for text in ["x", "auth0|5f7c8ec7", "taro@example.jp", &all, &"x".repeat(128)] {
            assert_eq!(Subject::new(text).expect("a subject").as_str(), text);
        }
    }

    #[test]
    fn text_that_no_header_carries_is_refused() {
        for text in ["a b", " a", "a\0", "a\n", "\u{7f}", "é", "関所", "a\u{a0}"] {
            assert_eq!(Subject::new(text), Err(InvalidSubject::Character), "{text:?}");
        }
        for len in [0, 129] {
            let error = Subject::new("x".repeat(len)).expect_err("a wrong length");
            assert_eq!(error, InvalidSubject::Length(len));
            assert!(error.to_string().contains("from 1 to 128 bytes"), "{error}");
        }
    }

    #[test]
    fn json_is_a_string() {
        let subject = Subject::from(7_i64);
        assert_eq!(serde_json::to_string(&subject).expect("JSON"), r#""7""#);
        assert_eq!(serde_json::from_str::<Subject>(r#""7""#).expect("a subject"), subject);
        for json in ["7", r#""a b""#, r#""""#] {
            assert!(serde_json::from_str::<Subject>(json).is_err(), "{json}");
        }
    }
}
