//! A budget of bytes in memory, shared by everything that holds bodies.
//!
//! Windows, part buffers and small bodies take their bytes here before they hold them and wait
//! when there are none, first come, first served. A request larger than the whole budget is given
//! the whole budget, so it waits for everyone else but not for ever.
//!
//! # Why another size is another pool
//!
//! Whoever waits for more than a shrunk pool has would wait for ever. So what is held or waited
//! for belongs to the pool that it was asked of, and what is asked from then on to the new one.
//! Until the old one's bytes come back, there are more than the new size.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one permit stands for: small enough that little is wasted, large enough that a budget
/// of any size fits the semaphore's counter.
const UNIT: u64 = 1024;

/// The budget. Cloning it shares it.
#[derive(Clone, Debug)]
pub struct Budget(Arc<ArcSwap<Pool>>);

/// A budget while it has one size.
#[derive(Debug)]
struct Pool {
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
        let pool = Pool::new(bytes);
        if pool.units != self.0.load().units {
            self.0.store(Arc::new(pool));
        }
    }

    /// Waits until `bytes` fit.
    pub async fn take(&self, bytes: u64) -> Bytes {
        let pool = self.0.load_full();
        let permit = Arc::clone(&pool.permits).acquire_many_owned(pool.units_of(bytes)).await;
        Bytes { _permit: permit.expect("the semaphore is never closed") }
    }

    /// Takes `bytes` if they fit now and nobody waits before.
    pub fn try_take(&self, bytes: u64) -> Option<Bytes> {
        let pool = self.0.load_full();
        let permit = Arc::clone(&pool.permits).try_acquire_many_owned(pool.units_of(bytes)).ok()?;
        Some(Bytes { _permit: permit })
    }

    /// Bytes that nobody holds.
    pub fn free(&self) -> u64 {
        self.0.load().permits.available_permits() as u64 * UNIT
    }
}

impl Pool {
    fn new(bytes: u64) -> Pool {
        let most = (Semaphore::MAX_PERMITS as u64).min(u64::from(u32::MAX));
        let units = bytes.div_ceil(UNIT).clamp(1, most) as u32;
        Pool { permits: Arc::new(Semaphore::new(units as usize)), units }
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
}
