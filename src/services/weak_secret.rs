//! The rule for secrets that are too weak to sign with.
//!
//! It applies to `tokens.secret` and to every key in a key file, on start, on reload and in `check-config`. A secret
//! is weak if
//!
//! 1. it is shorter than [`MIN_BYTES`],
//! 2. it repeats itself, counts up or down, or has too few distinct bytes, or
//! 3. it is well known: published as an example, or containing the words of a placeholder.
//!
//! A hexadecimal or base64 text counts as what it decodes to, so rules 2 and 3 apply to the decoded bytes as well.
//! Letter case, punctuation, and text around a well-known secret make no difference.
//!
//! The well-known secrets are in `known_secrets.bin`, as parts of their hashes, which `scripts/known-secrets` writes.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

/// Minimum length of a secret in bytes.
pub const MIN_BYTES: usize = 32;

/// Reason why a secret is too weak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Weakness {
    /// It is shorter than [`MIN_BYTES`].
    #[error("is shorter than {MIN_BYTES} bytes")]
    Short,
    /// It repeats itself or has too few distinct bytes.
    #[error("repeats itself")]
    Repetitive,
    /// It is publicly known.
    #[error("is a well-known example")]
    WellKnown,
}

/// Checks a secret. Returns `None` for one that is strong enough.
#[must_use]
pub fn find_weakness(secret: &[u8]) -> Option<Weakness> {
    if secret.len() < MIN_BYTES {
        return Some(Weakness::Short);
    }
    let forms = forms(secret);
    if forms.iter().any(|form| is_repetitive(form)) {
        return Some(Weakness::Repetitive);
    }
    forms.iter().any(|form| is_well_known(form)).then_some(Weakness::WellKnown)
}

/// Returns the secret, and what it decodes to as hexadecimal and base64 text, also if that is again such a text.
fn forms(secret: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms = vec![Zeroizing::new(secret.to_vec())];
    let mut next = 0;
    while next < forms.len() && forms.len() < MAX_FORMS {
        let decoded = [decode_hex(&forms[next]), decode_base64(&forms[next])];
        forms.extend(decoded.into_iter().flatten().filter(|bytes| bytes.len() >= MIN_LISTED_BYTES));
        next += 1;
    }
    forms
}

/// Decodes hexadecimal text, with or without `0x`, `hex:`, spaces and colons.
fn decode_hex(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = without_prefix(text, &[b"0x", b"hex:"]);
    let digits = text.iter().filter(|byte| !byte.is_ascii_whitespace() && !b":-".contains(byte));
    let digits = digits.map(|byte| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()));
    let digits = Zeroizing::new(digits.collect::<Option<Vec<u8>>>()?);
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| (high << 4) | low).collect();
    rest.is_empty().then_some(Zeroizing::new(bytes))
}

/// Decodes base64 and base64url text, with or without `base64:`, padding and line breaks.
fn decode_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = without_prefix(text, &[b"base64:"]);
    let standard = text.iter().filter(|byte| !byte.is_ascii_whitespace()).map(|byte| match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => *other,
    });
    let standard = Zeroizing::new(standard.collect::<Vec<u8>>());
    BASE64.decode(&standard).ok().map(Zeroizing::new)
}

fn without_prefix<'t>(text: &'t [u8], prefixes: &[&[u8]]) -> &'t [u8] {
    let rest = prefixes.iter().find_map(|prefix| {
        let (start, rest) = text.split_at_checked(prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then_some(rest)
    });
    rest.unwrap_or(text)
}

/// Returns `true` if there are too few distinct bytes, or too few parts that do not follow from earlier ones.
fn is_repetitive(bytes: &[u8]) -> bool {
    let bytes = &bytes[..bytes.len().min(MAX_EXAMINED_BYTES)];
    let mut is_present = [false; 256];
    for byte in bytes {
        is_present[usize::from(*byte)] = true;
    }
    let distinct = is_present.iter().filter(|is_present| **is_present).count();
    distinct < MIN_DISTINCT || count_parts(bytes) < MIN_PARTS.min(bytes.len() / 2)
}

/// Counts the parts of `bytes`: single bytes, repetitions of earlier bytes, and sequences with a constant step.
fn count_parts(bytes: &[u8]) -> usize {
    let mut parts = 0;
    let mut at = 0;
    while at < bytes.len() {
        let length = repetition(bytes, at).max(sequence(&bytes[at..]));
        at += if length >= MIN_REPETITION { length } else { 1 };
        parts += 1;
    }
    parts
}

/// Returns the length of the longest run at `at` that also begins earlier.
fn repetition(bytes: &[u8], at: usize) -> usize {
    let common = |start: usize| bytes[start..].iter().zip(&bytes[at..]).take_while(|(a, b)| a == b).count();
    (0..at).map(common).max().unwrap_or(0)
}

