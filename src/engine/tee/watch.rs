//! The look for legs that stand still.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::leg::Failure;
use crate::base::limits::LEG_STALL;
use crate::model::BlobId;
use crate::store::Registered;

/// How often it is looked.
const STALL_LOOK: Duration = Duration::from_millis(250);

/// What is known of a leg while it runs.
pub(super) struct LegState {
    pub(super) blob: BlobId,
    pub(super) lasts: bool,
    pub(super) size: u64,
    pub(super) sent: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) end: AtomicU8,
    pub(super) stop: CancellationToken,
}

/// Values of [`LegState::end`].
pub(super) const RUNNING: u8 = 0;
pub(super) const GOOD: u8 = 1;
pub(super) const FAILED: u8 = 2;

impl LegState {
    pub(super) fn ended(&self, result: &Result<(), Failure>) {
        self.end.store(if result.is_ok() { GOOD } else { FAILED }, Ordering::Release);
    }

    /// It has what the client sent so far and could take more.
    pub(super) fn is_waiting(&self) -> bool {
        let written = self.written.load(Ordering::Acquire);
        self.sent.load(Ordering::Acquire) <= written && written < self.size
    }
}

/// The legs of a request, and the look for those that stand still.
pub(super) struct Watch {
    min: usize,
    legs: Mutex<Vec<Seen>>,
}

/// A leg, and since when it has been as it is.
pub(super) struct Seen {
    leg: Arc<LegState>,
    written: u64,
    since: Instant,
}

impl Watch {
    pub(super) fn new(min: usize) -> Watch {
        Watch { min, legs: Mutex::new(Vec::new()) }
    }

    pub(super) fn leg(&self, blob: &Registered, lasts: bool) -> Arc<LegState> {
        let leg = Arc::new(LegState {
            blob: blob.blob,
            lasts,
            size: blob.size,
            sent: AtomicU64::new(0),
            written: AtomicU64::new(0),
            end: AtomicU8::new(RUNNING),
            stop: CancellationToken::new(),
        });
        let seen = Seen { leg: Arc::clone(&leg), written: 0, since: Instant::now() };
        self.lock().push(seen);
        leg
    }

    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(STALL_LOOK)).await.is_some() {
            self.look(Instant::now());
        }
    }

    /// Stops every leg that has stood still for [`LEG_STALL`] with work to do, while `min` others
    /// of its blob that last are further on.
    fn look(&self, now: Instant) {
        let mut legs = self.lock();
        let running = |seen: &Seen| seen.leg.end.load(Ordering::Acquire) == RUNNING;
        let open: HashSet<_> = legs.iter().filter(|s| running(s)).map(|s| s.leg.blob).collect();
        legs.retain(|seen| open.contains(&seen.leg.blob));
        for seen in legs.iter_mut() {
            let written = seen.leg.written.load(Ordering::Acquire);
            if written != seen.written || seen.leg.is_waiting() {
                seen.written = written;
                seen.since = now;
            }
        }
        for seen in legs.iter().filter(|seen| running(seen)) {
            let leg = &seen.leg;
            let is_ahead = |other: &&Seen| {
                let end = other.leg.end.load(Ordering::Acquire);
                other.leg.blob == leg.blob
                    && other.leg.lasts
                    && (end == GOOD || end == RUNNING && other.written > seen.written)
            };
            let stands = now.duration_since(seen.since) >= LEG_STALL;
            if stands && legs.iter().filter(is_ahead).count() >= self.min {
                leg.stop.cancel();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.legs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
