//! The cleanup worker: deletes the bytes of condemned paths.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Next;
use super::Step;
use super::Turn;
use super::Worker;
use super::table::Name;
use crate::base::Timestamp;
use crate::engine::CleanupCursor;
use crate::engine::CleanupLimits;
use crate::engine::CleanupOutcome;
use crate::engine::Engine;
use crate::engine::EngineError;

/// How soon it looks again while what is due waits for a reader to end.
const READER_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Cleanup {
    engine: Arc<Engine>,
    cursor: CleanupCursor,
    /// In a full pass: what waits after a failure was made due.
    is_hastened: bool,
}

impl Cleanup {
    pub(super) fn new(engine: Arc<Engine>) -> Cleanup {
        Cleanup { engine, cursor: CleanupCursor::default(), is_hastened: false }
    }

    async fn pass(&mut self, turn: &Turn) -> Result<Step, EngineError> {
        if turn.is_full && !self.is_hastened {
            self.engine.cleanup_hasten(&mut self.cursor).await?;
            self.is_hastened = true;
        }
        let settings = turn.settings.of(Name::Cleanup);
        let limits =
            CleanupLimits { batch: settings.batch, concurrency: settings.concurrency.max(1) };
        let outcome = self.engine.cleanup_once(&mut self.cursor, limits).await?;
        Ok(step(&outcome, self.engine.clock.now()))
    }
}

#[async_trait::async_trait]
impl Worker for Cleanup {
    fn name(&self) -> Name {
        Name::Cleanup
    }

    /// A delete that hangs keeps nobody from stopping: what was not recorded is deleted again.
    async fn step(&mut self, turn: &Turn) -> Result<Step, EngineError> {
        let stop = turn.stop.clone();
        stop.run_until_cancelled(self.pass(turn)).await.unwrap_or_else(|| Ok(Step::default()))
    }
}

fn step(outcome: &CleanupOutcome, now: Timestamp) -> Step {
    let next = match outcome.next {
        // Every path of a batch is gone or due later, or its backend rests: this comes to an end.
        _ if outcome.more => Next::Now,
        None => Next::Woken,
        Some(due) => Next::At(due.max(now.plus(READER_PAUSE))),
    };
    let counts = [("deleted", outcome.deleted), ("failed", outcome.failed)].into_iter();
    let counts: BTreeMap<&'static str, u64> =
        counts.filter(|(_, count)| *count > 0).map(|(what, count)| (what, count as u64)).collect();
    Step {
        processed: outcome.deleted as u64,
        failed: outcome.failed as u64,
        next,
        counts,
        ..Step::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_again_as_late_as_it_can() {
        let now = Timestamp(1_000_000_000);
        let after = |more, next| {
            let outcome = CleanupOutcome { deleted: 1, more, next, ..Default::default() };
            step(&outcome, now).next
        };
        assert_eq!(after(true, None), Next::Now);
        assert_eq!(after(true, Some(now)), Next::Now);
        assert_eq!(after(false, None), Next::Woken);
        assert_eq!(after(false, Some(Timestamp(0))), Next::At(now.plus(READER_PAUSE)));
        let minute = now.plus(Duration::from_secs(60));
        assert_eq!(after(false, Some(minute)), Next::At(minute));
    }

    #[test]
    fn a_full_batch_of_failures_goes_on_with_what_waits_behind_them() {
        let outcome = CleanupOutcome { failed: 50, more: true, ..Default::default() };
        let step = step(&outcome, Timestamp(0));
        assert_eq!((step.processed, step.failed, step.next), (0, 50, Next::Now));
        assert_eq!(step.counts, BTreeMap::from([("failed", 50)]));
    }
}
