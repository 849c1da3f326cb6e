//! How often a test does what must never go wrong, and the chance in it.

use ring::rand::{SystemRandom, generate};

/// As often as this environment variable says, or else `usual`, which takes seconds.
pub(crate) fn rounds(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |rounds| rounds.parse().unwrap())
}

/// Any number below `limit`.
pub(crate) fn any_below(limit: usize) -> usize {
    let random: [u8; 4] = generate(&SystemRandom::new()).unwrap().expose();
    usize::try_from(u32::from_be_bytes(random)).unwrap() % limit
}
