//! Access tokens: JWTs according to RFC 9068.
//!
//! The header is `{"typ":"at+jwt","alg":…,"kid":…}`. The claims are `iss sub aud client_id iat exp jti sid
//! gen email roles`, and `claims` with the application's own if there are any. `client_id` equals the
//! audience.
//!
//! Verification is strict and follows RFC 8725: first the form, then the key by the header, the signature,
//! and last the claims. The algorithm is that of the key, never that of the token. Verification does no
//! I/O and allocates only the strings of the [`Identity`].
//!
//! Tokens are not encoded and verified by `jsonwebtoken`. It reads the header into a map, the claims twice, and the
//! key anew for each token; `exp` and `nbf` it compares with its own clock; and the rules on the form and on repeated
//! members would still be needed here. In instructions per token, with version 12 (callgrind):
//!
//! |                 | HS256  | ES256   | `EdDSA` |
//! |-----------------|--------|---------|---------|
//! | verified here   | 31,000 | 772,000 | 593,000 |
//! | `decode` alone  | 51,000 | 788,000 | 607,000 |
//! | issued here     | 27,000 | 233,000 | 234,000 |
//! | `encode` alone  | 34,000 | 389,000 | 438,000 |

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

use super::keys::{KeyRing, SigningKey};
use crate::identity::{Claims, Identity, Roles, Subject};
use crate::layer::VerifyError;
use crate::models::session::{AccessTokenRef, Session, SessionId, TokenId};

/// Maximum length of an access token in bytes. Longer ones are refused before decoding. Tokens issued
/// here are under 1 KiB without claims of the application and long lists of roles.
pub const MAX_LENGTH: usize = 4096;

/// Maximum length of an access token for a new session. Browsers limit a cookie to 4,096 bytes with its name,
/// and later tokens of the session may have more digits.
pub const MAX_NEW_LENGTH: usize = 4_000;

/// Settings of [`AccessTokens`].
#[derive(Clone, Debug)]
pub struct JwtSettings {
    /// Issuer (`iss`).
    pub issuer: String,
    /// Audience (`aud`).
    pub audience: String,
    /// Tolerance for `exp` and `nbf`.
    pub leeway: Duration,
    /// Tolerance for an `iat` in the future: a quarter of the grace period.
    pub future_iat: Duration,
    /// Lifetime. It also applies to tokens that were issued with a longer one: verification counts it from `iat`.
    pub access_ttl: Duration,
    /// Maximum part of the lifetime, from 0 to 1, that is subtracted at random, so that tokens issued
    /// together do not expire together.
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

/// Issues and verifies access tokens.
#[derive(Clone, Debug, Default)]
pub struct AccessTokens {
    settings: JwtSettings,
}

/// A verified access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessToken {
    /// The user and session that the token identifies.
    pub identity: Identity,
    /// Id (`jti`).
    pub id: TokenId,
    /// Generation of the session at the time of issue (`gen`).
    pub generation: u32,
    /// Time of issue (`iat`), truncated to seconds.
    pub issued_at: OffsetDateTime,
}

impl AccessToken {
    /// Returns the reference that the row of a session stores.
    #[must_use]
    pub fn reference(&self) -> AccessTokenRef {
        AccessTokenRef { id: self.id, issued_at: self.issued_at }
    }
}

impl AccessTokens {
    /// Creates an issuer and verifier with these settings.
    #[must_use]
    pub fn new(settings: JwtSettings) -> Self {
        Self { settings }
    }

    /// Returns the settings.
    #[must_use]
    pub fn settings(&self) -> &JwtSettings {
        &self.settings
    }

    /// Issues an access token for a session. Returns it with its expiry, which is not later than that of the
    /// session.
    ///
    /// # Errors
    ///
    /// If the operating system's random number generator fails, which ES256 needs.
    pub fn mint(
        &self,
        key: &SigningKey,
        session: &Session,
        id: TokenId,
        now: OffsetDateTime,
    ) -> Result<(String, OffsetDateTime), ring::error::Unspecified> {
        let expires_at = truncate_to_seconds((now + self.lifetime(id)).min(session.absolute_expires_at));
        let claims = AccessClaims {
            iss: Cow::Borrowed(&self.settings.issuer),
            sub: Cow::Borrowed(&session.subject),
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
            claims: session.claims.as_raw(),
        };
        Ok((sign(key, &claims)?, expires_at))
    }

