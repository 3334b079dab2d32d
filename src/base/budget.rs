//! A budget of bytes in memory, shared by everything that holds bodies.
//!
//! Windows, part buffers and small bodies take their bytes here before they hold them and wait
//! when there are none, first come, first served. A request larger than the whole budget is given
//! the whole budget, so it waits for everyone else but not for ever.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one permit stands for: small enough that little is wasted, large enough that a budget
/// of any size fits the semaphore's counter.
const UNIT: u64 = 1024;

/// The budget. Cloning it shares it.
#[derive(Clone, Debug)]
pub struct Budget {
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
        let most = (Semaphore::MAX_PERMITS as u64).min(u64::from(u32::MAX));
        let units = bytes.div_ceil(UNIT).clamp(1, most) as u32;
        Budget { permits: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Waits until `bytes` fit.
    pub async fn take(&self, bytes: u64) -> Bytes {
        let units = self.units_of(bytes);
        let permit = Arc::clone(&self.permits).acquire_many_owned(units).await;
        Bytes { _permit: permit.expect("the semaphore is never closed") }
    }

    /// Takes `bytes` if they fit now and nobody waits before.
    pub fn try_take(&self, bytes: u64) -> Option<Bytes> {
        let units = self.units_of(bytes);
        let permit = Arc::clone(&self.permits).try_acquire_many_owned(units).ok()?;
        Some(Bytes { _permit: permit })
    }

    /// Bytes that nobody holds.
    pub fn free(&self) -> u64 {
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
}
