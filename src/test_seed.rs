//! Seed of the tests that explore by chance, for the unit tests and for `tests/it`.
//!
//! The seed is the same in every run unless `SEKISHO_TEST_SEED` names another one, as `scripts/explore`
//! does.

use proptest::test_runner::{Config, RngSeed};

/// Seed of a run without `SEKISHO_TEST_SEED`.
const DEFAULT_SEED: u64 = 20;

/// Returns the seed of this run.
///
/// # Panics
///
/// If `SEKISHO_TEST_SEED` is not a decimal number.
pub(crate) fn seed() -> u64 {
    let Ok(text) = std::env::var("SEKISHO_TEST_SEED") else { return DEFAULT_SEED };
    match text.parse() {
        Ok(seed) => seed,
        Err(error) => panic!("SEKISHO_TEST_SEED={text}: {error}"),
    }
}

/// Returns proptest's default configuration with the seed of this run.
pub(crate) fn proptest_config() -> Config {
    Config { rng_seed: RngSeed::Fixed(seed()), ..Config::default() }
}
