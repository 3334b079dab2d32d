//! The rebalancer: a run every interval, which moves at most a batch and ends.

use std::sync::Arc;

use super::Next;
use super::Step;
use super::Turn;
use super::Worker;
use super::table::Name;
use crate::base::Timestamp;
use crate::engine::Engine;
use crate::engine::EngineError;
use crate::engine::RebalanceRules;
use crate::engine::Strategy;
use crate::model::Routing;
use crate::worker::CrewSettings;

pub(super) struct Rebalancer {
    engine: Arc<Engine>,
    /// When the next run is due; a start is none, or every restart would move something.
    due: Option<Timestamp>,
}

impl Rebalancer {
    pub(super) fn new(engine: Arc<Engine>) -> Rebalancer {
        Rebalancer { engine, due: None }
    }
}

/// What the settings make of a run.
pub fn rebalance_rules(settings: &CrewSettings) -> RebalanceRules {
    let strategy = match settings.rebalancer.strategy {
        Routing::Pack => Strategy::Pack,
        Routing::Spread => Strategy::Spread,
    };
    let batch = settings.of(Name::Rebalancer).batch;
    RebalanceRules { strategy, threshold: settings.rebalancer.threshold, batch }
}

#[async_trait::async_trait]
impl Worker for Rebalancer {
    fn name(&self) -> Name {
        Name::Rebalancer
    }

    async fn step(&mut self, turn: &Turn) -> Result<Step, EngineError> {
        let settings = turn.settings.of(Name::Rebalancer);
        let (rules, now) = (rebalance_rules(&turn.settings), self.engine.clock.now());
        if turn.is_full {
            let step = self.engine.rebalance_step(rules, settings.concurrency).await?;
            let next = if step.processed > 0 { Next::Now } else { Next::Woken };
            return Ok(Step { next, ..step });
        }
        let due = *self.due.get_or_insert(now.plus(settings.interval));
        if now < due.min(now.plus(settings.interval)) {
            return Ok(Step { next: Next::At(due), ..Step::default() });
        }
        let step = self.engine.rebalance_step(rules, settings.concurrency).await?;
        let next = now.plus(settings.interval);
        self.due = Some(next);
        Ok(Step { next: Next::At(next), ..step })
    }
}
