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
use crate::backend::Backend;
use crate::backend::Progress;
use crate::base::limits::LEG_STALL;
use crate::model::BlobId;
use crate::store::Registered;

/// How often it is looked.
const STALL_LOOK: Duration = Duration::from_millis(250);

/// What is known of a leg while it runs.
pub(super) struct LegState {
    pub(super) blob: BlobId,
    pub(super) backend: Arc<Backend>,
    pub(super) size: u64,
    pub(super) sent: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) end: AtomicU8,
    pub(super) stop: CancellationToken,
    /// What is heard of it between two pieces: a part of megabytes takes its time on a slow line.
    pub(super) progress: Arc<Progress>,
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
    beats: u64,
    since: Instant,
}

impl Watch {
    pub(super) fn new(min: usize) -> Watch {
        Watch { min, legs: Mutex::new(Vec::new()) }
    }

    pub(super) fn leg(&self, blob: &Registered, backend: &Arc<Backend>) -> Arc<LegState> {
        let leg = Arc::new(LegState {
            blob: blob.blob,
            backend: Arc::clone(backend),
            size: blob.size,
            sent: AtomicU64::new(0),
            written: AtomicU64::new(0),
            end: AtomicU8::new(RUNNING),
            stop: CancellationToken::new(),
            progress: Progress::new(),
        });
        let seen = Seen { leg: Arc::clone(&leg), written: 0, beats: 0, since: Instant::now() };
        self.lock().push(seen);
        leg
    }

    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(STALL_LOOK)).await.is_some() {
            self.look(Instant::now());
        }
    }

    /// Stops every leg that has stood still for [`LEG_STALL`] with work to do, while `min` others
    /// of its blob that last are further on. One that waits for its share of a limited bandwidth
    /// does not stand still.
    fn look(&self, now: Instant) {
        let mut legs = self.lock();
        let running = |seen: &Seen| seen.leg.end.load(Ordering::Acquire) == RUNNING;
        let open: HashSet<_> = legs.iter().filter(|s| running(s)).map(|s| s.leg.blob).collect();
        legs.retain(|seen| open.contains(&seen.leg.blob));
        for seen in legs.iter_mut() {
            let written = seen.leg.written.load(Ordering::Acquire);
            let beats = seen.leg.progress.beats();
            let moves = (written, beats) != (seen.written, seen.beats);
            if moves || seen.leg.is_waiting() || seen.leg.progress.is_throttled() {
                (seen.written, seen.beats) = (written, beats);
                seen.since = now;
            }
        }
        for seen in legs.iter().filter(|seen| running(seen)) {
            let leg = &seen.leg;
            let is_ahead = |other: &&Seen| {
                let end = other.leg.end.load(Ordering::Acquire);
                other.leg.blob == leg.blob
                    && other.leg.backend.is_durable()
                    && (end == GOOD || end == RUNNING && other.written > seen.written)
            };
            let stands = now.duration_since(seen.since) >= LEG_STALL;
            if stands && legs.iter().filter(is_ahead).count() >= self.min {
                leg.backend.overdue(seen.since);
                leg.stop.cancel();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.legs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::backend::Bandwidth;
    use crate::backend::Hours;
    use crate::backend::Meter;
    use crate::backend::faulty::Faults;
    use crate::base::Clock;
    use crate::model::BackendId;
    use crate::model::DayBegins;

    /// Bytes that take longer than [`LEG_STALL`] at the lowest rate.
    const SIZE: u64 = Bandwidth::RATE_MIN * 12;

    /// A backend in memory that takes bytes at the lowest rate.
    async fn throttled() -> Arc<Backend> {
        let id = BackendId(7);
        let free = Backend::for_tests("throttled", id, None, Faults::default()).await;
        let mut settings = free.settings().clone();
        settings.bandwidth.up = vec![Hours { from: 0, to: 0, rate: Bandwidth::RATE_MIN }];
        let meter = Meter::new(Clock::system(), DayBegins::default());
        Backend::open(settings, 1, id, meter).await.unwrap()
    }

    #[tokio::test]
    async fn a_leg_that_waits_for_bandwidth_does_not_stand_still() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("sound");
        let sound = Backend::for_tests("sound", BackendId(8), Some(&root), Faults::default()).await;
        // A disk answers in its own time, what follows in ours.
        tokio::time::pause();
        let backend = throttled().await;
        let blob = Registered { blob: BlobId(1), size: SIZE, intents: Vec::new() };
        let watch = Arc::new(Watch::new(1));
        let [ahead, waits, hangs] = [&sound, &backend, &backend].map(|b| watch.leg(&blob, b));
        for leg in [&ahead, &waits, &hangs] {
            leg.sent.store(SIZE, Ordering::Release);
        }
        ahead.written.store(SIZE, Ordering::Release);
        ahead.ended(&Ok(()));
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&watch).run(stop.clone()));
        let begun = Instant::now();
        // Another write of the same backend comes first.
        let other = backend.write_whole("a", vec![0; SIZE as usize].into());
        let write = waits.progress.during(backend.write_whole("b", vec![1; SIZE as usize].into()));
        let (other, write) = tokio::join!(other, write);
        other.and(write).unwrap();
        assert!(begun.elapsed() > 4 * LEG_STALL);
        assert!(!waits.stop.is_cancelled(), "it was only slow");
        assert!(hangs.stop.is_cancelled(), "nothing was heard of it");
        // Now nothing moves any more.
        waits.stop.cancelled().await;
        stop.cancel();
    }
}
