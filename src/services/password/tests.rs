use std::pin::pin;

use base64::Engine;
use serde::Deserialize;

use super::*;
use crate::models::user::PasswordOrigin;
use crate::services::test_support::poll_once;

const PASSWORD: &str = "tall umbrellas sing at noon";

#[derive(Deserialize)]
struct Vectors {
    by_passlib: Vec<Vector>,
    by_us: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    password: String,
    hash: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn stored(hash: &str) -> StoredHash {
    StoredHash::parse(hash).unwrap()
}

/// Returns the result of a check and its number of bcrypt rounds.
fn check(password: &str, stored: Option<&StoredHash>, cost: u32) -> (PasswordCheck, u64) {
    let mut counter = RoundCounter::default();
    let result = hash::verify(password.as_bytes(), stored, cost, &mut counter);
    (result, counter.rounds)
}

fn hashed(password: &str, cost: u32) -> StoredHash {
    let hash = hash::hash(password.as_bytes(), cost, &mut RoundCounter::default()).unwrap();
    stored(hash.expose_secret())
}

fn cheap_hasher(workers: usize, queue: usize) -> PasswordHasher {
    PasswordHasher::new(PasswordSettings { bcrypt_cost: 4, min_length: 15, workers, queue }).unwrap()
}

/// Returns a hash as stored by an import.
fn imported(hash: &str) -> StoredHash {
    stored(hash).with_origin(PasswordOrigin::Imported)
}

#[test]
fn passlib_hashes_verify() {
    for Vector { password, hash } in vectors().by_passlib {
        let stored = imported(&hash);
        assert!(check(&password, Some(&stored), 4).0.ok, "{hash}");
        let other = format!("!{password}");
        assert!(!check(&other, Some(&stored), 4).0.ok, "{hash}");
    }
}

#[test]
fn hashes_match_those_verified_by_passlib() {
    let by_us = vectors().by_us;
    assert!(by_us.iter().any(|vector| vector.hash.starts_with("$2b$")));
    assert!(by_us.iter().any(|vector| vector.hash.starts_with("$bcrypt-sha256$v=2,t=2b,r=4$")));
    for Vector { password, hash } in by_us {
        let salt = match hash.strip_prefix("$bcrypt-sha256$v=2,t=2b,r=4$") {
            Some(rest) => &rest[..22],
            None => &hash[7..29],
        };
        let salt = hash::BASE64.decode(salt).unwrap().try_into().unwrap();
        let again = hash::hash_with_salt(password.as_bytes(), 4, salt, &mut RoundCounter::default());
        assert_eq!(again.unwrap().expose_secret(), hash);
    }
}

#[test]
fn different_passwords_never_verify_as_equal() {
    let shared = "x".repeat(72);
    for (one, other) in [
        (format!("{shared}a"), format!("{shared}b")),
        (format!("{shared}a"), shared.clone()),
        (shared.clone(), format!("{shared}a")),
        (shared[1..].to_owned(), shared.clone()),
        ("a".to_owned(), "a\0a".to_owned()),
        ("a\0b".to_owned(), "a".to_owned()),
        ("a\0b".to_owned(), "a\0c".to_owned()),
        (" a".to_owned(), "a".to_owned()),
        ("a ".to_owned(), "a".to_owned()),
        ("e\u{301}".to_owned(), "é".to_owned()),
    ] {
        let stored = hashed(&one, 4);
        assert!(check(&one, Some(&stored), 4).0.ok, "{one:?}");
        assert!(!check(&other, Some(&stored), 4).0.ok, "{one:?} and {other:?}");
    }
}

/// B13: a `$2b$` of this program stands for 72 bytes at most, and a truncated one is never rehashed.
#[test]
fn bcrypt_hash_of_72_bytes_matches_longer_passwords_only_if_imported() {
    // bcrypt over 72 times `x`, as this program stored it before, and as passlib stores it.
    let hash = "$2b$04$O0.nBu6WWuqke6ZDfHqhe.auRlGBmkaQBrV/7ZCrHSGbrQC2xUM6q";
    let (whole, longer) = ("x".repeat(72), "x".repeat(73));
    let (own, imported) = (stored(hash), imported(hash));
    for cost in [4, 5] {
        let expected = |ok, needs_rehash| PasswordCheck { ok, needs_rehash };
        assert_eq!(check(&whole, Some(&own), cost).0, expected(true, true), "stored anew as bcrypt-sha256");
        assert_eq!(check(&longer, Some(&own), cost).0, expected(false, false));
        assert_eq!(check(&whole, Some(&imported), cost).0, expected(true, false), "it may be a beginning");
        assert_eq!(check(&longer, Some(&imported), cost).0, expected(true, false), "as passlib");
        assert_eq!(check(&longer, Some(&own), cost).1, 1 << cost, "the same work");
    }
    // Only another program wrote these prefixes, so their origin is known even where it is not stored.
    for prefix in ["$2a$", "$2y$"] {
        let old = stored(&hash.replace("$2b$", prefix)).with_origin(PasswordOrigin::Own);
        assert_eq!(check(&longer, Some(&old), 4).0, PasswordCheck { ok: true, needs_rehash: false });
    }
}

/// B13: 72 bytes and more are stored in a format without that limit.
#[test]
fn only_passwords_shorter_than_72_bytes_are_stored_as_plain_bcrypt() {
    for (password, is_plain) in [("x".repeat(71), true), ("x".repeat(72), false), ("é".repeat(36), false)] {
        let hash = hash::hash(password.as_bytes(), 4, &mut RoundCounter::default()).unwrap();
        assert_eq!(hash.expose_secret().starts_with("$2b$"), is_plain, "{}", password.len());
    }
}

#[test]
fn every_check_does_the_work_of_the_configured_cost() {
    let cost = 7;
    let expected = 1 << cost;
    assert_eq!(check(PASSWORD, None, cost).1, expected, "unknown user, or disabled");
    for stored_cost in 4..=cost {
        let stored = hashed(PASSWORD, stored_cost);
        assert_eq!(check("wrong", Some(&stored), cost).1, expected, "wrong, cost {stored_cost}");
        assert_eq!(check(PASSWORD, Some(&stored), cost).1, expected, "right, cost {stored_cost}");
    }
    for password in ["x".repeat(200), "with\0nul".to_owned()] {
        let stored = hashed(&password, 5);
        assert_eq!(check("wrong", Some(&stored), cost).1, expected);
        assert_eq!(check(&password, None, cost).1, expected);
    }
    let higher = hashed(PASSWORD, 8);
    assert_eq!(check("wrong", Some(&higher), cost).1, 1 << 8, "the stored cost is the minimum");
}

#[test]
fn outdated_hashes_need_rehash() {
    for Vector { password, hash } in vectors().by_passlib {
        let old = hash.starts_with("$2a$") || hash.starts_with("$2y$");
        let cut = password.len() >= 72 && !hash.starts_with("$bcrypt-sha256$");
        let of_other_cost = !hash.starts_with("$2b$04$") && !hash.contains(",r=4$");
        let check_result = check(&password, Some(&imported(&hash)), 4).0;
        assert_eq!(check_result.needs_rehash, !cut && (old || of_other_cost), "{hash}");
    }
    let low = hashed(PASSWORD, 4);
    assert!(check(PASSWORD, Some(&low), 5).0.needs_rehash);
    assert!(!check("wrong", Some(&low), 5).0.needs_rehash, "only the right password can be rehashed");
    let high = hashed(PASSWORD, 5);
    assert!(check(PASSWORD, Some(&high), 4).0.needs_rehash);
}

#[test]
fn formats_are_distinguished() {
    let salt_and_checksum = "SdRZDORaD.msktWQ/93.ke8q9WFswj7rpAzeGEUWElKcd1qJ.ybJ6";
    let sha256 = "$tJSjcgd0coL7jqhQ3XUz9e$IQFt0MLXMiDtalRuQJ9BIcArwcirg0i";
    let unsupported = |format| Err(HashFormatError::Unsupported(format));
    let damaged = |format| Err(HashFormatError::Damaged(format));
    for (text, expected) in [
        (format!("$2b$12${salt_and_checksum}"), Ok(HashFormat::Bcrypt)),
        (format!("$2a$10${salt_and_checksum}"), Ok(HashFormat::Bcrypt)),
        (format!("$2y$04${salt_and_checksum}"), Ok(HashFormat::Bcrypt)),
        (format!("$bcrypt-sha256$v=2,t=2b,r=12{sha256}"), Ok(HashFormat::BcryptSha256)),
        (format!("$2b$21${salt_and_checksum}"), Err(HashFormatError::Cost(21))),
        (format!("$2b$03${salt_and_checksum}"), Err(HashFormatError::Cost(3))),
        (format!("$2b$4${salt_and_checksum}"), damaged("bcrypt")),
        (format!("$2b$+4${salt_and_checksum}"), damaged("bcrypt")),
        (format!("$2b$04${salt_and_checksum}\n"), damaged("bcrypt")),
        (format!("$2b$04${}", &salt_and_checksum[1..]), damaged("bcrypt")),
        (format!("$2b$04$é{}", &salt_and_checksum[2..]), damaged("bcrypt")),
        (format!("$2b$04${}*", &salt_and_checksum[1..]), damaged("bcrypt")),
        ("$2b$".to_owned(), damaged("bcrypt")),
        (format!("$bcrypt-sha256$v=2,t=2b,r=04{sha256}"), damaged("bcrypt-sha256")),
        (format!("$bcrypt-sha256$2b,12{sha256}"), unsupported("a bcrypt-sha256 hash of version 1")),
        (format!("bcrypt$$2b$12${salt_and_checksum}"), unsupported("a bcrypt hash of Django's")),
        ("pbkdf2_sha256$600000$salt$hash".to_owned(), unsupported("a PBKDF2 hash of Django's")),
        ("$pbkdf2-sha256$29000$N2$1t".to_owned(), unsupported("a PBKDF2 hash")),
        ("$2x$12$".to_owned(), unsupported("a bcrypt hash of the faulty version $2x$")),
        ("5f4dcc3b5aa765d61d8327deb882cf99".to_owned(), unsupported("what looks like an MD5 digest")),
        ("hunter2hunter2".to_owned(), unsupported("not a password hash of a known format")),
        (String::new(), unsupported("no hash at all")),
    ] {
        assert_eq!(HashFormat::parse(&text), expected, "{text}");
        if let (Err(error), false) = (expected, text.is_empty()) {
            assert!(!error.to_string().contains(&text), "the message contains the hash");
        }
    }
}

#[tokio::test]
async fn unsupported_hash_counts_as_wrong_password() {
    let passwords = cheap_hasher(1, 0);
    let unsupported = SecretString::from("$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA");
    let check_result = passwords.verify(&PASSWORD.into(), Some(&unsupported)).await.unwrap();
    assert_eq!(check_result, PasswordCheck { ok: false, needs_rehash: false });
}

#[tokio::test]
async fn new_hashes_verify_and_differ() {
    let passwords = cheap_hasher(2, 2);
    for password in [PASSWORD.to_owned(), "x".repeat(MAX_BYTES), String::new()] {
        let password = SecretString::from(password);
        let (one, other) = tokio::join!(passwords.hash(&password), passwords.hash(&password));
        let one = one.unwrap();
        assert_ne!(one.expose_secret(), other.unwrap().expose_secret());
        let check_result = passwords.verify(&password, Some(&one)).await.unwrap();
        assert_eq!(check_result, PasswordCheck { ok: true, needs_rehash: false });
    }
}

#[tokio::test]
async fn full_queue_is_busy_and_long_passwords_are_refused_before_queueing() {
    let passwords = cheap_hasher(1, 1);
    let password = SecretString::from(PASSWORD);
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let mut running = pin!(passwords.pool.run(Caller::Operator, move || gate.recv().unwrap()));
    assert!(poll_once(running.as_mut()).is_pending());
    let mut waiting = pin!(passwords.verify(&password, None));
    assert!(poll_once(waiting.as_mut()).is_pending());

    assert!(matches!(passwords.verify(&password, None).await, Err(PasswordError::Busy)));
    assert!(matches!(passwords.hash(&password).await, Err(PasswordError::Busy)));
    assert!(matches!(passwords.check_new(&password, &[]).await, Err(PasswordError::Busy)));

    let too_long = SecretString::from("x".repeat(MAX_BYTES + 1));
    assert!(matches!(passwords.verify(&too_long, None).await, Err(PasswordError::TooLong)));
    assert!(matches!(passwords.hash(&too_long).await, Err(PasswordError::TooLong)));
    let refused = passwords.check_new(&too_long, &[]).await;
    assert!(matches!(refused, Err(PasswordError::Refused(PasswordRefused::TooLong))));

    open.send(()).unwrap();
    running.await.unwrap();
    assert!(!waiting.await.unwrap().ok);
    assert!(passwords.check_new(&password, &[]).await.is_ok());
}

#[test]
fn invalid_settings_are_refused() {
    let new = |bcrypt_cost, workers| {
        PasswordHasher::new(PasswordSettings { bcrypt_cost, workers, ..Default::default() })
    };
    assert!(matches!(new(3, 1), Err(PasswordError::Cost(3))));
    assert!(matches!(new(21, 1), Err(PasswordError::Cost(21))));
    assert!(matches!(new(12, 0), Err(PasswordError::NoWorkers)));
    assert_eq!(new(3, 1).unwrap_err().to_string(), "login.bcrypt_cost is 3: expected 4 to 20");
}
