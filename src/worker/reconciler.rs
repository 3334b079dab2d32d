//! The reconciler: compares what backends hold with what the store knows of it, one at a time.

use std::sync::Arc;

use super::Step;
use super::Turn;
use super::Worker;
use super::table::Name;
use crate::engine::Engine;
use crate::engine::EngineError;
use crate::engine::ReconcileCursor;
use crate::engine::ReconcileSettings;

pub(super) struct Reconciler {
    engine: Arc<Engine>,
    cursor: ReconcileCursor,
    /// In a full pass: all backends were made due.
    has_begun: bool,
}

impl Reconciler {
    pub(super) fn new(engine: Arc<Engine>) -> Reconciler {
        Reconciler { engine, cursor: ReconcileCursor::default(), has_begun: false }
    }
}

#[async_trait::async_trait]
impl Worker for Reconciler {
    fn name(&self) -> Name {
        Name::Reconciler
    }

    async fn step(&mut self, turn: &Turn) -> Result<Step, EngineError> {
        if turn.is_full && !self.has_begun {
            self.cursor = self.engine.reconcile_begin_pass(None).await?;
            self.has_begun = true;
        }
        let settings = turn.settings.of(Name::Reconciler);
        let settings = ReconcileSettings {
            batch: settings.batch,
            every: settings.interval,
            local_every: turn.settings.reconciler.local_interval,
        };
        self.engine.reconcile_step(&mut self.cursor, &settings).await
    }
}
