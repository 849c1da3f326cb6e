//! Tests of verification with forged tokens (RFC 8725).

use std::collections::HashSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use ring::hmac;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use time::macros::datetime;

use super::*;
use crate::services::keys::{Algorithm, KeyMaterial};
use crate::services::token_issuer::identity;
use crate::test_seed::proptest_config;

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
const IAT: i64 = NOW.unix_timestamp();

struct Forge {
    material: KeyMaterial,
    keys: KeyRing,
    tokens: AccessTokens,
}

/// The forge of the tests that need no other algorithm.
static HS256: LazyLock<Forge> = LazyLock::new(|| Forge::new(Algorithm::Hs256));

impl Forge {
    fn new(algorithm: Algorithm) -> Self {
        let material = KeyMaterial::generate(1, algorithm, NOW).expect("random bytes");
        let keys = KeyRing::from_material(&material).expect("a key");
        Self { material, keys, tokens: AccessTokens::default() }
    }

    /// Signs arbitrary text with HS256 and the right key.
    fn sign(&self, header: &str, claims: &str) -> String {
        self.sign_with(hmac::HMAC_SHA256, self.material.signing.expose_secret(), header, claims)
    }

    fn sign_with(&self, algorithm: hmac::Algorithm, key: &[u8], header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let tag = hmac::sign(&hmac::Key::new(algorithm, key), signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    fn mint(&self, session: &Session, id: TokenId, now: OffsetDateTime) -> (String, OffsetDateTime) {
        self.tokens.mint(&self.keys.keys()[0], session, id, now).expect("random bytes")
    }

    fn verify(&self, token: &str) -> Result<AccessToken, VerifyError> {
        self.tokens.verify(&self.keys, token, NOW)
    }

    fn with_claims(&self, claims: &Value) -> Result<AccessToken, VerifyError> {
        self.verify(&self.sign(HEADER, &claims.to_string()))
    }

    fn with_header(&self, header: &str) -> Result<AccessToken, VerifyError> {
        self.verify(&self.sign(header, &claims().to_string()))
    }
}

const ID: TokenId = TokenId(Uuid::from_u128(9));
const HEADER: &str = r#"{"typ":"at+jwt","alg":"HS256","kid":"1"}"#;

const CLAIMS: [&str; 11] =
    ["iss", "sub", "aud", "client_id", "iat", "exp", "jti", "sid", "gen", "email", "roles"];

fn claims() -> Value {
    json!({
        "iss": "sekisho", "sub": "00000000-0000-0000-0000-000000000002", "aud": "sekisho",
        "client_id": "sekisho", "iat": IAT, "exp": IAT + 900,
        "jti": "00000000-0000-0000-0000-000000000003", "sid": "00000000-0000-0000-0000-000000000001",
        "gen": 7, "email": "taro@example.jp", "roles": ["user"],
    })
}

fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn claims_without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

fn session() -> Session {
    Session {
        email: "山田\"太郎@example.jp".into(),
        roles: Roles::new(["user", "editor"]).expect("roles"),
        ..Session::example(NOW)
    }
}

#[test]
fn minted_token_verifies_under_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let forge = Forge::new(algorithm);
        let session = session();
        let (token, expires_at) = forge.mint(&session, ID, NOW);
        assert!(token.len() < 1024, "under 1 KiB");
        let verified = forge.verify(&token).expect("valid");
        assert_eq!(verified.id, ID);
        assert_eq!((verified.generation, verified.issued_at), (7, NOW));
        assert_eq!(verified.identity.expires_at, expires_at);
        assert_eq!(&*verified.identity.email, session.email);
        assert_eq!(verified.identity.roles, session.roles);
        assert_eq!(verified.identity.subject, session.subject);
    }
}

#[test]
fn token_has_all_claims_of_rfc_9068() {
    let (token, _) = HS256.mint(&session(), ID, NOW);
    let part = |at| {
        let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(at).expect("a part")).expect("base64url");
        serde_json::from_slice::<Value>(&bytes).expect("JSON")
    };
    assert_eq!(part(0), json!({"typ": "at+jwt", "alg": "HS256", "kid": "1"}));
    let claims = part(1);
    let names: HashSet<_> = claims.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(names, HashSet::from(CLAIMS));
}