/// Returns the length of the sequence with a constant step, such as `abc` or `97531`, that `bytes` begins with.
fn sequence(bytes: &[u8]) -> usize {
    let step = |pair: &[u8]| pair[1].wrapping_sub(pair[0]);
    let Some(first) = bytes.windows(2).next().map(step) else { return bytes.len() };
    1 + bytes.windows(2).take_while(|pair| step(pair) == first).count()
}

fn is_well_known(form: &[u8]) -> bool {
    let canonical = canonical(form);
    if is_listed(&canonical) {
        return true;
    }
    if std::str::from_utf8(form).is_err() {
        return false;
    }
    let text = &canonical[..canonical.len().min(MAX_EXAMINED_BYTES)];
    PLACEHOLDERS.iter().any(|word| memchr::memmem::find(text, word.as_bytes()).is_some())
        || contains_listed(&text[..text.len().min(MAX_SEARCHED_BYTES)])
}

/// Returns `true` if any part of `text` is listed. Text around a well-known secret does not make it stronger.
fn contains_listed(text: &[u8]) -> bool {
    let mut parts =
        (0..text.len()).flat_map(|start| (start + MIN_LISTED_BYTES..=text.len()).map(move |end| start..end));
    parts.any(|part| is_listed(&text[part]))
}

/// Returns a text in lower case without ASCII punctuation and spaces, or other bytes unchanged.
/// `scripts/known-secrets` does the same.
fn canonical(form: &[u8]) -> Zeroizing<Vec<u8>> {
    if std::str::from_utf8(form).is_err() {
        return Zeroizing::new(form.to_vec());
    }
    let is_kept = |byte: &&u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
    let text = form.iter().filter(is_kept).map(u8::to_ascii_lowercase);
    let text = Zeroizing::new(text.collect::<Vec<u8>>());
    if text.len() >= MIN_LISTED_BYTES { text } else { Zeroizing::new(form.to_vec()) }
}

fn is_listed(canonical: &[u8]) -> bool {
    let hash = digest(&SHA256, canonical);
    let Some(start) = hash.as_ref().first_chunk::<RECORD_BYTES>() else { return false };
    let (records, _) = KNOWN_SECRETS.as_chunks::<RECORD_BYTES>();
    records.binary_search(start).is_ok()
}

/// Sorted records: the beginnings of hashes.
const KNOWN_SECRETS: &[u8] = include_bytes!("known_secrets.bin");
const RECORD_BYTES: usize = 6;

/// Minimum length of a listed secret, and so of a decoded form and of a part that is looked up.
const MIN_LISTED_BYTES: usize = 16;

const MAX_FORMS: usize = 8;

/// Length beyond which a secret is not examined, so that the check stays fast.
const MAX_EXAMINED_BYTES: usize = 512;

/// Length up to which every part of a text is looked up.
const MAX_SEARCHED_BYTES: usize = 256;

const MIN_DISTINCT: usize = 8;
const MIN_PARTS: usize = 16;
const MIN_REPETITION: usize = 3;

