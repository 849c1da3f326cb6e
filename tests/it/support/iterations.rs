//! Iteration counts and seeded random numbers of tests.

use crate::test_seed::seed;

/// Returns the value of this environment variable, or `default`, which takes seconds.
pub(crate) fn rounds(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |rounds| rounds.parse().unwrap())
}

/// Returns random numbers that depend only on the seed and on `purpose`.
///
/// Separate numbers for each purpose keep them independent of the order in which threads run.
pub(crate) fn rng_for(purpose: &str) -> fastrand::Rng {
    // FNV-1a.
    let hash = purpose.bytes().fold(seed() ^ 0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    fastrand::Rng::with_seed(hash)
}