    /// Issues a token for an upstream that verifies tokens with its own `audience`.
    ///
    /// [`verify`](Self::verify) refuses such tokens. The token expires 30 seconds after `expires_at`, the
    /// expiry of the access token of the request, so that it does not expire between the proxy and the
    /// upstream.
    ///
    /// # Errors
    ///
    /// If the operating system's random number generator fails.
    pub fn mint_for_upstream(
        &self,
        key: &SigningKey,
        identity: &Identity,
        audience: &str,
        id: TokenId,
        (now, expires_at): (OffsetDateTime, OffsetDateTime),
    ) -> Result<String, ring::error::Unspecified> {
        let claims = UpstreamClaims {
            iss: &self.settings.issuer,
            sub: &identity.subject,
            aud: audience,
            client_id: &self.settings.audience,
            iat: now.unix_timestamp(),
            exp: (expires_at.max(now) + UPSTREAM_EXTRA_TTL).unix_timestamp(),
            jti: id.0,
            email: &identity.email,
            roles: &identity.roles,
        };
        sign(key, &claims)
    }

    /// Verifies an access token. It expires at its `exp`, or earlier if it is older than the present lifetime: the
    /// revocation list goes back no further.
    ///
    /// # Errors
    ///
    /// [`VerifyError`] if the token is invalid or has expired.
    pub fn verify(
        &self,
        keys: &KeyRing,
        token: &str,
        now: OffsetDateTime,
    ) -> Result<AccessToken, VerifyError> {
        let token = self.check(keys, token, Some(now))?;
        if now >= token.identity.expires_at + self.settings.leeway {
            return Err(VerifyError::Expired);
        }
        Ok(token)
    }

    /// Verifies an access token without checking its times.
    #[must_use]
    pub fn read(&self, keys: &KeyRing, token: &str) -> Option<AccessToken> {
        self.check(keys, token, None).ok()
    }

    /// Performs all checks except that of `exp`. Without a time, `iat` and `nbf` are not checked either.
    fn check(
        &self,
        keys: &KeyRing,
        token: &str,
        now: Option<OffsetDateTime>,
    ) -> Result<AccessToken, VerifyError> {
        let (signed, payload, signature) = split_token(token).ok_or(VerifyError::Malformed)?;
        let header = &signed[..signed.len() - payload.len() - 1];
        verify_signature(keys, signed, header, signature)?;
        if payload.len() <= TYPICAL_PAYLOAD {
            // Zeroing the larger buffer takes as long as decoding a typical payload.
            self.check_payload(payload, &mut [0; TYPICAL_PAYLOAD / 4 * 3], now)
        } else {
            self.check_payload(payload, &mut [0; DECODED_PAYLOAD], now)
        }
    }

    fn check_payload(
        &self,
        payload: &str,
        buffer: &mut [u8],
        now: Option<OffsetDateTime>,
    ) -> Result<AccessToken, VerifyError> {
        let decoded = decode(payload, buffer)?;
        let claims = serde_json::from_slice(decoded).map_err(|_| VerifyError::Malformed)?;
        self.check_claims(claims, now).ok_or(VerifyError::Malformed)
    }

    fn check_claims(&self, claims: AccessClaims<'_>, now: Option<OffsetDateTime>) -> Option<AccessToken> {
        let settings = &self.settings;
        let issued_at = OffsetDateTime::from_unix_timestamp(claims.iat).ok()?;
        let exp = claims.exp.min(claims.iat.saturating_add(self.max_age_seconds()));
        let expires_at = OffsetDateTime::from_unix_timestamp(exp).ok()?;
        let not_before = claims.nbf.map(OffsetDateTime::from_unix_timestamp).transpose().ok()?;
        let is_for_gateway = claims.iss == settings.issuer && claims.aud.contains(&settings.audience);
        let is_timely = now.is_none_or(|now| {
            issued_at <= now + settings.future_iat
                && not_before.is_none_or(|not_before| not_before <= now + settings.leeway)
        });
        // Additions to times at the end of the calendar would overflow.
        let is_in_range =
            (0..=MAX_TIMESTAMP).contains(&claims.iat) && (0..=MAX_TIMESTAMP).contains(&claims.exp);
        if !is_for_gateway || !is_timely || !is_in_range || claims.generation == 0 {
            return None;
        }
        let identity = Identity {
            subject: Subject::new(claims.sub).ok()?,
            session: SessionId(claims.sid),
            email: claims.email.into(),
            roles: claims.roles.into_owned(),
            claims: claims.claims.map_or(Ok(Claims::default()), Claims::from_raw).ok()?,
            expires_at,
        };
        Some(AccessToken { identity, id: TokenId(claims.jti), generation: claims.generation, issued_at })
    }

    /// Returns the lifetime in whole seconds, rounded up, as `iat` is rounded down.
    fn max_age_seconds(&self) -> i64 {
        let lifetime = self.settings.access_ttl;
        let rounded_up = lifetime.as_secs().saturating_add(u64::from(lifetime.subsec_nanos() > 0));
        i64::try_from(rounded_up).unwrap_or(i64::MAX)
    }

    /// Returns the lifetime less the jitter, which is derived from the random token id.
    fn lifetime(&self, id: TokenId) -> Duration {
        let random = f64::from(id.0.as_fields().0) / f64::from(u32::MAX);
        self.settings.access_ttl.mul_f64(1.0 - random * self.settings.access_ttl_jitter.clamp(0.0, 1.0))
    }
}

