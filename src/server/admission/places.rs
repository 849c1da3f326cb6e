//! A limited number of places that all worker threads share.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicIsize, AtomicUsize};

/// A limited number of places, with a cache of free ones for each worker thread.
///
/// The limit is exact: no more places than that are taken, and a thread without a free place of its own takes
/// those of other threads. A thread usually takes and gives back through its own cache, which no other core
/// writes to, so that cores do not contend for a counter.
///
/// The limit is the sum of the free places, the cached ones and those that are taken. While a batch moves between
/// a cache and the free places, another thread may miss it and refuse a request.
pub(super) struct Places {
    limit: AtomicUsize,
    /// Number of places that a cache takes at a time. It keeps at most twice as many.
    batch: usize,
    /// Free places outside the caches. Negative while more places are taken than the limit.
    free: Padded<AtomicIsize>,
    caches: Box<[Padded<AtomicUsize>]>,
}

/// A value on cache lines of its own. Some processors fetch lines in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl Places {
    /// Creates `limit` free places for `threads` threads.
    pub(super) fn new(limit: usize, threads: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            // Most free places stay outside the caches, where one look finds them.
            batch: (limit / (8 * threads.max(1))).clamp(1, MAX_BATCH),
            free: Padded(AtomicIsize::new(to_signed(limit))),
            caches: (0..threads).map(|_| Padded::default()).collect(),
        }
    }

    /// Takes a place for `thread`; returns `false` if none is free.
    pub(super) fn try_take(&self, thread: usize) -> bool {
        let Some(Padded(own)) = self.caches.get(thread) else { return false };
        take_one(own) || self.refill(own) || self.caches.iter().any(|Padded(other)| take_one(other))
    }

    /// Gives a place back that `thread` has taken.
    pub(super) fn give_back(&self, thread: usize) {
        let Some(Padded(own)) = self.caches.get(thread) else { return };
        let cached = own.fetch_add(1, Relaxed) + 1;
        if cached > 2 * self.batch || self.free.0.load(Relaxed) < 0 {
            self.empty_cache(own);
        }
    }

    /// Returns the limit.
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Returns the number of free places. It looks at the caches of all threads.
    pub(super) fn free(&self) -> usize {
        let cached: usize = self.caches.iter().map(|Padded(cache)| cache.load(Relaxed)).sum();
        self.free.0.load(Relaxed).saturating_add_unsigned(cached).max(0).unsigned_abs()
    }

    /// Returns `true` if at least `count` places are free. It looks at the caches only if too few are outside them.
    pub(super) fn has_free(&self, count: usize) -> bool {
        self.free.0.load(Relaxed) >= to_signed(count) || self.free() >= count
    }

    /// Sets the gauge of the places that are held, whose label is the name of the limit.
    pub(super) fn record_gauge(&self, limit: &'static str) {
        let held = self.limit().saturating_sub(self.free());
        metrics::gauge!("sekisho_places_held", "limit" => limit).set(held as f64);
    }

    /// Replaces the limit. Places that are taken beyond a lower limit stay taken until they are given back.
    pub(super) fn set_limit(&self, limit: usize) {
        let previous = self.limit.swap(limit, Relaxed);
        self.free.0.fetch_add(to_signed(limit) - to_signed(previous), Relaxed);
        for Padded(cache) in self.caches.iter() {
            self.empty_cache(cache);
        }
    }

    /// Takes a batch of free places: one for the caller, the others for its cache.
    fn refill(&self, own: &AtomicUsize) -> bool {
        let batch = |free: isize| free.clamp(0, to_signed(self.batch));
        let take = |free: isize| (free > 0).then(|| free - batch(free));
        let Ok(free) = self.free.0.fetch_update(Relaxed, Relaxed, take) else { return false };
        own.fetch_add(batch(free).unsigned_abs() - 1, Relaxed);
        true
    }

    fn empty_cache(&self, cache: &AtomicUsize) {
        self.free.0.fetch_add(to_signed(cache.swap(0, Relaxed)), Relaxed);
    }
}

fn take_one(cache: &AtomicUsize) -> bool {
    cache.fetch_update(Relaxed, Relaxed, |cached| cached.checked_sub(1)).is_ok()
}

fn to_signed(count: usize) -> isize {
    isize::try_from(count).unwrap_or(isize::MAX)
}

/// Largest number of places that a cache takes at a time.
const MAX_BATCH: usize = 16;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn take_all(places: &Places, thread: usize) -> usize {
        std::iter::repeat_with(|| places.try_take(thread)).take_while(|is_taken| *is_taken).count()
    }

    /// A6: the limit was divided by the number of threads.
    #[test]
    fn one_thread_gets_all_places() {
        for limit in [0, 1, 15, 16, 17, 100, 2_000] {
            let places = Places::new(limit, 32);
            assert_eq!(take_all(&places, 7), limit, "{limit}");
        }
    }

    #[test]
    fn places_cached_by_other_threads_are_taken() {
        let places = Places::new(40, 4);
        for thread in [0, 0, 1] {
            assert!(places.try_take(thread));
        }
        assert_eq!(take_all(&places, 3), 37);
        places.give_back(0);
        assert!(places.try_take(2));
        assert!(!places.try_take(0));
    }

    #[test]
    fn limit_changes_while_places_are_taken() {
        let places = Places::new(40, 2);
        assert_eq!(take_all(&places, 0), 40);
        places.set_limit(10);
        for _ in 0..30 {
            places.give_back(0);
            assert!(!places.try_take(1));
        }
        places.give_back(0);
        assert_eq!(take_all(&places, 1), 1);
        places.set_limit(50);
        assert_eq!(take_all(&places, 1), 40);
    }

    #[test]
    fn cache_returns_surplus_places() {
        let places = Places::new(100, 2);
        assert_eq!(take_all(&places, 0), 100);
        for _ in 0..100 {
            places.give_back(0);
        }
        assert!(places.caches[0].0.load(Relaxed) <= 2 * places.batch);
        assert_eq!(take_all(&places, 1), 100);
    }

    #[test]
    fn concurrent_threads_never_exceed_the_limit_and_lose_no_place() {
        let places = Places::new(20, 4);
        let taken = AtomicUsize::new(0);
        thread::scope(|scope| {
            for index in 0..4 {
                let (places, taken) = (&places, &taken);
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        let mut held = 0;
                        while held < 8 && places.try_take(index) {
                            held += 1;
                            assert!(taken.fetch_add(1, Relaxed) < 20);
                        }
                        for _ in 0..held {
                            taken.fetch_sub(1, Relaxed);
                            places.give_back(index);
                        }
                    }
                });
            }
        });
        assert_eq!(take_all(&places, 0), 20);
    }
}