#[test]
fn token_carries_the_claims_of_the_application() {
    let value = json!({"plan": "関所 \"team\"", "seats": 5, "nested": {"list": [1, null]}});
    let claims = Claims::new(&value).expect("claims");
    let session = Session { claims: claims.clone(), ..session() };
    let (token, _) = HS256.mint(&session, ID, NOW);
    assert_eq!(HS256.verify(&token).expect("valid").identity.claims, claims);
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("a part")).expect("base64url");
    let payload: Value = serde_json::from_slice(&payload).expect("JSON");
    assert_eq!(payload["claims"], value);
}

#[test]
fn longest_subject_address_and_claims_fit_into_a_cookie() {
    let filler = "x".repeat(Claims::MAX_LEN - r#"{"a":""}"#.len());
    let longest = Session {
        subject: Subject::new("~".repeat(Subject::MAX_LEN)).expect("a subject"),
        email: format!("{}@example.jp", "x".repeat(243)),
        claims: Claims::new(&json!({"a": filler})).expect("claims"),
        ..session()
    };
    let (token, expires_at) = HS256.mint(&longest, ID, NOW);
    assert!(token.len() < MAX_NEW_LENGTH / 2, "{}", token.len());
    assert_eq!(HS256.verify(&token).expect("valid").identity, identity(&longest, expires_at));
}

#[test]
fn token_with_odd_claims_or_subject_is_refused() {
    let long = json!({"a": "x".repeat(Claims::MAX_LEN)});
    for odd in [json!(7), json!("{}"), json!([{}]), json!(true), long] {
        let error = HS256.with_claims(&claims_with("claims", odd.clone())).expect_err("must be refused");
        assert_eq!(error, VerifyError::Malformed, "{odd}");
    }
    let twice = claims_with("claims", json!({})).to_string().replace("\"claims\"", r#""claims":{},"claims""#);
    assert_eq!(HS256.verify(&HS256.sign(HEADER, &twice)), Err(VerifyError::Malformed));
    let none = HS256.with_claims(&claims_with("claims", json!(null))).expect("valid");
    assert!(none.identity.claims.is_none());

    let long = "x".repeat(Subject::MAX_LEN + 1);
    for subject in ["", "a b", "a\nb", "関所", &long] {
        let error = HS256.with_claims(&claims_with("sub", json!(subject))).expect_err("must be refused");
        assert_eq!(error, VerifyError::Malformed, "{subject:?}");
    }
}

#[test]
fn jsonwebtoken_verifies_the_token() {
    crate::services::crypto::install();
    let forge = Forge::new(Algorithm::EdDsa);
    let now = OffsetDateTime::from_unix_timestamp(
        i64::try_from(jsonwebtoken::get_current_timestamp()).expect("a time"),
    );
    let session = Session { absolute_expires_at: datetime!(2100-01-01 00:00 UTC), ..session() };
    let (token, _) = forge.mint(&session, ID, now.expect("a time"));
    let jwk = &forge.keys.jwks().keys[0];
    let key = jsonwebtoken::DecodingKey::from_jwk(jwk).expect("a public key");
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.set_audience(&["sekisho"]);
    let decoded = jsonwebtoken::decode::<Value>(token, &key, &validation);
    assert_eq!(decoded.expect("valid").claims["gen"], 7);
}

#[test]
fn token_with_any_changed_bit_is_refused() {
    for algorithm in Algorithm::ALL {
        let forge = Forge::new(algorithm);
        let (token, _) = forge.mint(&session(), ID, NOW);
        let parts: Vec<Vec<u8>> =
            token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).expect("base64url")).collect();
        for part in 0..3 {
            for n in 0..100 {
                let mut changed = parts.clone();
                let bit = n * 37 % (changed[part].len() * 8);
                changed[part][bit / 8] ^= 1 << (bit % 8);
                let text =
                    changed.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).collect::<Vec<_>>().join(".");
                assert!(forge.verify(&text).is_err(), "{algorithm:?} part {part} bit {bit}");
            }
        }
    }
}