/// Returns `true` if the token begins with the header that one of the keys signs. Costs no cryptography.
pub(super) fn has_own_header(keys: &KeyRing, token: &str) -> bool {
    keys.keys()
        .iter()
        .any(|key| token.strip_prefix(key.header()).is_some_and(|payload| payload.starts_with('.')))
}

/// Returns `true` if one of the keys has signed the token, whatever its claims.
pub(super) fn is_signed_by(keys: &KeyRing, token: &str) -> bool {
    let Some((signed, payload, signature)) = split_token(token) else { return false };
    let header = &signed[..signed.len() - payload.len() - 1];
    verify_signature(keys, signed, header, signature).is_ok()
}

fn verify_signature(keys: &KeyRing, signed: &str, header: &str, signature: &str) -> Result<(), VerifyError> {
    let key = find_key(keys, header)?;
    let mut bytes = [0; DECODED_SIGNATURE];
    let signature = decode(signature, &mut bytes)?;
    if key.verifier().verify(signed.as_bytes(), signature) { Ok(()) } else { Err(VerifyError::Malformed) }
}

/// The claims, in serialization order.
#[derive(Deserialize, Serialize)]
struct AccessClaims<'a> {
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
    #[serde(default, deserialize_with = "non_null", skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    jti: Uuid,
    sid: Uuid,
    #[serde(rename = "gen")]
    generation: u32,
    #[serde(borrow)]
    email: Cow<'a, str>,
    roles: Cow<'a, Roles>,
    // Not parsed before a handler reads them.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    claims: Option<&'a RawValue>,
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
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Audience<'a> {
    One(#[serde(borrow)] Cow<'a, str>),
    Many(Vec<String>),
}

impl Audience<'_> {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

/// Deserializes a claim that may be absent but not `null`.
fn non_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    i64::deserialize(deserializer).map(Some)
}

fn sign<C: Serialize>(key: &SigningKey, claims: &C) -> Result<String, ring::error::Unspecified> {
    let claims = serde_json::to_vec(claims).map_err(|_| ring::error::Unspecified)?;
    let mut token = String::with_capacity(TYPICAL_TOKEN);
    token.push_str(key.header());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let signature = key.signer().sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

/// Splits a token of three parts (RFC 7515, section 7.1) into the signed text, the payload within it, and
/// the signature.
fn split_token(token: &str) -> Option<(&str, &str, &str)> {
    if token.len() > MAX_LENGTH {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    let is_valid = !header.is_empty() && !payload.contains('.');
    is_valid.then_some((signed, payload, signature))
}

/// Returns the key of a token header. Compares it with the headers issued here first, and decodes it only
/// if none is equal.
fn find_key<'k>(keys: &'k KeyRing, header: &str) -> Result<&'k SigningKey, VerifyError> {
    if let Some(key) = keys.keys().iter().find(|key| key.header() == header) {
        return Ok(key);
    }
    let mut bytes = [0; DECODED_PAYLOAD];
    let header: StrictHeader<'_> =
        serde_json::from_slice(decode(header, &mut bytes)?).map_err(|_| VerifyError::Malformed)?;
    // RFC 7515, section 4.1.9: the prefix is optional and the comparison is case-insensitive.
    let is_access_token =
        ["at+jwt", "application/at+jwt"].iter().any(|typ| header.typ.eq_ignore_ascii_case(typ));
    if !is_access_token {
        return Err(VerifyError::Malformed);
    }
    let key = keys.by_kid(&header.kid).ok_or(VerifyError::UnknownKey)?;
    if header.alg == key.algorithm().as_str() { Ok(key) } else { Err(VerifyError::Malformed) }
}

/// The header without any optional parameter. Embedded keys, key URLs and critical extensions (RFC 7515,
/// sections 4.1.2 to 4.1.8 and 4.1.11) are refused.
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

/// Decodes base64url without padding. Refuses non-canonical encodings.
fn decode<'b>(text: &str, buffer: &'b mut [u8]) -> Result<&'b [u8], VerifyError> {
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut *buffer).map_err(|_| VerifyError::Malformed)?;
    Ok(&buffer[..length])
}

fn truncate_to_seconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap_or(at)
}

const DECODED_SIGNATURE: usize = 66;
const DECODED_PAYLOAD: usize = MAX_LENGTH / 4 * 3;

/// Maximum encoded length of a typical payload.
const TYPICAL_PAYLOAD: usize = 1024;

/// Capacity that suffices for a typical token.
const TYPICAL_TOKEN: usize = 640;

/// The end of the year 9000 as a Unix timestamp.
const MAX_TIMESTAMP: i64 = 221_876_841_600;

/// Time by which an upstream token outlives the access token.
const UPSTREAM_EXTRA_TTL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
