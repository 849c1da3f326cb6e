//! How many rounds a test runs, and its random numbers.

use crate::test_seed::seed;

/// Returns the value of this environment variable, or `usual`, which takes seconds.
pub(crate) fn rounds(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |rounds| rounds.parse().unwrap())
}

/// Returns random numbers that are the same in every run with the same seed.
///
/// Each purpose has numbers of its own, so that none depends on the order in which threads run.
pub(crate) fn random_for(purpose: &str) -> fastrand::Rng {
    // FNV-1a.
    let hash = purpose.bytes().fold(seed() ^ 0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    fastrand::Rng::with_seed(hash)
}
