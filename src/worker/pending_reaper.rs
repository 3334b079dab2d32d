//! The pending reaper: settles what writers left behind that are gone.

use std::sync::Arc;

use super::Step;
use super::Turn;
use super::Worker;
use super::table::Name;
use crate::engine::Engine;
use crate::engine::EngineError;
use crate::engine::ReapCursor;

pub(super) struct PendingReaper {
    engine: Arc<Engine>,
    cursor: ReapCursor,
}

impl PendingReaper {
    pub(super) fn new(engine: Arc<Engine>) -> PendingReaper {
        PendingReaper { engine, cursor: ReapCursor::default() }
    }
}

#[async_trait::async_trait]
impl Worker for PendingReaper {
    fn name(&self) -> Name {
        Name::PendingReaper
    }

    async fn step(&mut self, turn: &Turn) -> Result<Step, EngineError> {
        let settings = turn.settings.of(Name::PendingReaper);
        let concurrency = settings.concurrency;
        self.engine.reap_step(&mut self.cursor, settings.batch, concurrency).await
    }
}
