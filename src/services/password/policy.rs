//! Policy for new passwords (NIST SP 800-63B-4, section 3.1.1): a minimum length and a strength estimate.
//!
//! There are no composition rules, which make passwords weaker in practice.

use std::cmp::Reverse;

use zxcvbn::{Score, zxcvbn};

/// Maximum length of a password in bytes.
pub const MAX_BYTES: usize = 1024;

/// Reason why a new password is refused, with advice for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordRefused {
    /// The password is easy to guess.
    #[error(
        "this password is easy to guess{}: choose several uncommon words that are unrelated to each other \
         and to you",
        in_parentheses(.reason.as_deref())
    )]
    Guessable {
        /// One sentence about the cause, if known.
        reason: Option<String>,
    },
    /// The password is longer than [`MAX_BYTES`].
    #[error("this password is too long: use at most {MAX_BYTES} bytes")]
    TooLong,
    /// The password has too few code points.
    #[error("this password is too short: use at least {min} characters, for example a few words")]
    TooShort {
        /// Minimum number of code points.
        min: usize,
    },
}

pub(super) fn check_length(password: &str, min: usize) -> Result<(), PasswordRefused> {
    if password.len() > MAX_BYTES {
        return Err(PasswordRefused::TooLong);
    }
    if password.chars().count() < min {
        return Err(PasswordRefused::TooShort { min });
    }
    Ok(())
}

/// Checks the estimated strength. zxcvbn reads only the first 100 characters.
pub(super) fn check_guessable(password: &str, words: &[String]) -> Result<(), PasswordRefused> {
    if is_dominated_by(words, password) {
        return Err(PasswordRefused::Guessable { reason: Some(CONTEXT_REASON.to_owned()) });
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let estimate = zxcvbn(password, &words);
    if estimate.score() >= MIN_SCORE {
        return Ok(());
    }
    let warning = estimate.feedback().and_then(|feedback| feedback.warning());
    Err(PasswordRefused::Guessable { reason: warning.map(|warning| warning.to_string()) })
}

/// Returns the entries of `context` and the words in them, in lower case, the longest first.
pub(super) fn words(context: &[&str]) -> Vec<String> {
    let entries = context.iter().map(|entry| &entry[..entry.floor_char_boundary(MAX_ENTRY_BYTES)]);
    let pieces = entries.clone().flat_map(|entry| entry.split(|c: char| !c.is_alphanumeric()));
    let mut words: Vec<String> = entries
        .chain(pieces)
        .filter(|word| word.chars().count() >= MIN_WORD_CHARS)
        .take(MAX_WORDS)
        .map(str::to_lowercase)
        .collect();
    words.sort_by_key(|word| Reverse(word.len()));
    words
}

/// Returns `true` if the password contains words of the context and little else.
///
/// zxcvbn rates a single context word as a few guesses, but overrates the characters between two of them.
fn is_dominated_by(words: &[String], password: &str) -> bool {
    let rest = words.iter().fold(password.to_lowercase(), |rest, word| rest.replace(word.as_str(), ""));
    rest.len() < password.len() && rest.chars().filter(|c| c.is_alphanumeric()).count() < MIN_OTHER_CHARS
}

fn in_parentheses(reason: Option<&str>) -> String {
    reason.map(|reason| format!(" ({})", reason.trim_end_matches('.'))).unwrap_or_default()
}

/// Minimum zxcvbn score: at least 10^8 guesses.
const MIN_SCORE: Score = Score::Three;

/// Minimum length of a context word in characters. Shorter ones occur by chance.
const MIN_WORD_CHARS: usize = 3;

/// Minimum number of letters and digits besides the context words.
const MIN_OTHER_CHARS: usize = 8;

const CONTEXT_REASON: &str = "It is little more than your name, your address or the name of this service.";

/// Maximum length of a context entry in bytes.
const MAX_ENTRY_BYTES: usize = 256;

/// Maximum number of context words.
const MAX_WORDS: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_seed::proptest_config;

    const CONTEXT: [&str; 3] = ["ada.lovelace@example.org", "Ada Lovelace", "Sekisho"];

    fn reason(password: &str) -> Option<String> {
        match check_guessable(password, &words(&CONTEXT)) {
            Ok(()) => None,
            Err(PasswordRefused::Guessable { reason }) => Some(reason.unwrap_or_default()),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn length_is_counted_in_code_points() {
        assert_eq!(check_length("ÜüÜüÜüÜüÜüÜüÜü", 15), Err(PasswordRefused::TooShort { min: 15 }));
        assert_eq!(check_length("ÜüÜüÜüÜüÜüÜüÜüÜ", 15), Ok(()));
        assert_eq!(check_length(&"🔑".repeat(64), 15), Ok(()));
        assert_eq!(check_length(&"a".repeat(MAX_BYTES), 15), Ok(()));
        assert_eq!(check_length(&"a".repeat(MAX_BYTES + 1), 15), Err(PasswordRefused::TooLong));
    }

    #[test]
    fn phrases_of_any_characters_are_accepted() {
        for password in [
            "tall umbrellas sing at noon",
            "TALLUMBRELLASSINGATNOON",
            "kvxzuwqmbfhgjyd",
            "8361940275518392746",
            "schräge Vögel über Ödland",
            "関所手形を見せてください",
            "ada went to buy nine purple teapots",
        ] {
            assert_eq!(reason(password), None, "{password}");
        }
    }

    #[test]
    fn common_passwords_are_refused() {
        for password in [
            "passwordpassword",
            "P@ssw0rdP@ssw0rd",
            "aaaaaaaaaaaaaaaaaaaa",
            "abcdefghijklmnopqrst",
            "qwertyuiopasdfgh",
            "123456789012345",
            "iloveyouiloveyou",
            "Summer2024Summer2024",
            "19841984198419841984",
        ] {
            assert!(reason(password).is_some(), "{password}");
        }
    }

    #[test]
    fn words_of_the_context_are_refused() {
        for password in [
            "ada.lovelace@example.org",
            "ADA.LOVELACE@EXAMPLE.ORG",
            "AdaLovelace1815!",
            "adalovelaceexample",
            "Sekisho-Sekisho-1",
            "SekishoSekisho2026!",
        ] {
            assert!(reason(password).is_some(), "{password}");
        }
        assert_eq!(check_guessable("adalovelace, born 1815", &words(&[])), Ok(()));
    }

    #[test]
    fn message_gives_advice() {
        let refused = check_guessable("passwordpassword", &[]).unwrap_err().to_string();
        assert!(refused.starts_with("this password is easy to guess (Repeats like"), "{refused}");
        assert!(refused.ends_with("unrelated to each other and to you"), "{refused}");
        assert_eq!(
            PasswordRefused::TooShort { min: 15 }.to_string(),
            "this password is too short: use at least 15 characters, for example a few words"
        );
    }

    #[test]
    fn long_context_is_truncated() {
        let long = "é".repeat(10_000);
        let many = "word ".repeat(10_000);
        let words = words(&[&long, &many, "ab", ""]);
        assert!(words.len() <= MAX_WORDS);
        assert!(
            words.iter().all(|word| word.len() <= MAX_ENTRY_BYTES && word.chars().count() >= MIN_WORD_CHARS)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..proptest_config() })]

        #[test]
        fn estimator_never_panics(password in "\\PC{0,60}", name in "\\PC{0,20}") {
            let _ = check_guessable(&password, &words(&[&name, "ada@example.org"]));
        }
    }
}
