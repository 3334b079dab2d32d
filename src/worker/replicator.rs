//! The replicator: brings every blob to its placement, the most endangered first.

use std::sync::Arc;

use super::Step;
use super::Turn;
use super::Worker;
use super::table::Name;
use crate::engine::Engine;
use crate::engine::EngineError;

pub(super) struct Replicator {
    engine: Arc<Engine>,
    /// In a full pass: what waits for a time or a change was made due.
    has_begun: bool,
}

impl Replicator {
    pub(super) fn new(engine: Arc<Engine>) -> Replicator {
        Replicator { engine, has_begun: false }
    }
}

#[async_trait::async_trait]
impl Worker for Replicator {
    fn name(&self) -> Name {
        Name::Replicator
    }

    async fn step(&mut self, turn: &Turn) -> Result<Step, EngineError> {
        if turn.is_full && !self.has_begun {
            self.engine.replicate_begin_pass().await?;
            self.has_begun = true;
        }
        let settings = turn.settings.of(Name::Replicator);
        self.engine.replicate_step(settings.batch, settings.concurrency).await
    }
}
