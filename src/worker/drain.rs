//! The drain worker: empties the backends that their owner wants emptied.

use std::sync::Arc;

use super::Step;
use super::Turn;
use super::Worker;
use super::table::Name;
use crate::engine::DrainCursor;
use crate::engine::Engine;
use crate::engine::EngineError;

pub(super) struct Drain {
    engine: Arc<Engine>,
    cursor: DrainCursor,
}

impl Drain {
    pub(super) fn new(engine: Arc<Engine>) -> Drain {
        Drain { engine, cursor: DrainCursor::default() }
    }
}

#[async_trait::async_trait]
impl Worker for Drain {
    fn name(&self) -> Name {
        Name::Drain
    }

    async fn step(&mut self, turn: &Turn) -> Result<Step, EngineError> {
        let settings = turn.settings.of(Name::Drain);
        self.engine.drain_step(&mut self.cursor, settings.batch, settings.concurrency).await
    }
}
