//! The lifecycle worker: deletes what is due by the rules of its bucket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Next;
use super::Step;
use super::Turn;
use super::Worker;
use super::table::Name;
use crate::engine::Engine;
use crate::engine::EngineError;
use crate::engine::LifecycleCursor;

/// What is due next may be due many times in an hour; walking over a bucket that often is not
/// worth it.
const PASS_PAUSE: Duration = Duration::from_secs(60);

pub(super) struct Lifecycle {
    engine: Arc<Engine>,
    cursor: LifecycleCursor,
}

impl Lifecycle {
    pub(super) fn new(engine: Arc<Engine>) -> Lifecycle {
        Lifecycle { engine, cursor: LifecycleCursor::default() }
    }
}

#[async_trait::async_trait]
impl Worker for Lifecycle {
    fn name(&self) -> Name {
        Name::Lifecycle
    }

    async fn step(&mut self, turn: &Turn) -> Result<Step, EngineError> {
        let settings = turn.settings.of(Name::Lifecycle);
        let did = self.engine.lifecycle_step(&mut self.cursor, settings.batch).await?;
        let soonest = self.engine.clock.now().plus(PASS_PAUSE.min(settings.interval));
        let next = match did.next {
            _ if did.more => Next::Now,
            Some(due) => Next::At(due.max(soonest)),
            None => Next::Woken,
        };
        let counts = [("expired", did.expired), ("aborted", did.aborted), ("failed", did.failed)];
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let counts: BTreeMap<&'static str, u64> =
            counts.map(|(what, count)| (what, count as u64)).collect();
        Ok(Step {
            processed: (did.expired + did.aborted) as u64,
            failed: did.failed as u64,
            position: did.more.then(|| format!("{} more were looked at", did.looked)),
            next,
            counts,
            ..Step::default()
        })
    }
}
