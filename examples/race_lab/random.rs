//! Seeded random numbers.

use std::time::Duration;

/// The SplitMix64 generator, whose output does not depend on the platform.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Returns a separate generator for each actor, so that plans do not depend on timing.
    pub(crate) fn for_actor(seed: u64, actor: &str) -> Self {
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

    /// Returns a number below `end`, which must not be 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Returns `true` with a probability of 1 / `times`.
    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn between(&mut self, min: Duration, max: Duration) -> Duration {
        let part = self.next() as f64 / u64::MAX as f64;
        min + max.saturating_sub(min).mul_f64(part)
    }

    pub(crate) fn up_to(&mut self, max: Duration) -> Duration {
        self.between(Duration::ZERO, max)
    }
}
