//! Access tokens: JWTs as RFC 9068 has them.
//!
//! The header is `{"typ":"at+jwt","alg":…,"kid":…}`; the claims are `iss sub aud client_id iat exp jti
//! sid gen email roles`, with `exp` where the article says `expires_at`. `client_id` is the audience:
//! the one client that these tokens are made for.
//!
//! Checking is strict, and goes in the order of RFC 8725: the form, the key by the header, the
//! signature, and only then the claims. The algorithm comes from the key, never from the token. It
//! costs no I/O, and allocates nothing but the [`Identity`]'s own strings.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::keys::{KeyRing, SigningKey};
use crate::identity::{Identity, Roles};
use crate::layer::VerifyError;
use crate::models::session::{AccessTokenRef, Session, SessionId, TokenId};

/// Longer ones are refused unread; ours are under 1 KiB.
pub const MAX_LENGTH: usize = 4096;

/// How access tokens are made and checked.
#[derive(Clone, Debug)]
pub struct JwtSettings {
    /// Who issues them (`iss`).
    pub issuer: String,
    /// For whom (`aud`).
    pub audience: String,
    /// How far `exp` and `nbf` may be off.
    pub leeway: Duration,
    /// How far in the future `iat` may be: a quarter of the grace.
    pub future_iat: Duration,
    /// How long they live.
    pub access_ttl: Duration,
    /// Which part of that, at most, is taken off at random, from 0 to 1, so that tokens issued
    /// together don't expire together.
    pub access_ttl_jitter: f64,
}

impl Default for JwtSettings {
    fn default() -> Self {
        Self {
            issuer: "sekisho".to_owned(),
            audience: "sekisho".to_owned(),
            leeway: Duration::from_secs(5),
            future_iat: Duration::from_secs(15),
            access_ttl: Duration::from_secs(15 * 60),
            access_ttl_jitter: 0.05,
        }
    }
}

/// Makes and checks access tokens.
#[derive(Clone, Debug, Default)]
pub struct AccessTokens {
    settings: JwtSettings,
}

/// An access token of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessToken {
    /// For whom it speaks.
    pub identity: Identity,
    /// Its id (`jti`).
    pub id: TokenId,
    /// The session's generation when it was issued (`gen`).
    pub generation: u32,
    /// When it was issued (`iat`), cut to whole seconds.
    pub issued_at: OffsetDateTime,
}

impl AccessToken {
    /// What a session's row remembers of it.
    #[must_use]
    pub fn reference(&self) -> AccessTokenRef {
        AccessTokenRef { id: self.id, issued_at: self.issued_at }
    }
}

