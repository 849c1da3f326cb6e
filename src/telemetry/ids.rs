//! Unique request and span ids, generated without a system call for each.

use std::cell::Cell;

use crate::request_context::RequestId;

thread_local! {
    /// Random prefix that makes the ids of this thread globally unique.
    static PREFIX: u64 = fastrand::u64(..);
    static STATE: Cell<u64> = Cell::new(fastrand::u64(..));
}

/// Returns a new request id.
pub(crate) fn request() -> RequestId {
    let prefix = PREFIX.with(|prefix| *prefix);
    RequestId::from_u128(u128::from(prefix) << 64 | u128::from(next()))
}

/// Returns a new span id. Zero is invalid (W3C Trace Context, section 3.2.2.4).
pub(crate) fn span() -> u64 {
    next().max(1)
}

/// Returns the next number of a SplitMix64 generator, which has a period of 2^64.
fn next() -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let state = STATE.with(|state| {
        state.set(state.get().wrapping_add(STEP));
        state.get()
    });
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique() {
        let generate = || (0..10_000).map(|_| request().as_str().to_owned()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(generate)).collect();
        let ids: HashSet<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ids.len(), 40_000);
    }
}
