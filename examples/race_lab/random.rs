//! Chance that is the same again for the same seed.

use std::time::Duration;

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A source of its own for each actor, so that no actor's plan depends on how fast the others are.
    pub(crate) fn of_actor(seed: u64, actor: &str) -> Self {
        // FNV-1a.
        let hash = actor.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        Self(seed ^ hash)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True once in so many times.
    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let part = self.next() as f64 / u64::MAX as f64;
        least + most.saturating_sub(least).mul_f64(part)
    }

    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        self.between(Duration::ZERO, most)
    }
}
