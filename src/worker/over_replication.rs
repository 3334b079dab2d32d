//! The over-replication worker: removes replicas that are more than their owner asked for.

use std::sync::Arc;

use super::Step;
use super::Turn;
use super::Worker;
use super::table::Name;
use crate::engine::Engine;
use crate::engine::EngineError;
use crate::engine::SurplusCursor;

pub(super) struct OverReplication {
    engine: Arc<Engine>,
    cursor: SurplusCursor,
}

impl OverReplication {
    pub(super) fn new(engine: Arc<Engine>) -> OverReplication {
        OverReplication { engine, cursor: SurplusCursor::default() }
    }
}

#[async_trait::async_trait]
impl Worker for OverReplication {
    fn name(&self) -> Name {
        Name::OverReplication
    }

    async fn step(&mut self, turn: &Turn) -> Result<Step, EngineError> {
        let settings = turn.settings.of(Name::OverReplication);
        let concurrency = settings.concurrency;
        self.engine.surplus_step(&mut self.cursor, settings.batch, concurrency).await
    }
}
