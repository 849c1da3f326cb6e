//! Whether a new password is good enough (NIST SP 800-63B-4, 3.1.1): long, and not the kind that is
//! guessed first. No rules about which characters, for they make passwords worse.

use std::cmp::Reverse;

use zxcvbn::{Score, zxcvbn};

/// Maximum length of a password in bytes.
pub const MAX_BYTES: usize = 1024;

/// Why a new password is not good enough, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordRefused {
    /// A guesser would come by it too soon.
    #[error(
        "this password is easy to guess{}: take several uncommon words that have nothing to do with \
         each other or with you",
        because(.why.as_deref())
    )]
    Guessable {
        /// What makes it so, if that can be told: one sentence.
        why: Option<String>,
    },
    /// More than [`MAX_BYTES`].
    #[error("this password is too long: take at most {MAX_BYTES} bytes")]
    TooLong,
    /// Too few code points.
    #[error("this password is too short: take at least {min} characters, for example a few words")]
    TooShort {
        /// How many there must be.
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

/// Looks at the password's first 100 characters, which is where zxcvbn stops too.
pub(super) fn check_guessable(password: &str, words: &[String]) -> Result<(), PasswordRefused> {
    if is_dominated_by(words, password) {
        return Err(PasswordRefused::Guessable { why: Some(CONTEXT.to_owned()) });
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let estimate = zxcvbn(password, &words);
    if estimate.score() >= GOOD_ENOUGH {
        return Ok(());
    }
    let why = estimate.feedback().and_then(|feedback| feedback.warning()).map(|why| why.to_string());
    Err(PasswordRefused::Guessable { why })
}

/// What in `context` may stand in a password, in lower case: each entry as a whole, and the words
/// in it. The longest first.
pub(super) fn words(context: &[&str]) -> Vec<String> {
    let entries = context.iter().map(|entry| &entry[..entry.floor_char_boundary(MAX_WORD)]);
    let pieces = entries.clone().flat_map(|entry| entry.split(|c: char| !c.is_alphanumeric()));
    let mut words: Vec<String> = entries
        .chain(pieces)
        .filter(|word| word.chars().count() >= MIN_WORD)
        .take(MAX_WORDS)
        .map(str::to_lowercase)
        .collect();
    words.sort_by_key(|word| Reverse(word.len()));
    words
}

/// zxcvbn counts a word of the context as one of a few guesses, but what stands between two of them
/// as much more than it is worth.
fn is_dominated_by(words: &[String], password: &str) -> bool {
    let own = words.iter().fold(password.to_lowercase(), |rest, word| rest.replace(word.as_str(), ""));
    own.len() < password.len() && own.chars().filter(|c| c.is_alphanumeric()).count() < MIN_OWN
}

fn because(why: Option<&str>) -> String {
    why.map(|why| format!(" ({})", why.trim_end_matches('.'))).unwrap_or_default()
}

/// Below this zxcvbn calls a password too weak: 10^8 guesses.
const GOOD_ENOUGH: Score = Score::Three;

/// Shorter words prove nothing when they stand in a password.
const MIN_WORD: usize = 3;

/// How many letters and digits a password has beside words of its context.
const MIN_OWN: usize = 8;

const CONTEXT: &str = "It is little more than your name, your address or the name of this service.";

/// What of an entry is looked at, in bytes; and how many words.
const MAX_WORD: usize = 256;
const MAX_WORDS: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_seed::proptest_config;

    const CONTEXT: [&str; 3] = ["ada.lovelace@example.org", "Ada Lovelace", "Sekisho"];

    fn why(password: &str) -> Option<String> {
        match check_guessable(password, &words(&CONTEXT)) {
            Ok(()) => None,
            Err(PasswordRefused::Guessable { why }) => Some(why.unwrap_or_default()),
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
    fn phrases_pass_whatever_their_characters() {
        for password in [
            "tall umbrellas sing at noon",
            "TALLUMBRELLASSINGATNOON",
            "kvxzuwqmbfhgjyd",
            "8361940275518392746",
            "schräge Vögel über Ödland",
            "関所手形を見せてください",
            "ada went to buy nine purple teapots",
        ] {
            assert_eq!(why(password), None, "{password}");
        }
    }

    #[test]
    fn what_is_guessed_first_is_refused() {
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
            assert!(why(password).is_some(), "{password}");
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
            assert!(why(password).is_some(), "{password}");
        }
        assert_eq!(check_guessable("adalovelace, born 1815", &words(&[])), Ok(()));
    }

    #[test]
    fn message_says_what_to_do() {
        let refused = check_guessable("passwordpassword", &[]).unwrap_err().to_string();
        assert!(refused.starts_with("this password is easy to guess (Repeats like"), "{refused}");
        assert!(refused.ends_with("nothing to do with each other or with you"), "{refused}");
        assert_eq!(
            PasswordRefused::TooShort { min: 15 }.to_string(),
            "this password is too short: take at least 15 characters, for example a few words"
        );
    }

    #[test]
    fn endless_context_is_cut() {
        let long = "é".repeat(10_000);
        let many = "word ".repeat(10_000);
        let words = words(&[&long, &many, "ab", ""]);
        assert!(words.len() <= MAX_WORDS);
        assert!(words.iter().all(|word| word.len() <= MAX_WORD && word.chars().count() >= MIN_WORD));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..proptest_config() })]

        #[test]
        fn nothing_makes_the_estimator_panic(password in "\\PC{0,60}", name in "\\PC{0,20}") {
            let _ = check_guessable(&password, &words(&[&name, "ada@example.org"]));
        }
    }
}