#[test]
fn algorithm_other_than_that_of_the_key_is_refused() {
    let claims = claims().to_string();
    for alg in ["none", "None", "NONE", "nOnE"] {
        let header = format!(r#"{{"typ":"at+jwt","alg":"{alg}","kid":"1"}}"#);
        let unsigned = format!("{}.{}.", URL_SAFE_NO_PAD.encode(&header), URL_SAFE_NO_PAD.encode(&claims));
        assert_eq!(HS256.verify(&unsigned), Err(VerifyError::Malformed), "{alg}");
        assert_eq!(HS256.with_header(&header), Err(VerifyError::Malformed), "{alg}");
    }
    let secret = HS256.material.signing.expose_secret();
    for (alg, algorithm) in [("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)] {
        let header = format!(r#"{{"typ":"at+jwt","alg":"{alg}","kid":"1"}}"#);
        let token = HS256.sign_with(algorithm, secret, &header, &claims);
        assert_eq!(HS256.verify(&token), Err(VerifyError::Malformed), "{alg}");
        assert!(HS256.verify(&HS256.sign_with(algorithm, secret, HEADER, &claims)).is_err(), "{alg}");
    }
}

#[test]
fn token_signed_with_public_key_as_hmac_secret_is_refused() {
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
        let forge = Forge::new(algorithm);
        let public = forge.keys.keys()[0].verifier().public_key().expect("a public key").to_vec();
        let jwk = serde_json::to_vec(&forge.keys.jwks()).expect("JSON");
        for key in [public.clone(), public[1..].to_vec(), jwk] {
            let token = forge.sign_with(hmac::HMAC_SHA256, &key, HEADER, &claims().to_string());
            assert_eq!(forge.verify(&token), Err(VerifyError::Malformed), "{algorithm:?}");
        }
    }
}

#[test]
fn header_with_other_parameters_is_refused() {
    for extra in [
        r#""jwk":{"kty":"oct","k":"AAAA"}"#,
        r#""jku":"http://127.0.0.1:1/keys""#,
        r#""x5u":"http://127.0.0.1:1/cert""#,
        r#""x5c":["AAAA"]"#,
        r#""crit":["exp"]"#,
        r#""crit":[]"#,
        r#""b64":false,"crit":["b64"]"#,
        r#""alg":"HS256""#,
        r#""kid":"1""#,
        r#""cty":"JWT""#,
    ] {
        let header = format!(r#"{{"typ":"at+jwt","alg":"HS256","kid":"1",{extra}}}"#);
        assert_eq!(HS256.with_header(&header), Err(VerifyError::Malformed), "{extra}");
    }
    for kid in ["", "2", "0", "01", " 1", "../../etc/passwd", "' OR 1=1--", "\\u0000", "１"] {
        let header = format!(r#"{{"typ":"at+jwt","alg":"HS256","kid":"{kid}"}}"#);
        assert_eq!(HS256.with_header(&header), Err(VerifyError::UnknownKey), "{kid}");
    }
    let long = format!(r#"{{"typ":"at+jwt","alg":"HS256","kid":"{}"}}"#, "x".repeat(64 * 1024));
    assert_eq!(HS256.with_header(&long), Err(VerifyError::Malformed));
    for header in
        [r#"{"typ":"at+jwt","alg":"HS256"}"#, r#"{"typ":"at+jwt","alg":"HS256","kid":1}"#, "[]", "1", ""]
    {
        assert_eq!(HS256.with_header(header), Err(VerifyError::Malformed), "{header}");
    }
}

#[test]
fn times_are_checked_against_the_given_clock() {
    let ok = |name, value: i64| HS256.with_claims(&claims_with(name, value.into())).map(|_| ());
    assert_eq!(ok("exp", IAT - 4), Ok(()), "within the leeway");
    assert_eq!(ok("exp", IAT - 5), Err(VerifyError::Expired));
    assert_eq!(ok("nbf", IAT + 5), Ok(()), "within the leeway");
    assert_eq!(ok("nbf", IAT + 6), Err(VerifyError::Malformed));
    assert_eq!(ok("nbf", IAT + 120), Err(VerifyError::Malformed));
    assert_eq!(ok("iat", IAT + 15), Ok(()), "a quarter of the grace period");
    assert_eq!(ok("iat", IAT + 16), Err(VerifyError::Malformed));
    for name in ["exp", "iat", "nbf"] {
        for odd in
            [json!(-1.5), json!(1e30), json!("1"), json!(null), json!([1]), json!(i64::MIN), json!(u64::MAX)]
        {
            let error = HS256.with_claims(&claims_with(name, odd.clone())).expect_err("must be refused");
            assert_eq!(error, VerifyError::Malformed, "{name} {odd}");
        }
    }
    assert_eq!(ok("exp", i64::MAX), Err(VerifyError::Malformed));
}

/// B2: a token is expired once it is older than the present lifetime, whatever its `exp`.
#[test]
fn token_older_than_the_lifetime_is_expired() {
    let token = HS256.sign(HEADER, &claims_with("exp", json!(IAT + 900)).to_string());
    let with_lifetime = |millis| {
        let access_ttl = Duration::from_millis(millis);
        AccessTokens::new(JwtSettings { access_ttl, ..JwtSettings::default() })
    };
    let after = |tokens: &AccessTokens, seconds| {
        tokens
            .verify(&HS256.keys, &token, NOW + Duration::from_secs(seconds))
            .map(|token| token.identity.expires_at)
    };
    let shorter = with_lifetime(60_000);
    let expires_at = NOW + Duration::from_secs(60);
    assert_eq!(after(&shorter, 0), Ok(expires_at));
    assert_eq!(after(&shorter, 64), Ok(expires_at), "within the leeway");
    assert_eq!(after(&shorter, 65), Err(VerifyError::Expired));
    assert_eq!(after(&with_lifetime(59_001), 64), Ok(expires_at), "rounded up");
    let longer = with_lifetime(3_600_000);
    assert_eq!(after(&longer, 904), Ok(NOW + Duration::from_secs(900)), "`exp` still counts");
    assert_eq!(after(&longer, 905), Err(VerifyError::Expired));
    let endless = AccessTokens::new(JwtSettings { access_ttl: Duration::MAX, ..JwtSettings::default() });
    assert_eq!(after(&endless, 905), Err(VerifyError::Expired));
}

#[test]
fn expired_token_can_be_read() {
    let token = HS256.sign(HEADER, &claims_with("exp", json!(IAT - 10_000)).to_string());
    assert_eq!(HS256.verify(&token), Err(VerifyError::Expired));
    let read = HS256.tokens.read(&HS256.keys, &token).expect("a valid token");
    assert_eq!((read.generation, read.id), (7, TokenId(Uuid::from_u128(3))));
}

#[test]
fn other_token_types_are_refused() {
    for typ in ["application/at+jwt", "AT+JWT", "Application/At+Jwt"] {
        let header = format!(r#"{{"alg":"HS256","kid":"1","typ":"{typ}"}}"#);
        assert!(HS256.with_header(&header).is_ok(), "{typ}");
    }
    for typ in ["JWT", "", "logout+jwt", "at+jwt;x", "text/at+jwt", "at+jwt "] {
        let header = format!(r#"{{"alg":"HS256","kid":"1","typ":"{typ}"}}"#);
        assert_eq!(HS256.with_header(&header), Err(VerifyError::Malformed), "{typ}");
    }
    assert_eq!(HS256.with_header(r#"{"alg":"HS256","kid":"1"}"#), Err(VerifyError::Malformed));
}

#[test]
fn audience_must_contain_the_gateway() {
    let aud = |aud: Value| HS256.with_claims(&claims_with("aud", aud)).is_ok();
    assert!(aud(json!("sekisho")));
    assert!(aud(json!(["sekisho"])));
    assert!(aud(json!(["other", "sekisho"])));
    for wrong in
        [json!("other"), json!("Sekisho"), json!(""), json!([]), json!(["other"]), json!(null), json!({})]
    {
        assert!(!aud(wrong.clone()), "{wrong}");
    }
    assert!(!aud(json!([["sekisho"]])));
    assert!(HS256.with_claims(&claims_without("aud")).is_err());
}

#[test]
fn issuer_is_compared_exactly() {
    for wrong in [json!("sekisho/"), json!("SEKISHO"), json!(""), json!(null), json!(["sekisho"])] {
        assert!(HS256.with_claims(&claims_with("iss", wrong.clone())).is_err(), "{wrong}");
    }
}

#[test]
fn every_claim_except_nbf_is_required() {
    for name in CLAIMS {
        let error = HS256.with_claims(&claims_without(name)).expect_err("must be refused");
        assert_eq!(error, VerifyError::Malformed, "{name}");
    }
    for (name, odd) in [
        ("sub", json!("")),
        ("gen", json!(0)),
        ("gen", json!(-1)),
        ("gen", json!(4_294_967_296_u64)),
        ("sid", json!("x")),
        ("roles", json!("user")),
        ("roles", json!(["a,b"])),
    ] {
        assert!(HS256.with_claims(&claims_with(name, odd.clone())).is_err(), "{name} {odd}");
    }
}

#[test]
fn only_the_canonical_compact_form_is_accepted() {
    let token = HS256.sign(HEADER, &claims().to_string());
    assert!(HS256.verify(&token).is_ok());
    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    let parts: Vec<_> = token.split('.').collect();
    for other in [
        signed.to_owned(),
        format!("{signed}."),
        format!("{token}."),
        format!("{token}.{signature}"),
        format!("{token}.x.y"),
        format!(".{token}"),
        format!(" {token}"),
        format!("{token} "),
        format!("{token}="),
        format!("{}\n.{}.{}", parts[0], parts[1], parts[2]),
        format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
        format!(r#"{{"payload":"{}","protected":"{}","signature":"{}"}}"#, parts[1], parts[0], parts[2]),
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
    ] {
        assert!(HS256.verify(&other).is_err(), "{other}");
    }
    // The last of 43 characters has two unused bits, which must be zero.
    let last = signature.chars().last().expect("not empty");
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).expect("base64url");
    for twin in (at / 4 * 4)..(at / 4 * 4 + 4) {
        let text = format!("{}{}", &token[..token.len() - 1], &alphabet[twin..=twin]);
        assert_eq!(HS256.verify(&text).is_ok(), twin == at, "{text}");
    }
}

#[test]
fn oversized_tokens_are_refused_before_decoding() {
    let claims = claims_with("email", json!("a".repeat(MAX_LENGTH)));
    assert_eq!(HS256.with_claims(&claims), Err(VerifyError::Malformed));
    assert_eq!(HS256.verify(&"a.".repeat(5_000_000)), Err(VerifyError::Malformed));
}

#[test]
fn duplicate_claims_are_refused() {
    let claims = claims().to_string();
    for twice in [r#""sub":"x""#, r#""exp":99999999999"#, r#""roles":["admin"]"#, r#""gen":7"#] {
        let claims = format!("{},{twice}}}", &claims[..claims.len() - 1]);
        assert_eq!(HS256.verify(&HS256.sign(HEADER, &claims)), Err(VerifyError::Malformed), "{twice}");
    }
}

#[test]
fn upstream_token_is_refused_as_access_token() {
    let forge = Forge::new(Algorithm::Es256);
    let identity = identity(&session(), NOW + Duration::from_secs(60));
    let token = forge.tokens.mint_for_upstream(
        &forge.keys.keys()[0],
        &identity,
        "films",
        ID,
        (NOW, identity.expires_at),
    );
    assert!(forge.verify(&token.expect("random bytes")).is_err());
}

#[test]
fn expiry_is_jittered_and_not_later_than_that_of_the_session() {
    let expiry = |session: &Session, id| HS256.mint(session, TokenId(Uuid::from_u128(id)), NOW).1 - NOW;
    let ending = Session { absolute_expires_at: NOW + Duration::from_millis(90_700), ..session() };
    assert_eq!(expiry(&ending, 0), time::Duration::seconds(90));
    assert_eq!(expiry(&session(), 0), time::Duration::seconds(900));
    assert_eq!(expiry(&session(), u128::MAX), time::Duration::seconds(855));
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn arbitrary_text_is_refused(text in "\\PC{0,200}|([A-Za-z0-9_-]{0,40}\\.){0,4}[A-Za-z0-9_-]{0,60}") {
        prop_assert!(HS256.verify(&text).is_err());
    }

    #[test]
    fn arbitrary_signed_claims_are_refused(claims in "\\PC{0,200}|\\{(\"[a-z]{1,4}\":[0-9\"a-z]{1,8},?){0,6}\\}") {
        prop_assert!(HS256.verify(&HS256.sign(HEADER, &claims)).is_err());
    }
}
