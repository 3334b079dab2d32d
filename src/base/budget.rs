//! A budget of bytes in memory, shared by everything that holds bodies.
//!
//! Windows, part buffers and small bodies take their bytes here before they hold them and wait
//! when there are none, first come, first served. A request larger than the whole budget is given
//! the whole budget, so it waits for everyone else but not for ever.
//!
//! # Why small takes have a part of their own
//!
//! Large bodies hold their bytes for as long as their clients take for them. Were there one pool,
//! a few dozen slow downloads would keep everyone waiting, also who asks for a few bytes.
//!
//! # Why another size is another pool
//!
//! Whoever waits for more than a shrunk pool has would wait for ever. So what is held or waited
//! for belongs to the pool that it was asked of, and what is asked from then on to the new one.
//! Until the old one's bytes come back, there are more than the new size.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::SHORT_BODY_MAX;

/// What one permit stands for: small enough that little is wasted, large enough that a budget
/// of any size fits the semaphore's counter.
const UNIT: u64 = 1024;
/// Of a budget of at least [`DIVIDED_FROM`], one part in so many is for short bodies alone.
const SMALL_SHARE: u64 = 4;
const DIVIDED_FROM: u64 = 16 << 20;

/// The budget. Cloning it shares it.
#[derive(Clone, Debug)]
pub struct Budget(Arc<ArcSwap<Pool>>);

/// A budget while it has one size.
#[derive(Debug)]
struct Pool {
    size: u64,
    main: Part,
    small: Option<Part>,
}

#[derive(Debug)]
struct Part {
    permits: Arc<Semaphore>,
    units: u32,
}

/// Bytes taken from a budget, given back when dropped.
#[derive(Debug)]
pub struct Bytes {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    pub fn new(bytes: u64) -> Budget {
        Budget(Arc::new(ArcSwap::from_pointee(Pool::new(bytes))))
    }

    /// What is taken from now on is taken from `bytes`.
    pub fn resize(&self, bytes: u64) {
        if bytes != self.0.load().size {
            self.0.store(Arc::new(Pool::new(bytes)));
        }
    }

    /// Waits until `bytes` fit.
    pub async fn take(&self, bytes: u64) -> Bytes {
        let pool = self.0.load_full();
        match pool.try_take(bytes) {
            Some(taken) => taken,
            None => pool.first_for(bytes).take(bytes).await,
        }
    }

    /// Takes `bytes` if they fit now and nobody waits before.
    pub fn try_take(&self, bytes: u64) -> Option<Bytes> {
        self.0.load().try_take(bytes)
    }

    /// Bytes that nobody holds.
    pub fn free(&self) -> u64 {
        let pool = self.0.load();
        pool.main.free() + pool.small.as_ref().map_or(0, Part::free)
    }

    /// Bytes that a body which is not short could have now.
    pub fn free_for_large(&self) -> u64 {
        self.0.load().main.free()
    }
}

impl Pool {
    fn new(bytes: u64) -> Pool {
        let small = if bytes >= DIVIDED_FROM { bytes / SMALL_SHARE } else { 0 };
        Pool {
            size: bytes,
            main: Part::new(bytes - small),
            small: (small > 0).then(|| Part::new(small)),
        }
    }

    /// The part that is asked first; a small take may come from the main one too.
    fn first_for(&self, bytes: u64) -> &Part {
        self.small.as_ref().filter(|_| bytes <= SHORT_BODY_MAX).unwrap_or(&self.main)
    }

    fn try_take(&self, bytes: u64) -> Option<Bytes> {
        self.first_for(bytes).try_take(bytes).or_else(|| self.main.try_take(bytes))
    }
}

impl Part {
    fn new(bytes: u64) -> Part {
        let most = (Semaphore::MAX_PERMITS as u64).min(u64::from(u32::MAX));
        let units = bytes.div_ceil(UNIT).clamp(1, most) as u32;
        Part { permits: Arc::new(Semaphore::new(units as usize)), units }
    }

    async fn take(&self, bytes: u64) -> Bytes {
        let permit = Arc::clone(&self.permits).acquire_many_owned(self.units_of(bytes)).await;
        Bytes { _permit: permit.expect("the semaphore is never closed") }
    }

    fn try_take(&self, bytes: u64) -> Option<Bytes> {
        let permit = Arc::clone(&self.permits).try_acquire_many_owned(self.units_of(bytes)).ok()?;
        Some(Bytes { _permit: permit })
    }

    fn free(&self) -> u64 {
        self.permits.available_permits() as u64 * UNIT
    }

    fn units_of(&self, bytes: u64) -> u32 {
        bytes.div_ceil(UNIT).min(u64::from(self.units)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_taken_comes_back() {
        let budget = Budget::new(10 * UNIT);
        let some = budget.take(4 * UNIT).await;
        assert!(budget.try_take(7 * UNIT).is_none());
        drop(some);
        let all = budget.take(u64::MAX).await;
        assert_eq!(budget.free(), 0);
        drop(all);
        assert_eq!(budget.free(), 10 * UNIT);
    }
    #[tokio::test]
    async fn another_size_counts_for_what_is_taken_next() {
        let budget = Budget::new(10 * UNIT);
        let shared = budget.clone();
        let some = budget.take(8 * UNIT).await;
        budget.resize(4 * UNIT);
        assert_eq!(shared.free(), 4 * UNIT);
        let next = shared.take(u64::MAX).await;
        assert_eq!(budget.free(), 0);
        drop(some);
        assert_eq!(budget.free(), 0, "what the old size gave is not the new one's");
        drop(next);
        assert_eq!(budget.free(), 4 * UNIT);
        budget.resize(12 * UNIT);
        assert!(budget.try_take(12 * UNIT).is_some());
    }

    #[tokio::test]
    async fn large_bodies_leave_room_for_short_ones() {
        let budget = Budget::new(DIVIDED_FROM);
        let all = budget.take(u64::MAX).await;
        assert_eq!((budget.free_for_large(), budget.free()), (0, DIVIDED_FROM / SMALL_SHARE));
        assert!(budget.try_take(SHORT_BODY_MAX + 1).is_none());
        let short = std::iter::from_fn(|| budget.try_take(SHORT_BODY_MAX)).collect::<Vec<_>>();
        assert_eq!(short.len() as u64, DIVIDED_FROM / SMALL_SHARE / SHORT_BODY_MAX);
        drop(all);
        // Theirs is used up, but the other part is free.
        drop(budget.take(SHORT_BODY_MAX).await);
        drop(short);
        assert_eq!(budget.free(), DIVIDED_FROM);
    }
}