impl AccessTokens {
    /// With these settings.
    #[must_use]
    pub fn new(settings: JwtSettings) -> Self {
        Self { settings }
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &JwtSettings {
        &self.settings
    }

    /// Makes an access token for a session, and says when it expires: never later than the session.
    ///
    /// # Errors
    ///
    /// If the system gives no random bytes, which ES256 needs.
    pub fn mint(
        &self,
        key: &SigningKey,
        session: &Session,
        id: TokenId,
        now: OffsetDateTime,
    ) -> Result<(String, OffsetDateTime), ring::error::Unspecified> {
        let expires_at = whole_seconds((now + self.lifetime(id)).min(session.absolute_expires_at));
        let mut subject = Uuid::encode_buffer();
        let claims = Claims {
            iss: Cow::Borrowed(&self.settings.issuer),
            sub: Cow::Borrowed(session.user_id.0.hyphenated().encode_lower(&mut subject)),
            aud: Audience::One(Cow::Borrowed(&self.settings.audience)),
            client_id: Cow::Borrowed(&self.settings.audience),
            iat: now.unix_timestamp(),
            exp: expires_at.unix_timestamp(),
            nbf: None,
            jti: id.0,
            sid: session.id.0,
            generation: session.generation,
            email: Cow::Borrowed(&session.email),
            roles: Cow::Borrowed(&session.roles),
        };
        Ok((sign(key, &claims)?, expires_at))
    }

    /// Makes a token for an upstream that checks tokens of its own `audience`. We refuse it
    /// ourselves. It lives half a minute longer than the access token that it stands for: a request that
    /// was let through should not fail on its way.
    ///
    /// # Errors
    ///
    /// If the system gives no random bytes.
    pub fn mint_for_upstream(
        &self,
        key: &SigningKey,
        identity: &Identity,
        audience: &str,
        id: TokenId,
        now: OffsetDateTime,
    ) -> Result<String, ring::error::Unspecified> {
        let claims = UpstreamClaims {
            iss: &self.settings.issuer,
            sub: &identity.subject,
            aud: audience,
            client_id: &self.settings.audience,
            iat: now.unix_timestamp(),
            exp: (identity.expires_at.max(now) + UPSTREAM_MIN).unix_timestamp(),
            jti: id.0,
            email: &identity.email,
            roles: &identity.roles,
        };
        sign(key, &claims)
    }

    /// Checks an access token.
    ///
    /// # Errors
    ///
    /// [`VerifyError`] says why it is of no use.
    pub fn verify(
        &self,
        keys: &KeyRing,
        token: &str,
        now: OffsetDateTime,
    ) -> Result<AccessToken, VerifyError> {
        let token = self.check(keys, token, now)?;
        if now >= token.identity.expires_at + self.settings.leeway {
            return Err(VerifyError::Expired);
        }
        Ok(token)
    }

    /// Reads an access token of ours, also one that has expired.
    #[must_use]
    pub fn read(&self, keys: &KeyRing, token: &str, now: OffsetDateTime) -> Option<AccessToken> {
        self.check(keys, token, now).ok()
    }

    /// All checks but that of `exp`.
    fn check(&self, keys: &KeyRing, token: &str, now: OffsetDateTime) -> Result<AccessToken, VerifyError> {
        let (signed, payload, signature) = split(token).ok_or(VerifyError::Malformed)?;
        let header = &signed[..signed.len() - payload.len() - 1];
        let key = key_of(keys, header)?;
        let mut bytes = [0; DECODED_SIGNATURE];
        let signature = decode(signature, &mut bytes)?;
        if !key.verifier().verify(signed.as_bytes(), signature) {
            return Err(VerifyError::Malformed);
        }
        // Clearing the larger one would take as long as decoding an ordinary payload.
        let (mut ordinary, mut large);
        let bytes: &mut [u8] = if payload.len() <= ORDINARY {
            ordinary = [0; ORDINARY / 4 * 3];
            &mut ordinary
        } else {
            large = [0; DECODED_PAYLOAD];
            &mut large
        };
        let claims = serde_json::from_slice(decode(payload, bytes)?).map_err(|_| VerifyError::Malformed)?;
        self.accept(claims, now).ok_or(VerifyError::Malformed)
    }

    fn accept(&self, claims: Claims<'_>, now: OffsetDateTime) -> Option<AccessToken> {
        let settings = &self.settings;
        let issued_at = OffsetDateTime::from_unix_timestamp(claims.iat).ok()?;
        let expires_at = OffsetDateTime::from_unix_timestamp(claims.exp).ok()?;
        let not_before = claims.nbf.map(OffsetDateTime::from_unix_timestamp).transpose().ok()?;
        let ours = claims.iss == settings.issuer && claims.aud.holds(&settings.audience);
        let timely = issued_at <= now + settings.future_iat
            && not_before.is_none_or(|not_before| not_before <= now + settings.leeway);
        // Sums with times at the end of the calendar would overflow.
        let sane = (0..=LAST_SECOND).contains(&claims.iat) && (0..=LAST_SECOND).contains(&claims.exp);
        if !ours || !timely || !sane || claims.sub.is_empty() || claims.generation == 0 {
            return None;
        }
        let identity = Identity {
            subject: claims.sub.into(),
            session: SessionId(claims.sid),
            email: claims.email.into(),
            roles: claims.roles.into_owned(),
            expires_at,
        };
        Some(AccessToken { identity, id: TokenId(claims.jti), generation: claims.generation, issued_at })
    }

    /// The lifetime less its random part, for which the token's id is as good a source as any.
    fn lifetime(&self, id: TokenId) -> Duration {
        let random = f64::from(id.0.as_fields().0) / f64::from(u32::MAX);
        self.settings.access_ttl.mul_f64(1.0 - random * self.settings.access_ttl_jitter.clamp(0.0, 1.0))
    }
}

/// The claims, in the order in which they are written.
#[derive(Deserialize, Serialize)]
struct Claims<'a> {
    #[serde(borrow)]
    iss: Cow<'a, str>,
    #[serde(borrow)]
    sub: Cow<'a, str>,
    #[serde(borrow)]
    aud: Audience<'a>,
    #[serde(borrow)]
    client_id: Cow<'a, str>,
    iat: i64,
    exp: i64,
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    jti: Uuid,
    sid: Uuid,
    #[serde(rename = "gen")]
    generation: u32,
    #[serde(borrow)]
    email: Cow<'a, str>,
    roles: Cow<'a, Roles>,
}