/// Decodes with any padding, and with unused bits that are not zero.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Parts of placeholder secrets, in lower case and without punctuation.
const PLACEHOLDERS: [&str; 32] = [
    "0123456789",
    "1234567890",
    "1qaz2wsx",
    "abcdefghij",
    "asdfghjkl",
    "asecretstring",
    "astringsecret",
    "avalidstringsecret",
    "changeit",
    "changeme",
    "changethis",
    "correcthorsebattery",
    "defaultsecret",
    "examplesecret",
    "inproduction",
    "insecure",
    "jwtsecret",
    "loremipsum",
    "mysecret",
    "mysupersecret",
    "quickbrownfox",
    "qwertyuiop",
    "randomstring",
    "replacethis",
    "replaceme",
    "secretkey",
    "supersecret",
    "thisisasecret",
    "tobeornottobe",
    "topsecret",
    "verysecret",
    "yoursecret",
];

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    const FASTAPI: &str = "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7";
    const SPRING: &str = "404E635266556A586E3272357538782F413F4428472B4B6250645367566B5970";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// B14: length, variety, and published secrets.
    #[test]
    fn short_repetitive_and_published_secrets_are_weak() {
        for (weakness, secrets) in [
            (Weakness::Short, &["", "secret", "your-256-bit-secret", "kq2V8mYb0Zr4n7PxWc1sTgH5uJdLfA9"][..]),
            (
                Weakness::Repetitive,
                &[
                    "secretsecretsecretsecretsecretsecret",
                    "secretsecretsecretsecretsecretsecret1",
                    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabcd",
                    "abcdefghijklmnopqrstuvwxyz0123456789",
                    "zyxwvutsrqponmlkjihgfedcba9876543210",
                    "0101010110010101001011010101001010010110",
                    "abc123abc123abc123abc123abc123xyz",
                    "0123456789abcdef0123456789abcdef",
                ],
            ),
            (
                Weakness::WellKnown,
                &[
                    "changeme-changeme-changeme-now-please",
                    "CHANGE_ME_to_something_long_and_random",
                    "a-string-secret-at-least-256-bits-long",
                    "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
                    "django-insecure-4#x9!kq2pz7$w8v6u5t3s1r0",
                    "your-secret-key-that-no-one-can-guess-1",
                    "super-secret-jwt-token-with-at-least-32-characters-long",
                    "%C*F-JaNdRgUkXp2s5v8y/B?E(G+KbPeShVmYq3t6w9z$C&J@McQfTjWnZr4u7x!",
                    "r9iMKoe5CRMgvJBBtp4HrqN7QiPpUToj",
                    "The quick brown fox jumps over the lazy dog",
                    "Lorem ipsum dolor sit amet, consectetur",
                    "maclesecretedontjesuisleseuleàconnaitrezehahahahahahaha-1",
                    "569a1821-0a93-45e8-87ab-eb857f20a010",
                    FASTAPI,
                    SPRING,
                ],
            ),
        ] {
            for secret in secrets {
                assert_eq!(find_weakness(secret.as_bytes()), Some(weakness), "{secret}");
            }
        }
    }

    /// B14: bytes of a key file, which need not be text.
    #[test]
    fn bytes_without_variety_are_weak() {
        let counting: Vec<u8> = (0..32).collect();
        let odd: Vec<u8> = (0..32).map(|n| n * 3 + 7).collect();
        for bytes in [vec![0; 32], vec![0xff; 64], counting, odd, [vec![0; 31], vec![1]].concat()] {
            for secret in [bytes.clone(), hex(&bytes).into_bytes(), STANDARD.encode(&bytes).into_bytes()] {
                assert_eq!(find_weakness(&secret), Some(Weakness::Repetitive), "{secret:?}");
            }
        }
    }

    /// B14: another notation of a well-known secret is well known.
    #[test]
    fn encodings_and_decodings_of_well_known_secrets_are_weak() {
        let spring = decode_hex(SPRING.as_bytes()).expect("hex").to_vec();
        let fastapi = decode_hex(FASTAPI.as_bytes()).expect("hex").to_vec();
        let mut secrets =
            vec![fastapi.clone(), spring, format!("base64:{}", STANDARD.encode(&fastapi)).into_bytes()];
        for text in [FASTAPI, SPRING, "a-string-secret-at-least-256-bits-long", "your-256-bit-secret"] {
            let hex = hex(text.as_bytes());
            secrets.push(hex.to_uppercase().into_bytes());
            secrets.push(STANDARD.encode(&hex).into_bytes());
            secrets.push(hex.into_bytes());
            secrets.push(format!("{} {}", STANDARD.encode(text), "\n").into_bytes());
            secrets.push(STANDARD.encode(STANDARD.encode(text)).into_bytes());
            secrets.push(URL_SAFE_NO_PAD.encode(text.repeat(2)).into_bytes());
        }
        for text in [FASTAPI, SPRING] {
            secrets.push(text.to_uppercase().into_bytes());
            secrets.push(format!("{text}-2026").into_bytes());
            secrets.push(format!("prod-{text}").into_bytes());
            secrets.push(format!("prod-{text}-2026").into_bytes());
            secrets.push(format!("{{\"kty\":\"oct\",\"k\":\"{text}\",\"alg\":\"HS256\"}}").into_bytes());
        }
        for secret in secrets.iter().filter(|secret| secret.len() >= MIN_BYTES) {
            assert!(find_weakness(secret).is_some(), "{}", String::from_utf8_lossy(secret));
        }
    }

    /// B14: random secrets of every usual form pass.
    #[test]
    fn random_secrets_are_strong() {
        let mut random = fastrand::Rng::with_seed(14);
        for _ in 0..250 {
            let mut bytes = [0; 32];
            random.fill(&mut bytes);
            let text: String = (0..32).map(|_| random.alphanumeric()).collect();
            for secret in [
                bytes.to_vec(),
                hex(&bytes).into_bytes(),
                hex(&bytes).to_uppercase().into_bytes(),
                hex(&bytes[..16]).into_bytes(),
                STANDARD.encode(bytes).into_bytes(),
                URL_SAFE_NO_PAD.encode(bytes).into_bytes(),
                text.into_bytes(),
            ] {
                assert_eq!(find_weakness(&secret), None, "{}", String::from_utf8_lossy(&secret));
            }
        }
    }

    #[test]
    fn other_secrets_are_strong() {
        for secret in [
            "kq2V8mYb0Zr4n7PxWc1sTgH5uJdLfA9eXo3iRvBzQ6E=",
            "5f1d7c0b9e2a4836f7d0c1b2a3948576",
            "31415926535897932384626433832795028841971",
            "a secret for tests of more than 32 bytes",
            "correct kettle under seven mountains sings",
        ] {
            assert_eq!(find_weakness(secret.as_bytes()), None, "{secret}");
        }
    }

    #[test]
    fn records_are_sorted_and_complete() {
        let (records, rest) = KNOWN_SECRETS.as_chunks::<RECORD_BYTES>();
        assert!(records.len() > 4_000 && rest.is_empty());
        assert!(records.is_sorted());
    }
}