#[derive(Serialize)]
struct UpstreamClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    client_id: &'a str,
    iat: i64,
    exp: i64,
    jti: Uuid,
    email: &'a str,
    roles: &'a Roles,
}

/// `aud`: one string, or an array of them (RFC 7519, section 4.1.3).
#[derive(Serialize)]
#[serde(untagged)]
enum Audience<'a> {
    One(Cow<'a, str>),
    Many(Vec<String>),
}

impl Audience<'_> {
    fn holds(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Audience<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Audience<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_borrowed_str<E>(self, one: &'de str) -> Result<Audience<'de>, E> {
                Ok(Audience::One(Cow::Borrowed(one)))
            }

            fn visit_str<E>(self, one: &str) -> Result<Audience<'de>, E> {
                Ok(Audience::One(Cow::Owned(one.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Audience<'de>, A::Error> {
                let mut many = Vec::new();
                while let Some(name) = names.next_element()? {
                    many.push(name);
                }
                Ok(Audience::Many(many))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

/// A claim that may be absent, but not `null`.
fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    i64::deserialize(deserializer).map(Some)
}

fn sign<C: Serialize>(key: &SigningKey, claims: &C) -> Result<String, ring::error::Unspecified> {
    let claims = serde_json::to_vec(claims).map_err(|_| ring::error::Unspecified)?;
    let mut token = String::with_capacity(MINTED);
    token.push_str(key.header());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let signature = key.signer().sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

/// What is signed, the payload in it, and the signature: three parts (RFC 7515, section 7.1).
fn split(token: &str) -> Option<(&str, &str, &str)> {
    if token.len() > MAX_LENGTH {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    let whole = !header.is_empty() && !payload.contains('.');
    whole.then_some((signed, payload, signature))
}

/// The key that a header names. Ours are compared as they are; other spellings of the same are read.
fn key_of<'k>(keys: &'k KeyRing, header: &str) -> Result<&'k SigningKey, VerifyError> {
    if let Some(key) = keys.keys().iter().find(|key| key.header() == header) {
        return Ok(key);
    }
    let mut bytes = [0; DECODED_PAYLOAD];
    let header: StrictHeader<'_> =
        serde_json::from_slice(decode(header, &mut bytes)?).map_err(|_| VerifyError::Malformed)?;
    // RFC 7515, section 4.1.9: the prefix may be left out, and case doesn't matter.
    let access_token =
        ["at+jwt", "application/at+jwt"].iter().any(|typ| header.typ.eq_ignore_ascii_case(typ));
    if !access_token {
        return Err(VerifyError::Malformed);
    }
    let key = keys.by_kid(&header.kid).ok_or(VerifyError::UnknownKey)?;
    if header.alg == key.algorithm().as_str() { Ok(key) } else { Err(VerifyError::Malformed) }
}

/// Nothing else may be in a header: no key to trust, no address to fetch one from, no extension
/// that must be understood (RFC 7515, sections 4.1.2 to 4.1.8 and 4.1.11).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StrictHeader<'a> {
    #[serde(borrow)]
    typ: Cow<'a, str>,
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    kid: Cow<'a, str>,
}

/// Decodes base64url without padding; any other spelling of the same bytes is refused.
fn decode<'b>(text: &str, bytes: &'b mut [u8]) -> Result<&'b [u8], VerifyError> {
    let length = URL_SAFE_NO_PAD.decode_slice(text, bytes).map_err(|_| VerifyError::Malformed)?;
    Ok(&bytes[..length])
}

fn whole_seconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap_or(at)
}

const DECODED_SIGNATURE: usize = 66;
const DECODED_PAYLOAD: usize = MAX_LENGTH / 4 * 3;

/// How long, encoded, the payloads of ordinary tokens are at most.
const ORDINARY: usize = 1024;

/// Room for a token with ordinary names in it.
const MINTED: usize = 640;

/// The end of the year 9000.
const LAST_SECOND: i64 = 221_876_841_600;

const UPSTREAM_MIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
